/* The text of heads, records, labels and the format object. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bucket_helpers.h"
#include "repo/head_private.h"
#include "util/cleanup.h"
#include "util/sha256.h"

#define ID1  "20261127T072149.123Z-0123abcd"
#define ID2  "20261127T072150.000Z-89ef4567"
#define WHAT "k.bhfs/branches/main"

/* Of example_root. */
#define REF1                                                                                       \
    "017766554433221111000000a10f0010"                                                             \
    "101112131415161718191a1b1c1d1e1f"
#define REF2                                                                                       \
    "027766554433221112000000a20f0000"                                                             \
    "202122232425262728292a2b2c2d2e2f"
#define REF3                                                                                       \
    "037766554433221113000000a30f0010"                                                             \
    "303132333435363738393a3b3c3d3e3f"

/* The lines of example_entry. */
#define ENTRY                                                                                      \
    "snapshot: " ID2 "\n"                                                                          \
    "created: 2026-11-27T07:21:50.000Z\n"                                                          \
    "made_on: main\n"                                                                              \
    "flags: 1\n"                                                                                   \
    "page_size: 4096\n"                                                                            \
    "db: " REF1 " 1 1048576\n"                                                                     \
    "names: " REF2 " 0 8192\n"                                                                     \
    "uploaded: 123456\n"                                                                           \
    "changed: 7\n"                                                                                 \
    "blobs: 3\n"

/* --- examples --- */

static struct bh_root example_root(unsigned n, unsigned depth, uint64_t size)
{
    struct bh_root r = {.depth = depth, .size = size};
    r.ref = (struct bh_ref){
        .pack = 0x1122334455667700u + n, .offset = 16 + n, .stored = 4000 + n, .encoding = n % 2};
    for (unsigned i = 0; i < BH_HASH_SIZE; i++)
        r.ref.hash[i] = (uint8_t)(n * 16 + i);
    return r;
}

static struct bh_index_entry example_entry(void)
{
    return (struct bh_index_entry){.id = ID2,
                                   .time_ms = INT64_C(1795764110000),
                                   .flags = BH_ENTRY_DROPPED,
                                   .page_size = 4096,
                                   .db = example_root(1, 1, 1 << 20),
                                   .names = example_root(2, 0, 8192),
                                   .uploaded = 123456,
                                   .changed = 7,
                                   .blobs = 3,
                                   .branch = "main"};
}

static struct bh_head example_head(void)
{
    return (struct bh_head){.branch = "work",
                            .deleted = true,
                            .sequence = 42,
                            .previous = ID1,
                            .newest = example_entry(),
                            .index = example_root(3, 1, 512),
                            .forked_from = "main",
                            .fork_snapshot = ID1,
                            .lease = {.host = "büro-1",
                                      .pid = 4711,
                                      .writer = "00112233445566778899aabbccddeeff",
                                      .epoch = 5,
                                      .expires_ms = INT64_C(1795765010001)}};
}

static struct bh_record example_record(void)
{
    return (struct bh_record){.entry = example_entry(),
                              .parent = ID1,
                              .host = "büro-1",
                              .index = example_root(3, 1, 256)};
}

#define must_equal_text(buf, expected)                                                             \
    do {                                                                                           \
        assert_false((buf).failed);                                                                \
        assert_string_equal((buf).data, (expected));                                               \
        assert_int_equal((buf).len, strlen(expected));                                             \
    } while (0)

/* The body with the checksum line that belongs to it. */
static char *sealed(const char *body)
{
    char hex[BH_SHA256_HEX], *text;
    must(bh_sha256_hex_of(body, strlen(body), hex));
    assert_true(asprintf(&text, "%schecksum: %s\n", body, hex) > 0);
    return text;
}

/* A text with its checksum taken off, `from` (once in it) replaced, and sealed again. */
static char *edited(const char *text, const char *from, const char *to)
{
    BH_FREE char *body = strndup(text, (size_t)(strstr(text, "checksum: ") - text));
    BH_FREE char *changed = NULL;
    char *at = strstr(body, from);
    assert_non_null(at);
    assert_true(asprintf(&changed, "%.*s%s%s", (int)(at - body), body, to, at + strlen(from)) >= 0);
    return sealed(changed);
}

