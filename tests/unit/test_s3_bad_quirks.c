/* Stores that are right in their own way: the S3 backend copes, or finds out what they cannot do.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "bad_server.h"
#include "bucket_helpers.h"
#include "util/cleanup.h"
#include "util/clock.h"

static struct bh_bucket *b;

static int setup(void **state)
{
    if (bad_fresh(state))
        return -1;
    b = bad_open(NULL);
    return 0;
}

static int teardown(void **state)
{
    bad_close(b);
    return 0;
}

static void reopen(void)
{
    bad_close(b);
    b = bad_open(NULL);
}

#define CONDITIONS (BH_CAP_IF_NONE_MATCH | BH_CAP_IF_MATCH | BH_CAP_COPY_IF_MATCH | BH_CAP_MP_COND)
#define COPIES     (BH_CAP_COPY_IF_MATCH | BH_CAP_PART_COPY | BH_CAP_PART_COPY_IF_MATCH)
#define ALL        (CONDITIONS | COPIES)

static const struct bh_cond fresh = {.if_none_match = true};

static int put_if(const char *key, const char *text, const char *etag)
{
    const struct bh_cond cond = {.if_match = etag};
    return put_text(b, key, text, &cond);
}

/* Completes an upload of one part in *info. */
static int upload(const char *key, const char *text, const struct bh_cond *cond,
                  struct bh_object_info *info)
{
    const struct bh_source src = {.size = strlen(text), .data = text};
    char id[BH_UPLOAD_ID_MAX];
    struct bh_part part;
    must(bh_bucket_mp_begin(b, key, NULL, id, NULL, ERR));
    must(bh_bucket_mp_part(b, key, id, 1, &src, &part, NULL, ERR));
    int rc = bh_bucket_mp_complete(b, key, id, &part, 1, cond, info, NULL, ERR);
    if (rc) {
        struct bh_error kept = *ERR;
        must(bh_bucket_mp_abort(b, key, id, NULL, ERR));
        *ERR = kept;
    }
    return rc;
}

/* A part on condition that its source is unchanged. */
static void check_part_copy(unsigned caps)
{
    char id[BH_UPLOAD_ID_MAX];
    struct bh_part part;
    struct bh_object_info info;
    bool pinned = (caps & BH_CAP_PART_COPY_IF_MATCH) != 0;
    const char *etag = must_put(b, "k", "source");
    must(bh_bucket_mp_begin(b, "p", NULL, id, NULL, ERR));
    must_fail(bh_bucket_mp_part_copy(b, "p", id, 1, "k", 0, 6, "0123456789abcdef0123456789abcdef",
                                     &part, NULL, ERR),
              pinned ? ESTALE : ENOTSUP);
    must(bh_bucket_mp_part_copy(b, "p", id, 1, "k", 1, 4, pinned ? etag : NULL, &part, NULL, ERR));
    must(bh_bucket_mp_complete(b, "p", id, &part, 1, NULL, &info, NULL, ERR));
    must_have(b, "p", "ourc");
    if (!pinned)
        return;
    must(bh_bucket_mp_begin(b, "q", NULL, id, NULL, ERR)); /* of what came in parts itself */
    must(bh_bucket_mp_part_copy(b, "q", id, 1, "p", 0, 4, info.etag, &part, NULL, ERR));
    must(bh_bucket_mp_abort(b, "q", id, NULL, ERR));
}

