/* gc of blobs: what a snapshot, a label, another branch, a row, a plain object or the live database
 * names stays; what nothing names goes exactly when two graces are over. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "gc_blobs_fixture.h"

/* --- who names what --- */

static void everything_that_names_a_blob_keeps_it(void **state)
{
    struct branch *br = begin_main();
    for (unsigned n = 0; n < 12; n++)
        upload(n);
    name_it(1, "one");
    name_it(2, "dropped");
    name_it(3, "labelled");
    name_it(4, "forked");
    add_row(5);
    run_sql(paths[DB],
            "INSERT INTO filestore(bh_key, object_key, size) VALUES('%064d', '" FILES
            "%s', 4), ('%s', 'elsewhere/x', 4), ('no hash', 'nothing', 1)",
            7, hex_of(6), hex_of(8));
    snap(br);
    unname(2);
    snap(br);
    size_t labelled = snap(br);
    fork_of(br, "side");
    unname(3);
    unname(4);
    snap(br);
    for (size_t n = 0; n < 3; n++)
        set_dropped(br, n, true);
    /* the fork has all of them */
    for (size_t n = 0; n < 2; n++)
        set_dropped(&branches[1], n, true);
    add_label(labelled);
    live_blob = 9;
    now_ms += GRACE; /* dropped ones are put back no more */
    two_runs();
    ONLY(12, 1, 3, 4, 5, 6, 8, 9);
    report_has("blobs deleted: 5, ");
    report_has("dangling references: 0");
    delete_branch(&branches[1]);
    remove_label(0);
    live_blob = 0;
    now_ms += GRACE;
    two_runs();
    ONLY(12, 1, 5, 6, 8);
}

static void it_goes_exactly_after_two_graces(void **state)
{
    snap(begin_main());
    upload(1);
    now_ms += GRACE - 1;
    run_gc();
    report_has("blobs young: 1, ");
    now_ms++;
    must(try_blobs(true));
    report_has("blobs condemned now: 1, ");
    run_gc();
    report_has("blobs condemned now: 1, ");
    now_ms += GRACE - 1;
    run_gc();
    report_has("blobs condemned before: 1, ");
    now_ms++;
    must(try_blobs(true));
    report_has("blobs to be deleted: 1, ");
    assert_true(has(1));
    run_gc();
    report_has("blobs deleted: 1, ");
    assert_false(has(1));
}

static void what_is_named_again_is_saved(void **state)
{
    struct branch *br = begin_main();
    snap(br);
    upload(1);
    now_ms += GRACE;
    run_gc();
    name_it(1, "again");
    snap(br);
    now_ms += GRACE;
    run_gc();
    report_has("blobs in use again: 1, ");
    assert_true(has(1));
    unname(1);
    snap(br);
    set_dropped(br, 1, true);
    now_ms += GRACE;
    run_gc(); /* the grace begins anew */
    assert_true(has(1));
    now_ms += GRACE;
    run_gc();
    assert_false(has(1));
}

/* A snapshot that was dropped just now can still be put back. */
static void what_was_dropped_lately_keeps_its_blobs(void **state)
{
    struct branch *br = begin_main();
    upload(1);
    now_ms += 3 * GRACE;
    name_it(1, "one");
    snap(br);
    unname(1);
    snap(br);
    set_dropped(br, 0, true);
    now_ms += GRACE - 1;
    run_gc();
    report_has("blobs condemned now: 0, ");
    now_ms += 1;
    run_gc();
    report_has("blobs condemned now: 1, ");
    report_has("condemned now: 0 packs, 1 records"); /* that is condemned, too */
}

/* --- what cannot be judged --- */

static void refused(const char *why)
{
    now_ms += GRACE;
    run_gc();
    report_has("blobs not reclaimed: ");
    report_has(why);
    assert_true(has(1));
}

