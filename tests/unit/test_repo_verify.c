/* Every object of a small history, damaged in every way: verify names it, and nothing else. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <zstd.h>

#include "repo/pack.h"
#include "util/clock.h"
#include "util/sha256.h"
#include "verify_fixture.h"

#define BUDGET_MS 15000 /* of full verifies: what is left out then is left out evenly */

/* --- making it --- */

static void change(int n)
{
    char text[200];
    snprintf(text, sizeof text,
             "UPDATE t SET v = printf('changed %d %%d', i) || substr(v, 1, 200) WHERE i %% 9 = %d",
             n, n % 9);
    sql(text);
    flush();
}

/* 12 snapshots on three branches, and those that restores and switches make: ids 0-4 and 8 are
 * main's, 5-7 dev's (from 4), 9-11 feature's (from 8). */
static void make_history(void)
{
    char id[BH_SNAPSHOT_ID_MAX];
    sql("CREATE TABLE t(i INTEGER PRIMARY KEY, v); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL "
        "SELECT i + 1 FROM n WHERE i < 40) INSERT INTO t SELECT i, printf('%.600c', 'x') || i FROM "
        "n");
    flush();
    for (int i = 1; i < 4; i++)
        change(i);
    must(bh_label_call(bh, ids[1], "second", NULL, ERR));
    must(bh_drop_call(bh, ids[2], NULL, ERR));
    change(4);
    must(bh_fork_call(bh, "dev", NULL, ERR));
    must(bh_switch_call(bh, "dev", NULL, ERR));
    for (int i = 5; i < 8; i++)
        change(i);
    must(bh_label_call(bh, ids[6], "on-dev", NULL, ERR));
    must(bh_switch_call(bh, "main", NULL, ERR));
    must(bh_restore_call(bh, ids[0], id, NULL, ERR));
    change(8);
    must(bh_fork_call(bh, "feature", NULL, ERR));
    must(bh_switch_call(bh, "feature", NULL, ERR));
    /* over 256 blocks: nodes of two levels, which compress well */
    sql("CREATE TABLE big(v); INSERT INTO big SELECT zeroblob(1100000)");
    flush();
    change(10);
    sql("DROP TABLE big; VACUUM");
    flush();
    must(bh_switch_call(bh, "main", NULL, ERR));
    must(bh_fork_call(bh, "gone", NULL, ERR));
    must(bh_delete_branch_call(bh, "gone", NULL, ERR));
}

static int setup_history(void **state)
{
    const char *const never[] = {"snapshot.plain=never"};
    if (setup(state))
        return -1;
    start_bh(never, 1);
    make_history();
    copy_bucket();
    return 0;
}

/* All snapshots but so many. */
static void whole_are(unsigned but)
{
    unsigned some, all;
    const char *line = strstr(report.data, "\nwhole: ");
    assert_non_null(line);
    assert_int_equal(sscanf(line, "\nwhole: %u of %u snapshots\n", &some, &all), 2);
    assert_true(all >= 12);
    assert_int_equal(some, all - but);
}

/* The objects, and which of them nothing needs: found out by removing them. */
static char *keys[100];
static bool spare[100];
static size_t key_count;

static int take_key(void *arg, const char *key, bool is_prefix, const struct bh_object_info *info,
                    struct bh_error *err)
{
    keys[key_count++] = strdup(key);
    assert_true(key_count < 100);
    return 0;
}

static void free_keys(void)
{
    while (key_count)
        free(keys[--key_count]);
}

static bool is_of(const char *key, const char *kind)
{
    return strncmp(key + strlen(PREFIX), kind, strlen(kind)) == 0;
}

/* A label and the tombstone: removing them is not seen, damage is. */
static bool is_unnamed(const char *key)
{
    return is_of(key, "labels/") || is_of(key, "branches/gone");
}

static void list_keys(void)
{
    const struct bh_list_request req = {.prefix = PREFIX};
    free_keys();
    must(bh_bucket_list(memory, &req, take_key, NULL, NULL, ERR));
}

