/* gc on bad days: damage, crashes, another gc beside it. */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gc_model.h"
#include "util/cleanup.h"

static int second_result;
static void second_gc(void)
{
    struct bh_strbuf mine = report;
    report = (struct bh_strbuf){0};
    second_result = try_gc(false, NULL);
    bh_strbuf_free(&report);
    report = mine;
}

static void two_at_once(void **state)
{
    dropped_two(4);
    now_ms += GRACE;
    hook_op = "put";
    hook_key = ".bhfs/gc";
    hook = second_gc;
    assert_int_equal(try_gc(false, NULL), EBUSY);
    report_has("wrong: another gc is running");
    must(second_result);
    now_ms += GRACE;
    find_things();
    size_t before = thing_count;
    hook = second_gc;
    assert_int_equal(try_gc(false, NULL), EBUSY);
    must(second_result);
    thing_count = 0;
    find_things();
    assert_true(thing_count < before);
    must_be_whole();
}

/* --- damage --- */

static void must_do_nothing(int rc, const char *words)
{
    shell("find k.bhfs -type f | sort | xargs sha256sum >../bhfs-gc-before");
    assert_int_equal(try_gc(false, NULL), rc);
    if (!strstr(test_error.text, words))
        fail_msg("\"%s\" is not in: %s", words, test_error.text);
    report_has("wrong: ");
    shell("find k.bhfs -type f | sort | xargs sha256sum >../bhfs-gc-after");
    shell("cmp ../bhfs-gc-before ../bhfs-gc-after; x=$?; rm ../bhfs-gc-before ../bhfs-gc-after; "
          "exit $x");
    test_error.code = 0;
}

static void damage_deletes_nothing(void **state)
{
    struct branch *br = dropped_two(5);
    char command[512], id[32];
    now_ms += GRACE;
    gc();
    now_ms += GRACE;

    memcpy(id, snapshots[3].e.id, sizeof id);
    const char *node = pack_file(snapshots[3].e.db.ref.pack) + strlen(dir) + 1;
    snprintf(command, sizeof command, "mv %s away", node);
    shell(command);
    must_do_nothing(EIO, id);
    snprintf(command, sizeof command, "mv away %s", node);
    shell(command);

    shell("cp k.bhfs/branches/main keep; head -c 100 keep >k.bhfs/branches/main");
    must_do_nothing(EIO, "branches/main");
    shell("mv keep k.bhfs/branches/main");

    shell("mkdir -p k.bhfs/pins; echo x >k.bhfs/pins/p");
    must_do_nothing(EIO, "pins/p");
    shell("rm k.bhfs/pins/p");

    must(bh_label_put(bucket, PREFIX, "gone", "20200101T000000.000Z-00000000", NULL, ERR));
    must_do_nothing(EIO, "label gone");
    must(bh_label_delete(bucket, PREFIX, "gone", NULL, ERR));

    atomic_store(&requests_left, 8);
    must_do_nothing(EIO, "crashed");
    atomic_store(&requests_left, INT32_MAX);
    gc();
    must_be_whole();
    must_read(&snapshots[newest(br)]);
}

/* Blocks only: no node of it is read, but it is missing. */
static void a_missing_pack_deletes_nothing(void **state)
{
    struct branch *br = make_branch("main");
    struct bh_pack_writer *w;
    struct bh_tree_change c = {.block = 0};
    flush(br, 300);
    struct snapshot *s = &snapshots[newest(br)];
    must(bh_pack_writer_new(&w, packs, BH_TREE_DB, NULL, ERR));
    must(bh_pack_add(w, BH_RECORD_BLOCK, 0, 0, block_of(0, 77), BLOCK, &c.ref, ERR));
    must(bh_pack_writer_finish(w, ERR)); /* a pack of its own */
    struct bh_root root = s->e.db;
    must(bh_tree_update(trees, &root, s->blocks * BLOCK, &c, 1, w, &s->e.db, "x", NULL, ERR));
    must(bh_pack_writer_finish(w, ERR));
    bh_pack_writer_free(w);
    flush_like(br, s, 0);
    orphan(br);
    now_ms += GRACE;
    char command[512];
    snprintf(command, sizeof command, "rm %s", pack_file(c.ref.pack) + strlen(dir) + 1);
    shell(command);
    snprintf(command, sizeof command, "%016" PRIx64, c.ref.pack);
    must_do_nothing(EIO, command);
}

static void a_damaged_list_begins_anew(void **state)
{
    dropped_two(4);
    now_ms += GRACE;
    gc();
    now_ms += GRACE;
    shell("sed -i 's/packs/pakcs/' k.bhfs/gc");
    gc();
    report_has("list: was damaged");
    report_has("deleted: 0 objects");
    now_ms += GRACE;
    gc();
    if (strstr(report.data, "deleted: 0 objects"))
        fail_msg("%s", report.data);
    must_be_whole();
}

/* --- crashes --- */

