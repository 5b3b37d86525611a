/* Writing packs: sizes, uploads in parallel, and every way in which one fails. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "bucket_fixture.h"
#include "repo/pack.h"
#include "transfer_spy.h"
#include "util/cleanup.h"
#include "util/clock.h"

#define BLOCK   ((size_t)64 << 10)
#define A_PACK  15 /* such blocks, stored raw, fill a pack of 1 MiB */
#define PREFIX  "db.bhfs/"
#define COUNT   (7 * A_PACK + 3)
#define N_PACKS 8

static struct bh_packs *packs;
static struct bh_pack_writer *writer;
static struct bh_ref refs[COUNT];
static unsigned added; /* of refs, without an error */

/* The spy, for puts. */
static struct {
    atomic_ulong thread; /* of the last */
    atomic_bool conditional;
    int fail_conditional; /* with this errno */
} puts_seen;

static int put(struct bh_bucket *s, const char *key, const struct bh_source *src,
               const struct bh_meta *meta, const struct bh_cond *cond, struct bh_object_info *info,
               const struct bh_call *call, struct bh_error *err)
{
    enter();
    puts_seen.thread = pthread_self();
    bool conditional = cond && cond->if_none_match;
    puts_seen.conditional = conditional;
    if (conditional && puts_seen.fail_conditional)
        return leave(bh_fail(err, puts_seen.fail_conditional, "the spy wants this to fail"));
    return leave(bh_bucket_put(spy.inner, key, src, meta, cond, info, call, err));
}

static void open_packs(unsigned parallel, int level)
{
    const struct bh_packs_options options = {
        .part_size = MIB, .parallel = parallel, .level = level};
    bh_packs_free(packs);
    must(bh_packs_new(&packs, b, PREFIX, &options, ERR));
}

/* The bucket behind rules (NULL: none) and the spy, and packs in it. */
static void fresh(const char *rules, unsigned parallel)
{
    static struct bh_bucket_ops ops;
    ops = spy_ops;
    ops.put = put;
    reopen();
    if (rules) {
        struct bh_bucket *faulty;
        must(bh_bucket_fault_wrap(&faulty, b, rules, 5, ERR));
        b = faulty;
    }
    spy = (struct spy){.base.ops = &ops, .inner = b};
    puts_seen.fail_conditional = 0;
    b = &spy.base;
    open_packs(parallel, 0);
}

static int setup(void **state)
{
    int rc = dir_setup(state);
    packs = NULL;
    if (!rc)
        fresh(NULL, 4);
    return rc;
}

static int teardown(void **state)
{
    bh_packs_free(packs);
    return dir_teardown(state);
}

static uint64_t puts_asked(void)
{
    struct bh_bucket_stats s;
    bh_bucket_stats(b, &s);
    return s.requests[BH_OP_PUT];
}

static void content(uint64_t n, uint8_t *buf)
{
    uint64_t x = (n + 1) * 0x9e3779b97f4a7c15u;
    for (size_t i = 0; i < BLOCK; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        buf[i] = (uint8_t)(x >> 32);
    }
}

/* Adds so many blocks, until one fails: its error. */
static int add_blocks(unsigned count)
{
    BH_FREE uint8_t *buf = malloc(BLOCK);
    int rc = 0;
    for (added = 0; added < count; added++) {
        content(added, buf);
        rc = bh_pack_add(writer, BH_RECORD_BLOCK, 0, added, buf, BLOCK, &refs[added], ERR);
        if (rc) {
            assert_true(bh_ref_is_zero(&refs[added]));
            break;
        }
    }
    return rc;
}

static void begin(const struct bh_call *call)
{
    must(bh_pack_writer_new(&writer, packs, BH_TREE_DB, call, ERR));
}

static void must_read_all(void)
{
    BH_FREE uint8_t *got = malloc(BLOCK), *want = malloc(BLOCK);
    for (unsigned i = 0; i < added; i++) {
        content(i, want);
        must(bh_packs_read(packs, &refs[i], BLOCK, got, "a block", NULL, ERR));
        assert_memory_equal(got, want, BLOCK);
    }
}

/* Adds and finishes; the error is the same from every call after it. */
static int write_all(const struct bh_call *call)
{
    begin(call);
    int first = add_blocks(COUNT);
    int rc = bh_pack_writer_finish(writer, ERR);
    if (first)
        assert_int_equal(rc, first);
    if (rc) {
        uint64_t asked = puts_asked();
        struct bh_ref ref;
        BH_FREE uint8_t *buf = malloc(BLOCK);
        content(0, buf);
        struct bh_error err = test_error;
        assert_int_equal(bh_pack_add(writer, BH_RECORD_BLOCK, 0, 0, buf, BLOCK, &ref, ERR), rc);
        assert_int_equal(bh_pack_writer_finish(writer, ERR), rc);
        assert_string_equal(err.text, test_error.text);
        assert_int_equal(puts_asked(), asked);
    }
    return rc;
}

