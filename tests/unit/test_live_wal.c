/* The write-ahead log: what bh_wal_scan finds in one is what SQLite reads from it, whatever state
 * the log is in. */
#include "live_wal.h"

static uint32_t get32(const unsigned char *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put32(unsigned char *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(v >> (24 - 8 * i));
}

/* --- against SQLite --- */

/* The database that file and map make together, freed by the caller. */
static unsigned char *lay_over(const unsigned char *db, size_t db_size, const struct log *l,
                               const struct bh_wal_map *m, size_t *size)
{
    *size = m->count ? (size_t)m->db_pages * m->page_size : db_size;
    unsigned char *image = calloc(1, *size + 1);
    assert_non_null(image);
    memcpy(image, db, db_size < *size ? db_size : *size);
    for (uint32_t page = 1; m->count && page <= m->db_pages; page++) {
        uint64_t offset = bh_wal_find(m, page);
        if (offset == 0)
            continue;
        assert_true(offset + m->page_size <= l->size);
        memcpy(image + (size_t)(page - 1) * m->page_size, l->data + offset, m->page_size);
    }
    return image;
}

static void must_be_in_order(const struct bh_wal_map *m)
{
    for (size_t i = 1; i < m->count; i++)
        assert_true(m->pages[i - 1].page < m->pages[i].page);
    for (size_t i = 0; i < m->count; i++)
        assert_int_equal(bh_wal_find(m, m->pages[i].page),
                         BH_WAL_HEADER + BH_WAL_FRAME_HEADER +
                             (uint64_t)m->pages[i].frame * (BH_WAL_FRAME_HEADER + m->page_size));
    assert_int_equal(m->count > 0, m->tag[0] != '\0');
}

/* What is found in the log l over SCRATCH/base is what SQLite reads from the two. How many pages of
 * the log that are. */
static size_t compare_with_sqlite(struct log *l, const char *base)
{
    size_t db_size, size, expected;
    struct bh_wal_map m = scan_log(l);
    must_be_in_order(&m);
    unsigned char *db = get_file(base, &db_size);
    unsigned char *image = lay_over(db, db_size, l, &m, &size);
    put_file("copy.db", db, db_size);
    put_file("copy.db-wal", l->data, l->size);
    unlink(at("copy.db-shm"));
    sqlite3 *c = stock("copy.db");
    unsigned char *want = sqlite_reads(c, &expected);
    assert_int_equal(size, expected);
    assert_memory_equal(image, want, size);
    sqlite3_free(want);
    sqlite3_close(c);
    free(image);
    free(db);
    size_t count = m.count;
    bh_wal_map_free(&m);
    return count;
}

static size_t compare_now(void)
{
    struct log l = load_log("w.db-wal");
    size_t count = compare_with_sqlite(&l, "w.db");
    free(l.data);
    return count;
}

static const int page_sizes[] = {512, 1024, 4096, 8192, 65536};
enum { SIZES = sizeof page_sizes / sizeof *page_sizes };

static void random_life(int page_size)
{
    unlink(at("w.db"));
    sqlite3 *c = stock_wal("w.db", page_size);
    for (int i = 0; i < 25; i++) {
        random_transaction(c);
        if (any(8) == 0)
            must_sql(c,
                     any(2) ? "PRAGMA wal_checkpoint(PASSIVE)" : "PRAGMA wal_checkpoint(RESTART)");
        compare_now();
    }
    sqlite3_close(c);
}

static void test_random_logs_are_read_as_sqlite_reads_them(void **state)
{
    for (int i = 0; i < SIZES; i++)
        random_life(page_sizes[i]);
}

static void test_what_spilled_into_the_log_does_not_count(void **state)
{
    sqlite3 *c = stock_wal("w.db", 1024);
    add_rows(c, 50);
    size_t pages = compare_now();
    struct log before = load_log("w.db-wal");
    must_sql(c, "BEGIN; UPDATE t SET fill=randomblob(2000)");
    struct log during = load_log("w.db-wal");
    assert_true(during.size > before.size + 10 * 1024);
    assert_int_equal(compare_now(), pages);
    must_sql(c, "ROLLBACK");
    assert_int_equal(compare_now(), pages);
    must_sql(c, "UPDATE t SET v=5 WHERE n=1"); /* writes over what was rolled back */
    assert_true(compare_now() >= pages);
    sqlite3_close(c);
    free(before.data);
    free(during.data);
}

static void test_old_frames_behind_a_restart_do_not_count(void **state)
{
    sqlite3 *c = stock_wal("w.db", 512);
    add_rows(c, 80);
    must_sql(c, "PRAGMA wal_checkpoint(RESTART)");
    struct log old = load_log("w.db-wal");
    must_sql(c, "UPDATE t SET v=7 WHERE n=3");
    struct log new = load_log("w.db-wal");
    assert_int_equal(old.size, new.size);
    assert_in_range(compare_now(), 1, 12);
    free(old.data);
    free(new.data);
    sqlite3_close(c);
}

static void test_a_shrunk_database_is_shorter(void **state)
{
    sqlite3 *c = stock_wal("w.db", 1024);
    add_rows(c, 200);
    must_sql(c, "DELETE FROM t WHERE n>20; VACUUM");
    assert_true(compare_now() > 0);
    must_sql(c, "PRAGMA wal_checkpoint(RESTART)");
    add_rows(c, 200);
    must_sql(c, "DELETE FROM t WHERE n>5; VACUUM");
    struct log l = load_log("w.db-wal");
    struct bh_wal_map m = scan_log(&l);
    assert_true(m.count > 0 &&
                m.pages[m.count - 1].page > m.db_pages); /* cut off, but in the log */
    bh_wal_map_free(&m);
    free(l.data);
    compare_now();
    sqlite3_close(c);
}

/* A log with several commits, one of which was rolled back, over a base. */
static struct log some_log(int page_size)
{
    sqlite3 *c = stock_wal("w.db", page_size);
    add_rows(c, 30);
    must_sql(c, "PRAGMA wal_checkpoint(RESTART)");
    add_rows(c, 60);
    must_sql(c, "PRAGMA wal_checkpoint(RESTART)");
    for (int i = 0; i < 6; i++)
        add_rows(c, 4);
    must_sql(c, "BEGIN; UPDATE t SET fill=randomblob(700)");
    must_sql(c, "ROLLBACK; UPDATE t SET v=v+1 WHERE n<4");
    copy_file("w.db", "base.db");
    struct log l = load_log("w.db-wal");
    sqlite3_close(c);
    return l;
}

static void test_a_log_that_is_cut_off_ends_at_its_last_commit(void **state)
{
    struct log l = some_log(1024);
    size_t all = l.size;
    for (int i = 0; i < 120; i++) {
        l.size = i < 4 ? (size_t)i * 16 : any((uint32_t)all);
        struct log cut = {.data = malloc(l.size + 1), .size = l.size};
        assert_non_null(cut.data);
        memcpy(cut.data, l.data, l.size);
        compare_with_sqlite(&cut, "base.db");
        free(cut.data);
    }
    free(l.data);
}

static void test_a_flipped_bit_ends_the_log(void **state)
{
    struct log l = some_log(512);
    size_t whole = compare_with_sqlite(&l, "base.db"), fewer = 0;
    size_t frame = BH_WAL_FRAME_HEADER + 512;
    for (int i = 0; i < 250; i++) {
        /* the header, headers of frames, anywhere */
        size_t where = i < 40    ? any(BH_WAL_HEADER)
                       : i < 120 ? BH_WAL_HEADER + any(12) * frame + any(BH_WAL_FRAME_HEADER)
                                 : any((uint32_t)l.size);
        unsigned char bit = (unsigned char)(1u << any(8));
        l.data[where] ^= bit;
        fewer += compare_with_sqlite(&l, "base.db") < whole;
        l.data[where] ^= bit;
    }
    assert_true(fewer > 60);
    assert_int_equal(compare_with_sqlite(&l, "base.db"), whole);
    free(l.data);
}

static void test_a_size_that_is_no_multiple_is_no_error(void **state)
{
    struct log l = some_log(512);
    struct bh_wal_map m = scan_log(&l);
    for (size_t more = 1; more < 2000; more += 97) {
        struct log longer = {.data = malloc(l.size + more), .size = l.size + more};
        assert_non_null(longer.data);
        memcpy(longer.data, l.data, l.size);
        fill_random(longer.data + l.size, more);
        struct bh_wal_map again = scan_log(&longer);
        assert_string_equal(m.tag, again.tag);
        bh_wal_map_free(&again);
        compare_with_sqlite(&longer, "base.db");
        free(longer.data);
    }
    bh_wal_map_free(&m);
    free(l.data);
}

/* --- made by hand --- */

/* Checksums of the whole log anew, after SQLite's file format document. */
static void seal(struct log *l, bool big_endian)
{
    uint32_t s0 = 0, s1 = 0;
    put32(l->data, 0x377f0682u + big_endian);
    size_t frame = BH_WAL_FRAME_HEADER + get32(l->data + 8);
    for (size_t at = 0; at == 0 || at + frame <= l->size; at += at ? frame : BH_WAL_HEADER) {
        unsigned char *h = l->data + at;
        size_t end = at ? frame : 24;
        for (size_t i = 0; i < end; i += 8) {
            if (at && (i == 8 || i == 16)) /* salts and checksum */
                continue;
            uint32_t x = get32(h + i), y = get32(h + i + 4);
            s0 += (big_endian ? x : __builtin_bswap32(x)) + s1;
            s1 += (big_endian ? y : __builtin_bswap32(y)) + s0;
        }
        put32(h + (at ? 16 : 24), s0);
        put32(h + (at ? 20 : 28), s1);
    }
}

/* Every frame of it belongs to it, so all that seal() does can be seen. */
static struct log fresh_log(void)
{
    sqlite3 *c = stock_wal("w.db", 512);
    for (int i = 0; i < 10; i++)
        add_rows(c, 5);
    copy_file("w.db", "base.db");
    struct log l = load_log("w.db-wal");
    sqlite3_close(c);
    return l;
}

static void test_both_byte_orders_of_checksums(void **state)
{
    struct log l = fresh_log();
    size_t pages = compare_with_sqlite(&l, "base.db");
    assert_true(pages > 20);
    for (int big = 0; big < 2; big++) {
        seal(&l, big);
        assert_int_equal(compare_with_sqlite(&l, "base.db"), pages);
        l.data[3] ^= 1; /* the other order than it was made in */
        assert_int_equal(compare_with_sqlite(&l, "base.db"), 0);
        l.data[3] ^= 1;
        for (int i = 0; i < 30; i++) {
            size_t where = any((uint32_t)l.size);
            l.data[where] ^= 0x10;
            compare_with_sqlite(&l, "base.db");
            l.data[where] ^= 0x10;
        }
    }
    free(l.data);
}

static void test_other_salts_end_the_log(void **state)
{
    struct log l = fresh_log();
    size_t pages = compare_with_sqlite(&l, "base.db"), frame = BH_WAL_FRAME_HEADER + 512;
    for (size_t n = 0; n < 4; n++)
        for (size_t i = 8; i < 16; i++) { /* they are in no checksum */
            l.data[BH_WAL_HEADER + n * frame + i] ^= 1;
            assert_true(compare_with_sqlite(&l, "base.db") < pages);
            l.data[BH_WAL_HEADER + n * frame + i] ^= 1;
        }
    free(l.data);
}

/* With checksums that are right. */
static void test_headers_that_no_log_has(void **state)
{
    static const struct {
        size_t at;
        uint32_t value;
    } bad[] = {{0, 0x377f0680u}, {8, 0}, {8, 256}, {8, 513}, {8, 768}, {8, 131072}, {8, 1u << 31}};
    struct log l = fresh_log();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct log changed = {.data = malloc(l.size), .size = BH_WAL_HEADER};
        assert_non_null(changed.data);
        memcpy(changed.data, l.data, l.size);
        put32(changed.data + bad[i].at, bad[i].value);
        uint32_t magic = get32(changed.data);
        seal(&changed, false);
        put32(changed.data, magic);
        changed.size = l.size;
        struct bh_wal_map m = scan_log(&changed);
        assert_int_equal(m.count, 0);
        bh_wal_map_free(&m);
        free(changed.data);
    }
    free(l.data);
}

