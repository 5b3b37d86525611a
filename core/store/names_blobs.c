/* Which contents the names have. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bucket/bucket.h"
#include "store/names_private.h"

/* --- all of them --- */

static int add_blob(struct bh_blob_list **list, size_t *room, const void *hash, uint64_t size,
                    struct bh_error *err)
{
    struct bh_blob_list *l = *list;
    if (l->count && !memcmp(l->blobs[l->count - 1].hash, hash, BH_SHA256_LEN))
        return 0;
    if (l->count == *room) {
        size_t more = 2 * *room;
        l = realloc(l, sizeof *l + more * sizeof l->blobs[0]);
        if (!l)
            return bh_fail(err, ENOMEM, "out of memory while blobs are listed");
        *list = l;
        *room = more;
    }
    memcpy(l->blobs[l->count].hash, hash, BH_SHA256_LEN);
    l->blobs[l->count++].size = size;
    return 0;
}

static int add_row(struct bh_blob_list **list, size_t *room, sqlite3_stmt *st, struct bh_error *err)
{
    uint64_t size;
    const void *hash = sqlite3_column_blob(st, 0);
    if (!hash || sqlite3_column_bytes(st, 0) != BH_SHA256_LEN || row_number(st, 1, &size) ||
        size > INT64_MAX)
        return bh_fail(err, EIO, "names.db is damaged: the hash or the size of a content is wrong");
    return add_blob(list, room, hash, size, err);
}

int reader_list_blobs(struct reader *r, struct bh_blob_list **out, const struct bh_call *call,
                      struct bh_error *err)
{
    size_t room = 64, rows = 0;
    struct bh_blob_list *list = malloc(sizeof *list + room * sizeof list->blobs[0]);
    sqlite3_stmt *st;
    bool row;
    int rc = list ? 0 : bh_fail(err, ENOMEM, "out of memory while blobs are listed");
    if (rc == 0) {
        list->count = 0;
        rc = r ? reader_stmt(r, GET_BLOBS, &st, err) : 0;
    }
    while (rc == 0 && r && (rc = row_step(st, &row, err)) == 0 && row) {
        rc = add_row(&list, &room, st, err);
        if (rc == 0 && call && ++rows % CHECK_ROWS == 0)
            rc = bh_call_check(call, "listing blobs", err);
    }
    if (rc)
        free(list);
    else
        *out = list;
    return rc;
}

int bh_names_list_blobs(struct bh_names *n, struct bh_blob_list **out, struct bh_error *err)
{
    struct load l;
    for (;;) {
        struct reader *r = NULL;
        bool tables;
        int rc = bh_names_checkpoint(n, err);
        if (rc == 0)
            rc = load_open(n, &l, &tables, err);
        if (rc)
            return rc;
        if (tables)
            rc = reader_get(n, &r, err);
        if (rc == 0)
            rc = reader_list_blobs(r, out, NULL, err);
        if (r)
            reader_put(n, r, rc == 0);
        if (load_close(n, &l))
            return rc;
        if (rc == 0)
            free(*out);
    }
}

/* --- one --- */

static bool memory_has(struct bh_names *n, const uint8_t *hash, uint64_t *size)
{
    pthread_mutex_lock(&n->mutex);
    struct inode *i = same_content(n, hash);
    if (i)
        *size = i->i.content.hash_size;
    pthread_mutex_unlock(&n->mutex);
    return i != NULL;
}

static int database_has(struct bh_names *n, const uint8_t *hash, bool *has, uint64_t *size,
                        struct bh_error *err)
{
    struct reader *r;
    sqlite3_stmt *st;
    bool row;
    int rc = reader_get(n, &r, err);
    if (rc)
        return rc;
    rc = reader_stmt(r, GET_HASH, &st, err);
    if (rc == 0)
        sqlite3_bind_blob(st, 1, hash, BH_SHA256_LEN, SQLITE_STATIC);
    while (rc == 0 && !*has && (rc = row_step(st, &row, err)) == 0 && row) {
        pthread_mutex_lock(&n->mutex); /* a row counts unless memory knows better */
        *has = !inode_find(n, (uint64_t)sqlite3_column_int64(st, 0));
        pthread_mutex_unlock(&n->mutex);
        *size = (uint64_t)sqlite3_column_int64(st, 1);
    }
    reader_put(n, r, rc == 0);
    return rc;
}

int bh_names_find_blob(struct bh_names *n, const uint8_t hash[BH_SHA256_LEN], uint64_t *size,
                       struct bh_error *err)
{
    struct load l;
    bool tables, has;
    int rc;
    do {
        rc = load_open(n, &l, &tables, err);
        if (rc)
            return rc;
        has = memory_has(n, hash, size);
        if (!has && tables)
            rc = database_has(n, hash, &has, size, err);
    } while (!load_close(n, &l));
    if (rc == 0 && !has)
        has = memory_has(n, hash, size); /* one that got it meanwhile */
    return rc || has ? rc : ENOENT;
}