/* --- what goes well --- */

static void test_many_packs(void **state)
{
    const unsigned parallels[] = {1, 2, 4, 64};
    for (unsigned p = 0; p < 4; p++) {
        size_t count;
        uint64_t total = 0;
        fresh(NULL, parallels[p]);
        must(write_all(NULL));
        assert_int_equal(added, COUNT);
        const uint64_t *ids = bh_pack_writer_ids(writer, &count);
        assert_int_equal(count, N_PACKS);
        assert_int_equal(puts_asked(), N_PACKS);
        for (unsigned i = 0; i < N_PACKS; i++) {
            struct bh_pack_entry *e;
            size_t n;
            uint64_t size;
            must(bh_packs_trailer(packs, ids[i], &e, &n, &size, NULL, ERR));
            assert_int_equal(n, i < N_PACKS - 1 ? A_PACK : 3);
            assert_true(size <= MIB);
            assert_true(refs[i * A_PACK].pack == ids[i]);
            assert_int_equal(e[n - 1].number, i * A_PACK + n - 1);
            total += size;
            free(e);
        }
        assert_int_equal(bh_pack_writer_bytes(writer), total);
        bh_pack_writer_free(writer);
        must_read_all();
    }
}

static void test_parallel(void **state)
{
    for (unsigned parallel = 1; parallel <= 3; parallel++) {
        fresh(NULL, parallel);
        spy.delay_ms = 100;
        must(write_all(NULL));
        assert_int_equal(spy.most, parallel); /* the last one, of the caller's thread, included */
        assert_int_equal(spy.active, 0);
        bh_pack_writer_free(writer);
    }
}

static void test_small_flush_has_no_thread(void **state)
{
    begin(NULL);
    must(add_blocks(3));
    assert_int_equal(puts_asked(), 0);
    must(bh_pack_writer_finish(writer, ERR));
    assert_int_equal(puts_asked(), 1);
    assert_true(pthread_equal(puts_seen.thread, pthread_self()));
    assert_true(puts_seen.conditional);
    must_read_all();
    must(bh_pack_writer_finish(writer, ERR)); /* nothing is left */
    assert_int_equal(puts_asked(), 1);
    must(add_blocks(2)); /* another pack */
    must(bh_pack_writer_finish(writer, ERR));
    assert_int_equal(puts_asked(), 2);
    must_read_all();
    bh_pack_writer_free(writer);
}

static void test_nothing(void **state)
{
    begin(NULL);
    must(bh_pack_writer_finish(writer, ERR));
    bh_pack_writer_free(writer);
    bh_pack_writer_free(NULL);
    begin(NULL);
    must(add_blocks(3)); /* never finished */
    bh_pack_writer_free(writer);
    assert_int_equal(puts_asked(), 0);
}

/* A record alone may be larger than a pack ought to be. */
static void test_largest_blocks(void **state)
{
    BH_FREE uint8_t *data = malloc(MIB), *got = malloc(MIB);
    struct bh_ref ref[3];
    begin(NULL);
    for (unsigned i = 0; i < 3; i++) {
        for (unsigned k = 0; k < MIB / BLOCK; k++)
            content(i * 100 + k, data + k * BLOCK);
        must(bh_pack_add(writer, BH_RECORD_BLOCK, 0, i, data, MIB, &ref[i], ERR));
        assert_int_equal(ref[i].offset, 16);
    }
    must(bh_pack_writer_finish(writer, ERR));
    bh_pack_writer_free(writer);
    must(bh_packs_read(packs, &ref[2], MIB, got, "x", NULL, ERR));
    assert_memory_equal(got, data, MIB);
    assert_int_equal(puts_asked(), 3);
}

/* 170 records that fill a pack but for its footer: the last one goes into another. */
static void test_footer_has_room(void **state)
{
    BH_FREE uint8_t *data = malloc(BLOCK);
    struct bh_ref ref;
    content(1, data);
    begin(NULL);
    for (unsigned i = 0; i < 86; i++)
        must(bh_pack_add(writer, BH_RECORD_BLOCK, 0, i, data, 4096, &ref, ERR));
    for (unsigned i = 0; i < 84; i++)
        must(bh_pack_add(writer, BH_RECORD_NODE, 1, 256 * i, data, BH_NODE_SIZE, &ref, ERR));
    must(bh_pack_writer_finish(writer, ERR));
    size_t packs_made;
    (void)bh_pack_writer_ids(writer, &packs_made);
    assert_int_equal(packs_made, 2);
    assert_int_equal(ref.offset, 16);
    bh_pack_writer_free(writer);
}

