/* bh_live_step: another snapshot in place, of which only what differs is fetched. */
#include "live_db.h"

enum { UNIT = 16384, BLOCKS_MAX = 2000 };

/* --- snapshots, as the bucket would have them --- */

struct image {
    struct bh_origin o;
    unsigned char *data;
    size_t len;
    atomic_uint reads;
    atomic_bool blocked;
};

static int image_read(struct bh_origin *o, uint64_t offset, void *buf, size_t len,
                      struct bh_error *err)
{
    struct image *m = (struct image *)(void *)o;
    (void)err;
    atomic_fetch_add(&m->reads, 1);
    while (atomic_load(&m->blocked))
        usleep(500);
    memset(buf, 0, len);
    if (offset < m->len)
        memcpy(buf, m->data + offset, m->len - offset < len ? m->len - offset : len);
    return 0;
}

static void image_free(struct bh_origin *o)
{
    struct image *m = (struct image *)(void *)o;
    free(m->data);
    free(m);
}

/* SCRATCH/made.db as it is now. */
static struct image *take_image(void)
{
    struct image *m = calloc(1, sizeof *m);
    assert_non_null(m);
    atomic_init(&m->o.refs, 1);
    m->o.unit = UNIT;
    m->o.read = image_read;
    m->o.free = image_free;
    m->data = get_file("made.db", &m->len);
    return m;
}

static struct image *changed_image(const char *text)
{
    sqlite3 *c = stock("made.db");
    must_sql(c, text);
    sqlite3_close(c);
    return take_image();
}

static struct bh_base base_of(const struct image *m, const char *id)
{
    struct bh_base b = {.is_base = true, .size = m->len, .depth = 1};
    snprintf(b.snapshot, sizeof b.snapshot, "%s", id);
    memset(b.root, 'a', sizeof b.root - 1);
    return b;
}

static bool differs(const struct image *a, const struct image *b, size_t block)
{
    unsigned char x[UNIT], y[UNIT];
    (void)image_read((struct bh_origin *)(uintptr_t)&a->o, block * UNIT, x, UNIT, NULL);
    (void)image_read((struct bh_origin *)(uintptr_t)&b->o, block * UNIT, y, UNIT, NULL);
    return memcmp(x, y, UNIT) != 0;
}

static uint64_t blocks[BLOCKS_MAX];

static struct bh_step step_between(const struct image *from, struct image *to)
{
    struct bh_step s = {.origin = &to->o, .size = to->len, .block_size = UNIT, .blocks = blocks};
    size_t longest = from->len > to->len ? from->len : to->len;
    for (size_t i = 0; i * UNIT < longest; i++) {
        assert_true(i < BLOCKS_MAX);
        if (differs(from, to, i))
            blocks[s.count++] = i;
    }
    memcpy(s.first, to->data, to->len < sizeof s.first ? to->len : sizeof s.first);
    return s;
}

static int go(const struct image *from, struct image *to, const char *id)
{
    struct bh_step s = step_between(from, to);
    struct bh_base b = base_of(to, id);
    return bh_live_step(live, &s, &b, 100, ERR);
}

/* Byte for byte, but for the counters and what says how the journal is kept. */
static void must_show(const struct image *m)
{
    struct bh_file *f = bh_store_db(live->store);
    assert_int_equal(bh_file_size(f), m->len);
    unsigned char *got = malloc(m->len), *want = malloc(m->len);
    assert_non_null(got);
    assert_non_null(want);
    memcpy(want, m->data, m->len);
    must(bh_file_read(f, got, m->len, 0, NULL));
    static const struct {
        size_t at, len;
    } exempt[] = {{18, 2}, {24, 4}, {40, 4}, {92, 8}};
    for (size_t i = 0; i < sizeof exempt / sizeof *exempt; i++) {
        memset(got + exempt[i].at, 0, exempt[i].len);
        memset(want + exempt[i].at, 0, exempt[i].len);
    }
    for (size_t i = 0; i < m->len; i++)
        if (got[i] != want[i])
            fail_msg("byte %zu of %zu differs", i, m->len);
    free(got);
    free(want);
    assert_false(bh_store_is_dirty(live->store));
}

static void begin_with(struct image *m)
{
    struct bh_base b = base_of(m, "a");
    open_live(NULL);
    must(bh_live_settle_mode(live, true, ERR)); /* a read-only mount's */
    must(bh_live_replace_lazily(live, &m->o, m->len, &b, NULL, NULL, ERR));
}

static void everything_here(void)
{
    must(bh_store_hydrate(live->store, NULL, ERR));
    assert_int_equal(bh_store_absent_bytes(live->store), 0);
}

