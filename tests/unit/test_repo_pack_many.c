/* Many records at once: how many requests that takes, and what happens when some fail. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "interrupted.h"
#include "pack_fixture.h"
#include "transfer_spy.h"
#include "util/clock.h"

static struct bh_pack_want *wants_of(const struct bh_ref *refs, size_t count, size_t step,
                                     size_t *n)
{
    *n = (count + step - 1) / step;
    struct bh_pack_want *wants = calloc(*n, sizeof *wants);
    for (size_t i = 0; i < *n; i++)
        wants[i] = (struct bh_pack_want){.ref = refs[i * step], .raw = BLOCK, .buf = malloc(BLOCK)};
    return wants;
}

static void free_wants(struct bh_pack_want *wants, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(wants[i].buf);
    free(wants);
}

static void must_be_read(const struct bh_pack_want *wants, size_t n, const struct bh_ref *refs,
                         size_t count)
{
    BH_FREE uint8_t *want = malloc(BLOCK);
    for (size_t i = 0; i < n; i++) {
        size_t k = 0;
        while (k < count && refs[k].offset != wants[i].ref.offset)
            k++;
        assert_true(k < count);
        content(k, want, BLOCK);
        assert_memory_equal(wants[i].buf, want, BLOCK);
    }
}

/* Reads every step-th block, backwards; returns how many requests it took. */
static uint64_t read_every(const struct bh_ref *refs, size_t count, size_t step)
{
    size_t n;
    struct bh_pack_want *wants = wants_of(refs, count, step, &n);
    for (size_t i = 0; i < n / 2; i++) {
        struct bh_pack_want w = wants[i];
        wants[i] = wants[n - 1 - i];
        wants[n - 1 - i] = w;
    }
    uint64_t before = gets();
    must(bh_packs_read_many(packs, wants, n, "blocks", NULL, ERR));
    must_be_read(wants, n, refs, count);
    free_wants(wants, n);
    return gets() - before;
}

static void test_coalescing(void **state)
{
    open_packs(BH_PACK_MAX, 0); /* raw: 16 KiB each */
    BH_FREE struct bh_ref *refs = store(600, BLOCK);
    assert_int_equal(read_every(refs, 256, 1), 1); /* 4 MiB */
    assert_int_equal(read_every(refs, 257, 1), 2);
    assert_int_equal(read_every(refs, 600, 1), 3);
    assert_int_equal(read_every(refs, 200, 5), 1);  /* gaps of 64 KiB */
    assert_int_equal(read_every(refs, 200, 6), 34); /* of 80 KiB */
    assert_int_equal(read_every(refs, 1, 1), 1);
    assert_int_equal(read_every(refs, 0, 1), 0);
    uint64_t before = bytes_down();
    read_every(refs, 200, 5);
    assert_int_equal(bytes_down() - before, (196 * BLOCK)); /* what is between, nothing after */
}

static void test_coalescing_compressed(void **state)
{
    BH_FREE struct bh_ref *refs = store(300, BLOCK);
    assert_in_range(read_every(refs, 300, 1), 1, 2);
    read_every(refs, 300, 7);
}

static void test_duplicates_and_zeros(void **state)
{
    open_packs(BH_PACK_MAX, 3);
    BH_FREE struct bh_ref *refs = store(4, BLOCK);
    struct bh_pack_want wants[12];
    BH_FREE uint8_t *bufs = malloc(12 * BLOCK), *zeros = calloc(1, BLOCK);
    memset(bufs, 1, 12 * BLOCK);
    for (unsigned i = 0; i < 12; i++)
        wants[i] = (struct bh_pack_want){.ref = i % 3 == 2 ? (struct bh_ref){0} : refs[i % 2 + 1],
                                         .raw = BLOCK,
                                         .buf = bufs + i * BLOCK};
    uint64_t before = gets(), down = bytes_down();
    must(bh_packs_read_many(packs, wants, 12, "x", NULL, ERR));
    assert_int_equal(gets() - before, 1);
    assert_int_equal(bytes_down() - down, refs[1].stored + refs[2].stored);
    for (unsigned i = 0; i < 12; i++)
        if (bh_ref_is_zero(&wants[i].ref))
            assert_memory_equal(wants[i].buf, zeros, BLOCK);
        else
            must_be_read(&wants[i], 1, refs, 4);
    wants[11].ref.hash[3]++; /* the same place, another content: one of them is not true */
    must_fail(bh_packs_read_many(packs, wants, 12, "x", NULL, ERR), EIO);
}