/* What of the conditions works must do so right; what does not must be refused before it harms. */
static void check_conditions(unsigned caps)
{
    struct bh_object_info info;
    must(bh_bucket_learn(b, NULL, ERR));
    assert_int_equal(bh_bucket_caps(b) & ALL, caps);
    assert_string_equal(listing(b, "", NULL, NULL, 0), ""); /* trials left nothing */

    const char *etag = must_put(b, "k", "one");
    char old[BH_ETAG_MAX];
    strcpy(old, etag);
    if (caps & BH_CAP_IF_NONE_MATCH) {
        must_fail(put_text(b, "k", "two", &fresh), EEXIST);
        must(put_text(b, "n", "new", &fresh));
        must_have(b, "n", "new");
    } else {
        must_fail(put_text(b, "k", "two", &fresh), ENOTSUP);
        must_fail(put_text(b, "n", "new", &fresh), ENOTSUP);
        must_lack(b, "n");
    }
    must_have(b, "k", "one");
    if (caps & BH_CAP_IF_MATCH) {
        must_fail(put_if("k", "two", "0123456789abcdef0123456789abcdef"), ESTALE);
        must_have(b, "k", "one");
        must(put_if("k", "two", old));
        must_have(b, "k", "two");
        must_fail(put_if("k", "three", old), ESTALE);
        must_fail(put_if("absent", "x", old), ESTALE);
        must_lack(b, "absent");
    } else {
        must_fail(put_if("k", "two", old), ENOTSUP);
        must_have(b, "k", "one");
    }
    must(bh_bucket_head(b, "k", &info, NULL, ERR));
    if (caps & BH_CAP_COPY_IF_MATCH) {
        must_fail(bh_bucket_copy(b, "k", "c", "0123456789abcdef", NULL, NULL, ERR), ESTALE);
        must_lack(b, "c");
        must(bh_bucket_copy(b, "k", "c", info.etag, NULL, NULL, ERR));
    } else {
        must_fail(bh_bucket_copy(b, "k", "c", info.etag, NULL, NULL, ERR), ENOTSUP);
    }
    must(bh_bucket_copy(b, "k", "c", NULL, &info, NULL, ERR));
    assert_true(info.etag[0] && info.size == 3);
    if (caps & BH_CAP_MP_COND) {
        must_fail(upload("k", "part", &fresh, NULL), EEXIST);
        must(upload("m", "part", &fresh, &info));
    } else {
        must_fail(upload("m", "part", &fresh, &info), ENOTSUP);
        must(upload("m", "part", NULL, &info));
    }
    must_have(b, "m", "part");
    struct bh_object_info now;
    must(bh_bucket_head(b, "m", &now, NULL, ERR));
    assert_string_equal(info.etag, now.etag);
    assert_int_equal(info.size, 4);
    if (caps & BH_CAP_PART_COPY)
        check_part_copy(caps);
}

static void stores_of_many_kinds(void **state)
{
    static const struct {
        const char *quirks;
        unsigned caps;
    } stores[] = {
        {"", ALL},
        {"absent412", ALL},
        {"cond304", ALL},
        {"unquoted_etag", ALL},
        {"bare_etag", ALL},
        {"weak_etag", ALL},
        {"no_date", ALL},
        {"list_plain", ALL},
        {"complete_empty_etag", ALL},
        {"unquoted_etag,complete_empty_etag,complete_repeats,complete_cond_ignored,"
         "copy_cond_ignored", /* Ceph RGW */
         BH_CAP_IF_NONE_MATCH | BH_CAP_IF_MATCH | BH_CAP_PART_COPY},
        {"cond501,complete_cond501,no_delete_many", COPIES},
        {"cond_ignored,complete_cond_ignored", COPIES},
        {"if_match_ignored", ALL & ~BH_CAP_IF_MATCH},
        {"if_none_match_ignored", ALL & ~(BH_CAP_IF_NONE_MATCH | BH_CAP_MP_COND)},
        {"copy_cond_ignored", ALL & ~(BH_CAP_COPY_IF_MATCH | BH_CAP_PART_COPY_IF_MATCH)},
        {"part_copy_cond_ignored", ALL & ~BH_CAP_PART_COPY_IF_MATCH},
        {"complete_cond_ignored", ALL & ~BH_CAP_MP_COND},
        {"complete_cond501", ALL & ~BH_CAP_MP_COND},
    };
    for (size_t i = 0; i < sizeof stores / sizeof stores[0]; i++) {
        bad_fresh(state);
        reopen();
        bad_set("quirks=%s", stores[i].quirks);
        print_message("           a store with \"%s\"\n", stores[i].quirks);
        check_conditions(stores[i].caps);
    }
}

static void no_part_copy(void **state)
{
    char id[BH_UPLOAD_ID_MAX];
    struct bh_part part;
    bad_set("quirks=no_part_copy");
    must(bh_bucket_learn(b, NULL, ERR));
    assert_false(bh_bucket_caps(b) & BH_CAP_PART_COPY);
    must_put(b, "k", "content");
    must(bh_bucket_mp_begin(b, "m", NULL, id, NULL, ERR));
    must_fail(bh_bucket_mp_part_copy(b, "m", id, 1, "k", 0, 7, NULL, &part, NULL, ERR), ENOTSUP);
    must(bh_bucket_mp_abort(b, "m", id, NULL, ERR));
}

