/* Uploads in parts and downloads by ranges, over a file:// bucket. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "bucket/transfer.h"
#include "bucket_fixture.h"
#include "interrupted.h"
#include "transfer_spy.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

#define PART (5 * MIB)

static const struct bh_transfer four = {.part_size = PART, .parallel = 4};

static void with_spy(void)
{
    spy = (struct spy){.base.ops = &spy_ops, .inner = b};
    b = &spy.base;
}

static void with_rules(const char *rules)
{
    struct bh_bucket *faulty;
    must(bh_bucket_fault_wrap(&faulty, b, rules, 5, ERR));
    b = faulty;
}

/* --- helpers --- */

static uint64_t requests(enum bh_bucket_op op)
{
    struct bh_bucket_stats s;
    bh_bucket_stats(b, &s);
    return s.requests[op];
}

static int upload(uint64_t size, const struct bh_cond *cond)
{
    struct bh_source src = pattern_source(size);
    return bh_bucket_upload(b, "x", &src, NULL, cond, &four, NULL, NULL, ERR);
}

static int download(uint64_t size)
{
    uint64_t at = 0;
    struct bh_object_info info;
    int rc = bh_bucket_download(b, "x", &four, pattern_check, &at, &info, NULL, ERR);
    if (!rc) {
        assert_int_equal(at, size);
        assert_int_equal(info.size, size);
    }
    return rc;
}

static int count_upload(void *arg, const char *key, const char *upload_id, int64_t started_ms,
                        struct bh_error *err)
{
    ++*(int *)arg;
    return 0;
}

/* Unfinished uploads, seen without faults. */
static int uploads(void)
{
    struct bh_bucket *plain;
    int n = 0;
    must(bh_bucket_dir_open(&plain, dir, ERR));
    must(bh_bucket_mp_list(plain, "", count_upload, &n, NULL, ERR));
    bh_bucket_close(plain);
    return n;
}

static bool was_logged(uint64_t since, const char *text)
{
    static char log[4096];
    log[bh_log_read(since, log, sizeof log - 1)] = '\0';
    return strstr(log, text) != NULL;
}

/* --- both --- */

static void test_sizes(void **state)
{
    const uint64_t sizes[] = {0, 1, PART - 1, PART, PART + 1, 2 * PART, 3 * PART + 7, 9 * PART + 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct bh_meta meta = {0};
        struct bh_object_info info, head;
        struct bh_source src = pattern_source(sizes[i]);
        uint64_t parts = (sizes[i] + PART - 1) / PART, gets = requests(BH_OP_GET);
        uint64_t steps = requests(BH_OP_MULTIPART);
        must(bh_meta_set(&meta, "m", "1", ERR));
        must(bh_bucket_upload(b, "x", &src, &meta, NULL, &four, &info, NULL, ERR));
        assert_int_equal(requests(BH_OP_MULTIPART) - steps, parts > 1 ? parts + 2 : 0);
        must_have_pattern(b, "x", sizes[i]);
        must(bh_bucket_head(b, "x", &head, NULL, ERR));
        assert_string_equal(head.etag, info.etag);
        assert_int_equal(info.size, sizes[i]);
        assert_string_equal(bh_meta_get(&head.meta, "m"), "1");
        assert_int_equal(bh_meta_get(&head.meta, BH_META_PUT) != NULL, parts > 1);
        must(download(sizes[i]));
        assert_int_equal(requests(BH_OP_GET) - gets, 1 + (parts ? parts : 1));
    }
    assert_int_equal(uploads(), 0);
}

static void test_one_at_a_time(void **state)
{
    const struct bh_transfer one = {.part_size = PART, .parallel = 1};
    struct bh_source src = pattern_source(2 * PART + 1);
    uint64_t at = 0;
    must(bh_bucket_upload(b, "x", &src, NULL, NULL, &one, NULL, NULL, ERR));
    must(bh_bucket_download(b, "x", &one, pattern_check, &at, NULL, NULL, ERR));
    assert_int_equal(at, 2 * PART + 1);
}

static void test_arguments(void **state)
{
    const struct bh_transfer wrong[] = {{.part_size = PART - 1, .parallel = 1},
                                        {.part_size = 1024 * PART + 1, .parallel = 1},
                                        {.part_size = PART, .parallel = 0},
                                        {.part_size = PART, .parallel = 257}};
    struct bh_source src = pattern_source(1), none = {.size = 9 * PART};
    uint64_t at = 0;
    for (int i = 0; i < 4; i++) {
        must_fail(bh_bucket_upload(b, "x", &src, NULL, NULL, &wrong[i], NULL, NULL, ERR), EINVAL);
        must_fail(bh_bucket_download(b, "x", &wrong[i], pattern_check, &at, NULL, NULL, ERR),
                  EINVAL);
    }
    must_fail(bh_bucket_upload(b, "x", &none, NULL, NULL, &four, NULL, NULL, ERR), EINVAL);
    src = pattern_source(2 * PART);
    must_fail(bh_bucket_upload(b, "", &src, NULL, NULL, &four, NULL, NULL, ERR), EINVAL);
    must_fail(bh_bucket_download(b, "", &four, pattern_check, &at, NULL, NULL, ERR), EINVAL);
    must_fail(bh_bucket_download(b, "none", &four, pattern_check, &at, NULL, NULL, ERR), ENOENT);
}