/* --- round trips --- */

static void test_golden_head(void **state)
{
    BH_STRBUF out = {0};
    struct bh_head h = example_head(), got;
    must(bh_head_encode(&h, &out));
    BH_FREE char *text = sealed("bhfs: head\n"
                                "branch: work\n"
                                "deleted: yes\n"
                                "sequence: 42\n"
                                "previous: " ID1 "\n" ENTRY "index: " REF3 " 1 512\n"
                                "forked_from: main\n"
                                "fork_snapshot: " ID1 "\n"
                                "lease_host: büro-1\n"
                                "lease_pid: 4711\n"
                                "lease_writer: 00112233445566778899aabbccddeeff\n"
                                "lease_epoch: 5\n"
                                "lease_expires: 2026-11-27T07:36:50.001Z\n");
    must_equal_text(out, text);
    must(bh_head_decode(&got, out.data, out.len, WHAT, ERR));
    assert_string_equal(got.branch, "work");
    assert_true(got.deleted);
    assert_int_equal(got.sequence, 42);
    assert_string_equal(got.previous, ID1);
    assert_string_equal(got.newest.id, ID2);
    assert_int_equal(got.newest.time_ms, h.newest.time_ms);
    assert_string_equal(got.newest.branch, "main");
    assert_int_equal(got.newest.flags, BH_ENTRY_DROPPED);
    assert_int_equal(got.newest.page_size, 4096);
    assert_int_equal(got.newest.db.ref.pack, h.newest.db.ref.pack);
    assert_memory_equal(got.newest.db.ref.hash, h.newest.db.ref.hash, BH_HASH_SIZE);
    assert_int_equal(got.newest.db.depth, 1);
    assert_int_equal(got.newest.names.ref.stored, 4002);
    assert_int_equal(got.newest.names.size, 8192);
    assert_int_equal(got.newest.uploaded, 123456);
    assert_int_equal(got.newest.changed, 7);
    assert_int_equal(got.newest.blobs, 3);
    assert_int_equal(got.index.size, 512);
    assert_int_equal(got.index.ref.offset, 19);
    assert_string_equal(got.forked_from, "main");
    assert_string_equal(got.fork_snapshot, ID1);
    assert_string_equal(got.lease.host, "büro-1");
    assert_int_equal(got.lease.pid, 4711);
    assert_string_equal(got.lease.writer, h.lease.writer);
    assert_int_equal(got.lease.epoch, 5);
    assert_int_equal(got.lease.expires_ms, h.lease.expires_ms);
}

static void test_golden_record(void **state)
{
    BH_STRBUF out = {0};
    BH_STRBUF again = {0};
    struct bh_record r = example_record(), got;
    BH_FREE char *text = sealed("bhfs: snapshot\n" ENTRY "parent: " ID1 "\n"
                                "host: büro-1\n"
                                "index: " REF3 " 1 256\n");
    must(bh_record_encode(&r, &out));
    must_equal_text(out, text);
    must(bh_record_decode(&got, out.data, out.len, WHAT, ERR));
    assert_string_equal(got.parent, ID1);
    assert_string_equal(got.host, "büro-1");
    assert_int_equal(got.entry.names.ref.offset, 18);
    must(bh_record_encode(&got, &again));
    must_equal_text(again, text);
}

static void test_golden_format_and_label(void **state)
{
    BH_STRBUF format = {0};
    BH_STRBUF label = {0};
    uint32_t block_size = 0;
    char name[BH_BRANCH_MAX], id[BH_SNAPSHOT_ID_MAX];
    must(bh_format_encode(16384, &format));
    must_equal_text(format, "bhfs: format\nversion: 1\nblock_size: 16384\nfanout: 256\nchecksum: "
                            "e24748e7ebbffadd9d316a37a78cff1d9e373acf6ecb4d94253421fed0044f09\n");
    must(bh_format_decode(&block_size, format.data, format.len, WHAT, ERR));
    assert_int_equal(block_size, 16384);
    /* As they were before they said their name. */
    must(bh_label_encode("", ID1, &label));
    must_equal_text(label, "bhfs: label\nsnapshot: " ID1 "\nchecksum: "
                           "feb7d8113a39a356e76a2482d253f238c4053dace489b51066ad30eebb100cb8\n");
    must(bh_label_decode(name, id, label.data, label.len, WHAT, ERR));
    assert_string_equal(id, ID1);
    assert_string_equal(name, "");
    bh_strbuf_reset(&label);
    must(bh_label_encode("v1", ID1, &label));
    must_equal_text(label, "bhfs: label\nlabel: v1\nsnapshot: " ID1 "\nchecksum: "
                           "69a922419d6474ef869f5b12338b3c1577006c6961cb0ed9d0f176f2acffacc9\n");
    must(bh_label_decode(name, id, label.data, label.len, WHAT, ERR));
    assert_string_equal(id, ID1);
    assert_string_equal(name, "v1");
}