/* What the list says now is what the model goes on with. */
static void learn_from_the_list(void)
{
    struct gc_list list;
    thing_count = 0;
    find_things();
    must(gc_list_read(b, PREFIX, &list, NULL, ERR));
    assert_false(list.damaged);
    for (size_t i = 0; i < thing_count; i++) {
        int64_t *since = gc_set_get(&list.items, key_of(things[i].key));
        things[i].since = since ? *since : -1;
    }
    gc_set_free(&list.items);
}

/* Work for a gc of every kind: due, to be condemned, a tombstone, a pin, an upload. */
static void make_work(struct branch *main, unsigned round)
{
    char name[32], upload[BH_UPLOAD_ID_MAX];
    snprintf(name, sizeof name, "b%u", round);
    struct branch *side = fork_of(main, name);
    flush(side, 20);
    struct bh_head pin = side->head;
    pin.lease.expires_ms = now_ms + 1;
    must(bh_pin_put(bucket, PREFIX, "p", &pin, NULL, ERR));
    must(bh_bucket_mp_begin(bucket, "k", NULL, upload, NULL, ERR));
    flush(main, 20);
    orphan(main);
    now_ms += GRACE;
    for (size_t i = 0; i + 3 < main->count; i++)
        if (!main->dropped[i])
            set_dropped(main, i, true);
    gc_exactly();
    delete_branch(side);
    orphan(main);
    flush(main, 20);
    now_ms += GRACE;
}

static void crash_at_every_request(void **state)
{
    struct branch *main = make_branch("main");
    flush(main, 300);
    int rc = EIO;
    for (int n = 0; rc; n++) {
        make_work(main, (unsigned)n);
        last_is_done = n % 2;
        atomic_store(&requests_left, n / 2);
        rc = try_gc(false, NULL);
        atomic_store(&requests_left, INT32_MAX);
        if (rc)
            assert_int_equal(rc, EIO);
        must_be_whole();
        learn_from_the_list();
        /* a tombstone that was being removed, or is removed: no root any more in either case */
        for (size_t i = 0; i < BRANCHES; i++)
            if (branches[i].deleted)
                branches[i].deleted_ms = now_ms - GRACE;
        gc();
        must_be_whole();
        learn_from_the_list();
        now_ms += GRACE;
        gc();
        must_be_whole();
        learn_from_the_list();
        for (size_t i = 0; i < BRANCHES; i++)
            if (branches[i].deleted)
                branches[i].exists = false;
        assert_true(n < 400);
    }
    /* once all of it is over nothing is left of the crashes */
    for (int i = 0; i < 3; i++) {
        now_ms += GRACE;
        gc();
    }
    GC_SET need = {0};
    needed(&need);
    thing_count = 0;
    find_things();
    assert_int_equal(need.count, thing_count);
    assert_string_equal(listing(b, PREFIX "branches/", NULL, NULL, 0), PREFIX "branches/main\n");
    assert_string_equal(listing(b, PREFIX "pins/", NULL, NULL, 0), "");
    must_be_whole();
}

/* --- checks before naming --- */

static void checks(void **state)
{
    struct branch *br = dropped_two(4);
    const struct bh_root root = snapshots[0].e.db;
    uint64_t id = root.ref.pack, live = snapshots[3].e.db.ref.pack;
    must(bh_gc_check_packs(bucket, PREFIX, (uint64_t[]){id, live}, 2, NULL, ERR));
    must(bh_gc_check_root(bucket, PREFIX, trees, &root, NULL, ERR));
    now_ms += GRACE;
    gc(); /* condemned */
    must_fail(bh_gc_check_packs(bucket, PREFIX, (uint64_t[]){live, id}, 2, NULL, ERR), EAGAIN);
    must_fail(bh_gc_check_root(bucket, PREFIX, trees, &root, NULL, ERR), EAGAIN);
    now_ms += GRACE;
    gc(); /* deleted */
    now_ms += GRACE;
    gc(); /* and off the list */
    must_fail(bh_gc_check_packs(bucket, PREFIX, (uint64_t[]){live, id}, 2, NULL, ERR), EAGAIN);
    must_fail(bh_gc_check_root(bucket, PREFIX, trees, &root, NULL, ERR), EAGAIN);
    must(bh_gc_check_packs(bucket, PREFIX, &live, 1, NULL, ERR));
    must(bh_gc_check_packs(bucket, PREFIX, NULL, 0, NULL, ERR));
    must(bh_gc_check_root(bucket, PREFIX, trees, &br->head.newest.db, NULL, ERR));
    must(bh_gc_check_root(bucket, PREFIX, trees, &(struct bh_root){0}, NULL, ERR));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, gc_setup, gc_teardown)
    const struct CMUnitTest tests[] = {
        TEST(two_at_once),
        TEST(damage_deletes_nothing),
        TEST(a_missing_pack_deletes_nothing),
        TEST(a_damaged_list_begins_anew),
        TEST(checks),
        TEST(crash_at_every_request),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
