/* Labels and the format object in a bucket: races, lost answers, a store without conditional
 * writes; and what branches and labels are listed. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "head_fixture.h"

/* --- the format object --- */

static int settle(uint32_t *block_size, bool may_write)
{
    return bh_format_settle(b, P, block_size, may_write, NULL, ERR);
}

static void test_format(void **state)
{
    uint32_t size = 8192;
    must_fail(settle(&size, false), ENOENT);
    must(settle(&size, true));
    assert_int_equal(size, 8192);
    size = 65536;
    must(settle(&size, true));
    assert_int_equal(size, 8192);
    size = 1;
    must(settle(&size, false));
    assert_int_equal(size, 8192);
    must_put(b, P "format", "version: 1\n");
    must_fail(settle(&size, true), EIO);
    must_say(P "format");
    must(bh_bucket_delete(b, P "format", NULL, ERR));
    size = 1000;
    must_fail(settle(&size, true), EINVAL);
    must_lack(b, P "format");
}

static void test_a_lost_format_is_not_guessed(void **state)
{
    uint32_t size = 8192;
    struct bh_head h = head_of(WRITER1, 1);
    must(put(&h));
    must_fail(settle(&size, true), EIO);
    must_say("main");
    must_lack(b, P "format");
    must_put(b, P "format", "large");
    BH_FREE char *large = calloc(1, 20000);
    memset(large, 'x', 19999);
    must_put(b, P "format", large);
    must_fail(settle(&size, true), EIO);
}

struct settler {
    pthread_t thread;
    const char *prefix;
    uint32_t size;
    int rc;
    char text[BH_ERROR_TEXT_MAX];
};

static void *settle_it(void *arg)
{
    struct settler *s = arg;
    struct bh_error err = {0};
    do
        s->rc = bh_format_settle(b, s->prefix, &s->size, true, NULL, &err);
    while (s->rc == EIO || s->rc == ETIMEDOUT); /* injected */
    strcpy(s->text, err.text);
    return NULL;
}

static void race_to_settle(int rounds)
{
    for (int round = 0; round < rounds; round++) {
        struct settler all[RACERS];
        char prefix[32];
        uint32_t last = 0;
        snprintf(prefix, sizeof prefix, "k%d.bhfs/", round);
        for (int i = 0; i < RACERS; i++) {
            all[i] = (struct settler){.prefix = prefix, .size = 4096u << i};
            assert_int_equal(pthread_create(&all[i].thread, NULL, settle_it, &all[i]), 0);
        }
        for (int i = 0; i < RACERS; i++)
            pthread_join(all[i].thread, NULL);
        must(bh_format_settle(b, prefix, &last, false, NULL, ERR));
        for (int i = 0; i < RACERS; i++) {
            if (all[i].rc)
                fail_msg("%d: %s", all[i].rc, all[i].text);
            assert_int_equal(all[i].size, last);
        }
    }
}

static void test_format_races(void **state)
{
    race_to_settle(10);
}

static void test_format_races_with_lost_answers(void **state)
{
    rules_are("put:done-but-failed:30%;put:eio:20%");
    race_to_settle(10);
}

/* --- labels --- */

static void test_labels(void **state)
{
    char id[BH_SNAPSHOT_ID_MAX];
    must_fail(bh_label_get(b, P, "v1", id, NULL, ERR), ENOENT);
    must_fail(bh_label_delete(b, P, "v1", NULL, ERR), ENOENT);
    must(bh_label_put(b, P, "v1", ID1, NULL, ERR));
    must_fail(bh_label_put(b, P, "v1", ID2, NULL, ERR), EEXIST);
    must_fail(bh_label_put(b, P, "v1", ID1, NULL, ERR), EEXIST);
    must(bh_label_get(b, P, "v1", id, NULL, ERR));
    assert_string_equal(id, ID1);
    must(bh_label_delete(b, P, "v1", NULL, ERR));
    must(bh_label_put(b, P, "v1", ID2, NULL, ERR));
    must(bh_label_get(b, P, "v1", id, NULL, ERR));
    assert_string_equal(id, ID2);
    must_fail(bh_label_put(b, P, ID1, ID1, NULL, ERR), EINVAL);
    must_fail(bh_label_put(b, P, "v2", "v1", NULL, ERR), EINVAL);
    must_fail(bh_label_get(b, P, "a/b", id, NULL, ERR), EINVAL);
    must_put(b, P "labels/v3", ID1 "\n");
    must_fail(bh_label_get(b, P, "v3", id, NULL, ERR), EIO);
    must_say(P "labels/v3");
}

