/* Copies and multipart uploads. */
#include "bucket_suite.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "util/cleanup.h"
#include "util/clock.h"

void test_copy(void **state)
{
    struct bh_meta meta = {0};
    struct bh_object_info put, copy, head;
    struct bh_source src = pattern_source(2 * MIB + 3);
    must(bh_meta_set(&meta, "m", "1", ERR));
    must(bh_bucket_put(bucket, k("from"), &src, &meta, NULL, &put, NULL, ERR));
    must(bh_bucket_copy(bucket, k("from"), k("to"), NULL, &copy, NULL, ERR));
    must_have_pattern(bucket, k("to"), 2 * MIB + 3);
    must(bh_bucket_head(bucket, k("to"), &head, NULL, ERR));
    assert_string_equal(head.etag, copy.etag);
    assert_int_equal(copy.size, 2 * MIB + 3);
    assert_string_equal(bh_meta_get(&head.meta, "m"), "1");
    must_put(bucket, k("from"), "other");
    must_have_pattern(bucket, k("to"), 2 * MIB + 3);
    must(bh_bucket_copy(bucket, k("from"), k("to"), NULL, NULL, NULL, ERR));
    must_have(bucket, k("to"), "other");
    must(bh_bucket_head(bucket, k("to"), &head, NULL, ERR));
    assert_int_equal(head.meta.count, 0);
    if (!has(BH_CAP_COPY_IF_MATCH)) {
        must_fail(bh_bucket_copy(bucket, k("from"), k("to"), put.etag, NULL, NULL, ERR), ENOTSUP);
        return;
    }
    must_fail(bh_bucket_copy(bucket, k("from"), k("third"), put.etag, NULL, NULL, ERR), ESTALE);
    must_lack(bucket, k("third"));
    must(bh_bucket_head(bucket, k("from"), &head, NULL, ERR));
    must(bh_bucket_copy(bucket, k("from"), k("third"), head.etag, NULL, NULL, ERR));
    must_have(bucket, k("third"), "other");
}

struct text {
    char data[65536];
    size_t len;
};

static int one_upload(void *arg, const char *key, const char *upload_id, int64_t started_ms,
                      struct bh_error *err)
{
    struct text *t = arg;
    t->len +=
        (size_t)snprintf(t->data + t->len, sizeof t->data - t->len, "%s %s\n", key, upload_id);
    return llabs(started_ms - bh_real_ms()) < 24 * 3600 * 1000 ? 0
                                                               : bh_fail(err, EBADMSG, "odd time");
}

void must_list_uploads(const char *prefix, const char *expected)
{
    BH_FREE struct text *t = calloc(1, sizeof *t);
    must(bh_bucket_mp_list(bucket, prefix, one_upload, t, NULL, ERR));
    assert_string_equal(t->data, expected);
}

static int shifted_read(void *arg, uint64_t offset, void *buf, size_t len, struct bh_error *err)
{
    return pattern_read(NULL, offset + *(uint64_t *)arg, buf, len, err);
}