static void test_compression_threshold(void **state)
{
    BH_FREE uint8_t *data = malloc(BLOCK);
    struct bh_ref ref;
    open_packs(1, 3);
    begin(NULL);
    for (unsigned part = 8; part <= 32; part *= 2) { /* 1/8, 1/16 (and a bit), 1/32 is saved */
        content(7, data);
        memset(data, 'x', BLOCK / part + (part == 16 ? 200 : 0));
        must(bh_pack_add(writer, BH_RECORD_BLOCK, 0, part, data, BLOCK, &ref, ERR));
        assert_int_equal(ref.encoding, part < 32 ? BH_ENC_ZSTD : BH_ENC_RAW);
        assert_int_equal(ref.stored == BLOCK, part == 32);
    }
    bh_pack_writer_free(writer);
}

static void test_bad_records(void **state)
{
    BH_FREE uint8_t *data = malloc(2 * MIB);
    struct bh_ref ref;
    memset(data, 1, 2 * MIB);
    begin(NULL);
#define ADD(...) bh_pack_add(writer, __VA_ARGS__, &ref, ERR)
    must_fail(ADD(BH_RECORD_BLOCK, 0, 0, data, 0), EINVAL);
    must_fail(ADD(BH_RECORD_BLOCK, 0, 0, data, 5000), EINVAL);
    must_fail(ADD(BH_RECORD_BLOCK, 0, 0, data, 2 * MIB), EINVAL);
    must_fail(ADD(BH_RECORD_BLOCK, 1, 0, data, BLOCK), EINVAL);
    must_fail(ADD(BH_RECORD_NODE, 1, 0, data, BLOCK), EINVAL);
    must_fail(ADD(BH_RECORD_NODE, 1, 1, data, BH_NODE_SIZE), EINVAL);
    must_fail(ADD(BH_RECORD_BLOCK, 0, (uint64_t)1 << 48, data, BLOCK), EINVAL);
    must(ADD(BH_RECORD_NODE, 1, 256, data, BH_NODE_SIZE)); /* which spoilt nothing */
#undef ADD
    must(bh_pack_writer_finish(writer, ERR));
    bh_pack_writer_free(writer);
}

/* --- conditions --- */

static void test_without_conditions(void **state)
{
    spy.lacking = BH_CAP_IF_NONE_MATCH;
    must(write_all(NULL));
    assert_false(puts_seen.conditional);
    bh_pack_writer_free(writer);
    must_read_all();
}

/* A store that was thought to have them. */
static void test_conditions_assumed(void **state)
{
    puts_seen.fail_conditional = ENOTSUP;
    must(write_all(NULL));
    bh_pack_writer_free(writer);
    must_read_all();
}

static void test_id_taken(void **state)
{
    puts_seen.fail_conditional = EEXIST;
    begin(NULL);
    must(add_blocks(1));
    assert_int_equal(bh_pack_writer_finish(writer, ERR), EIO);
    assert_non_null(strstr(test_error.text, "there already"));
    bh_pack_writer_free(writer);
    assert_string_equal(listing(spy.inner, "", NULL, NULL, 0), "");
}

/* --- failures --- */

/* Whichever upload fails, however it does, and whether others are under way. */
static void test_failing_uploads(void **state)
{
    const char *const kinds[] = {"eio",    "etimedout", "eacces",
                                 "eagain", "enospc",    "done-but-failed"};
    const int codes[] = {EIO, ETIMEDOUT, EACCES, EAGAIN, ENOSPC, ETIMEDOUT};
    atomic_bool no = false; /* with both, uploads under way are not ended */
    const struct bh_call both = {.cancel = &no, .stop = &no};
    for (unsigned i = 0; i < 2 * N_PACKS; i++) {
        char rules[128];
        unsigned parallel = i % 2 ? 3 : 1, fails = i / 2;
        /* What comes after the one that fails takes longer: else a thread that is late to hear of
         * the failure has asked for one more, on a busy machine. */
        snprintf(rules, sizeof rules,
                 "put:%s:after=%u:first=1;put:delay=30ms;put:delay=500ms:after=%u", kinds[i % 6],
                 fails, fails + 1);
        fresh(rules, parallel);
        assert_int_equal(write_all(i / 2 % 2 ? NULL : &both), codes[i % 6]);
        assert_non_null(strstr(test_error.text, "injected fault"));
        assert_in_range(puts_asked(), 0, fails + parallel);
        bh_pack_writer_free(writer);
    }
}