static void test_parallel(void **state)
{
    with_spy();
    spy.delay_ms = 100;
    BH_FREE char *data = malloc(12 * PART);
    struct bh_source src = {.size = 12 * PART, .data = data};
    pattern_read(NULL, 0, data, 12 * PART, NULL);
    must(bh_bucket_upload(b, "x", &src, NULL, NULL, &four, NULL, NULL, ERR));
    assert_int_equal(spy.most, 4);
    assert_int_equal(spy.parts, 12);
    spy.most = 0;
    must(download(12 * PART));
    assert_int_equal(spy.most, 4);
    assert_int_equal(spy.active, 0);
}

/* Faults that the retry layer hides. */
static void test_bad_day(void **state)
{
    struct bh_bucket *retrying;
    with_rules("get:cut:40%;get:etimedout:10%;multipart:eio:20%;head:eagain:20%");
    must(bh_bucket_retry_wrap(&retrying, b,
                              &(struct bh_retry_options){.attempts = 50, .budget = 100000}, ERR));
    b = retrying;
    for (int i = 0; i < 4; i++) {
        must(upload(6 * PART + 1, NULL));
        must(download(6 * PART + 1));
    }
}

/* --- uploads --- */

static void test_from_memory(void **state)
{
    BH_FREE char *data = malloc(3 * PART + 1);
    struct bh_source src = {.size = 3 * PART + 1, .data = data};
    pattern_read(NULL, 0, data, 3 * PART + 1, NULL);
    must(bh_bucket_upload(b, "x", &src, NULL, NULL, &four, NULL, NULL, ERR));
    must_have_pattern(b, "x", 3 * PART + 1);
}

/* More than 10,000 parts: they become larger. The memory is never touched. */
static void test_many_parts(void **state)
{
    uint64_t size = 10000 * PART + 1;
    struct bh_source src = {.size = size};
    src.data = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (src.data == MAP_FAILED)
        skip();
    with_spy();
    spy.hollow = true;
    must(bh_bucket_upload(b, "x", &src, NULL, NULL, &four, NULL, NULL, ERR));
    assert_int_equal(spy.parts, (size + 6 * MIB - 1) / (6 * MIB));
    assert_int_equal(spy.bytes, size);
    src.size--;
    spy.parts = 0;
    must(bh_bucket_upload(b, "x", &src, NULL, NULL, &four, NULL, NULL, ERR));
    assert_int_equal(spy.parts, 10000);
    munmap((void *)(uintptr_t)src.data, size);
}

static void test_failing_part(void **state)
{
    uint64_t log = bh_log_size();
    with_rules("multipart:eacces:after=3:first=1;multipart:delay=30ms");
    assert_int_equal(upload(40 * PART, NULL), EACCES);
    assert_non_null(strstr(test_error.text, "injected fault"));
    assert_in_range(requests(BH_OP_MULTIPART), 3, 10); /* not all 40 */
    assert_int_equal(uploads(), 0);
    must_lack(b, "x");
    assert_false(was_logged(log, "unfinished"));
}

static void test_failing_abort(void **state)
{
    uint64_t log = bh_log_size();
    with_rules("multipart:eacces:after=3");
    must_fail(upload(4 * PART, NULL), EACCES);
    assert_int_equal(uploads(), 1);
    assert_true(was_logged(log, "of x is left unfinished in the bucket"));
}

static int vanish(void *arg, uint64_t offset, void *buf, size_t len, struct bh_error *err)
{
    if (offset == 0)
        shell("rm -r .bhfs-meta/multipart/*");
    return pattern_read(NULL, offset, buf, len, err);
}

static void test_vanished_upload(void **state)
{
    struct bh_source src = {.size = 4 * PART, .read = vanish};
    assert_int_equal(bh_bucket_upload(b, "x", &src, NULL, NULL, &four, NULL, NULL, ERR), EIO);
    assert_non_null(strstr(test_error.text, "vanished"));
}

struct fragile {
    atomic_int readers;
    uint64_t fails_at;
};

