/* Another generation of the content takes the place of the one there is. */
#include "live/store_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/log.h"

/* Field by field: one is read without the mutex. */
static void take_map(struct bh_map *to, const struct bh_map *from)
{
    to->file = from->file;
    to->bits = from->bits;
    to->cap = from->cap;
    to->used = from->used;
    to->dirty = from->dirty;
    to->clean = from->clean;
    to->changes = from->changes;
    to->synced = from->synced;
    to->stale = from->stale;
    atomic_store(&to->absent, from->absent);
}

/* To give back the space of a large file takes seconds, for which nobody shall wait. Needs nothing
 * of the store. */
static void *close_old(void *arg)
{
    close((int)(intptr_t)arg);
    return NULL;
}

static void close_aside(int fd)
{
    pthread_t thread;
    if (fd < 0)
        return;
    if (pthread_create(&thread, NULL, close_old, (void *)(intptr_t)fd) == 0)
        pthread_detach(thread);
    else
        close(fd);
}

struct bh_store_next {
    uint64_t generation;
    struct bh_dfile db;
    struct bh_map map;
};

int bh_store_swap_prepare(struct bh_store *s, uint64_t generation, struct bh_store_next **out,
                          struct bh_error *err)
{
    struct bh_store_next *n = calloc(1, sizeof *n);
    if (!n)
        return bh_fail(err, ENOMEM, "out of memory while opening the new content");
    n->generation = generation;
    int rc = store_open_generation(s, generation, &n->db, &n->map, err);
    if (rc)
        free(n);
    else
        *out = n;
    return rc;
}

void bh_store_swap_drop(struct bh_store_next *n)
{
    if (!n)
        return;
    bh_dfile_close(&n->db);
    bh_map_close(&n->map);
    free(n);
}

static int swap(struct bh_store *s, struct bh_store_next *n, struct bh_origin *origin,
                struct bh_origin **old_origin, int *old_db, struct bh_error *err)
{
    struct bh_dfile db = n->db;
    int rc;
    BH_LOCK_SCOPE(&s->mutex);
    /* Where no freeze has another one, the unlink would free the space here without it. */
    *old_db = fcntl(s->db->disk.fd, F_DUPFD_CLOEXEC, 0);
    /* Readers use the descriptor without the mutex: dup3 changes what it means in one step. */
    atomic_fetch_add(&s->swaps, 1);
    if (dup3(db.fd, s->db->disk.fd, O_CLOEXEC) < 0) {
        rc = errno;
        atomic_fetch_add(&s->swaps, 1);
        bh_dfile_close(&db);
        bh_map_close(&n->map);
        return bh_fail(err, rc, "the new content cannot be put in place: %s", strerror(rc));
    }
    struct bh_dfile old = {.fd = -1, .disk = s->disk, .mirror = s->db->disk.mirror};
    s->db->disk.mirror = db.mirror;
    close(db.fd);
    char names[2][32];
    store_generation_names(s->generation, names[0], names[1]);
    if (old.mirror) { /* closes the mirrored side only: its descriptor now is the new file's */
        old.fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        bh_dfile_close(&old);
    }
    if (s->frozen) {
        s->frozen->old_map = s->map;
        s->frozen->detached = true;
        s->frozen = NULL;
    } else {
        bh_map_close(&s->map);
    }
    take_map(&s->map, &n->map);
    cover_clear(s);
    s->generation = n->generation;
    s->evict.barred = false;
    atomic_fetch_add(&s->swaps, 1);
    *old_origin = s->origin;
    s->origin = bh_origin_ref(origin);
    for (int i = 0; i < 2; i++) {
        rc = bh_disk_unlink(s->disk, names[i]);
        if (rc) /* harmless: the next start removes it */
            bh_log(BH_LOG_WARNING, "the old %s/%s cannot be removed: %s", bh_disk_path(s->disk),
                   names[i], strerror(rc));
    }
    return 0;
}

int bh_store_swap_commit(struct bh_store *s, struct bh_store_next *n, struct bh_origin *origin,
                         struct bh_error *err)
{
    struct bh_origin *old_origin = NULL;
    int old_db = -1;
    pthread_rwlock_wrlock(&s->generation_lock);
    int rc = swap(s, n, origin, &old_origin, &old_db, err);
    pthread_rwlock_unlock(&s->generation_lock);
    free(n);
    bh_origin_unref(old_origin);
    close_aside(old_db);
    return rc;
}

int bh_store_swap(struct bh_store *s, uint64_t generation, struct bh_origin *origin,
                  struct bh_error *err)
{
    struct bh_store_next *n = NULL;
    int rc = bh_store_swap_prepare(s, generation, &n, err);
    return rc ? rc : bh_store_swap_commit(s, n, origin, err);
}