void test_multipart(void **state)
{
    char id[BH_UPLOAD_ID_MAX], line[BH_KEY_MAX + BH_UPLOAD_ID_MAX + 8];
    struct bh_part parts[3];
    struct bh_meta meta = {0};
    struct bh_object_info info, head;
    uint64_t shifts[] = {0, 5 * MIB, 10 * MIB};
    must(bh_meta_set(&meta, "bh-snapshot", "77", ERR));
    must(bh_bucket_mp_begin(bucket, k("mp/x"), &meta, id, NULL, ERR));
    snprintf(line, sizeof line, "%s %s\n", k("mp/x"), id);
    must_list_uploads(k("mp/"), line);
    must_list_uploads(k("mp/y"), "");
    for (int i = 2; i >= 0; i--) { /* out of order, part 1 twice */
        struct bh_source src = {
            .size = i < 2 ? 5 * MIB : 77, .read = shifted_read, .arg = &shifts[i ? i : 1]};
        must(bh_bucket_mp_part(bucket, k("mp/x"), id, (unsigned)i + 1, &src, &parts[i], NULL, ERR));
        src.arg = &shifts[i];
        must(bh_bucket_mp_part(bucket, k("mp/x"), id, (unsigned)i + 1, &src, &parts[i], NULL, ERR));
        assert_int_equal(parts[i].number, i + 1);
    }
    must_lack(bucket, k("mp/x"));
    must_list("", "mp/", NULL, NULL, 0);
    must(bh_bucket_mp_complete(bucket, k("mp/x"), id, parts, 3, NULL, &info, NULL, ERR));
    must_have_pattern(bucket, k("mp/x"), 10 * MIB + 77);
    must(bh_bucket_head(bucket, k("mp/x"), &head, NULL, ERR));
    assert_string_equal(head.etag, info.etag);
    assert_string_equal(bh_meta_get(&head.meta, "bh-snapshot"), "77");
    if (has(BH_CAP_COPY_IF_MATCH)) /* its ETag is one like others */
        must(bh_bucket_copy(bucket, k("mp/x"), k("mp/z"), info.etag, NULL, NULL, ERR));
    if (has(BH_CAP_IF_MATCH)) {
        must(put_text(bucket, k("mp/x"), "new", &(struct bh_cond){.if_match = info.etag}));
        must_fail(put_text(bucket, k("mp/x"), "newer", &(struct bh_cond){.if_match = info.etag}),
                  ESTALE);
    }
    must_list_uploads(k("mp/"), "");
    must_fail(bh_bucket_mp_abort(bucket, k("mp/x"), id, NULL, ERR), ENOENT);
}

void test_multipart_wrong(void **state)
{
    char id[BH_UPLOAD_ID_MAX];
    struct bh_part parts[2], wrong[2];
    struct bh_source src = {.size = 5, .data = "small"};
    must_fail(bh_bucket_mp_part(bucket, k("w"), "0123456789abcdef0123456789abcdef", 1, &src, parts,
                                NULL, ERR),
              ENOENT);
    must(bh_bucket_mp_begin(bucket, k("w"), NULL, id, NULL, ERR));
    must(bh_bucket_mp_part(bucket, k("w"), id, 1, &src, &parts[0], NULL, ERR));
    must(bh_bucket_mp_part(bucket, k("w"), id, 2, &src, &parts[1], NULL, ERR));
    memcpy(wrong, parts, sizeof wrong);
    strcpy(wrong[1].etag, "00000000000000000000000000000000");
    must_fail(bh_bucket_mp_complete(bucket, k("w"), id, parts, 2, NULL, NULL, NULL, ERR), EINVAL);
    must_fail(bh_bucket_mp_complete(bucket, k("w"), id, wrong + 1, 1, NULL, NULL, NULL, ERR),
              EINVAL);
    wrong[1] = parts[1];
    wrong[1].number = 3;
    must_fail(bh_bucket_mp_complete(bucket, k("w"), id, wrong + 1, 1, NULL, NULL, NULL, ERR),
              EINVAL);
    must_lack(bucket, k("w"));
    must(bh_bucket_mp_abort(bucket, k("w"), id, NULL, ERR));
    must_fail(bh_bucket_mp_part(bucket, k("w"), id, 3, &src, parts, NULL, ERR), ENOENT);
    must_fail(bh_bucket_mp_complete(bucket, k("w"), id, parts, 1, NULL, NULL, NULL, ERR), ENOENT);
    must_list_uploads(k("w"), "");
}

void test_multipart_conditional(void **state)
{
    char id[BH_UPLOAD_ID_MAX];
    struct bh_part part;
    struct bh_source src = {.size = 4, .data = "part"};
    struct bh_cond absent = {.if_none_match = true};
    must_put(bucket, k("mc"), "there");
    must(bh_bucket_mp_begin(bucket, k("mc"), NULL, id, NULL, ERR));
    must(bh_bucket_mp_part(bucket, k("mc"), id, 1, &src, &part, NULL, ERR));
    int refused = has(BH_CAP_MP_COND) ? EEXIST : ENOTSUP;
    must_fail(bh_bucket_mp_complete(bucket, k("mc"), id, &part, 1, &absent, NULL, NULL, ERR),
              refused);
    must_have(bucket, k("mc"), "there");
    must(bh_bucket_delete(bucket, k("mc"), NULL, ERR));
    if (refused == EEXIST) {
        must(bh_bucket_mp_complete(bucket, k("mc"), id, &part, 1, &absent, NULL, NULL, ERR));
        must_have(bucket, k("mc"), "part");
    } else {
        must(bh_bucket_mp_abort(bucket, k("mc"), id, NULL, ERR));
    }
}

