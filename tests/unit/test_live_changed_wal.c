/* What a flush reads and what it is told has changed, in write-ahead mode: the frozen content is
 * the database as SQLite reads it, in rollback format. */
#include "live_wal.h"
/* after it: both know a journal's magic */
#include "live_changed.h"

static int wal_teardown(void **state)
{
    end_freeze();
    return db_teardown(state);
}

/* With nothing in the bucket. */
static sqlite3 *begin_empty(int page_size)
{
    memset(base, 0, sizeof base);
    base_size = 0;
    return begin_wal(page_size);
}

static void freeze_wal(sqlite3 *c)
{
    size_t size;
    unsigned char *data = sqlite_reads(c, &size);
    assert_true(size <= MODEL_MAX);
    memset(image, 0, sizeof image);
    memcpy(image, data, size);
    sqlite3_free(data);
    image[18] = image[19] = 1;
    image_size = size;
    must(bh_live_freeze(live, true, &frozen, ERR));
    assert_int_equal(bh_frozen_size(frozen), image_size);
    take_lists();
}

static void must_list_frames(void)
{
    const struct bh_wal_map *m = &frozen->frames;
    for (size_t i = 0; i < m->count; i++)
        for (int k = 0; k < 3; k++) {
            uint64_t begin = (uint64_t)(m->pages[i].page - 1) * m->page_size;
            for (uint64_t byte = begin; byte < begin + m->page_size && byte < image_size;
                 byte += 512)
                if (!is_listed(&lists[k], byte / sizes[k]))
                    fail_msg("page %u of the log is not in the list", m->pages[i].page);
        }
}

/* --- a transaction of which the index does not know --- */

enum { INDEX_HEADERS = 96, SALTS = 8 }; /* WAL-mode file format, "The WAL-Index File Format" */

struct half {
    unsigned char index[INDEX_HEADERS], salts[SALTS];
};

static unsigned char *index_headers(void)
{
    static const struct bh_live_hooks no_hooks;
    volatile void *words = NULL;
    must(bh_shm_region(live->store->shm->shm, &no_hooks, 0, false, &words));
    assert_non_null(words);
    return (unsigned char *)(uintptr_t)words;
}

static void read_salts(unsigned char salts[SALTS])
{
    memset(salts, 0, SALTS);
    if (live->store->wal)
        must(bh_pread_full(live->store->wal->disk.fd, salts, SALTS, 16, NULL));
}

/* Its client dies right after the commit frame: what it did goes into -wal, and the index is as it
 * was before, once half_forget has been called. */
static void half_commit(sqlite3 *c, struct half *h)
{
    read_salts(h->salts);
    memcpy(h->index, index_headers(), INDEX_HEADERS);
    random_transaction(c);
}

/* Not where it began the log anew, which the index learns first. */
static void half_forget(const struct half *h)
{
    unsigned char salts[SALTS];
    read_salts(salts);
    if (!memcmp(salts, h->salts, SALTS))
        memcpy(index_headers(), h->index, INDEX_HEADERS);
}

static void flush_half(sqlite3 *c, int which)
{
    struct half h;
    half_commit(c, &h);
    freeze_wal(c);
    upload(&lists[which], sizes[which], image_size);
    advance(live->store, 16384);
    half_forget(&h);
    thaw(true);
    must_sql(c, any(2) ? "PRAGMA user_version=1" : "PRAGMA user_version=2"); /* in its place */
    if (any(2))
        evict_some(live->store);
}

static void flush_wal(sqlite3 *c, int which, bool flushed, bool with_changes)
{
    freeze_wal(c);
    must_list_frames();
    if (with_changes) {
        random_transaction(c);
        evict_some(live->store);
        must_sql(c, checkpoints[any(4)]);
        random_transaction(c);
    }
    evict_some(live->store);
    must_list_the_same();
    must_be_image(0, image_size);
    if (flushed) {
        upload(&lists[which], sizes[which], image_size);
        advance(live->store, 16384);
        must_be_image(0, image_size);
    }
    thaw(flushed);
}