/* A completion that the store repeats for any id on an existing object is found out. */
static void a_bogus_upload_is_not_completed(void **state)
{
    struct bh_part part = {.number = 1, .etag = "0123456789abcdef0123456789abcdef"};
    bad_set("quirks=complete_empty_etag,complete_repeats");
    must_put(b, "k", "content");
    must_fail(bh_bucket_mp_complete(b, "k", "bogus", &part, 1, NULL, NULL, NULL, ERR), ENOENT);
    must_have(b, "k", "content");
}

/* Whatever goes wrong while the store is tried out: what is believed afterwards is right. */
static void learning_is_never_misled(void **state)
{
    static const char *const stores[] = {"", "cond_ignored,copy_cond_ignored,complete_cond_ignored",
                                         "unquoted_etag"};
    static const unsigned truth[] = {ALL, BH_CAP_PART_COPY, ALL};
    static const char *const faults[] = {"do=reset",
                                         "do=lost",
                                         "do=reply",
                                         "do=html",
                                         "do=reply status=500 code=InternalError perform=1",
                                         "do=reply status=409 code=ConditionalRequestConflict",
                                         "do=error200"};
    unsigned wrong = 0, left = 0;
    for (int s = 0; s < 3; s++)
        for (size_t f = 0; f < sizeof faults / sizeof faults[0]; f++)
            for (int nth = 1; nth < 30; nth++) {
                bad_fresh(state);
                reopen();
                bad_set("quirks=%s", stores[s]);
                bad_rule("nth=%d %s", nth, faults[f]);
                int rc = bh_bucket_learn(b, NULL, ERR);
                if (rc == 0 && (bh_bucket_caps(b) & ALL) != truth[s]) {
                    print_error("store %d, request %d, %s: caps %x\n", s, nth, faults[f],
                                bh_bucket_caps(b) & ALL);
                    wrong++;
                }
                if (rc && rc != EIO && rc != ETIMEDOUT && rc != EAGAIN) {
                    print_error("store %d, request %d, %s: %s\n", s, nth, faults[f],
                                test_error.text);
                    wrong++;
                }
                bool over = bad_count("[a-z_]+ [A-Z]+ [^ ]+ [^-]") == 0;
                bad_no_rules();
                /* what the cleaning up itself could not delete is left, with a warning */
                if (rc && *listing(b, "", NULL, NULL, 0)) {
                    print_error("store %d, request %d, %s (%d): left %s", s, nth, faults[f], rc,
                                listing(b, "", NULL, NULL, 0));
                    left++;
                }
                if (over)
                    break;
            }
    assert_int_equal(wrong, 0);
    assert_int_equal(left, 0);
}

static void learning_needs_the_right_to_write(void **state)
{
    bad_rule("op=put|copy|delete|mp_begin times=0 do=reply status=403 code=AccessDenied");
    must_say(bh_bucket_learn(b, NULL, ERR), EACCES, "AccessDenied");
    bad_no_rules();
    must(bh_bucket_learn(b, NULL, ERR));
    assert_int_equal(bh_bucket_caps(b) & ALL, ALL);
    size_t before = bad_count("");
    must(bh_bucket_learn(b, NULL, ERR));
    assert_int_equal(bad_count(""), before); /* known */
}

static void a_conflict_is_passing(void **state)
{
    must(bh_bucket_learn(b, NULL, ERR));
    bad_rule("op=put header=if-none-match do=reply status=409 code=ConditionalRequestConflict");
    must_say(put_text(b, "k", "text", &fresh), EAGAIN, "k|ConditionalRequestConflict");
    must_lack(b, "k");
    must(put_text(b, "k", "text", &fresh));
}

/* --- the region --- */