static void test_a_frame_of_page_0_ends_the_log(void **state)
{
    struct log l = fresh_log();
    size_t pages = compare_with_sqlite(&l, "base.db");
    put32(l.data + BH_WAL_HEADER + 3 * (BH_WAL_FRAME_HEADER + 512), 0);
    seal(&l, false);
    assert_true(compare_with_sqlite(&l, "base.db") < pages);
    free(l.data);
}

static void test_a_read_that_fails_is_told(void **state)
{
    struct log l = fresh_log();
    for (int n = 1; n < 12; n++) {
        struct bh_wal_map m;
        l.fail_at = n;
        must_fail(bh_wal_scan(&m, l.size, read_log, &l), EIO);
        assert_int_equal(m.count, 0);
        assert_null(m.pages);
        assert_string_equal(m.tag, "");
        assert_int_equal(bh_wal_find(&m, 1), 0);
    }
    free(l.data);
}

/* --- tags --- */

static void tag_now(char tag[BH_WAL_TAG])
{
    struct log l = load_log("w.db-wal");
    struct bh_wal_map m = scan_log(&l);
    memcpy(tag, m.tag, BH_WAL_TAG);
    assert_true(strlen(tag) < BH_WAL_TAG);
    bh_wal_map_free(&m);
    free(l.data);
}