static void run_wal(int page_size, int which, bool shrinks)
{
    sqlite3 *c = begin_empty(page_size);
    if (shrinks)
        must_sql(c, "PRAGMA auto_vacuum=FULL; VACUUM");
    add_rows(c, 40);
    flush_wal(c, which, true, false);
    for (int round = 0; round < 80; round++) {
        for (unsigned i = 0, n = any(5); i < n; i++)
            random_transaction(c);
        if (any(3) == 0)
            must_sql(c, checkpoints[any(4)]);
        if (any(12) == 0)
            must_sql(c, "DELETE FROM t WHERE n>20; VACUUM");
        if (number(c, "SELECT count(*) FROM t") > 150)
            must_sql(c, "DELETE FROM t WHERE n%3");
        flush_wal(c, which, any(4), any(2));
        if (any(3) == 0)
            flush_half(c, which);
        if (any(4) == 0) /* only clean blocks, whose content the base has */
            forget_clean(live->store);
        evict_some(live->store);
    }
    must_be_whole(c);
    sqlite3_close(c);
    close_live();
}

static void test_logs_of_small_pages(void **state)
{
    seed_random(11);
    run_wal(1024, 2, false);
}

static void test_logs_of_middle_pages(void **state)
{
    seed_random(12);
    run_wal(4096, 0, false);
}

static void test_logs_of_large_pages(void **state)
{
    seed_random(13);
    run_wal(16384, 1, false);
}

static void test_small_pages_that_go(void **state)
{
    seed_random(14);
    run_wal(1024, 1, true);
}

static void test_middle_pages_that_go(void **state)
{
    seed_random(15);
    run_wal(4096, 0, true);
}

static void test_large_pages_that_go(void **state)
{
    seed_random(16);
    run_wal(16384, 2, true);
}

/* SQLite frees and reuses the last page of a long value without reading it, so it may be absent
 * while a newer one of it is in the log, and then in the bucket. Who reads as of before must not
 * get the newer one, though the flush makes the new snapshot the origin, as history_flush.c does.
 */
static void test_a_reader_older_than_the_flush(void **state)
{
    sqlite3 *c = begin_empty(4096);
    must_sql(c, "PRAGMA secure_delete=OFF"); /* as everywhere but in Debian */
    must_sql(c, "WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM i WHERE n<60) INSERT "
                "INTO t SELECT n, 1, replace(hex(zeroblob(3000)), '0', 'a') FROM i");
    must_sql(c, "PRAGMA wal_checkpoint(TRUNCATE)");
    flush_wal(c, 0, true, false);
    set_remote(live->store, base, base_size, 4096);
    forget_clean(live->store);
    sqlite3 *old = connect_wal();
    must_sql(old, "BEGIN");
    assert_int_equal(number(old, "SELECT sum(v) FROM t"), 60);
    must_sql(c, "DELETE FROM t");
    must_sql(c, "WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM i WHERE n<60) INSERT "
                "INTO t SELECT n, 2, replace(hex(zeroblob(3000)), '0', 'b') FROM i");
    assert_true(bh_store_absent_bytes(live->store) > 20 * BLOCK);
    flush_wal(c, 0, true, false);
    int64_t right = number(old, "SELECT count(*) FROM t WHERE substr(fill, -1)='a'");
    sqlite3_close(old);
    sqlite3_close(c);
    if (right != 60)
        fail_msg("%d of 60 values end as they did for who began before", (int)right);
}

/* What is not read yet, and has a newer version in the log that was flushed, stays for whoever
 * reads as of before: until a checkpoint, after which nobody does. */
static void test_eviction_beside_an_older_reader(void **state)
{
    uint64_t evicted;
    sqlite3 *c = begin_empty(4096);
    must_sql(c, "PRAGMA secure_delete=OFF; CREATE TABLE other(x); INSERT INTO other SELECT "
                "randomblob(1000000)");
    must_sql(c, "WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM i WHERE n<60) INSERT "
                "INTO t SELECT n, 1, replace(hex(zeroblob(3000)), '0', 'a') FROM i");
    must_sql(c, "PRAGMA wal_checkpoint(TRUNCATE)");
    flush_wal(c, 0, true, false);
    sqlite3 *old = connect_wal();
    must_sql(old, "BEGIN");
    assert_int_equal(number(old, "SELECT sum(v) FROM t"), 60);
    must_sql(c, "UPDATE t SET fill=replace(fill, 'a', 'b')");
    flush_wal(c, 0, true, false);
    must(bh_store_evict(live->store, 0, &evicted));
    assert_true(bh_store_absent_bytes(live->store) > 800000); /* the other table */
    assert_int_equal(number(old, "SELECT count(*) FROM t WHERE substr(fill, -1)='a'"), 60);
    assert_int_equal(number(c, "SELECT count(*) FROM t WHERE substr(fill, -1)='b'"), 60);
    sqlite3_close(old);
    must_sql(c, "PRAGMA wal_checkpoint(TRUNCATE)");
    flush_wal(c, 0, true, false);
    uint64_t before = bh_store_absent_bytes(live->store);
    must(bh_store_evict(live->store, 0, &evicted));
    assert_true(bh_store_absent_bytes(live->store) >= before + 200000);
    assert_int_equal(number(c, "SELECT count(*) FROM t WHERE substr(fill, -1)='b'"), 60);
    must_be_whole(c);
    sqlite3_close(c);
}