static void the_region_is_found(void **state)
{
    for (int first = 0; first < 4; first++) {
        bad_fresh(state);
        reopen();
        bad_set("region=eu-west-9");
        if (first == 0)
            must_put(b, "k", "text");
        else if (first == 1)
            must_fail(bh_bucket_head(b, "absent", NULL, NULL, ERR), ENOENT);
        else if (first == 2)
            assert_string_equal(listing(b, "", NULL, NULL, 0), "");
        else
            must(bh_bucket_delete(b, "k", NULL, ERR));
        must_put(b, "k", "text");
        must_have(b, "k", "text");
        size_t before = bad_count("");
        must_have(b, "k", "text");
        assert_int_equal(bad_count(""), before + 1); /* known from then on */
        BH_STRBUF text = {0};
        bh_bucket_describe(b, &text);
        assert_non_null(strstr(text.data, "region: eu-west-9\n"));
    }
    /* one that is named and refused all the same */
    bad_rule("times=0 do=reply status=400 code=AuthorizationHeaderMalformed "
             "set=x-amz-bucket-region:us-east-1");
    clock_start();
    must_say(put_text(b, "k", "other", NULL), EACCES, "region");
    clock_within(500);
    bad_no_rules();
    must_have(b, "k", "text");
    /* names that are none */
    bad_rule("times=0 do=reply status=400 code=AuthorizationHeaderMalformed "
             "'set=x-amz-bucket-region:a b/c'");
    must_say(put_text(b, "k", "other", NULL), EACCES, "region");
}

/* --- the clock --- */

static void the_clock_is_corrected(void **state)
{
    static const int offsets[] = {7200, -7200, 86400 * 365};
    for (int i = 0; i < 3; i++)
        for (int first = 0; first < 3; first++) {
            int64_t theirs;
            bad_fresh(state);
            reopen();
            bad_set("clock=%d", offsets[i]);
            if (first == 0)
                must_put(b, "k", "text");
            else if (first == 1)
                must_fail(bh_bucket_head(b, "absent", NULL, NULL, ERR), ENOENT);
            else
                must(bh_bucket_server_time(b, &theirs, NULL, ERR));
            must_put(b, "k", "text");
            size_t before = bad_count("");
            must_have(b, "k", "text");
            assert_int_equal(bad_count(""), before + 1);
            must(bh_bucket_server_time(b, &theirs, NULL, ERR));
            int64_t off = theirs - bh_real_ms() - offsets[i] * INT64_C(1000);
            assert_true(off > -2500 && off < 2500);
        }
    /* it is set while we run */
    bad_set("clock=0");
    must_have(b, "k", "text");
    /* one that is never right */
    bad_rule("times=0 do=reply status=403 code=RequestTimeTooSkewed");
    clock_start();
    must_say(put_text(b, "k", "other", NULL), EACCES, "clock");
    clock_within(500);
}

static void the_time_must_be_told(void **state)
{
    int64_t theirs;
    bad_set("quirks=no_date");
    must_say(bh_bucket_server_time(b, &theirs, NULL, ERR), EIO, "Date");
    bad_set("quirks=");
    bad_rule("op=bucket_head set=date:yesterday");
    must_say(bh_bucket_server_time(b, &theirs, NULL, ERR), EIO, "Date");
    bad_rule("op=bucket_head 'set=date:Thu, 99 Foo 2026 99:99:99 GMT'");
    must_say(bh_bucket_server_time(b, &theirs, NULL, ERR), EIO, "Date");
    bad_rule("op=bucket_head do=stall");
    must_say(bh_bucket_server_time(b, &theirs, NULL, ERR), ETIMEDOUT, "127.0.0.1");
    must(bh_bucket_server_time(b, &theirs, NULL, ERR));
}

/* --- redirects --- */

static void redirects_are_signed_anew(void **state)
{
    static const int statuses[] = {301, 302, 307, 308};
    const struct bh_source big = pattern_source(3 * MIB);
    for (int i = 0; i < 4; i++) {
        bad_fresh(state);
        reopen();
        must(bh_bucket_learn(b, NULL, ERR));
        for (int nth = 1; nth < 8; nth++)
            bad_rule("nth=%d do=redirect status=%d", nth, statuses[i]);
        must_put(b, "k +%", "text");
        must_have(b, "k +%", "text");
        must(bh_bucket_put(b, "big", &big, NULL, &fresh, NULL, NULL, ERR));
        must_fail(put_text(b, "big", "other", &fresh), EEXIST);
        must_have_pattern(b, "big", 3 * MIB);
        assert_string_equal(listing(b, "k +", NULL, NULL, 0), "k +%\n");
        must(bh_bucket_delete(b, "big", NULL, ERR));
        must_lack(b, "big");
        assert_true(bad_count("[a-z_]+ [A-Z]+ [^ ]+ redirect") >= 7);
    }
}

