/* Listings: of objects, and of unfinished uploads. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bucket/s3/s3_private.h"
#include "util/cleanup.h"

#define PAGE_MAX 1000
/* Pages in a row that bring nothing new, before a listing is taken for one without end. */
#define IDLE_PAGES_MAX 100

/* --- objects --- */

struct listing {
    const struct bh_list_request *req;
    bh_list_fn *fn;
    void *arg;
    char last[BH_KEY_MAX + 1]; /* the entry before; "" */
    size_t sent;
};

static int list_page(struct s3 *s, const struct bh_list_request *req, const char *token,
                     size_t page_max, struct bh_xml_page *page, const struct bh_call *call,
                     struct bh_error *err)
{
    char max[24], delimiter[8];
    struct bh_pair query[8];
    size_t n = 0;
    snprintf(max, sizeof max, "%zu", page_max);
    query[n++] = (struct bh_pair){"list-type", "2"};
    query[n++] = (struct bh_pair){"encoding-type", "url"};
    query[n++] = (struct bh_pair){"max-keys", max};
    query[n++] = (struct bh_pair){"prefix", req->prefix};
    if (req->delimiter) {
        snprintf(delimiter, sizeof delimiter, "%s", req->delimiter);
        query[n++] = (struct bh_pair){"delimiter", delimiter};
    }
    if (token)
        query[n++] = (struct bh_pair){"continuation-token", token};
    else if (req->start_after && *req->start_after)
        query[n++] = (struct bh_pair){"start-after", req->start_after};
    struct s3_request r = {.method = "GET",
                           .op = BH_OP_LIST,
                           .doing = "list",
                           .query = query,
                           .query_count = n,
                           .call = call,
                           .keep_body = S3_LIST_PAGE_MAX};
    int rc = s3_ask(s, &r, err);
    if (!rc)
        rc = bh_xml_list(s3_body(&r), r.answer.body.len, page, err);
    s3_request_free(&r);
    return rc;
}

static int hand_over(struct listing *l, const struct bh_xml_page *page, struct bh_error *err)
{
    const struct bh_list_request *q = l->req;
    size_t prefix_len = strlen(q->prefix);
    for (size_t i = 0; i < page->count; i++) {
        const struct bh_xml_entry *e = &page->entries[i];
        if (strncmp(e->key, q->prefix, prefix_len) != 0)
            return bh_fail(err, EIO, "the store lists %s, which does not begin with \"%s\"", e->key,
                           q->prefix);
        if (q->start_after && strcmp(e->key, q->start_after) <= 0)
            continue; /* the prefix that start_after itself lies in */
        if (l->last[0] && strcmp(e->key, l->last) <= 0) {
            if (e->is_prefix && strcmp(e->key, l->last) == 0)
                continue; /* a common prefix that spans pages */
            return bh_fail(err, EIO, "the store's listing is not in order: %s comes after %s",
                           e->key, l->last);
        }
        if (q->max && l->sent == q->max)
            return 0;
        snprintf(l->last, sizeof l->last, "%s", e->key);
        l->sent++;
        int rc = l->fn(l->arg, e->key, e->is_prefix, &e->info, err);
        if (rc)
            return rc;
    }
    return 0;
}

int s3_list(struct bh_bucket *b, const struct bh_list_request *req, bh_list_fn *fn, void *arg,
            const struct bh_call *call, struct bh_error *err)
{
    struct listing l = {.req = req, .fn = fn, .arg = arg};
    BH_FREE char *token = NULL;
    for (unsigned idle = 0;;) {
        struct bh_xml_page page = {0};
        size_t before = l.sent;
        /* one more than wanted: start_after's own prefix may be among them */
        size_t left = req->max ? req->max - l.sent + 1 : PAGE_MAX;
        int rc =
            list_page(s3_of(b), req, token, left < PAGE_MAX ? left : PAGE_MAX, &page, call, err);
        if (!rc)
            rc = hand_over(&l, &page, err);
        bool more = page.truncated && !(req->max && l.sent >= req->max);
        if (!rc && more && (!page.next_token || (token && strcmp(token, page.next_token) == 0)))
            rc = bh_fail(err, EIO,
                         "the store's listing goes on, but does not say how (%zu keys came)",
                         l.sent);
        idle = l.sent > before ? 0 : idle + 1;
        if (!rc && idle == IDLE_PAGES_MAX)
            rc = bh_fail(err, EIO, "the store's listing goes on without getting anywhere");
        free(token);
        token = page.next_token;
        page.next_token = NULL;
        bh_xml_page_free(&page);
        if (rc || !more)
            return rc;
    }
}

/* --- unfinished uploads --- */

static int uploads_page(struct s3 *s, const char *prefix, const struct bh_xml_uploads *after,
                        struct bh_xml_uploads *page, const struct bh_call *call,
                        struct bh_error *err)
{
    struct bh_pair query[6];
    size_t n = 0;
    /* without encoding-type: stores disagree about which of the names it applies to */
    query[n++] = (struct bh_pair){"uploads", ""};
    query[n++] = (struct bh_pair){"prefix", prefix};
    if (after->next_key)
        query[n++] = (struct bh_pair){"key-marker", after->next_key};
    if (after->next_key && after->next_upload_id)
        query[n++] = (struct bh_pair){"upload-id-marker", after->next_upload_id};
    struct s3_request r = {.method = "GET",
                           .op = BH_OP_MULTIPART,
                           .doing = "list uploads of",
                           .query = query,
                           .query_count = n,
                           .call = call,
                           .keep_body = S3_LIST_PAGE_MAX};
    int rc = s3_ask(s, &r, err);
    if (!rc)
        rc = bh_xml_uploads(s3_body(&r), r.answer.body.len, page, err);
    s3_request_free(&r);
    return rc;
}

static bool same(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

int s3_mp_list(struct bh_bucket *b, const char *prefix, bh_upload_fn *fn, void *arg,
               const struct bh_call *call, struct bh_error *err)
{
    struct bh_xml_uploads page = {0}, before = {0};
    int rc;
    for (unsigned idle = 0;;) {
        rc = uploads_page(s3_of(b), prefix, &before, &page, call, err);
        for (size_t i = 0; !rc && i < page.count; i++) {
            const struct bh_xml_upload *u = &page.entries[i];
            if (strncmp(u->key, prefix, strlen(prefix)) == 0)
                rc = fn(arg, u->key, u->upload_id, u->started_ms, err);
        }
        bool more = page.truncated;
        if (!rc && more &&
            (!page.next_key || (same(page.next_key, before.next_key) &&
                                same(page.next_upload_id, before.next_upload_id))))
            rc = bh_fail(err, EIO, "the store's listing of uploads goes on, but does not say how");
        if (!rc && more && before.next_key && strcmp(page.next_key, before.next_key) < 0)
            rc = bh_fail(err, EIO, "the store's listing of uploads goes back from %s to %s",
                         before.next_key, page.next_key);
        idle = page.count > 0 ? 0 : idle + 1;
        if (!rc && idle == IDLE_PAGES_MAX)
            rc = bh_fail(err, EIO, "the store's listing of uploads gets nowhere");
        bh_xml_uploads_free(&before);
        before = page;
        page = (struct bh_xml_uploads){0};
        if (rc || !more)
            break;
    }
    bh_xml_uploads_free(&before);
    return rc;
}
