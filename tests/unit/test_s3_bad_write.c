/* Writing through the S3 backend to a server that misbehaves: success means that it is there, and
 * "nothing happened" that nothing did. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bad_server.h"
#include "bucket_helpers.h"
#include "util/cleanup.h"

static struct bh_bucket *b;

static int setup(void **state)
{
    if (bad_fresh(state))
        return -1;
    b = bad_open(NULL);
    must(bh_bucket_learn(b, NULL, ERR));
    return 0;
}

static int teardown(void **state)
{
    bad_close(b);
    return 0;
}

struct wrong {
    const char *rule;
    int code;
    const char *parts;
};

/* Answers to anything that changes something and has no answer of its own form. */
static const struct wrong wrong_answers[] = {
    {"do=reset_body", EIO, "127.0.0.1"},
    {"do=lost", EIO, "127.0.0.1"},
    {"do=lost how=close", EIO, "127.0.0.1"},
    {"do=lost how=stall", ETIMEDOUT, "127.0.0.1"},
    {"do=stall", ETIMEDOUT, "127.0.0.1"},
    {"do=cut_headers", EIO, "end of/cut"},
    {"do=html", EIO, "endpoint_url/proxy/answer"},
    {"do=error200", EIO, "InternalError"},
    {"do=error200 code=SlowDown", EAGAIN, "SlowDown"},
    {"do=error200 code=AccessDenied", EACCES, "AccessDenied"},
    {"do=error200 code=NonsenseNobodyKnows", EIO, "NonsenseNobodyKnows"},
    {"do=reply status=500 code=InternalError message='Try again.'", EIO, "Try again."},
    {"do=reply status=500 code=InternalError perform=1", EIO, "InternalError"},
    {"do=html status=502", EIO, "502"},
    {"do=reply", EAGAIN, "SlowDown"},
    {"do=html status=503", EAGAIN, "503"},
    {"do=reply status=400 code=RequestTimeout", ETIMEDOUT, "RequestTimeout"},
    {"do=reply status=403 code=AccessDenied", EACCES, "AccessDenied"},
    {"do=html status=403", EACCES, "403"},
    {"do=reply status=409 code=OperationAborted", EAGAIN, "OperationAborted"},
    {"do=reply status=501 code=NotImplemented", ENOTSUP, "NotImplemented"},
    {"do=reply status=507 code=XMinioStorageFull", ENOSPC, "XMinioStorageFull"},
    {"do=reply status=404 code=NoSuchBucket", ENODEV, "bucket b"},
    {"do=html status=404", EIO, "404"},
    {"do=reply status=400 code=BadDigest", EIO, "damaged"},
    {"do=reply status=413 code=EntityTooLarge", EFBIG, "EntityTooLarge"},
    {"do=raw bytes='it works'", EIO, "HTTP"},
    {"do=endless_headers", EIO, "headers"},
};

enum what {
    PUT,
    PUT_EMPTY,
    PUT_NEW,
    PUT_CHANGED,
    PART,
    COPY,
    PART_COPY,
    BEGIN,
    COMPLETE,
    ABORT,
    DELETE,
    DELETE_MANY,
    MAKE
};
static const struct {
    const char *name, *op;
} kinds[] = {
    [PUT] = {"put", "put"},
    [PUT_EMPTY] = {"put of nothing", "put"},
    [PUT_NEW] = {"put of what is new", "put"},
    [PUT_CHANGED] = {"put of what is unchanged", "put"},
    [PART] = {"part", "mp_part"},
    [COPY] = {"copy", "copy"},
    [PART_COPY] = {"part copy", "mp_part_copy"},
    [BEGIN] = {"begin", "mp_begin"},
    [COMPLETE] = {"complete", "mp_complete"},
    [ABORT] = {"abort", "mp_abort"},
    [DELETE] = {"delete", "delete"},
    [DELETE_MANY] = {"delete of many", "delete_many"},
    [MAKE] = {"making the bucket", "make"},
};
#define KINDS (sizeof kinds / sizeof kinds[0])

struct scene {
    char etag[BH_ETAG_MAX];
    char id[BH_UPLOAD_ID_MAX];
    struct bh_part part;
};

/* What the operations need to be there. */
static void prepare(struct scene *s)
{
    const struct bh_source src = {.size = 4, .data = "part"};
    bad_no_rules();
    strcpy(s->etag, must_put(b, "old", "old content"));
    must(bh_bucket_delete(b, "new", NULL, ERR));
    must(bh_bucket_mp_begin(b, "whole", NULL, s->id, NULL, ERR));
    must(bh_bucket_mp_part(b, "whole", s->id, 1, &src, &s->part, NULL, ERR));
}