/* Two labels whose objects have changed places, and one of before labels said their name. */
static void test_labels_know_their_name(void **state)
{
    char id[BH_SNAPSHOT_ID_MAX] = "";
    BH_STRBUF other = {0};
    BH_STRBUF old = {0};
    must(bh_label_encode("v2", ID2, &other));
    must_put(b, P "labels/v1", other.data);
    must_fail(bh_label_get(b, P, "v1", id, NULL, ERR), EIO);
    must_say(P "labels/v1 is damaged: it is the label v2");
    assert_string_equal(id, "");
    must(bh_label_encode("", ID1, &old));
    must_put(b, P "labels/v1", old.data);
    must(bh_label_get(b, P, "v1", id, NULL, ERR));
    assert_string_equal(id, ID1);
}

static void test_labels_and_lost_answers(void **state)
{
    char id[BH_SNAPSHOT_ID_MAX];
    rules_are("put:done-but-failed:first=1;put:eio:after=1:first=2");
    must(bh_label_put(b, P, "v1", ID1, NULL, ERR));
    must(bh_label_put(b, P, "v2", ID2, NULL, ERR));
    must(bh_label_get(b, P, "v2", id, NULL, ERR));
    assert_string_equal(id, ID2);
}

static void other_labels(void)
{
    BH_STRBUF text = {0};
    must(bh_label_encode("v1", ID2, &text));
    must_put(odd.inner, P "labels/v1", text.data);
}

static void test_two_label_at_once(void **state)
{
    be_odd(false);
    odd.before = other_labels;
    must_fail(bh_label_put(b, P, "v1", ID1, NULL, ERR), EEXIST);
}

/* --- listing --- */

static int add_name(void *arg, const char *name, struct bh_error *err)
{
    strcat(strcat(arg, name), " ");
    return 0;
}

static int refuse(void *arg, const char *name, struct bh_error *err)
{
    return bh_fail(err, ENOSPC, "no room for %s", name);
}

static void test_lists(void **state)
{
    char names[256] = "";
    must(bh_heads_list(b, P, add_name, names, NULL, ERR));
    must(bh_labels_list(b, P, add_name, names, NULL, ERR));
    assert_string_equal(names, "");
    static const char *const keys[] = {P "branches/main",  P "branches/b-2", P "branches/main.txt",
                                       P "branches/sub/a", P "branchesX",    P "format",
                                       P "labels/v1",      P "labels/" ID1,  "k.bhfs2/labels/no",
                                       P "labels/Z",       P "labels/a b"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        must_put(b, keys[i], "x");
    must(bh_heads_list(b, P, add_name, names, NULL, ERR));
    assert_string_equal(names, "b-2 main ");
    names[0] = '\0';
    must(bh_labels_list(b, P, add_name, names, NULL, ERR));
    assert_string_equal(names, "Z v1 ");
    must_fail(bh_heads_list(b, P, refuse, NULL, NULL, ERR), ENOSPC);
}

/* --- without conditional writes --- */

static void test_unconditional_labels_and_format(void **state)
{
    uint32_t size = 8192;
    char id[BH_SNAPSHOT_ID_MAX];
    be_odd(true);
    must(settle(&size, true));
    size = 4096;
    must(settle(&size, true));
    assert_int_equal(size, 8192);
    must(bh_label_put(b, P, "v1", ID1, NULL, ERR));
    must_fail(bh_label_put(b, P, "v1", ID2, NULL, ERR), EEXIST);
    must(bh_label_get(b, P, "v1", id, NULL, ERR));
    assert_string_equal(id, ID1);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, dir_teardown)
    const struct CMUnitTest tests[] = {
        T(test_format),
        T(test_a_lost_format_is_not_guessed),
        T(test_format_races),
        T(test_format_races_with_lost_answers),
        T(test_unconditional_labels_and_format),
        T(test_labels),
        T(test_labels_know_their_name),
        T(test_labels_and_lost_answers),
        T(test_two_label_at_once),
        T(test_lists),
    };
    return cmocka_run_group_tests_name("repo-labels", tests, NULL, NULL);
}