static void remove_each(void)
{
    unsigned packs = 0, records = 0;
    for (size_t i = 0; i < key_count; i++) {
        struct memory_object was = memory_take(memory, keys[i]);
        int rc = verify(true);
        spare[i] = rc == 0;
        if (rc && !(rc == EIO && names_only(keys[i], NULL)))
            fail_msg("%s removed: %d %s\n%s", keys[i], rc, test_error.text, report.data);
        if (rc)
            assert_true(says("cause: it is missing"));
        packs += spare[i] && is_of(keys[i], "packs/");
        records += spare[i] && is_of(keys[i], "snapshots/");
        if (spare[i] && !is_of(keys[i], "packs/") && !is_of(keys[i], "snapshots/")) {
            if (!is_unnamed(keys[i]))
                fail_msg("%s removed: nothing is missed", keys[i]);
            spare[i] = false;
        }
        memory_give(memory, keys[i], &was);
    }
    must_be_whole(true);
    char line[100];
    snprintf(line, sizeof line, "\nunreferenced: %u packs, %u records, 0 others, ", packs, records);
    if (!says(line))
        fail_msg("%s\n%s", line, report.data);
    assert_int_equal(records, 1); /* of the one that was dropped */
}

static void test_missing(void **state)
{
    list_keys();
    must_be_whole(false);
    must_be_whole(true);
    assert_true(says("branches: 3\ndeleted branches: 1\nlabels: 2\n"));
    whole_are(0);
    assert_true(says("integrity checks: 3\n"));
    remove_each();
}

static void test_cut(void **state)
{
    for (size_t i = 0; i < key_count; i++) {
        struct memory_object *o = memory_find(memory, keys[i]);
        const size_t size = o->size, sizes[] = {size - 1, size / 2, 0};
        for (int k = 0; k < 3 && !spare[i]; k++) {
            o->size = sizes[k];
            must_name(true, keys[i], NULL, "cut to", sizes[k]);
            must_name(false, keys[i], NULL, "cut to", sizes[k]);
        }
        o->size = size;
    }
    must_be_whole(true);
}

static bool same_kind(const char *key, const char *other)
{
    const char *x = strrchr(key, '/'), *y = strrchr(other, '/');
    return x - key == y - other && strncmp(key, other, (size_t)(x - key)) == 0;
}

static void test_swapped(void **state)
{
    for (size_t i = 0; i < key_count; i++) {
        for (size_t k = i + 1; k < key_count; k++) {
            if (!same_kind(keys[i], keys[k]) || (spare[i] && spare[k]))
                continue;
            memory_swap(memory, keys[i], keys[k]);
            if (!spare[i] && !spare[k])
                must_name(true, keys[i], keys[k], "swapped", k);
            else
                must_name(true, spare[i] ? keys[k] : keys[i], NULL, "swapped", k);
            memory_swap(memory, keys[i], keys[k]);
        }
    }
    must_be_whole(true);
}

/* Whether the byte is one of a compressed record that still gives the same content: there are such
 * bits (offsets of matches in what repeats itself, reserved bits of a frame's header). Nothing is
 * lost, then; a decoder may refuse it nevertheless, if it names the object. */
static bool is_harmless(const struct memory_object *o, size_t at, unsigned bit)
{
    static unsigned char before[BH_BLOCK_MAX], after[BH_BLOCK_MAX];
    BH_FREE struct bh_pack_entry *entries = NULL;
    const struct bh_packs_options options = {.part_size = MIB, .parallel = 1};
    struct bh_packs *packs;
    size_t count, size = 1, again = 0;
    uint64_t id;
    if (!is_of(o->key, "packs/"))
        return false;
    must(bh_pack_id_of_name(&id, strrchr(o->key, '/') + 1));
    must(bh_packs_new(&packs, memory, PREFIX, &options, ERR));
    must(bh_packs_trailer(packs, id, &entries, &count, NULL, NULL, ERR));
    bh_packs_free(packs);
    for (size_t i = 0; i < count; i++) {
        const struct bh_ref *r = &entries[i].ref;
        if (at < r->offset || at >= r->offset + r->stored || r->encoding != BH_ENC_ZSTD)
            continue;
        size = ZSTD_decompress(before, sizeof before, o->data + r->offset, r->stored);
        o->data[at] ^= (char)(1u << bit);
        again = ZSTD_decompress(after, sizeof after, o->data + r->offset, r->stored);
        o->data[at] ^= (char)(1u << bit);
    }
    return size == again && memcmp(before, after, size) == 0;
}