/* Some fail, at random: success is said if and only if everything is there. */
static void test_bad_days(void **state)
{
    unsigned good = 0;
    for (unsigned i = 0; i < 24; i++) {
        struct bh_bucket *faulty;
        fresh(NULL, 1 + i % 5);
        must(bh_bucket_fault_wrap(&faulty, b, "put:eio:10%;put:delay=3ms:50%", i, ERR));
        b = faulty;
        open_packs(1 + i % 5, 0);
        int rc = write_all(NULL);
        bh_pack_writer_free(writer);
        fresh(NULL, 4);
        if (rc)
            continue;
        assert_int_equal(added, COUNT);
        must_read_all();
        good++;
    }
    assert_in_range(good, 1, 23);
}

/* What the retry layer hides is none. */
static void test_retried(void **state)
{
    struct bh_bucket *retrying;
    fresh("put:eio:20%;put:done-but-failed:20%;head:eagain:10%", 3);
    must(bh_bucket_retry_wrap(&retrying, b,
                              &(struct bh_retry_options){.attempts = 50, .budget = 100000}, ERR));
    b = retrying;
    open_packs(3, 0);
    must(write_all(NULL));
    bh_pack_writer_free(writer);
    must_read_all();
}

/* One fails: the others do not go on for long. */
static void test_failure_ends_the_others(void **state)
{
    fresh("put:delay=20s:first=2;put:eacces:after=2", 4);
    int64_t start = bh_mono_ms();
    assert_int_equal(write_all(NULL), EACCES);
    bh_pack_writer_free(writer);
    assert_true(bh_mono_ms() - start < 5000);
}

static void test_free_ends_uploads(void **state)
{
    fresh("put:delay=20s", 4);
    begin(NULL);
    must(add_blocks(3 * A_PACK));
    int64_t start = bh_mono_ms();
    bh_pack_writer_free(writer);
    assert_true(bh_mono_ms() - start < 5000);
    assert_string_equal(listing(spy.inner, "", NULL, NULL, 0), "");
}

static void *raise_flag(void *arg)
{
    usleep(100000);
    atomic_store((atomic_bool *)arg, true);
    return NULL;
}

/* In an add that waits (blocks of many packs), and in a finish (of a few). */
static void test_cancelled(void **state)
{
    const unsigned blocks[] = {2, A_PACK + 2, COUNT};
    for (int i = 0; i < 12; i++) { /* cancel, stop, both there, the deadline */
        int which = i % 4;
        atomic_bool cancel = false, stop = false;
        pthread_t thread;
        struct bh_call call = {.cancel = which != 1 ? &cancel : NULL,
                               .stop = which != 0 ? &stop : NULL};
        fresh("put:delay=20s", 2);
        if (which == 3)
            call.deadline_ms = bh_mono_ms() + 100;
        else
            assert_int_equal(pthread_create(&thread, NULL, raise_flag, which ? &stop : &cancel), 0);
        int64_t start = bh_mono_ms();
        begin(&call);
        int rc = add_blocks(blocks[i / 4]);
        assert_int_equal(rc != 0, i >= 8);
        must_fail(bh_pack_writer_finish(writer, ERR), which == 3 ? ETIMEDOUT : ECANCELED);
        bh_pack_writer_free(writer);
        assert_in_range(bh_mono_ms() - start, 90, 3000);
        if (which != 3)
            pthread_join(thread, NULL);
        assert_string_equal(listing(spy.inner, "", NULL, NULL, 0), "");
    }
}

static void test_cancelled_before(void **state)
{
    atomic_bool cancel = true;
    struct bh_call call = {.cancel = &cancel};
    begin(&call);
    must_fail(add_blocks(1), ECANCELED);
    bh_pack_writer_free(writer);
    assert_int_equal(puts_asked(), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_many_packs),
        T(test_parallel),
        T(test_small_flush_has_no_thread),
        T(test_nothing),
        T(test_largest_blocks),
        T(test_footer_has_room),
        T(test_compression_threshold),
        T(test_bad_records),
        T(test_without_conditions),
        T(test_conditions_assumed),
        T(test_id_taken),
        T(test_failing_uploads),
        T(test_bad_days),
        T(test_retried),
        T(test_failure_ends_the_others),
        T(test_free_ends_uploads),
        T(test_cancelled),
        T(test_cancelled_before),
    };
    return cmocka_run_group_tests_name("repo-pack-write", tests, NULL, NULL);
}