/* A new branch: no snapshot, nobody's lease. */
static void test_an_empty_head(void **state)
{
    BH_STRBUF out = {0};
    BH_STRBUF again = {0};
    struct bh_head h = {.branch = "main"}, got;
    must(bh_head_encode(&h, &out));
    must(bh_head_decode(&got, out.data, out.len, WHAT, ERR));
    assert_string_equal(got.newest.id, "");
    assert_true(bh_ref_is_zero(&got.newest.db.ref));
    assert_string_equal(got.lease.writer, "");
    must(bh_head_encode(&got, &again));
    must_equal_text(again, out.data);
}

static void test_appends(void **state)
{
    BH_STRBUF out = {0};
    struct bh_head h = example_head(), got;
    bh_strbuf_addf(&out, "before");
    must(bh_head_encode(&h, &out));
    must(bh_head_decode(&got, out.data + 6, out.len - 6, WHAT, ERR));
    h.sequence = UINT64_MAX;
    size_t len = out.len;
    assert_int_equal(bh_head_encode(&h, &out), EINVAL);
    assert_int_equal(out.len, len);
}

static void test_largest_values(void **state)
{
    BH_STRBUF out = {0};
    struct bh_head h = example_head(), got;
    memset(h.branch, 'b', 100);
    memset(h.forked_from, 'f', 100);
    memset(h.newest.branch, 'n', 64);
    memset(h.lease.host, 'h', 64);
    h.sequence = h.lease.epoch = h.newest.uploaded = h.newest.changed = INT64_MAX;
    h.newest.flags = h.newest.blobs = UINT32_MAX;
    h.newest.page_size = 65536;
    h.newest.db.size = INT64_MAX;
    h.newest.db.depth = BH_DEPTH_MAX;
    h.lease.pid = INT64_MAX;
    h.lease.expires_ms = INT64_C(253402300799999);
    h.newest.time_ms = 0;
    must(bh_head_encode(&h, &out));
    must(bh_head_decode(&got, out.data, out.len, WHAT, ERR));
    assert_int_equal(strlen(got.branch), 100);
    assert_int_equal(got.sequence, INT64_MAX);
    assert_int_equal(got.newest.flags, UINT32_MAX);
    assert_int_equal(got.lease.expires_ms, INT64_C(253402300799999));
    assert_int_equal(got.newest.time_ms, 0);
}

/* --- what is never written --- */

static void test_bad_values_are_not_written(void **state)
{
    BH_STRBUF out = {0};
#define REFUSED(member, value)                                                                     \
    do {                                                                                           \
        struct bh_head h = example_head();                                                         \
        h.member = (value);                                                                        \
        assert_int_equal(bh_head_encode(&h, &out), EINVAL);                                        \
        assert_int_equal(out.len, 0);                                                              \
    } while (0)
    REFUSED(branch[0], '\0');
    REFUSED(branch[1], '/');
    REFUSED(branch[1], '\n');
    REFUSED(previous[3], 'x');
    REFUSED(newest.id[28], '\0');
    REFUSED(newest.branch[0], '.');
    REFUSED(newest.time_ms, -1);
    REFUSED(newest.time_ms, INT64_C(253402300800000));
    REFUSED(newest.time_ms, INT64_MAX);
    REFUSED(newest.page_size, 5000);
    REFUSED(newest.page_size, 256);
    REFUSED(newest.db.depth, BH_DEPTH_MAX + 1);
    REFUSED(newest.db.size, (uint64_t)INT64_MAX + 1);
    REFUSED(index.size, 100);
    REFUSED(sequence, (uint64_t)INT64_MAX + 1);
    REFUSED(lease.epoch, UINT64_MAX);
    REFUSED(lease.pid, -1);
    REFUSED(lease.writer[0], 'g');
    struct bh_record r = example_record();
    r.entry.id[0] = '\0';
    assert_int_equal(bh_record_encode(&r, &out), EINVAL);
    assert_int_equal(bh_format_encode(0, &out), EINVAL);
    assert_int_equal(bh_format_encode(2048, &out), EINVAL);
    assert_int_equal(bh_format_encode(12288, &out), EINVAL);
    assert_int_equal(bh_format_encode(2 << 20, &out), EINVAL);
    assert_int_equal(bh_label_encode("v1", "now", &out), EINVAL);
    assert_int_equal(bh_label_encode("v.1", ID1, &out), EINVAL);
    assert_int_equal(out.len, 0);
}