static int perform(enum what what, struct scene *s)
{
    const struct bh_source src = {.size = 20, .data = "twenty bytes of text"},
                           nothing = {.data = ""};
    const struct bh_cond fresh = {.if_none_match = true}, same = {.if_match = s->etag};
    const char *const keys[] = {"old", "new"};
    struct bh_part part;
    char id[BH_UPLOAD_ID_MAX];
    switch (what) {
    case PUT:
        return bh_bucket_put(b, "new", &src, NULL, NULL, NULL, NULL, ERR);
    case PUT_EMPTY:
        return bh_bucket_put(b, "new", &nothing, NULL, NULL, NULL, NULL, ERR);
    case PUT_NEW:
        return bh_bucket_put(b, "new", &src, NULL, &fresh, NULL, NULL, ERR);
    case PUT_CHANGED:
        return bh_bucket_put(b, "old", &src, NULL, &same, NULL, NULL, ERR);
    case PART:
        return bh_bucket_mp_part(b, "whole", s->id, 2, &src, &part, NULL, ERR);
    case COPY:
        return bh_bucket_copy(b, "old", "new", NULL, NULL, NULL, ERR);
    case PART_COPY:
        return bh_bucket_mp_part_copy(b, "whole", s->id, 2, "old", 0, 5, NULL, &part, NULL, ERR);
    case BEGIN:
        return bh_bucket_mp_begin(b, "new", NULL, id, NULL, ERR);
    case COMPLETE:
        return bh_bucket_mp_complete(b, "whole", s->id, &s->part, 1, NULL, NULL, NULL, ERR);
    case ABORT:
        return bh_bucket_mp_abort(b, "whole", s->id, NULL, ERR);
    case DELETE:
        return bh_bucket_delete(b, "old", NULL, ERR);
    case DELETE_MANY:
        return bh_bucket_delete_many(b, keys, 2, NULL, NULL, ERR);
    case MAKE:
        return bh_bucket_make(b, NULL, ERR);
    }
    return -1;
}

/* What does not apply to all of them. */
static bool applies(enum what what, const struct wrong *w)
{
    bool sends_body = what == PUT || what == PUT_NEW || what == PUT_CHANGED || what == PART ||
                      what == COMPLETE || what == DELETE_MANY;
    if (strstr(w->rule, "reset_body"))
        return sends_body;
    /* on a kept connection libcurl sends again what has no body, and a put may be repeated */
    if (strcmp(w->rule, "do=lost") == 0 || strcmp(w->rule, "do=lost how=close") == 0)
        return what == PUT_NEW || what == PUT_CHANGED || what == COMPLETE;
    return true;
}

/* Where the backend finds out, or finds another way. */
static bool copes(enum what what, const struct wrong *w)
{
    return (what == COMPLETE && strstr(w->rule, "perform=1")) ||
           (what == DELETE_MANY && w->code == ENOTSUP);
}

static void wrong_answers_are_errors(void **state)
{
    unsigned failures = 0;
    for (size_t i = 0; i < sizeof wrong_answers / sizeof wrong_answers[0]; i++)
        for (unsigned k = 0; k < KINDS; k++) {
            const struct wrong *w = &wrong_answers[i];
            struct scene s;
            char label[128];
            if (!applies(k, w))
                continue;
            if (strstr(w->rule, "stall") && k != PUT && k != COPY && k != COMPLETE)
                continue; /* a second each */
            prepare(&s);
            size_t before = bad_count("[a-z_]+ [A-Z]+ [^ ]+ [^-]");
            bad_rule("op=%s times=0 %s", kinds[k].op, w->rule);
            snprintf(label, sizeof label, "%s, %.90s", kinds[k].name, w->rule);
            clock_start();
            int rc = perform(k, &s);
            if (!copes(k, w))
                failures += !says(label, rc, w->code, w->parts);
            else
                failures += !says(label, rc, 0, "");
            clock_within(1800);
            if (k == PUT_NEW || k == PUT_CHANGED || k == COMPLETE) {
                size_t sent = bad_count("[a-z_]+ [A-Z]+ [^ ]+ [^-]") - before;
                if (sent != 1) {
                    print_error("%s: sent %zu times\n", label, sent);
                    failures++;
                }
            }
        }
    assert_int_equal(failures, 0);
}

