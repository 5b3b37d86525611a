/* The text of heads, records, labels and the format object, damaged: none of it is believed. */
#include "head_text_fixture.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_byte_matters),
        cmocka_unit_test(test_each_line_must_be_there_once),
        cmocka_unit_test(test_unknown_lines_and_any_order),
        cmocka_unit_test(test_bad_lines),
        cmocka_unit_test(test_bounds_of_text),
        cmocka_unit_test(test_a_nul_is_damage),
        cmocka_unit_test(test_one_kind_is_not_another),
    };
    return cmocka_run_group_tests_name("repo-head-damage", tests, NULL, NULL);
}