static void host_becomes(const char *host, const char *expected)
{
    BH_STRBUF out = {0};
    struct bh_record r = example_record(), got;
    snprintf(r.host, sizeof r.host, "%s", host);
    must(bh_record_encode(&r, &out));
    must(bh_record_decode(&got, out.data, out.len, WHAT, ERR));
    assert_string_equal(got.host, expected);
}

static void test_hosts_are_made_printable(void **state)
{
    char clean[BH_HOST_MAX], longest[200];
    host_becomes("", "");
    host_becomes("a\nchecksum: b\tc\x7f", "a?checksum: b?c?");
    host_becomes("\xff\xc3", "??");
    host_becomes("a\xc2\x9b"
                 "31m",
                 "a??31m");              /* a terminal's control sequence */
    host_becomes("\xed\xa0\x80", "???"); /* a surrogate */
    host_becomes(" b: \xf0\x9f\x90\x8c ", " b: \xf0\x9f\x90\x8c ");
    memset(longest, 'x', sizeof longest);
    strcpy(longest + 63, "ü and more");
    bh_clean_host(longest, clean);
    assert_int_equal(strlen(clean), 63);
    strcpy(longest + 62, "ü and more");
    bh_clean_host(longest, clean);
    assert_int_equal(strlen(clean), 64);
}

/* --- names --- */

static void test_names(void **state)
{
    char name[102];
    memset(name, 'a', sizeof name);
    name[101] = '\0';
    assert_false(bh_is_branch_name(name));
    name[100] = '\0';
    assert_true(bh_is_branch_name(name));
    assert_true(bh_is_label(name));
    assert_true(bh_is_branch_name("rescue-HOST_1-20261127T072149-123Z"));
    static const char *const bad[] = {"", ".", "..", "a/b", "a.prev", "a b", "a\n", "ä", "%41"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(bh_is_branch_name(bad[i]));
        assert_false(bh_is_label(bad[i]));
        assert_false(bh_is_snapshot_id(bad[i]));
    }
    assert_true(bh_is_snapshot_id(ID1));
    assert_false(bh_is_label(ID1));
    assert_false(bh_is_branch_name(ID1));
    assert_false(bh_is_snapshot_id(ID1 "0"));
    assert_false(bh_is_snapshot_id("20261127T072149.123Z-0123ABCD"));
    assert_false(bh_is_snapshot_id("20261127T072149.123Z-0123abc"));
}

/* --- damage --- */

static struct bh_head untouched;

static void must_be_damaged(const char *text, size_t len)
{
    struct bh_head h = untouched;
    must_fail(bh_head_decode(&h, text, len, WHAT, ERR), EIO);
    assert_memory_equal(&h, &untouched, sizeof h);
}