static uint32_t header_word(size_t at_)
{
    unsigned char h[100];
    must(bh_file_read(bh_store_db(live->store), h, sizeof h, 0, NULL));
    return (uint32_t)h[at_] << 24 | (uint32_t)h[at_ + 1] << 16 | (uint32_t)h[at_ + 2] << 8 |
           h[at_ + 3];
}

/* --- --- */

static void test_only_what_differs_is_absent(void **state)
{
    make_stock("made.db", "t", 3000);
    struct image *a = take_image();
    struct image *b = changed_image("UPDATE t SET fill = 'x' WHERE n = 1500");
    begin_with(a);
    everything_here();
    sqlite3 *c = connect_live();
    assert_int_equal(number(c, "SELECT count(*) FROM t WHERE fill = 'x'"), 0);
    uint32_t counter = header_word(24), cookie = header_word(40);
    must(go(a, b, "b"));
    assert_string_equal(live->dir.state.base_snapshot, "b");
    assert_true(header_word(24) > counter && header_word(40) > cookie);
    assert_int_equal(header_word(24), header_word(92));
    uint64_t absent = bh_store_absent_bytes(live->store);
    assert_in_range(absent, 4096, 3 * UNIT);
    unsigned before = b->reads;
    assert_int_equal(number(c, "SELECT count(*) FROM t WHERE fill = 'x'"), 1);
    must_be_whole(c);
    must_show(b);
    assert_in_range(b->reads - before, 1, 3);
    sqlite3_close(c);
    bh_origin_unref(&a->o);
    bh_origin_unref(&b->o);
}

static void test_tables_come_and_go_and_the_size_with_them(void **state)
{
    static const char *const changes[] = {
        "CREATE TABLE u AS SELECT * FROM t",
        "DROP TABLE u; CREATE TABLE v(a); INSERT INTO v VALUES(1)",
        "VACUUM",
        "DELETE FROM t WHERE n > 10; VACUUM",
        "INSERT INTO t SELECT n + 100000, randomblob(900) FROM t; UPDATE v SET a = 2",
        "WITH RECURSIVE i(n) AS (SELECT 20 UNION ALL SELECT n + 1 FROM i WHERE n < 2000) "
        "INSERT INTO t SELECT n, zeroblob(2000) FROM i",
    };
    make_stock("made.db", "t", 1000);
    struct image *now = take_image();
    begin_with(now);
    sqlite3 *c = connect_live();
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        struct image *next = changed_image(changes[i]);
        for (int k = 0; k < 5; k++) /* some of it is here */
            must(bh_store_fetch(live->store, any((uint32_t)now->len), 1, ERR));
        must(go(now, next, changes[i] + strlen(changes[i]) - 6));
        must_be_whole(c);
        if (i > 0)
            assert_int_equal(number(c, "SELECT a FROM v"), i < 4 ? 1 : 2);
        must_show(next);
        bh_origin_unref(&now->o);
        now = next;
    }
    sqlite3_close(c);
    bh_origin_unref(&now->o);
}

static void test_a_reader_keeps_what_it_reads(void **state)
{
    make_stock("made.db", "t", 100);
    struct image *a = take_image();
    struct image *b = changed_image("DELETE FROM t WHERE n > 50");
    begin_with(a);
    sqlite3 *c = connect_live();
    must_sql(c, "BEGIN");
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 100);
    must_fail(go(a, b, "b"), EBUSY);
    assert_string_equal(live->dir.state.base_snapshot, "a");
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 100);
    must_sql(c, "COMMIT");
    must(go(a, b, "b"));
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 50);
    sqlite3_close(c);
    bh_origin_unref(&a->o);
    bh_origin_unref(&b->o);
}

static void test_changes_of_its_own_are_kept(void **state)
{
    make_stock("made.db", "t", 100);
    struct image *a = take_image();
    struct image *b = changed_image("DELETE FROM t WHERE n > 50");
    begin_with(a);
    must(on_sql_thread(BH_SQL_WRITE, "DELETE FROM t WHERE n > 70"));
    must_fail(go(a, b, "b"), EBUSY);
    must_say("changes of its own");
    sqlite3 *c = connect_live();
    assert_int_equal(number(c, "SELECT count(*) FROM t"), 70);
    sqlite3_close(c);
    bh_origin_unref(&a->o);
    bh_origin_unref(&b->o);
}

/* --- what comes from the bucket meanwhile --- */

static unsigned char seen[UNIT];

static void *read_block(void *arg)
{
    uint64_t block = *(uint64_t *)arg;
    return (void *)(uintptr_t)bh_file_read(bh_store_db(live->store), seen, UNIT, block * UNIT,
                                           NULL);
}

