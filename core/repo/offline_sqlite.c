/* SQLite on a snapshot that is read without a mount: in chunks, which are kept. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "live/live.h"
#include "live/rovfs.h"
#include "repo/offline_private.h"

#define CHUNK_MIN ((size_t)64 << 10)
#define AHEAD_MAX 16u /* chunks at once, where reading goes on from one to the next */

/* --- chunks --- */

static struct offline_chunk *place(struct bh_offline *o, uint64_t number)
{
    return &o->chunks[number % OFFLINE_CHUNKS];
}

/* Chunks from `number` on. */
static int fetch(struct bh_offline *o, uint64_t number, size_t count, struct bh_error *err)
{
    uint8_t *buf = malloc(count * o->chunk_size);
    int rc = buf ? offline_read(o, number * o->chunk_size, buf, count * o->chunk_size, err)
                 : bh_fail(err, ENOMEM, "out of memory while reading a snapshot");
    for (size_t i = 0; i < count && !rc; i++) {
        struct offline_chunk *c = place(o, number + i);
        if (!c->data && !(c->data = malloc(o->chunk_size))) {
            rc = bh_fail(err, ENOMEM, "out of memory while reading a snapshot");
            break;
        }
        memcpy(c->data, buf + i * o->chunk_size, o->chunk_size);
        c->number = number + i + 1;
    }
    free(buf);
    return rc;
}

static int get_chunk(struct bh_offline *o, uint64_t number, const uint8_t **data,
                     struct bh_error *err)
{
    struct offline_chunk *c = place(o, number);
    uint64_t last = (o->snapshot.size - 1) / o->chunk_size;
    if (c->number == number + 1) {
        *data = c->data;
        return 0;
    }
    o->ahead = number != o->next_chunk || o->ahead == 0 ? 1
               : o->ahead < AHEAD_MAX                   ? 2 * o->ahead
                                                        : AHEAD_MAX;
    size_t count = last - number + 1 < o->ahead ? (size_t)(last - number + 1) : o->ahead;
    int rc = fetch(o, number, count, err);
    o->next_chunk = number + count;
    *data = c->data;
    return rc;
}

static int read_bytes(void *arg, uint64_t at, void *buf, size_t len, struct bh_error *err)
{
    struct bh_offline *o = arg;
    for (size_t done = 0, n; done < len; done += n) {
        const uint8_t *data;
        size_t from = (size_t)((at + done) % o->chunk_size);
        int rc;
        n = o->chunk_size - from < len - done ? o->chunk_size - from : len - done;
        if (get_chunk(o, (at + done) / o->chunk_size, &data, err) == 0)
            memcpy((uint8_t *)buf + done, data + from, n);
        else if ((rc = offline_read(o, at + done, (uint8_t *)buf + done, n, err)) != 0)
            return rc; /* else what is damaged was not asked for */
    }
    return 0;
}

/* --- connections --- */

int bh_offline_connect(struct bh_offline *o, sqlite3 **db, struct bh_error *err)
{
    uint32_t block = o->trees ? bh_trees_block_size(o->trees) : 0;
    if (!o->found)
        return bh_fail(err, EINVAL, "no snapshot was chosen");
    o->chunk_size = block > CHUNK_MIN ? block : CHUNK_MIN;
    int rc = o->vfs ? 0 : bh_rovfs_new(&o->vfs, read_bytes, o, o->snapshot.size, err);
    return rc ? rc : bh_rovfs_connect(o->vfs, db, "the snapshot", err);
}

int bh_offline_why(const struct bh_offline *o, struct bh_error *err)
{
    return o->vfs ? bh_rovfs_why(o->vfs, err) : 0;
}

void offline_sqlite_free(struct bh_offline *o)
{
    bh_rovfs_free(o->vfs);
    for (size_t i = 0; i < OFFLINE_CHUNKS; i++)
        free(o->chunks[i].data);
}