static void what_cannot_be_read_is_not_judged(void **state)
{
    static char noise[4096];
    struct branch *br = begin_main();
    snap(br);
    upload(1);
    now_ms += GRACE;
    run_gc(); /* condemned */
    memset(noise, 'x', sizeof noise);
    put_bytes("k.branch.bad", noise, sizeof noise);
    refused("k.branch.bad");
    must(bh_bucket_delete(bucket, "k.branch.bad", NULL, ERR));
    put_database("other.db", paths[DB]);
    refused("other.db is another database");
    must(bh_bucket_delete(bucket, "other.db", NULL, ERR));
    put_bytes("old/k2.bhfs/format", "x", 1);
    refused("k2.bhfs/format is of another database");
    must(bh_bucket_delete(bucket, "old/k2.bhfs/format", NULL, ERR));
    put_bytes("picture", noise, sizeof noise); /* no database */
    run_sql(paths[DB], "DROP TABLE filestore; CREATE TABLE filestore(x)");
    snap(br);
    refused("table filestore of live.db of snapshot");
    run_sql(paths[DB], "DROP TABLE filestore");
    snap(br);
    set_dropped(br, 1, true);
    now_ms += GRACE;
    run_sql(paths[NAMES], "UPDATE meta SET value=2");
    snap(br);
    refused("table meta of names.db of snapshot");
    run_sql(paths[NAMES], "UPDATE meta SET value=1");
    snap(br);
    set_dropped(br, 3, true);
    now_ms += GRACE;
    run_gc();
    assert_false(has(1));
}

/* Upstream's branches, and what it left of main. */
static void plain_objects_keep_what_they_name(void **state)
{
    snap(begin_main());
    for (unsigned n = 1; n < 5; n++)
        upload(n);
    add_row(1);
    put_database("k.branch.up", paths[DB]);
    run_sql(paths[DB], "DELETE FROM filestore");
    add_row(2);
    run_sql(paths[DB], "PRAGMA journal_mode=WAL; PRAGMA wal_checkpoint(TRUNCATE)");
    put_database("k.prev", paths[DB]);
    run_sql(paths[DB], "PRAGMA journal_mode=DELETE; DROP TABLE filestore");
    put_database("k", paths[DB]);
    two_runs();
    ONLY(5, 1, 2);
    must(bh_bucket_delete(bucket, "k.branch.up", NULL, ERR));
    two_runs();
    ONLY(5, 2);
}

static void what_is_missing_is_named(void **state)
{
    struct branch *br = begin_main();
    run_sql(paths[NAMES],
            "INSERT INTO inodes VALUES(50, 1, NULL, 0); INSERT INTO entries VALUES(1, "
            "CAST('dir' AS BLOB), 50), (50, CAST('deep' AS BLOB), 101)");
    run_sql(paths[NAMES], "INSERT INTO inodes VALUES(101, 0, x'%s', 4)", hex_of(1));
    add_row(2);
    upload(3);
    name_it(3, "there");
    snap(br);
    run_gc();
    report_has("dangling references: 2");
    char line[300];
    snprintf(line, sizeof line, "dangling: " FILES "%s is missing: files/dir/deep of snapshot %s\n",
             hex_of(1), br->head.newest.id);
    report_has(line);
    snprintf(line, sizeof line,
             "dangling: " FILES
             "%s is missing: the row of row2 in table filestore of snapshot %s\n",
             hex_of(2), br->head.newest.id);
    report_has(line);
}

/* --- costs --- */