static void test_a_tag_is_of_one_commit_of_one_log(void **state)
{
    enum { COMMITS = 40 };
    char tags[COMMITS][BH_WAL_TAG], tag[BH_WAL_TAG];
    sqlite3 *c = stock_wal("w.db", 1024);
    for (int i = 0; i < COMMITS; i++) {
        must_sql(c, i % 7 == 6 ? "PRAGMA wal_checkpoint(RESTART)" : "SELECT 1");
        must_sql(c, "INSERT INTO t VALUES(1, 1, 'the same'); DELETE FROM t");
        tag_now(tags[i]);
        assert_string_not_equal(tags[i], "");
        for (int j = 0; j < i; j++)
            assert_string_not_equal(tags[i], tags[j]);
        must_sql(c, "BEGIN; INSERT INTO t VALUES(1, 1, zeroblob(50000))");
        tag_now(tag);
        assert_string_equal(tag, tags[i]);
        must_sql(c, "ROLLBACK");
        tag_now(tag);
        assert_string_equal(tag, tags[i]);
        must_sql(c, "PRAGMA wal_checkpoint(FULL)"); /* leaves the log as it is */
        tag_now(tag);
        assert_string_equal(tag, tags[i]);
    }
    must_sql(c, "PRAGMA wal_checkpoint(TRUNCATE)");
    tag_now(tag);
    assert_string_equal(tag, "");
    sqlite3_close(c);
}

