/* What is in the bucket only against a model: random reads, writes, truncations, evictions, clients
 * that die and crashes, with an origin that fails now and then. */
#include "live_absent.h"

enum { MODEL_MAX = 3 << 20 };

static unsigned char *model;
static size_t model_size;

static void model_resize(size_t size)
{
    if (size > model_size)
        memset(model + model_size, 0, size - model_size);
    model_size = size;
}

static void must_be_model(size_t offset, size_t len, int step)
{
    static unsigned char buf[MODEL_MAX];
    size_t got;
    must(bh_file_read(db, buf, len, offset, &got));
    size_t valid = offset < model_size ? model_size - offset : 0;
    assert_int_equal(got, len < valid ? len : valid);
    for (size_t i = 0; i < got; i++)
        if (buf[i] != model[offset + i])
            fail_msg("step %d: byte %zu is %02x, not %02x", step, offset + i, buf[i],
                     model[offset + i]);
}

/* With an origin that fails now and then: what fails changes nothing. */
static void model_write(enum bh_door door)
{
    static unsigned char buf[70000];
    size_t offset = any((uint32_t)model_size + 20000),
           len = 1 + any(any(4) ? 9000 : (uint32_t)sizeof buf);
    if (any(2)) {
        offset -= offset % BLOCK;
        len += BLOCK - len % BLOCK;
    }
    if (len > sizeof buf || offset + len > MODEL_MAX)
        return;
    fill_random(buf, len < 16 ? len : 16);
    memset(buf + (len < 16 ? len : 16), (int)any(256), len - (len < 16 ? len : 16));
    int rc = bh_file_write(db, door, buf, len, offset);
    if (rc == ETIMEDOUT)
        return;
    must(rc);
    if (offset + len > model_size)
        model_resize(offset + len);
    memcpy(model + offset, buf, len);
}

static void model_truncate(enum bh_door door)
{
    size_t size = any(3) ? model_size - any((uint32_t)(model_size < 30000 ? model_size : 30000) + 1)
                         : model_size + any(100000);
    size = any(2) ? size : size - size % BLOCK;
    if (size > MODEL_MAX || size == 0)
        return;
    int rc = bh_file_truncate(db, door, size);
    if (rc == ETIMEDOUT)
        return;
    must(rc);
    model_resize(size);
}

/* A client without a journal, that commits or dies. */
static void model_client(void)
{
    unsigned char *before = malloc(MODEL_MAX);
    size_t before_size = model_size;
    assert_non_null(before);
    memcpy(before, model, model_size);
    for (unsigned i = 0, n = 1 + any(4); i < n; i++)
        if (any(3))
            model_write(BH_DOOR_CLIENT);
        else
            model_truncate(BH_DOOR_CLIENT);
    if (any(2)) {
        must(bh_store_undo_forget(store));
    } else {
        play_back(any(2));
        memcpy(model, before, before_size);
        model_size = before_size;
    }
    free(before);
}

static uint64_t evicted;

static void model_evict(void)
{
    uint64_t some;
    must(bh_store_evict(store, any(4) ? 0 : any((uint32_t)model_size), &some));
    evicted += some;
}

static void random_step(int step)
{
    size_t offset = any((uint32_t)model_size), size = model_size;
    if (any(6) == 0) {
        remote->fail = ETIMEDOUT;
        remote->fail_calls = 1;
    }
    switch (any(13)) {
    case 0:
    case 1:
    case 2:
    case 3:
        model_write(BH_DOOR_INTERNAL);
        break;
    case 4:
        model_truncate(BH_DOOR_INTERNAL);
        break;
    case 5:
        if (!store->journal)
            model_client();
        break;
    case 6:
        if (any(8) == 0)
            must(bh_store_forget_clean(store));
        else if (store->journal)
            must(bh_store_unlink(store, BH_JOURNAL_NAME));
        else
            begin_journal();
        break;
    case 7:
        reopen_store();
        set_origin_anew();
        break;
    case 8:
        model_evict();
        break;
    default:
        remote->fail_calls = 0;
        size = size - offset < 40000 ? size - offset : 40000;
        must_be_model(offset, any(3) ? 1 + any((uint32_t)size) : 1, step);
    }
    remote->fail_calls = 0;
}

static void test_against_a_model(void **state)
{
    model = malloc(MODEL_MAX);
    assert_non_null(model);
    for (int round = 0; round < 9; round++) {
        model_size = 500000 + any(1500000);
        lay_out(model_size, units[round % 3]);
        fill_content(remote, model, 0, model_size);
        for (int step = 0; step < 500; step++) {
            random_step(step);
            assert_int_equal(bh_file_size(db), model_size);
            if (step % 50 == 0)
                assert_int_equal(count_absent() * BLOCK, bh_store_absent_bytes(store));
        }
        if (round % 2)
            must(bh_store_hydrate(store, NULL, ERR));
        must_be_model(0, model_size, -1);
        assert_int_equal(bh_store_absent_bytes(store), 0);
        assert_false(remote->unaligned);
    }
    free(model);
    assert_true(evicted > 10 << 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_against_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