/* A lost answer must not be taken for somebody else's object, nor for our failure. */
static void conditional_put_is_never_repeated_unseen(void **state)
{
    static const char *const rules[] = {"do=lost", "do=lost how=close", "do=cut_headers"};
    const struct bh_cond fresh = {.if_none_match = true};
    const struct bh_source sources[] = {{.size = 5, .data = "hello"}, {.data = ""}};
    for (size_t i = 0; i < 3; i++)
        for (int empty = 0; empty < 2; empty++)
            for (int kept = 0; kept < 2; kept++) {
                struct bh_bucket *mine = kept ? b : bad_open(NULL);
                struct bh_object_info info;
                if (!kept)
                    must(bh_bucket_learn(mine, NULL, ERR));
                must(bh_bucket_delete(mine, "new", NULL, ERR));
                bad_rule("op=put key=new %s", rules[i]);
                int rc =
                    bh_bucket_put(mine, "new", &sources[empty], NULL, &fresh, &info, NULL, ERR);
                must_say(rc, EIO, "new");
                bad_no_rules();
                must_have(mine, "new", empty ? "" : "hello");
                if (!kept)
                    bad_close(mine);
            }
}

static void answers_without_what_they_must_have(void **state)
{
    unsigned failures = 0;
    static const struct {
        enum what what;
        struct wrong wrong;
    } cases[] = {
        {PUT, {"drop=etag", EIO, "new|ETag"}},
        {PUT, {"set='etag:\"\"'", EIO, "new|ETag"}},
        {PUT, {"do=html 'set=etag:\"abc\"'", EIO, "new"}},
        {PUT_EMPTY, {"drop=etag", EIO, "new|ETag"}},
        {PART, {"drop=etag", EIO, "whole|ETag"}},
        {BEGIN, {"do=reply status=200 body=''", EIO, ""}},
        {BEGIN, {"do=reply status=200 body='<InitiateMultipartUploadResult/>'", EIO, ""}},
        {BEGIN, {"do=cut", EIO, "new|127.0.0.1"}},
        {COPY, {"do=reply status=200 body=''", EIO, ""}},
        {COPY, {"do=reply status=200 body='<CopyObjectResult><ETag>'", EIO, ""}},
        {COPY, {"do=reply status=200 body='<Other/>'", EIO, ""}},
        {COPY, {"do=cut", EIO, "new|127.0.0.1"}},
        {COPY, {"do=reply status=412 code=PreconditionFailed", EIO, "old/new"}},
        {COPY, {"do=reply status=404 code=NoSuchKey", ENOENT, "old"}},
        {PART_COPY, {"do=reply status=200 body='<CopyPartResult></CopyPartResult>'", EIO, "ETag"}},
        {COMPLETE, {"do=reply status=200 body=''", EIO, ""}},
        {COMPLETE, {"do=reply status=200 body='<CompleteMultipartUploadResult>'", EIO, ""}},
        {COMPLETE, {"do=reply status=200 body='<CompleteMultipartUploadResult/>'", EIO, "whole"}},
        {COMPLETE, {"do=reply status=404 code=NoSuchUpload", ENOENT, "whole"}},
        {COMPLETE, {"do=reply status=400 code=InvalidPart", EINVAL, "InvalidPart"}},
        {ABORT, {"do=reply status=404 code=NoSuchUpload", ENOENT, "whole"}},
        {DELETE, {"do=reply status=404 code=NoSuchKey", 0, ""}},
        {DELETE, {"do=body204", 0, ""}},
        {DELETE_MANY, {"do=reply status=200 body=''", EIO, ""}},
        {DELETE_MANY, {"do=reply status=200 body='<DeleteResult>'", EIO, ""}},
        {DELETE_MANY, {"do=cut", EIO, "127.0.0.1"}},
        {MAKE, {"do=reply status=409 code=BucketAlreadyExists", EACCES, "BucketAlreadyExists"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct wrong *w = &cases[i].wrong;
        struct scene s;
        char label[128];
        prepare(&s);
        bad_rule("op=%s times=0 %s", kinds[cases[i].what].op, w->rule);
        snprintf(label, sizeof label, "%s, %.90s", kinds[cases[i].what].name, w->rule);
        failures += !says(label, perform(cases[i].what, &s), w->code, w->parts);
    }
    assert_int_equal(failures, 0);
}

/* 200 before the body was taken, and then the end: whatever was stored is not what was sent. */
static void an_early_answer_is_no_success(void **state)
{
    const struct bh_source src = pattern_source(8 * MIB);
    struct bh_object_info info;
    bad_rule("op=put key=big early=1 do=raw bytes='HTTP/1.1 200 OK\\r\\nETag: \"abc\"\\r\\n"
             "Content-Length: 0\\r\\nConnection: close\\r\\n\\r\\n'");
    int rc = bh_bucket_put(b, "big", &src, NULL, NULL, &info, NULL, ERR);
    must_say(rc, EIO, "big");
    bad_no_rules();
    must_lack(b, "big");
    bad_rule("op=put early=1 do=reply");
    rc = bh_bucket_put(b, "big", &src, NULL, NULL, &info, NULL, ERR);
    assert_true(rc == EAGAIN || rc == EIO);
    must_lack(b, "big");
    bad_no_rules();
    bad_rule("op=put do=stall_body");
    clock_start();
    must_say(bh_bucket_put(b, "big", &src, NULL, NULL, &info, NULL, ERR), ETIMEDOUT, "big");
    clock_within(2500);
    must_lack(b, "big");
}

static int short_read(void *arg, uint64_t offset, void *buf, size_t len, struct bh_error *err)
{
    uint64_t *reads = arg;
    if (++*reads > 3)
        return bh_fail(err, EBADMSG, "the source is broken");
    memset(buf, (int)*reads, len);
    return 0;
}

static void a_broken_source_leaves_nothing(void **state)
{
    uint64_t reads = 0;
    const struct bh_source src = {.size = 32 * MIB, .read = short_read, .arg = &reads};
    must_say(bh_bucket_put(b, "big", &src, NULL, NULL, NULL, NULL, ERR), EBADMSG,
             "source is broken");
    must_lack(b, "big");
    must_put(b, "k", "still of use");
    must_have(b, "k", "still of use");
}

/* A source that gives other bytes each time it is read: the store sees that the signed hash
 * differs. */
static int changing_read(void *arg, uint64_t offset, void *buf, size_t len, struct bh_error *err)
{
    memset(buf, (*(int *)arg)++, len);
    return 0;
}

static void a_body_that_changes_is_noticed(void **state)
{
    int turn = 0;
    const struct bh_source src = {.size = 2 * MIB, .read = changing_read, .arg = &turn};
    must_say(bh_bucket_put(b, "big", &src, NULL, NULL, NULL, NULL, ERR), EIO, "damaged");
    must_lack(b, "big");
}

static void deletes_are_counted(void **state)
{
    const char *const keys[] = {"a", "denied/b", "c", "d\x01", "e"};
    size_t deleted = 99;
    for (size_t i = 0; i < 5; i++)
        must_put(b, keys[i], "x");
    bad_set("quirks=deny_deletes");
    must_say(bh_bucket_delete_many(b, keys, 5, &deleted, NULL, ERR), EACCES, "denied/b");
    assert_int_equal(deleted, 4);
    must_lack(b, "a");
    must_lack(b, "d\x01");
    must_have(b, "denied/b", "x");
    bad_set("quirks=");
    must(bh_bucket_delete_many(b, keys, 5, &deleted, NULL, ERR));
    assert_int_equal(deleted, 5);
    must_lack(b, "denied/b");
}

static void many_deletes_go_in_thousands(void **state)
{
    enum { COUNT = 2500 };
    BH_FREE char *text = malloc(COUNT * 16);
    BH_FREE const char **keys = malloc(COUNT * sizeof *keys);
    size_t deleted;
    bad_fill("del/", COUNT);
    for (unsigned i = 0; i < COUNT; i++) {
        snprintf(text + i * 16, 16, "del/%07u", i);
        keys[i] = text + i * 16;
    }
    bad_rule("op=delete_many nth=2 do=reply");
    must_say(bh_bucket_delete_many(b, keys, COUNT, &deleted, NULL, ERR), EAGAIN, "SlowDown");
    assert_int_equal(deleted, 1000);
    bad_no_rules();
    must(bh_bucket_delete_many(b, keys, COUNT, &deleted, NULL, ERR));
    assert_int_equal(deleted, COUNT);
    assert_int_equal(bad_count("delete_many"), 5 + 1); /* one by the trial */
    assert_string_equal(listing(b, "del/", NULL, NULL, 0), "");
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(wrong_answers_are_errors),
        TEST(conditional_put_is_never_repeated_unseen),
        TEST(answers_without_what_they_must_have),
        TEST(an_early_answer_is_no_success),
        TEST(a_broken_source_leaves_nothing),
        TEST(a_body_that_changes_is_noticed),
        TEST(deletes_are_counted),
        TEST(many_deletes_go_in_thousands),
    };
    return cmocka_run_group_tests_name("S3, badly written", tests, bad_start, bad_stop);
}