static int fragile_read(void *arg, uint64_t offset, void *buf, size_t len, struct bh_error *err)
{
    struct fragile *f = arg;
    if (atomic_fetch_add(&f->readers, 1) > 0)
        return bh_fail(err, EDEADLK, "two threads read the source at once");
    usleep(1000);
    atomic_fetch_sub(&f->readers, 1);
    if (offset <= f->fails_at && f->fails_at - offset < len)
        return bh_fail(err, EXFULL, "the source has no more");
    return pattern_read(NULL, offset, buf, len, err);
}

static void test_source(void **state)
{
    struct fragile f = {.fails_at = UINT64_MAX};
    struct bh_source src = {.size = 6 * PART, .read = fragile_read, .arg = &f};
    must(bh_bucket_upload(b, "x", &src, NULL, NULL, &four, NULL, NULL, ERR));
    must_have_pattern(b, "x", 6 * PART);
    f.fails_at = 4 * PART + 2 * MIB;
    must_fail(bh_bucket_upload(b, "y", &src, NULL, NULL, &four, NULL, NULL, ERR), EXFULL);
    must_lack(b, "y");
    assert_int_equal(uploads(), 0);
}

static void test_cancelled_upload(void **state)
{
    BH_FREE char *data = calloc(6, PART);
    struct bh_source src = {.size = 6 * PART, .data = data};
    for (int how = 0; how < 4; how++) {
        struct interrupted i;
        reopen();
        with_rules("multipart:delay=20s:after=1:first=4"); /* the parts */
        interrupt_soon(&i, how, true);
        must_fail(bh_bucket_upload(b, "x", &src, NULL, NULL, &four, NULL, &i.call, ERR), i.code);
        interrupt_over(&i);
        assert_int_equal(uploads(), 0);
    }
}

/* --- completions; the upload of 3 parts makes calls: begin 0, parts 1 to 3, complete 4 --- */

static void test_lost_completion(void **state)
{
    struct bh_object_info info, head;
    struct bh_source src = pattern_source(3 * PART);
    with_rules("multipart:done-but-failed:after=4:first=1");
    must(bh_bucket_upload(b, "x", &src, NULL, NULL, &four, &info, NULL, ERR));
    must_have_pattern(b, "x", 3 * PART);
    must(bh_bucket_head(b, "x", &head, NULL, ERR));
    assert_string_equal(info.etag, head.etag);
    assert_int_equal(info.size, 3 * PART);
    assert_int_equal(requests(BH_OP_MULTIPART), 5);
}

static void test_repeated_completion(void **state)
{
    must_put(b, "x", "old");
    with_rules("multipart:eio:after=4:first=1;multipart:eagain:after=5:first=1");
    must(upload(3 * PART, NULL));
    must_have_pattern(b, "x", 3 * PART);
    assert_int_equal(requests(BH_OP_MULTIPART), 5);
}

/* The first completion succeeded, the look failed, the second finds no upload. */
static void test_completion_finds_no_upload(void **state)
{
    with_rules("multipart:done-but-failed:after=4:first=1;head:eio:first=1");
    must(upload(3 * PART, NULL));
    must_have_pattern(b, "x", 3 * PART);
    assert_int_equal(requests(BH_OP_MULTIPART), 6);
}

static void test_completion_in_doubt(void **state)
{
    uint64_t log = bh_log_size();
    with_rules("multipart:etimedout:after=4;multipart:eio:after=5");
    assert_int_equal(upload(3 * PART, NULL), ETIMEDOUT);
    assert_non_null(strstr(test_error.text, "it is not known whether the upload of x happened"));
    assert_int_equal(uploads(), 1);
    assert_true(was_logged(log, "may be left unfinished"));
}

static void test_refused_completion(void **state)
{
    with_rules("multipart:eacces:after=4:first=1");
    must_fail(upload(3 * PART, NULL), EACCES);
    assert_int_equal(uploads(), 0);
}

/* --- conditions --- */

static void test_conditions(void **state)
{
    struct bh_object_info info;
    struct bh_cond absent = {.if_none_match = true}, match = {.if_match = info.etag};
    must(upload(2 * PART, &absent));
    must(bh_bucket_head(b, "x", &info, NULL, ERR));
    must_fail(upload(3 * PART, &absent), EEXIST);
    must(upload(3 * PART, &match));
    must_fail(upload(2 * PART, &match), ESTALE);
    must(download(3 * PART));
    assert_int_equal(uploads(), 0);
}

static void test_conditions_in_doubt(void **state)
{
    struct bh_cond absent = {.if_none_match = true};
    with_spy();
    with_rules("multipart:done-but-failed:after=4:first=1");
    must(upload(3 * PART, &absent));
    must_have_pattern(b, "x", 3 * PART);
    must(bh_bucket_delete(spy.inner, "x", NULL, ERR));
    spy.on_head = "of another writer";
    with_rules("multipart:done-but-failed:after=4:first=1");
    assert_int_equal(upload(3 * PART, &absent), ETIMEDOUT);
    assert_non_null(strstr(test_error.text, "another writer's object is there now"));
    must_have(b, "x", "of another writer");
}