static void redirects_that_lead_nowhere(void **state)
{
    static const char *const rules[] = {
        "do=redirect location=self",
        "do=redirect status=301 location=self",
        "do=redirect location=ftp://127.0.0.1/b/k",
        "do=redirect location=file:///etc/passwd",
        "do=redirect location=http://user:pw@127.0.0.1/",
        "do=redirect location=http://",
        "do=redirect location=/b/other",
        "do=redirect location=http://127.0.0.1:1/b/k",
        "do=redirect location=http://127.0.0.1:99999/b/k",
        "do=redirect location=http://%zz/",
        "do=html status=307",
        "do=html status=301",
        "do=reply status=301 code=PermanentRedirect",
    };
    unsigned failures = 0;
    must_put(b, "k", "text");
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        struct got g = {0};
        reopen();
        bad_no_rules();
        bad_rule("times=0 %s", rules[i]);
        clock_start();
        int rc = bh_bucket_get(b, "k", 0, UINT64_MAX, got_take, &g, NULL, NULL, ERR);
        if (rc != EACCES && rc != EIO && rc != ETIMEDOUT && rc != EINVAL) {
            print_error("%s: %d %s\n", rules[i], rc, test_error.text);
            failures++;
        }
        assert_int_equal(g.len, 0);
        clock_within(1800);
        rc = put_text(b, "k", "other", NULL);
        assert_int_not_equal(rc, 0);
        bad_no_rules();
        reopen();
        must_have(b, "k", "text");
    }
    assert_int_equal(failures, 0);
}

/* --- credentials --- */

static void tokens(void **state)
{
    bad_set("token=the-token/of+it=");
    must_say(put_text(b, "k", "text", NULL), EACCES, "k");
    bad_close(b);
    b = bad_open("token=the-token/of+it=");
    must_put(b, "k", "text");
    must_have(b, "k", "text");
    bad_set("expired=1");
    must_say(bh_bucket_head(b, "k", NULL, NULL, ERR), EACCES, "k|expired");
    assert_null(strstr(test_error.text, "the-token"));
    bad_set("expired=0\ntoken=");
    bad_set("access_key=SOMEBODY");
    must_say(put_text(b, "k", "text", NULL), EACCES, "access_key_id");
    bad_set("access_key=AKIDTEST\nsecret=other");
    must_say(put_text(b, "k", "text", NULL), EACCES, "secret");
    must_say(bh_bucket_list(b, &(struct bh_list_request){.prefix = ""}, NULL, NULL, NULL, ERR),
             EINVAL, "");
}

static void anonymous(void **state)
{
    must_put(b, "k", "text");
    bad_close(b);
    b = bad_open("bucket.credentials=anonymous");
    must_say(bh_bucket_get_small(b, "k", 100, &(char *){0}, NULL, NULL, NULL, ERR), EACCES, "k");
    bad_set("anonymous=1");
    must_have(b, "k", "text");
    BH_STRBUF url = {0};
    must_fail(bh_bucket_presign(b, "k", 60, &url, ERR), ENOTSUP);
}

/* --- links --- */

/* The status and body of GET url, by hand. */
static int fetch(const char *url, struct got *g)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)bad_port)};
    char request[8192], chunk[4096];
    ssize_t n;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const char *host = strstr(url, "://");
    assert_non_null(host);
    size_t len = strcspn(host + 3, "/");
    BH_FD int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    int wrote = snprintf(request, sizeof request,
                         "GET %s HTTP/1.1\r\nHost: %.*s\r\nConnection: close\r\n\r\n",
                         host + 3 + len, (int)len, host + 3);
    assert_int_equal(send(fd, request, (size_t)wrote, MSG_NOSIGNAL), wrote);
    *g = (struct got){0};
    while ((n = read(fd, chunk, sizeof chunk)) > 0)
        must(got_take(g, chunk, (size_t)n, ERR));
    return g->data ? atoi(g->data + 9) : 0;
}