static void test_what_was_on_its_way_is_not_taken_for_the_new_content(void **state)
{
    pthread_t t;
    void *rc;
    make_stock("made.db", "t", 1000);
    struct image *a = take_image();
    struct image *b = changed_image("UPDATE t SET fill = randomblob(500)");
    begin_with(a);
    sqlite3 *c = connect_live();
    assert_int_equal(number(c, "SELECT count(*) FROM sqlite_master"), 1); /* that is here */
    struct bh_step s = step_between(a, b);
    uint64_t block = s.blocks[s.count - 2];
    unsigned before = a->reads;
    a->blocked = true;
    assert_int_equal(pthread_create(&t, NULL, read_block, &block), 0);
    while (a->reads == before)
        usleep(500);
    struct bh_base base = base_of(b, "b");
    must(bh_live_step(live, &s, &base, 1000, ERR));
    a->blocked = false;
    pthread_join(t, &rc);
    assert_null(rc);
    assert_memory_equal(seen, b->data + block * UNIT, UNIT);
    must_show(b);
    must_be_whole(c);
    sqlite3_close(c);
    bh_origin_unref(&a->o);
    bh_origin_unref(&b->o);
}

/* --- kill -9 and the power cut in mid-step: the files as they are at that moment --- */

/* Runs the step from a to b, then puts together what there was before its third part, and with
 * `named` whether the state names the new base; opens that. */
static void interrupted(struct image *a, struct image *b, bool named)
{
    char db[64];
    begin_with(a);
    everything_here();
    snprintf(db, sizeof db, "state/db.%d", (int)live->dir.state.generation);
    copy_file(db, "old-db");
    copy_file("state/state", "old-state");
    must(go(a, b, "b"));
    close_live();
    copy_file("old-db", db);
    if (!named)
        copy_file("old-state", "state/state");
    open_live(NULL);
    bh_store_set_origin(live->store, named ? &b->o : &a->o);
}

static const char *const interesting[] = {"UPDATE t SET fill = 'y' WHERE n % 100 = 0",
                                          "DELETE FROM t WHERE n > 100; VACUUM",
                                          "CREATE TABLE u AS SELECT * FROM t"};

static void test_killed_in_mid_step(void **state)
{
    for (size_t i = 0; i < 2 * sizeof interesting / sizeof *interesting; i++) {
        bool named = i % 2;
        unlink(at("made.db"));
        make_stock("made.db", "t", 1000);
        struct image *a = take_image();
        struct image *b = changed_image(interesting[i / 2]);
        interrupted(a, b, named);
        must(bh_live_end_steps(live, true, ERR));
        assert_string_equal(live->dir.state.base_snapshot, named ? "b" : "a");
        must_show(named ? b : a);
        sqlite3 *c = connect_live();
        must_be_whole(c);
        sqlite3_close(c);
        close_live();
        open_live(NULL); /* and that was all there was to do */
        assert_int_equal(live->dir.state.stepped, 0);
        close_live();
        bh_origin_unref(&a->o);
        bh_origin_unref(&b->o);
        char command[128];
        snprintf(command, sizeof command, "rm -rf '%s/state'", scratch);
        assert_int_equal(system(command), 0);
    }
}

static void test_nothing_local_is_believed_after_a_power_cut(void **state)
{
    make_stock("made.db", "t", 1000);
    struct image *a = take_image();
    struct image *b = changed_image(interesting[2]);
    interrupted(a, b, true);
    /* The file has garbage, and the map calls it clean. */
    unsigned char garbage[3 * UNIT];
    memset(garbage, 'g', sizeof garbage);
    must(bh_pwrite_full(bh_store_db(live->store)->disk.fd, garbage, sizeof garbage, 0));
    must(bh_live_end_steps(live, false, ERR));
    must_show(b);
    sqlite3 *c = connect_live();
    must_be_whole(c);
    sqlite3_close(c);
    close_live();
    bh_origin_unref(&a->o);
    bh_origin_unref(&b->o);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, db_setup, db_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_only_what_differs_is_absent),
        TEST(test_tables_come_and_go_and_the_size_with_them),
        TEST(test_a_reader_keeps_what_it_reads),
        TEST(test_changes_of_its_own_are_kept),
        TEST(test_what_was_on_its_way_is_not_taken_for_the_new_content),
        TEST(test_killed_in_mid_step),
        TEST(test_nothing_local_is_believed_after_a_power_cut),
    };
    return cmocka_run_group_tests_name("live-step", tests, NULL, NULL);
}