static void test_nothing_is_found_in_nothing(void **state)
{
    struct log l = {.data = calloc(1, 4096)};
    assert_non_null(l.data);
    for (l.size = 0; l.size < 4096; l.size += 31) {
        struct bh_wal_map m = scan_log(&l);
        assert_int_equal(m.count, 0);
        assert_string_equal(m.tag, "");
        bh_wal_map_free(&m);
    }
    free(l.data);
}

static void test_find_of_pages_that_are_not_there(void **state)
{
    struct bh_wal_page pages[] = {{.page = 2, .frame = 9}, {.page = 5}, {.page = 9, .frame = 1}};
    struct bh_wal_map m = {.page_size = 512, .db_pages = 9, .pages = pages, .count = 3};
    static const uint32_t none[] = {0, 1, 3, 4, 6, 8, 10, UINT32_MAX};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        assert_int_equal(bh_wal_find(&m, none[i]), 0);
    assert_int_equal(bh_wal_find(&m, 5), 56);
    assert_int_equal(bh_wal_find(&m, 9), 56 + 536);
    assert_int_equal(bh_wal_find(&m, 2), 56 + 9 * 536);
    assert_false(bh_wal_has(&m, 0, 1));
    assert_true(bh_wal_has(&m, 1, 2));
    assert_false(bh_wal_has(&m, 3, 4));
    assert_true(bh_wal_has(&m, 3, 5));
    assert_true(bh_wal_has(&m, 6, UINT32_MAX));
    assert_false(bh_wal_has(&m, 10, UINT32_MAX));
    m.pages[0].frame = UINT32_MAX; /* offsets beyond 32 bits */
    assert_true(bh_wal_find(&m, 2) == 56 + 536 * (uint64_t)UINT32_MAX);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, db_setup, db_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_random_logs_are_read_as_sqlite_reads_them),
        TEST(test_what_spilled_into_the_log_does_not_count),
        TEST(test_old_frames_behind_a_restart_do_not_count),
        TEST(test_a_shrunk_database_is_shorter),
        TEST(test_a_log_that_is_cut_off_ends_at_its_last_commit),
        TEST(test_a_flipped_bit_ends_the_log),
        TEST(test_a_size_that_is_no_multiple_is_no_error),
        TEST(test_both_byte_orders_of_checksums),
        TEST(test_other_salts_end_the_log),
        TEST(test_headers_that_no_log_has),
        TEST(test_a_frame_of_page_0_ends_the_log),
        TEST(test_a_read_that_fails_is_told),
        TEST(test_a_tag_is_of_one_commit_of_one_log),
        TEST(test_nothing_is_found_in_nothing),
        TEST(test_find_of_pages_that_are_not_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