/* --- a log that ends the database before pages of which it has frames --- */

static void fill_and_checkpoint(sqlite3 *c)
{
    must_sql(c, "PRAGMA secure_delete=OFF");
    must_sql(c, "WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM i WHERE n<120) INSERT "
                "INTO t SELECT n, 1, replace(hex(zeroblob(3000)), '0', 'a') FROM i");
    must_sql(c, "PRAGMA wal_checkpoint(TRUNCATE)");
}

/* All in the file and in the bucket. */
static sqlite3 *begin_to_shrink(void)
{
    sqlite3 *c = begin_empty(4096);
    must_sql(c, "PRAGMA auto_vacuum=FULL; VACUUM");
    fill_and_checkpoint(c);
    flush_wal(c, 0, true, false);
    return c;
}

/* What is beyond the new end, and has no frame, is wanted by who began before. */
static void test_a_shrunk_database_and_an_older_reader(void **state)
{
    uint64_t evicted;
    sqlite3 *c = begin_to_shrink(), *old = connect_wal();
    must_sql(old, "BEGIN");
    assert_int_equal(number(old, "SELECT count(*) FROM t"), 120);
    must_sql(c, "UPDATE t SET v=v+1 WHERE n=115");
    must_sql(c, "DELETE FROM t WHERE n>5");
    flush_wal(c, 0, true, false);
    must(bh_store_evict(live->store, 0, &evicted));
    assert_int_equal(
        number(old, "SELECT count(*) FROM t WHERE fill=replace(hex(zeroblob(3000)), '0', 'a')"),
        120);
    sqlite3_close(old);
    sqlite3_close(c);
}

static void test_a_shrinking_that_never_was(void **state)
{
    struct half h;
    sqlite3 *c = begin_to_shrink();
    must_sql(c, "UPDATE t SET v=v+1 WHERE n=115");
    read_salts(h.salts);
    memcpy(h.index, index_headers(), INDEX_HEADERS);
    must_sql(c, "DELETE FROM t WHERE n>5");
    freeze_wal(c);
    upload(&lists[0], sizes[0], image_size);
    advance(live->store, 16384);
    half_forget(&h);
    thaw(true);
    must_sql(c, "PRAGMA user_version=7");
    flush_wal(c, 0, true, false);
    sqlite3_close(c);
}

static void test_a_shrunk_database_is_flushed_once(void **state)
{
    sqlite3 *c = begin_empty(4096);
    fill_and_checkpoint(c); /* and all that is dirty still */
    must_sql(c, "UPDATE t SET fill=fill WHERE n=115");
    must_sql(c, "DELETE FROM t WHERE n>5; VACUUM");
    assert_true(bh_store_is_dirty(live->store));
    flush_wal(c, 0, true, false);
    assert_int_equal(bh_store_dirty_bytes(live->store), 0);
    sqlite3_close(c);
}

#define TEST_WAL(name) cmocka_unit_test_setup_teardown(name, db_setup, wal_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_WAL(test_logs_of_small_pages),
        TEST_WAL(test_logs_of_middle_pages),
        TEST_WAL(test_logs_of_large_pages),
        TEST_WAL(test_small_pages_that_go),
        TEST_WAL(test_middle_pages_that_go),
        TEST_WAL(test_large_pages_that_go),
        TEST_WAL(test_a_reader_older_than_the_flush),
        TEST_WAL(test_eviction_beside_an_older_reader),
        TEST_WAL(test_a_shrunk_database_and_an_older_reader),
        TEST_WAL(test_a_shrinking_that_never_was),
        TEST_WAL(test_a_shrunk_database_is_flushed_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