/* One bit of the byte at `at`; of packs every byte counts only when all are read. */
static void flip(size_t i, size_t at, unsigned bit, bool full)
{
    struct memory_object *o = memory_find(memory, keys[i]);
    bool harmless = spare[i] || is_harmless(o, at, bit);
    o->data[at] ^= (char)(1u << bit);
    if (harmless) {
        if (verify(full) && (spare[i] || !names_only(keys[i], NULL)))
            fail_msg("%s, flipped where it means nothing: %s", keys[i], test_error.text);
    } else {
        must_name(full, keys[i], NULL, "flipped", at);
    }
    o->data[at] ^= (char)(1u << bit);
}

/* Every byte of the first text object of a kind, for which a quick verify does. */
static size_t flip_text(size_t i)
{
    const size_t size = memory_find(memory, keys[i])->size;
    for (size_t at = 0; at < size; at++)
        flip(i, at, (unsigned)at % 8, at % 64 == 0);
    return size;
}

static size_t flip_some(size_t i, size_t step)
{
    const size_t size = memory_find(memory, keys[i])->size;
    size_t flips = 0;
    for (size_t at = 0; at < size; at++) {
        bool edge = is_of(keys[i], "packs/") && (at < 16 || size - at <= 48) && at % 4 == i % 4;
        if (!edge && (at + i) % (spare[i] ? 4 * step : step) != 0)
            continue;
        flip(i, at, (unsigned)(at / step + i) % 8, true);
        flips++;
    }
    return flips;
}

static void test_flipped(void **state)
{
    size_t bytes = 0, flips = 0;
    int64_t begin = bh_mono_ms(), one;
    for (int i = 0; i < 20; i++)
        must_be_whole(true);
    one = bh_mono_ms() - begin;
    for (size_t i = 0; i < key_count; i++)
        bytes += memory_find(memory, keys[i])->size;
    /* 20 verifies take `one` ms. The step is odd, so that bits and bytes of fields differ. */
    const size_t step = (size_t)(bytes * (uint64_t)one / 20 / BUDGET_MS + 1) | 1;
    for (size_t i = 0; i < key_count; i++) {
        bool first =
            !spare[i] && !is_of(keys[i], "packs/") && (i == 0 || !same_kind(keys[i - 1], keys[i]));
        flips += first ? flip_text(i) : flip_some(i, step);
    }
    must_be_whole(true);
    print_message("%zu objects, %zu bytes, %zu flips, every %zuth byte, %.2f ms a verify\n",
                  key_count, bytes, flips, step, (double)one / 20);
}

/* --- who is hit --- */

/* Whether the snapshot stands below the first line that begins with `section`. */
static bool is_listed(const char *section, const char *id)
{
    const char *at = strstr(report.data, section);
    assert_non_null(at);
    for (at = strchr(at, '\n') + 1; *at == ' '; at = strchr(at, '\n') + 1)
        if (!strncmp(at + strspn(at, " "), id, strlen(id)))
            return true;
    return false;
}

/* The pack that holds the root of a snapshot, told by its record. */
static const char *pack_of(const char *id)
{
    static char key[128];
    char name[128], *db;
    snprintf(name, sizeof name, PREFIX "snapshots/%s", id);
    struct memory_object *o = memory_find(memory, name);
    db = strstr(o->data, "\ndb: ") + 5;
    char hex[17] = "";
    for (int i = 0; i < 8; i++) /* little endian */
        memcpy(hex + 14 - 2 * i, db + 2 * i, 2);
    snprintf(key, sizeof key, PREFIX "packs/%s", hex);
    return key;
}

static void condemn(int from, int to)
{
    BH_STRBUF text = {0};
    char hex[BH_SHA256_HEX];
    const struct bh_meta none = {0};
    bh_strbuf_addf(&text, "bhfs: condemned\nrun: 1\n");
    for (int i = from; i <= to; i++)
        bh_strbuf_addf(&text, "snapshots/%s 1\n", ids[i]);
    must(bh_sha256_hex_of(text.data, text.len, hex));
    bh_strbuf_addf(&text, "checksum: %s\n", hex);
    memory_put(memory, PREFIX "gc", text.data, text.len, &none);
}