/* An object becomes another one that has a part of it; who is too late changes nothing. */
static void assemble_in_place(const struct bh_object_info *was)
{
    char id[BH_UPLOAD_ID_MAX];
    struct bh_part parts[2];
    struct bh_object_info now;
    uint64_t shift = 5 * MIB;
    struct bh_source tail = {.size = 77, .read = shifted_read, .arg = &shift};
    struct bh_cond unchanged = {.if_match = was->etag};
    const struct bh_cond *cond = has(BH_CAP_MP_COND) && has(BH_CAP_IF_MATCH) ? &unchanged : NULL;
    for (int late = 0; late <= (cond ? 1 : 0); late++) {
        must(bh_bucket_mp_begin(bucket, k("pc/dst"), NULL, id, NULL, ERR));
        if (late) {
            must_fail(bh_bucket_mp_part_copy(bucket, k("pc/dst"), id, 1, k("pc/dst"), 0, 5 * MIB,
                                             was->etag, &parts[0], NULL, ERR),
                      ESTALE);
            must(bh_bucket_mp_abort(bucket, k("pc/dst"), id, NULL, ERR));
            continue;
        }
        must(bh_bucket_mp_part_copy(bucket, k("pc/dst"), id, 1, k("pc/dst"), 0, 5 * MIB, was->etag,
                                    &parts[0], NULL, ERR));
        must(bh_bucket_mp_part(bucket, k("pc/dst"), id, 2, &tail, &parts[1], NULL, ERR));
        must(bh_bucket_mp_complete(bucket, k("pc/dst"), id, parts, 2, cond, &now, NULL, ERR));
        must_have_pattern(bucket, k("pc/dst"), 5 * MIB + 77);
    }
}

void test_part_copy(void **state)
{
    char id[BH_UPLOAD_ID_MAX];
    struct bh_part parts[2], none;
    struct bh_object_info info;
    struct bh_source src = pattern_source(6 * MIB);
    uint64_t shift = 5 * MIB;
    struct bh_source tail = {.size = MIB, .read = shifted_read, .arg = &shift};
    must(bh_bucket_put(bucket, k("pc/src"), &src, NULL, NULL, &info, NULL, ERR));
    must(bh_bucket_mp_begin(bucket, k("pc/dst"), NULL, id, NULL, ERR));
    const char *etag = has(BH_CAP_PART_COPY_IF_MATCH) ? info.etag : NULL;
    if (!has(BH_CAP_PART_COPY)) {
        must_fail(bh_bucket_mp_part_copy(bucket, k("pc/dst"), id, 1, k("pc/src"), 0, 5 * MIB, NULL,
                                         &none, NULL, ERR),
                  ENOTSUP);
        must(bh_bucket_mp_abort(bucket, k("pc/dst"), id, NULL, ERR));
        return;
    }
    must(bh_bucket_mp_part_copy(bucket, k("pc/dst"), id, 1, k("pc/src"), 0, 5 * MIB, etag,
                                &parts[0], NULL, ERR));
    must(bh_bucket_mp_part(bucket, k("pc/dst"), id, 2, &tail, &parts[1], NULL, ERR));
    must_fail(bh_bucket_mp_part_copy(bucket, k("pc/dst"), id, 3, k("pc/src"), 0, 5 * MIB, "wrong",
                                     &none, NULL, ERR),
              has(BH_CAP_PART_COPY_IF_MATCH) ? ESTALE : ENOTSUP);
    must_fail(bh_bucket_mp_part_copy(bucket, k("pc/dst"), id, 3, k("pc/src"), 6 * MIB, 1, NULL,
                                     &none, NULL, ERR),
              EINVAL);
    must_fail(bh_bucket_mp_part_copy(bucket, k("pc/dst"), id, 3, k("pc/none"), 0, 1, NULL, &none,
                                     NULL, ERR),
              ENOENT);
    must(bh_bucket_mp_complete(bucket, k("pc/dst"), id, parts, 2, NULL, &info, NULL, ERR));
    must_have_pattern(bucket, k("pc/dst"), 6 * MIB);
    if (has(BH_CAP_PART_COPY_IF_MATCH)) /* of what came in parts, over itself */
        assemble_in_place(&info);
}