static void what_has_not_changed_is_not_read_again(void **state)
{
    enum { COUNT = 30 };
    struct branch *br = begin_main();
    size_t scanned, skipped;
    struct bh_blob_refs *refs;
    for (unsigned n = 1; n < 200; n++) {
        name_it(n, hex_of(n));
        add_row(n);
    }
    for (int i = 0; i < COUNT; i++) {
        run_sql(paths[DB], "UPDATE kv SET v=randomblob(900) WHERE k=50");
        snap(br);
    }
    fresh_packs(bucket);
    uint64_t before = get_requests();
    must(bh_blob_refs_new(&refs, bucket, trees, FILES, false, NULL, ERR));
    for (int i = 0; i < COUNT; i++) {
        must(bh_blob_refs_snapshot(refs, &snapshots[i].e.db, &snapshots[i].e.names, "x", ERR));
        if (i == 0) /* of each tree its nodes and its blocks, no block twice */
            assert_in_range(get_requests() - before, 1, 5);
    }
    assert_int_equal(bh_blob_refs_count(refs), 199);
    bh_blob_refs_costs(refs, &scanned, &skipped);
    assert_int_equal(scanned, 2);
    assert_int_equal(skipped, COUNT - 1);
    /* A snapshot costs the nodes that changed, and block 0. */
    uint64_t requests = get_requests() - before;
    assert_in_range(requests, COUNT, 4 * COUNT + 40);
    bh_blob_refs_free(refs);
    /* A row more is seen, of course; also one in the place of another. */
    run_sql(paths[DB],
            "UPDATE filestore SET bh_key='%s', object_key='" FILES "%s' WHERE bh_key='%s'",
            hex_of(500), hex_of(500), hex_of(7));
    size_t with = snap(br);
    must(bh_blob_refs_new(&refs, bucket, trees, FILES, false, NULL, ERR));
    must(bh_blob_refs_snapshot(refs, &snapshots[0].e.db, &snapshots[0].e.names, "x", ERR));
    must(bh_blob_refs_snapshot(refs, &snapshots[with].e.db, &snapshots[with].e.names, "x", ERR));
    assert_int_equal(bh_blob_refs_count(refs), 200);
    bh_blob_refs_free(refs);
}

/* --- a model --- */

enum { MODEL = 24, ROUNDS = 60 };

static void any_histories(void **state)
{
    bool named[SNAPSHOTS][MODEL] = {{0}}, now[MODEL] = {0}, rows[MODEL] = {0};
    bool there[MODEL] = {0};
    struct branch *br = begin_main();
    for (unsigned round = 0; round < ROUNDS; round++) {
        unsigned n = (unsigned)rnd(MODEL);
        switch (rnd(3)) {
        case 0:
            upload(n); /* and perhaps never named */
            there[n] = true;
            break;
        case 1:
            if (!now[n]) {
                upload(n);
                there[n] = true;
                name_it(n, hex_of(n));
            } else {
                unname(n);
            }
            now[n] = !now[n];
            break;
        default:
            if (!rows[n]) {
                upload(n);
                there[n] = true;
                add_row(n);
            } else {
                run_sql(paths[DB], "DELETE FROM filestore WHERE bh_key='%s'", hex_of(n));
            }
            rows[n] = !rows[n];
        }
        if (rnd(2)) {
            size_t s = snap(br);
            for (unsigned i = 0; i < MODEL; i++)
                named[s][i] = now[i] || rows[i];
        }
        if (br->count > 3 && rnd(3) == 0) {
            size_t d = rnd(br->count - 1);
            if (!br->dropped[d])
                set_dropped(br, d, true);
        }
        now_ms += (int64_t)rnd(GRACE / 2);
        if (rnd(3) == 0)
            run_gc();
        for (size_t s = 0; s < br->count; s++)
            for (unsigned i = 0; i < MODEL; i++)
                if (!br->dropped[s] && named[br->member[s]][i])
                    assert_true(has(i));
    }
    size_t last = snap(br);
    for (unsigned i = 0; i < MODEL; i++)
        named[last][i] = now[i] || rows[i];
    now_ms += GRACE;
    two_runs();
    for (unsigned i = 0; i < MODEL; i++) {
        bool want = false;
        for (size_t s = 0; s < br->count; s++)
            want = want || (!br->dropped[s] && named[br->member[s]][i]);
        assert_true(!want || there[i]);
        if (has(i) != want)
            fail_msg("blob %u is %s\n%s", i, want ? "gone" : "there still", report.data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(everything_that_names_a_blob_keeps_it),
        TEST(it_goes_exactly_after_two_graces),
        TEST(what_is_named_again_is_saved),
        TEST(what_was_dropped_lately_keeps_its_blobs),
        TEST(what_cannot_be_read_is_not_judged),
        TEST(plain_objects_keep_what_they_name),
        TEST(what_is_missing_is_named),
        TEST(what_has_not_changed_is_not_read_again),
        TEST(any_histories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