static void test_every_byte_matters(void **state)
{
    BH_STRBUF out = {0};
    struct bh_head h = example_head();
    must(bh_head_encode(&h, &out));
    BH_FREE char *copy = malloc(out.len + 1);
    for (size_t i = 0; i < out.len; i++) {
        static const char flips[] = {1, 2, 0x20, (char)0x80, '\n', 0x7f};
        for (size_t k = 0; k < sizeof flips; k++) {
            memcpy(copy, out.data, out.len);
            copy[i] ^= flips[k];
            must_be_damaged(copy, out.len);
        }
        memcpy(copy, out.data, i); /* removed */
        memcpy(copy + i, out.data + i + 1, out.len - i - 1);
        must_be_damaged(copy, out.len - 1);
        memcpy(copy, out.data, i + 1); /* doubled */
        memcpy(copy + i + 1, out.data + i, out.len - i);
        must_be_damaged(copy, out.len + 1);
        must_be_damaged(out.data, i); /* cut */
    }
    must_be_damaged("", 0);
}

static void test_each_line_must_be_there_once(void **state)
{
    BH_STRBUF out = {0};
    struct bh_head h = example_head();
    char name[64], saying[128];
    must(bh_head_encode(&h, &out));
    int count = 0;
    for (const char *line = out.data, *end; strncmp(line, "checksum", 8); line = end + 1, count++) {
        end = strchr(line, '\n');
        BH_FREE char *one = strndup(line, (size_t)(end + 1 - line));
        BH_FREE char *two = NULL;
        assert_true(asprintf(&two, "%s%s", one, one) > 0);
        snprintf(name, sizeof name, "%.*s", (int)strcspn(one, ":"), one);
        BH_FREE char *without = edited(out.data, one, "");
        BH_FREE char *twice = edited(out.data, one, two);
        must_fail(bh_head_decode(&h, without, strlen(without), WHAT, &test_error), EIO);
        must_fail(bh_head_decode(&h, twice, strlen(twice), WHAT, &test_error), EIO);
        snprintf(saying, sizeof saying, WHAT " is damaged: the line %s is missing", name);
        bh_head_decode(&h, without, strlen(without), WHAT, ERR);
        assert_string_equal(test_error.text, saying);
        snprintf(saying, sizeof saying, WHAT " is damaged: the line %s is there twice", name);
        bh_head_decode(&h, twice, strlen(twice), WHAT, ERR);
        assert_string_equal(test_error.text, saying);
    }
    assert_int_equal(count, 23);
}

static void test_unknown_lines_and_any_order(void **state)
{
    BH_STRBUF out = {0};
    BH_STRBUF again = {0};
    struct bh_head h = example_head(), got;
    must(bh_head_encode(&h, &out));
    BH_FREE char *more =
        edited(out.data, "lease_pid: 4711\n", "colour_of_2030: blue: or ä\ncolour_of_2030: \n");
    BH_FREE char *text = edited(more, "bhfs: head\n", "lease_pid: 4711\nbhfs: head\n");
    must(bh_head_decode(&got, text, strlen(text), WHAT, ERR));
    must(bh_head_encode(&got, &again));
    must_equal_text(again, out.data);
}

struct edit {
    const char *from, *to, *saying;
};

static void must_refuse(const char *text, const struct edit *e)
{
    struct bh_head h;
    BH_FREE char *bad = edited(text, e->from, e->to);
    int rc = bh_head_decode(&h, bad, strlen(bad), WHAT, ERR);
    if (rc != EIO || !strstr(test_error.text, e->saying) || !strstr(test_error.text, WHAT))
        fail_msg("%s -> %s: %d, %s", e->from, e->to, rc, test_error.text);
    test_error = (struct bh_error){0};
}