static void test_hits(void **state)
{
    /* The last of feature: nobody else needs it, but the history of feature is in the same pack. */
    const char *key = pack_of(ids[11]);
    struct memory_object was = memory_take(memory, key);
    must_name(false, key, NULL, "removed", 0);
    assert_true(says("history of branches: feature\n"));
    whole_are(1);
    assert_true(is_listed("hit: 1 of ", ids[11]));
    assert_true(is_listed("whole:", ids[10]));
    assert_true(says("told by its record only"));
    memory_give(memory, key, &was);

    /* The middle one of dev: its successor shares what it did not change. */
    key = pack_of(ids[5]);
    was = memory_take(memory, key);
    must_name(true, key, NULL, "removed", 0);
    assert_false(says("history of branches:"));
    for (int i = 0; i < 12; i++)
        if (i != 2)
            assert_int_equal(is_listed("hit: ", ids[i]), i >= 5 && i <= 7);
    memory_give(memory, key, &was);

    /* The first: main's later ones have rewritten some of it only. */
    key = pack_of(ids[0]);
    was = memory_take(memory, key);
    must_name(false, key, NULL, "removed", 0);
    for (int i = 0; i < 8; i++)
        if (i != 2)
            assert_true(is_listed("hit: ", ids[i]));
    memory_give(memory, key, &was);

    /* A head: its snapshots are told by their records. */
    key = PREFIX "branches/dev";
    was = memory_take(memory, key);
    must_name(false, key, NULL, "removed", 0);
    whole_are(0);
    assert_true(is_listed("whole:", ids[7]));
    condemn(5, 7); /* the branch was deleted, gc has removed its tombstone */
    must_be_whole(false);
    memory_drop(memory, PREFIX "gc");
    memory_give(memory, key, &was);

    /* A trailer, a header: the content is there. */
    key = pack_of(ids[5]);
    struct memory_object *o = memory_find(memory, key);
    const size_t places[] = {3, o->size - 60};
    for (int i = 0; i < 2; i++) {
        o->data[places[i]] ^= 1;
        must_name(true, key, NULL, "flipped", places[i]);
        assert_true(says("  snapshots: none\n"));
        whole_are(0);
        o->data[places[i]] ^= 1;
    }
    must_be_whole(true);
}

/* --- beside others --- */

static void test_limits(void **state)
{
    static const atomic_bool yes = true;
    const struct bh_call cancelled = {.cancel = &yes}, late = {.deadline_ms = 1};
    bh_strbuf_reset(&report);
    must_fail(bh_history_verify(history, true, &report, &cancelled, ERR), ECANCELED);
    must_fail(bh_history_verify(history, true, &report, &late, ERR), ETIMEDOUT);
    assert_true(says("result: not finished: "));
    /* At any step. */
    for (unsigned n = 0, rc = 1; rc; n++) {
        memory_fail_at(memory, n, ETIMEDOUT);
        rc = (unsigned)verify(true);
        assert_true(rc == 0 || rc == ETIMEDOUT);
        assert_false(says("damaged:"));
    }
    memory_fail_at(memory, 0, 0);
    must_be_whole(true);
}

static char *vanished; /* a pack that is there again when somebody asks for it */
static struct memory_object came_back;

static void on_request(struct bh_bucket *m, const char *key)
{
    if (!vanished || strcmp(key, vanished) != 0)
        return;
    vanished = NULL;
    struct memory_object *head = memory_find(m, PREFIX "branches/main");
    memory_touch(m, head);
    /* seen as missing by this request, and there for the next */
    memory_give_later(m, key, &came_back);
}

static void test_moving(void **state)
{
    char key[128];
    snprintf(key, sizeof key, "%s", pack_of(ids[11]));
    came_back = memory_take(memory, key);
    vanished = key;
    memory_on_request(memory, on_request);
    must_be_whole(false);
    assert_null(vanished);
    memory_on_request(memory, NULL);
}

int main(void)
{
    const struct CMUnitTest on_history[] = {
        cmocka_unit_test(test_missing), cmocka_unit_test(test_cut),  cmocka_unit_test(test_swapped),
        cmocka_unit_test(test_flipped), cmocka_unit_test(test_hits), cmocka_unit_test(test_limits),
        cmocka_unit_test(test_moving),
    };
    int rc = cmocka_run_group_tests(on_history, setup_history, teardown);
    free_keys();
    return rc;
}