static void test_many_packs(void **state)
{
    struct bh_ref refs[20];
    struct bh_pack_want wants[20];
    BH_FREE uint8_t *buf = malloc(20 * BLOCK), *want = malloc(BLOCK);
    for (unsigned i = 0; i < 20; i++) {
        begin();
        content(i, buf, BLOCK);
        refs[i] = add(i, buf, BLOCK);
        finish();
        wants[i] = (struct bh_pack_want){.ref = refs[i], .raw = BLOCK, .buf = buf + i * BLOCK};
    }
    uint64_t before = gets();
    must(bh_packs_read_many(packs, wants, 20, "x", NULL, ERR));
    assert_int_equal(gets() - before, 20);
    for (unsigned i = 0; i < 20; i++) {
        content(i, want, BLOCK);
        assert_memory_equal(buf + i * BLOCK, want, BLOCK);
    }
}

static void with_spy(const char *rules)
{
    struct bh_bucket *faulty;
    if (rules) {
        must(bh_bucket_fault_wrap(&faulty, b, rules, 5, ERR));
        b = faulty;
    }
    spy = (struct spy){.base.ops = &spy_ops, .inner = b};
    b = &spy.base;
}

static void test_parallel(void **state)
{
    open_packs(BH_PACK_MAX, 0);
    BH_FREE struct bh_ref *refs = store(120, BLOCK);
    with_spy(NULL);
    spy.delay_ms = 50;
    open_packs(BH_PACK_MAX, 0);
    assert_int_equal(read_every(refs, 120, 6), 20);
    assert_int_equal(spy.most, 4);
    assert_int_equal(spy.active, 0);
}

/* Whichever request fails, however it does: an error, and not all the others. */
static void test_failing_requests(void **state)
{
    open_packs(BH_PACK_MAX, 0);
    BH_FREE struct bh_ref *refs = store(120, BLOCK);
    const char *const kinds[] = {"eio", "cut", "eacces", "etimedout", "eagain"};
    const int codes[] = {EIO, EIO, EACCES, ETIMEDOUT, EAGAIN};
    atomic_bool no = false; /* with both, requests under way are not ended */
    const struct bh_call both = {.cancel = &no, .stop = &no};
    for (unsigned i = 0; i < 20; i++) {
        size_t n;
        char rules[64];
        struct bh_pack_want *wants = wants_of(refs, 120, 6, &n);
        snprintf(rules, sizeof rules, "get:%s:after=%u:first=1;get:delay=2ms", kinds[i % 5], i);
        reopen();
        with_spy(rules);
        open_packs(BH_PACK_MAX, 0);
        int rc = bh_packs_read_many(packs, wants, n, "blocks", i % 2 ? &both : NULL, ERR);
        assert_int_equal(rc, codes[i % 5]);
        assert_non_null(strstr(test_error.text, "injected fault"));
        assert_true(gets() <= i + 8);
        must(bh_packs_read_many(packs, wants, n, "blocks", NULL, ERR));
        must_be_read(wants, n, refs, 120);
        free_wants(wants, n);
    }
}

static void test_cancelled(void **state)
{
    open_packs(BH_PACK_MAX, 0);
    BH_FREE struct bh_ref *refs = store(120, BLOCK);
    for (int how = 0; how < 4; how++) { /* cancel, stop, both there, the deadline */
        size_t n;
        struct bh_pack_want *wants = wants_of(refs, 120, 6, &n);
        struct interrupted i;
        reopen();
        with_spy("get:delay=20s:after=3");
        open_packs(BH_PACK_MAX, 0);
        interrupt_soon(&i, how, true);
        must_fail(bh_packs_read_many(packs, wants, n, "x", &i.call, ERR), i.code);
        interrupt_over(&i);
        free_wants(wants, n);
    }
}

/* One fails: the others do not keep the caller waiting. */
static void test_failure_ends_the_others(void **state)
{
    size_t n;
    open_packs(BH_PACK_MAX, 0);
    BH_FREE struct bh_ref *refs = store(120, BLOCK);
    struct bh_pack_want *wants = wants_of(refs, 120, 6, &n);
    with_spy("get:eacces:after=3:first=1;get:delay=20s:first=3;get:delay=50ms");
    open_packs(BH_PACK_MAX, 0);
    int64_t start = bh_mono_ms();
    must_fail(bh_packs_read_many(packs, wants, n, "x", NULL, ERR), EACCES);
    assert_true(bh_mono_ms() - start < 5000);
    free_wants(wants, n);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_coalescing),
        T(test_coalescing_compressed),
        T(test_duplicates_and_zeros),
        T(test_many_packs),
        T(test_parallel),
        T(test_failing_requests),
        T(test_cancelled),
        T(test_failure_ends_the_others),
    };
    return cmocka_run_group_tests_name("repo-pack-many", tests, NULL, NULL);
}