static void test_bad_lines(void **state)
{
    static const struct edit edits[] = {
        {"bhfs: head", "bhfs: snapshot", "line bhfs is not"},
        {"branch: work", "branch: ", "line branch is no name"},
        {"branch: work", "branch: a/b", "line branch is no name"},
        {"deleted: yes", "deleted: true", "line deleted is neither"},
        {"sequence: 42", "sequence: 042", "line sequence is no number"},
        {"sequence: 42", "sequence: -42", "line sequence is no number"},
        {"sequence: 42", "sequence: +42", "line sequence is no number"},
        {"sequence: 42", "sequence: 42 ", "line sequence is no number"},
        {"sequence: 42", "sequence:  42", "line sequence is no number"},
        {"sequence: 42", "sequence: ", "line sequence is no number"},
        {"sequence: 42", "sequence: 0x42", "line sequence is no number"},
        {"sequence: 42", "sequence: 9223372036854775808", "line sequence is no number"},
        {"sequence: 42", "sequence: 18446744073709551658", "line sequence is no number"},
        {"sequence: 42", "sequence: 99999999999999999999999", "line sequence is no number"},
        {"flags: 1", "flags: 4294967296", "line flags is no number"},
        {"previous: " ID1, "previous: yesterday", "line previous is no id"},
        {"created: 2026-11-27", "created: 2026-11-31", "line created is no time"},
        {"created: 2026-11-27", "created: 2026-13-27", "line created is no time"},
        {"created: 2026", "created: 1969", "line created is no time"},
        {"07:21:50.000Z", "07:21:60.000Z", "line created is no time"},
        {"07:21:50.000Z", "24:21:50.000Z", "line created is no time"},
        {"07:21:50.000Z", "07:21:50Z", "line created is no time"},
        {"07:21:50.000Z", "07:21:50.000+00:00", "line created is no time"},
        {"made_on: main", "made_on: " ID1, "line made_on is no name"},
        {"page_size: 4096", "page_size: 4097", "line page_size is no page size"},
        {"page_size: 4096", "page_size: 131072", "line page_size is no page size"},
        {" 1 1048576", " 7 1048576", "line db is no reference"},
        {" 1 1048576", " 1", "line db is no reference"},
        {" 1 1048576", " 1 1048576 1", "line db is no reference"},
        {" 1 1048576", " 1  1048576", "line db is no reference"},
        {" 1 1048576", "0 1 1048576", "line db is no reference"},
        {"index: ", "index: 0", "line index is no reference"},
        {" 1 512", " 1 511", "line index is no reference"},
        {"lease_host: b", "lease_host: \xc2\x9b", "line lease_host is no name"},
        {"lease_host: b", "lease_host: \xff", "is not UTF-8"},
        {"lease_host: b", "lease_host: \x1b", "line lease_host holds a control"},
        {"lease_host: ",
         "lease_host: 0123456789012345678901234567890123456789012345678901234567890123456789",
         "line lease_host is no name"},
        {"lease_writer: 0", "lease_writer: A", "line lease_writer is no id"},
        {"lease_writer: 0", "lease_writer: 00", "line lease_writer is no id"},
        {"lease_epoch: 5", "lease_epoch:5", "not of the form"},
        {"lease_epoch: 5", "lease_epoch", "not of the form"},
        {"lease_epoch: 5", "lease_epoch: 5\r", "holds a control"},
        {"lease_epoch: 5", ": 5", "not of the form"},
        {"lease_epoch: 5", "", "not of the form"},
        {"lease_epoch: 5", "checksum: 5", "line checksum is not the last"},
        {"lease_epoch: 5", "Lease: 5", "not of the form"},
    };
    BH_STRBUF out = {0};
    struct bh_head h = example_head();
    must(bh_head_encode(&h, &out));
    for (size_t i = 0; i < sizeof edits / sizeof edits[0]; i++)
        must_refuse(out.data, &edits[i]);
}

static void test_bounds_of_text(void **state)
{
    BH_STRBUF out = {0};
    BH_STRBUF line = {0};
    struct bh_head h = example_head();
    must(bh_head_encode(&h, &out));
    bh_strbuf_addf(&line, "more: ");
    while (line.len < 4095)
        bh_strbuf_add(&line, "x", 1);
    bh_strbuf_add(&line, "\n", 1);
    BH_FREE char *good = edited(out.data, "bhfs: head\n", "");
    BH_FREE char *fits = NULL;
    assert_true(asprintf(&fits, "%sbhfs: head\n", line.data) > 0);
    BH_FREE char *longest = edited(out.data, "bhfs: head\n", fits);
    must(bh_head_decode(&h, longest, strlen(longest), WHAT, ERR)); /* 4 KiB with the break */
    BH_FREE char *longer = edited(longest, "more: ", "more: x");
    BH_FREE char *named = edited(longest, "more: ",
                                 "a_name_of_more_than_sixty_four_bytes_is_no_name_of_a_line_of_any_"
                                 "text_at_all: ");
    must_refuse(longest, &(struct edit){"more: ", "more: x", "the line more is too long"});
    must_fail(bh_head_decode(&h, longer, strlen(longer), WHAT, ERR), EIO);
    must_fail(bh_head_decode(&h, named, strlen(named), WHAT, ERR), EIO);
    BH_STRBUF many = {0};
    for (int i = 0; i < 4; i++)
        bh_strbuf_addf(&many, "%s", line.data);
    bh_strbuf_addf(&many, "bhfs: head\n");
    BH_FREE char *large = edited(out.data, "bhfs: head\n", many.data);
    assert_true(strlen(large) > BH_HEAD_TEXT_MAX);
    must_fail(bh_head_decode(&h, large, strlen(large), WHAT, ERR), EIO);
}

