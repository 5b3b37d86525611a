/* The text of heads, records, labels and the format object: what is written, and read again. */
#include "head_text_fixture.h"

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
        cmocka_unit_test(test_versions),
    };
    return cmocka_run_group_tests_name("repo-head", tests, NULL, NULL);
}
