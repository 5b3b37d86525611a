/* The files of the tree: what their names mean, how they come and go. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "live/shm.h"
#include "live/store_private.h"
#include "util/cleanup.h"
#include "util/io.h"

/* SQLite file format, section "The Rollback Journal": every valid journal begins with these bytes.
 */
static const unsigned char journal_magic[STORE_JOURNAL_MAGIC] = {0xd9, 0xd5, 0x05, 0xf9,
                                                                 0x20, 0xa1, 0x63, 0xd7};

enum bh_file_kind bh_file_kind_of(const char *name)
{
    static const char super[] = BH_DB_NAME "-mj";
    if (!strcmp(name, BH_DB_NAME))
        return BH_FILE_DB;
    if (!strcmp(name, BH_JOURNAL_NAME))
        return BH_FILE_JOURNAL;
    if (!strcmp(name, BH_WAL_NAME))
        return BH_FILE_WAL;
    if (!strcmp(name, BH_SHM_NAME))
        return BH_FILE_SHM;
    if (!strncmp(name, super, sizeof super - 1)) {
        const char *hex = name + sizeof super - 1;
        size_t n = strspn(hex, "0123456789ABCDEFabcdef");
        if (n > 0 && n <= 16 && hex[n] == '\0')
            return BH_FILE_SUPER;
    }
    return BH_FILE_OTHER;
}

struct bh_file *store_file_new(struct bh_store *s, const char *name, enum bh_file_kind kind)
{
    struct bh_file *f = calloc(1, sizeof *f);
    if (!f)
        return NULL;
    f->store = s;
    f->kind = kind;
    f->disk.fd = -1;
    f->refs = 1;
    f->linked = true;
    memcpy(f->name, name, strnlen(name, sizeof f->name - 1)); /* names of our kinds are shorter */
    return f;
}

void bh_file_ref(struct bh_file *f)
{
    atomic_fetch_add(&f->refs, 1);
}

void bh_file_unref(struct bh_file *f)
{
    if (!f || atomic_fetch_sub(&f->refs, 1) != 1)
        return;
    bh_shm_free(f->shm);
    bh_dfile_close(&f->disk);
    bh_lockset_free(&f->locks);
    free(f);
}

void store_note_magic(struct bh_file *f)
{
    unsigned char head[8];
    int rc = bh_pread_full(f->disk.fd, head, sizeof head, 0, NULL);
    f->has_magic = rc == 0 && !memcmp(head, journal_magic, sizeof head);
}

void store_link_side(struct bh_store *s, struct bh_file *f)
{
    f->next = s->side;
    s->side = f;
    if (f->kind == BH_FILE_JOURNAL)
        s->journal = f;
    if (f->kind == BH_FILE_WAL) {
        s->wal = f;
        s->wal_size = bh_file_size(f);
        s->wal_changes += s->wal_size > 0;
    }
    if (f->kind == BH_FILE_SHM) {
        s->shm = f;
        bh_locks_set_wal(s->locks, &f->locks);
    }
}

static void unlink_side(struct bh_store *s, struct bh_file **p)
{
    struct bh_file *f = *p;
    *p = f->next;
    if (s->journal == f)
        s->journal = NULL;
    if (s->wal == f) { /* its frames are in the database's file */
        s->wal = NULL;
        s->wal_size = 0;
        s->wal_flushed = s->wal_changes;
        cover_clear(s);
    }
    if (s->shm == f) {
        s->shm = NULL;
        bh_locks_set_wal(s->locks, NULL);
    }
    f->linked = false;
    bh_file_unref(f);
}

static struct bh_file **find_side(struct bh_store *s, const char *name)
{
    struct bh_file **p = &s->side;
    while (*p && strcmp((*p)->name, name))
        p = &(*p)->next;
    return p;
}

static int lookup(struct bh_store *s, const char *name, bool outside, struct bh_file **out)
{
    BH_LOCK_SCOPE(&s->mutex);
    struct bh_file *f = strcmp(name, BH_DB_NAME) ? *find_side(s, name) : s->db;
    if (!f)
        return ENOENT;
    if (outside)
        f->inner = false;
    bh_file_ref(f);
    *out = f;
    return 0;
}

int bh_store_lookup(struct bh_store *s, const char *name, struct bh_file **out)
{
    return lookup(s, name, false, out);
}

int bh_store_lookup_outside(struct bh_store *s, const char *name, struct bh_file **out)
{
    return lookup(s, name, true, out);
}