static void test_a_nul_is_damage(void **state)
{
    BH_STRBUF out = {0};
    char hex[BH_SHA256_HEX];
    uint32_t block_size;
    bh_strbuf_add(&out, "bhfs: format\nversion: 1\nblock_size: 4096\nfanout: 256\n\0\n", 54);
    must(bh_sha256_hex_of(out.data, out.len, hex));
    bh_strbuf_addf(&out, "checksum: %s\n", hex);
    must_fail(bh_format_decode(&block_size, out.data, out.len, WHAT, ERR), EIO);
}

static void test_one_kind_is_not_another(void **state)
{
    BH_STRBUF out = {0};
    struct bh_head h = example_head();
    struct bh_record r = example_record();
    uint32_t block_size;
    char name[BH_BRANCH_MAX], id[BH_SNAPSHOT_ID_MAX];
    must(bh_record_encode(&r, &out));
    must_fail(bh_head_decode(&h, out.data, out.len, WHAT, ERR), EIO);
    must_fail(bh_format_decode(&block_size, out.data, out.len, WHAT, ERR), EIO);
    must_fail(bh_label_decode(name, id, out.data, out.len, WHAT, ERR), EIO);
}

/* --- versions --- */

static int format_of(const char *body)
{
    uint32_t block_size = 1;
    BH_FREE char *text = sealed(body);
    int rc = bh_format_decode(&block_size, text, strlen(text), WHAT, ERR);
    if (rc)
        assert_int_equal(block_size, 1);
    return rc;
}

static void test_versions(void **state)
{
    must(format_of("bhfs: format\nversion: 1\nblock_size: 4096\nfanout: 256\n"));
    must(format_of("bhfs: format\nversion: 1\nblock_size: 1048576\nfanout: 256\n"));
    must_fail(format_of("bhfs: format\nversion: 2\nnothing: else\n"), ENOTSUP);
    must_fail(format_of("bhfs: format\nversion: 2\nblock_size: 7\nfanout: 8\n"), ENOTSUP);
    must_fail(format_of("bhfs: format\nversion: x\n"), EIO);
    must_fail(format_of("bhfs: format\nversion: 1\nblock_size: 4095\nfanout: 256\n"), EIO);
    must_fail(format_of("bhfs: format\nversion: 1\nblock_size: 2097152\nfanout: 256\n"), EIO);
    must_fail(format_of("bhfs: format\nversion: 1\nblock_size: 4096\nfanout: 128\n"), EIO);
    must_fail(format_of("bhfs: format\nversion: 1\nblock_size: 4096\n"), EIO);
    must_fail(format_of(""), EIO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_head),
        cmocka_unit_test(test_golden_record),
        cmocka_unit_test(test_golden_format_and_label),
        cmocka_unit_test(test_an_empty_head),
        cmocka_unit_test(test_appends),
        cmocka_unit_test(test_largest_values),
        cmocka_unit_test(test_bad_values_are_not_written),
        cmocka_unit_test(test_hosts_are_made_printable),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_every_byte_matters),
        cmocka_unit_test(test_each_line_must_be_there_once),
        cmocka_unit_test(test_unknown_lines_and_any_order),
        cmocka_unit_test(test_bad_lines),
        cmocka_unit_test(test_bounds_of_text),
        cmocka_unit_test(test_a_nul_is_damage),
        cmocka_unit_test(test_one_kind_is_not_another),
        cmocka_unit_test(test_versions),
    };
    return cmocka_run_group_tests_name("repo-head", tests, NULL, NULL);
}