/* Conditions for puts only: one put does it. */
static void test_conditions_of_puts_only(void **state)
{
    struct bh_cond absent = {.if_none_match = true};
    struct bh_source src = pattern_source(1024 * PART + 1);
    with_spy();
    spy.lacking = BH_CAP_MP_COND;
    must(upload(3 * PART, &absent));
    must_fail(upload(3 * PART, &absent), EEXIST);
    assert_int_equal(requests(BH_OP_MULTIPART), 0);
    must_fail(bh_bucket_upload(b, "y", &src, NULL, &absent, &four, NULL, NULL, ERR), ENOTSUP);
    must(upload(3 * PART, NULL));
    assert_int_equal(requests(BH_OP_MULTIPART), 5);
}

/* --- downloads --- */

struct changing {
    uint64_t at, changes_at;
    const char *how;
    pthread_t thread;
    const struct bh_object_info *info;
};

static int change(void *arg, const void *data, size_t len, struct bh_error *err)
{
    struct changing *c = arg;
    assert_true(pthread_equal(c->thread, pthread_self()));
    assert_int_equal(c->info->size, 30 * PART);
    int rc = pattern_check(&c->at, data, len, err);
    if (rc || c->at < c->changes_at || !c->how)
        return rc;
    struct bh_source src = pattern_source(*c->how == 's' ? 2 * PART : 30 * PART);
    rc = *c->how == 'd'   ? bh_bucket_delete(b, "x", NULL, err)
         : *c->how == 'r' ? bh_fail(err, EXFULL, "the sink wants no more")
                          : bh_bucket_put(b, "x", &src, NULL, NULL, NULL, NULL, err);
    c->how = NULL;
    return rc;
}

static void test_changes(void **state)
{
    const char *hows[] = {"shorter", "other", "deleted", "refused"};
    for (int i = 0; i < 8; i++) {
        struct bh_object_info info = {0};
        struct changing c = {.how = hows[i % 4],
                             .changes_at = i < 4 ? 1 : 2 * PART + 1,
                             .thread = pthread_self(),
                             .info = &info};
        must(upload(30 * PART, NULL));
        int rc = bh_bucket_download(b, "x", &four, change, &c, &info, NULL, ERR);
        assert_int_equal(rc, i % 4 == 3 ? EXFULL : EIO);
        if (rc == EIO)
            assert_non_null(strstr(test_error.text, "was replaced"));
        assert_true(c.at < 30 * PART);
    }
}

static void test_failing_range(void **state)
{
    must(upload(30 * PART, NULL));
    with_rules("get:delay=30ms;get:eacces:after=3:first=1");
    must_fail(download(30 * PART), EACCES);
    assert_true(requests(BH_OP_GET) < 13);
    with_rules("get:cut:after=2:first=1");
    must_fail(download(30 * PART), EIO);
}

/* A range of another thread fails while the first one stalls. */
static void test_failing_range_ends_the_first(void **state)
{
    must(upload(30 * PART, NULL));
    with_rules("get:delay=20s:after=1:first=1;get:eacces:after=2:first=1");
    int64_t start = bh_mono_ms();
    must_fail(download(30 * PART), EACCES);
    assert_true(bh_mono_ms() - start < 5000);
}

static void test_cancelled_download(void **state)
{
    must(upload(12 * PART, NULL));
    for (int how = 0; how < 4; how++) {
        struct interrupted i;
        uint64_t at = 0;
        reopen();
        with_rules("get:delay=20s:after=2");
        interrupt_soon(&i, how, false);
        must_fail(bh_bucket_download(b, "x", &four, pattern_check, &at, NULL, &i.call, ERR),
                  i.code);
        interrupt_over(&i);
    }
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, dir_setup, dir_teardown)
    const struct CMUnitTest tests[] = {
        T(test_sizes),
        T(test_one_at_a_time),
        T(test_arguments),
        T(test_parallel),
        T(test_bad_day),
        T(test_from_memory),
        T(test_many_parts),
        T(test_failing_part),
        T(test_failing_abort),
        T(test_vanished_upload),
        T(test_source),
        T(test_cancelled_upload),
        T(test_lost_completion),
        T(test_repeated_completion),
        T(test_completion_finds_no_upload),
        T(test_completion_in_doubt),
        T(test_refused_completion),
        T(test_conditions),
        T(test_conditions_in_doubt),
        T(test_conditions_of_puts_only),
        T(test_changes),
        T(test_failing_range),
        T(test_failing_range_ends_the_first),
        T(test_cancelled_download),
    };
    return cmocka_run_group_tests_name("bucket-transfer", tests, NULL, NULL);
}