static int open_side_file(struct bh_store *s, struct bh_file *f, unsigned mode)
{
    if (f->kind != BH_FILE_SHM)
        return bh_disk_open_file(s->disk, f->name, O_RDWR | O_CREAT | O_EXCL, mode, &f->disk);
    f->disk = (struct bh_dfile){.fd = memfd_create(BH_SHM_NAME, MFD_CLOEXEC), .disk = s->disk};
    if (f->disk.fd < 0 || fchmod(f->disk.fd, mode & 0777) != 0)
        return errno;
    return bh_shm_new(&f->shm, f, &s->shm_wire);
}

static int create_locked(struct bh_store *s, enum bh_door door, const char *name, unsigned mode,
                         struct bh_file **out)
{
    struct bh_file *f = store_file_new(s, name, bh_file_kind_of(name));
    if (!f)
        return ENOMEM;
    int rc = open_side_file(s, f, mode);
    if (rc) {
        bh_file_unref(f);
        return rc;
    }
    f->inner = door == BH_DOOR_INTERNAL;
    store_link_side(s, f);
    bh_file_ref(f);
    *out = f;
    return 0;
}

int bh_store_create(struct bh_store *s, enum bh_door door, const char *name, unsigned mode,
                    struct bh_file **out)
{
    enum bh_file_kind kind = bh_file_kind_of(name);
    if (kind == BH_FILE_OTHER)
        return EPERM;
    BH_LOCK_SCOPE(&s->mutex);
    if (kind == BH_FILE_DB || *find_side(s, name))
        return EEXIST;
    return create_locked(s, door, name, mode, out);
}

int bh_store_shm(struct bh_store *s, struct bh_file **out)
{
    BH_LOCK_SCOPE(&s->mutex);
    if (!s->shm)
        return create_locked(s, BH_DOOR_INTERNAL, BH_SHM_NAME, 0644, out);
    bh_file_ref(s->shm);
    *out = s->shm;
    return 0;
}

bool bh_store_has_hot_journal(struct bh_store *s)
{
    BH_LOCK_SCOPE(&s->mutex);
    return s->journal && s->journal->has_magic;
}

bool bh_store_may_unlink(struct bh_store *s, enum bh_file_kind kind)
{
    if (kind != BH_FILE_WAL && kind != BH_FILE_SHM)
        return true;
    struct bh_lock_summary db = bh_locks_summary(s->locks, &s->db->locks);
    if (db.client_exclusive)
        return true;
    bool needed = kind == BH_FILE_WAL ? bh_store_wal_size(s) > 0
                                      : bh_locks_wal_summary(s->locks).attached > 0;
    return !needed && db.clients == 0;
}

int bh_store_unlink(struct bh_store *s, const char *name)
{
    BH_LOCK_SCOPE(&s->mutex);
    if (!strcmp(name, BH_DB_NAME))
        return EPERM;
    struct bh_file **p = find_side(s, name);
    if (!*p)
        return ENOENT;
    int rc = (*p)->kind == BH_FILE_SHM ? 0 : bh_disk_unlink(s->disk, name);
    if (rc == 0)
        unlink_side(s, p);
    return rc;
}

/* A journal without its header is not hot (as SQLite's PERSIST mode has it), and to overwrite and
 * sync it costs less than to sync the directory. 0: the name may come back, the transaction does
 * not. */
static int defuse(struct bh_file *journal)
{
    static const char zeros[28]; /* the header's fields, as SQLite's zeroJournalHdr writes them */
    int rc = bh_file_write(journal, BH_DOOR_INTERNAL, zeros, sizeof zeros, 0);
    return rc ? rc : bh_dfile_sync(&journal->disk);
}

int bh_store_unlink_durably(struct bh_store *s, const char *name)
{
    struct bh_file *f;
    int rc = bh_store_lookup(s, name, &f);
    if (rc)
        return rc;
    bool defused = f->kind == BH_FILE_JOURNAL && f->has_magic && defuse(f) == 0;
    bh_file_unref(f);
    rc = bh_store_unlink(s, name);
    return rc || defused ? rc : bh_store_sync_names(s);
}

int bh_store_each(struct bh_store *s, int (*fn)(void *arg, struct bh_file *f), void *arg)
{
    BH_LOCK_SCOPE(&s->mutex);
    int rc = fn(arg, s->db);
    for (struct bh_file *f = s->side; f && rc == 0; f = f->next)
        rc = fn(arg, f);
    return rc;
}
