/* What connections of this process change, and telling the mount of it before they let go of the
 * lock under which they did. */
#include "live/vfs_private.h"

#include <stdatomic.h>

#include "util/cleanup.h"

static void note_data(struct vfs_file *f, uint64_t begin, uint64_t end)
{
    struct changes *c = f->changes;
    if (!c || begin >= end)
        return;
    c->any = true;
    for (size_t i = 0; i < c->count; i++)
        if (begin <= c->data[i].end && c->data[i].begin <= end) {
            c->data[i].begin = begin < c->data[i].begin ? begin : c->data[i].begin;
            c->data[i].end = end > c->data[i].end ? end : c->data[i].end;
            return;
        }
    if (c->count == RANGES_MAX) {
        struct range all = {begin, end};
        for (size_t i = 0; i < c->count; i++) {
            all.begin = c->data[i].begin < all.begin ? c->data[i].begin : all.begin;
            all.end = c->data[i].end > all.end ? c->data[i].end : all.end;
        }
        c->data[0] = all;
        c->count = 1;
        return;
    }
    c->data[c->count++] = (struct range){begin, end};
}

static void note_wal(struct bh_vfs *v, uint64_t begin, uint64_t end)
{
    BH_LOCK_SCOPE(&v->wal_mutex);
    struct range *r = &v->wal_changes;
    bool empty = r->begin == r->end;
    if (begin >= end)
        return;
    r->begin = empty || begin < r->begin ? begin : r->begin;
    r->end = empty || end > r->end ? end : r->end;
}

void vfs_note_change(struct vfs_file *f, uint64_t begin, uint64_t end)
{
    if (f->file->kind == BH_FILE_WAL)
        note_wal(f->vfs, begin, end);
    else
        note_data(f, begin, end);
}

/* --- telling the mount --- */

void vfs_tell_name(struct bh_vfs *v, const char *name)
{
    if (v->hooks.name_changed)
        v->hooks.name_changed(v->hooks.arg, name);
}

/* A file that was made and deleted in the meantime is nobody's business; one that stays is. */
static void tell_side(struct bh_vfs *v, const char *name, uint64_t begin, uint64_t end)
{
    struct bh_file *f;
    if (bh_store_lookup(v->store, name, &f))
        return;
    if (atomic_exchange(&f->inner, false))
        vfs_tell_name(v, f->name);
    else if (end > begin)
        v->hooks.data_changed(v->hooks.arg, f, begin, end - begin);
    bh_file_unref(f);
}

static void tell_wal(struct bh_vfs *v)
{
    pthread_mutex_lock(&v->wal_mutex);
    struct range r = v->wal_changes;
    v->wal_changes = (struct range){0};
    pthread_mutex_unlock(&v->wal_mutex);
    if (r.end > r.begin)
        tell_side(v, BH_WAL_NAME, r.begin, r.end);
}

void vfs_tell_changes(struct vfs_file *f)
{
    struct changes *c = f->changes;
    struct bh_vfs *v = f->vfs;
    if (v->hooks.data_changed) {
        tell_wal(v);
        if (f->shm && f->shm->inner)
            tell_side(v, BH_SHM_NAME, 0, 0);
        if (c->any)
            tell_side(v, BH_JOURNAL_NAME, 0, UINT64_MAX);
        for (size_t i = 0; i < c->count; i++)
            v->hooks.data_changed(v->hooks.arg, f->file, c->data[i].begin,
                                  c->data[i].end - c->data[i].begin);
    }
    c->count = 0;
    c->any = false;
}