static void links_work(void **state)
{
    static const char *const keys[] = {"k", "a b+c%41/\xc3\xa4?&=#", "../x//y/.", "!'()*~"};
    bad_set("clock=86400");
    must_fail(bh_bucket_head(b, "absent", NULL, NULL, ERR), ENOENT); /* tells the time */
    for (int i = 0; i < 4; i++) {
        struct got g;
        BH_STRBUF url = {0};
        must_put(b, keys[i], "linked");
        must(bh_bucket_presign(b, keys[i], 60, &url, ERR));
        assert_null(strstr(url.data, "secret"));
        assert_int_equal(fetch(url.data, &g), 200);
        assert_non_null(strstr(g.data, "\r\n\r\nlinked"));
        got_free(&g);
        url.data[url.len - 1] = url.data[url.len - 1] == '0' ? '1' : '0';
        assert_int_equal(fetch(url.data, &g), 403);
        got_free(&g);
        bad_set("clock=%d", 86400 + 62);
        url.data[url.len - 1] = '0';
        assert_int_equal(fetch(url.data, &g), 403);
        got_free(&g);
        bad_set("clock=86400");
    }
}

/* --- what the store asks for --- */

static void retry_after_is_heeded(void **state)
{
    struct bh_call call = {.deadline_ms = bh_mono_ms() + 3000};
    must_put(b, "k", "text");
    bad_rule("op=head do=reply set=retry-after:1");
    must_say(bh_bucket_head(b, "k", NULL, NULL, ERR), EAGAIN, "503");
    int64_t start = bh_mono_ms();
    must(bh_bucket_head(b, "k", NULL, NULL, ERR));
    assert_true(bh_mono_ms() - start >= 800 && bh_mono_ms() - start < 1800);
    static const char *const values[] = {"-5", "soon", "99999999999999999999",
                                         "",   "1e9",  "Thu, 01 Jan 1970 00:00:00 GMT"};
    for (int i = 0; i < 6; i++) {
        bad_rule("op=head do=reply 'set=retry-after:%s'", values[i]);
        must_say(bh_bucket_head(b, "k", NULL, NULL, ERR), EAGAIN, "503");
        clock_start();
        must(bh_bucket_head(b, "k", NULL, NULL, ERR));
        clock_within(500);
    }
    call.deadline_ms = bh_mono_ms() + 1000;
    bad_rule("op=head do=reply set=retry-after:86400");
    must_say(bh_bucket_head(b, "k", NULL, &call, ERR), EAGAIN, "503");
    clock_start();
    must_say(bh_bucket_head(b, "k", NULL, &call, ERR), ETIMEDOUT, "");
    clock_within(1300);
}

static void the_bucket_is_missing(void **state)
{
    bad_rule("times=0 do=reply status=404 code=NoSuchBucket");
    must_say(put_text(b, "k", "text", NULL), ENODEV, "bucket b|127.0.0.1");
    must_say(bh_bucket_head(b, "k", NULL, NULL, ERR), ENODEV, "bucket b");
    must_say(bh_bucket_delete(b, "k", NULL, ERR), ENODEV, "bucket b");
    must_say(bh_bucket_learn(b, NULL, ERR), ENODEV, "bucket b");
    bad_no_rules();
    must(bh_bucket_make(b, NULL, ERR)); /* is ours already */
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(stores_of_many_kinds),
        TEST(no_part_copy),
        TEST(a_bogus_upload_is_not_completed),
        TEST(learning_is_never_misled),
        TEST(learning_needs_the_right_to_write),
        TEST(a_conflict_is_passing),
        TEST(the_region_is_found),
        TEST(the_clock_is_corrected),
        TEST(the_time_must_be_told),
        TEST(redirects_are_signed_anew),
        TEST(redirects_that_lead_nowhere),
        TEST(tokens),
        TEST(anonymous),
        TEST(links_work),
        TEST(retry_after_is_heeded),
        TEST(the_bucket_is_missing),
    };
    return cmocka_run_group_tests_name("S3, with quirks", tests, bad_start, bad_stop);
}
