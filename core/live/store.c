#include "live/store_private.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/io.h"
#include "util/log.h"

void store_generation_names(uint64_t generation, char db[32], char map[32])
{
    snprintf(db, 32, "db.%" PRIu64, generation);
    snprintf(map, 32, "map.%" PRIu64, generation);
}

/* --- reading and writing --- */

/* A swap puts another file under the descriptor, and another map beside it: what was read meanwhile
 * may be holes of the one by the word of the other. An eviction makes holes. */
uint_fast64_t store_read_begin(struct bh_store *s)
{
    uint_fast64_t swaps;
    while ((swaps = atomic_load(&s->swaps)) & 1) {
        pthread_mutex_lock(&s->mutex);
        pthread_mutex_unlock(&s->mutex);
    }
    return swaps;
}

int bh_file_read_why(struct bh_file *f, void *buf, size_t len, uint64_t offset, size_t *got,
                     struct bh_error *err)
{
    struct bh_store *s = f->store;
    if (f->kind == BH_FILE_DB)
        evict_note(s, offset, len);
    for (;;) {
        uint_fast64_t swaps = store_read_begin(s);
        int rc = bh_file_is_absent(f, offset, len) ? bh_store_fetch(s, offset, len, err) : 0;
        if (rc)
            return rc;
        rc = bh_pread_full(f->disk.fd, buf, len, offset, got);
        if (rc)
            return bh_fail(err, rc, "%s/%s cannot be read: %s", bh_disk_path(s->disk), f->name,
                           strerror(rc));
        if (f->kind != BH_FILE_DB || atomic_load(&s->swaps) == swaps)
            return 0;
    }
}

int bh_file_read(struct bh_file *f, void *buf, size_t len, uint64_t offset, size_t *got)
{
    struct bh_error err;
    int rc = bh_file_read_why(f, buf, len, offset, got, &err);
    if (rc)
        bh_log(BH_LOG_ERROR, "%s", err.text);
    return rc;
}

/* Before a write or a truncation, which have no place for a sentence. */
static int fetch_first(struct bh_store *s, uint64_t offset, uint64_t len)
{
    struct bh_error err;
    int rc = bh_store_fetch(s, offset, len, &err);
    if (rc)
        bh_log(BH_LOG_ERROR, "%s", err.text);
    return rc;
}

int bh_file_read_at_once(struct bh_file *f, void *buf, size_t len, uint64_t offset, bool memory,
                         size_t *got)
{
    struct bh_store *s = f->store;
    uint_fast64_t swaps = atomic_load(&s->swaps);
    struct iovec iov = {buf, len};
    if (f->kind == BH_FILE_DB)
        evict_note(s, offset, len);
    if (swaps & 1 || bh_file_is_absent(f, offset, len))
        return EAGAIN;
    ssize_t n = preadv2(f->disk.fd, &iov, 1, (off_t)offset, memory ? 0 : RWF_NOWAIT);
    if (n < 0 || ((size_t)n < len && offset + (uint64_t)n < bh_file_size(f)) ||
        (f->kind == BH_FILE_DB && atomic_load(&s->swaps) != swaps))
        return EAGAIN;
    *got = (size_t)n;
    return 0;
}

uint64_t bh_file_size(struct bh_file *f)
{
    struct stat st;
    return bh_file_stat(f, &st) == 0 ? (uint64_t)st.st_size : 0;
}

int bh_file_stat(struct bh_file *f, struct stat *st)
{
    return fstat(f->disk.fd, st) == 0 ? 0 : errno;
}

int db_write_locked(struct bh_store *s, const void *buf, size_t len, uint64_t offset)
{
    uint64_t first = offset / BH_SUBBLOCK, last = (offset + len - 1) / BH_SUBBLOCK;
    if (s->frozen)
        freeze_before_write(s, s->db, offset, len);
    int rc = bh_map_set(&s->map, first, last - first + 1, BH_BLOCK_DIRTY);
    cover_drop(s, first, last - first + 1);
    return rc ? rc : bh_dfile_write(&s->db->disk, buf, len, offset);
}

int db_truncate_locked(struct bh_store *s, uint64_t size)
{
    uint64_t old = bh_file_size(s->db);
    if (s->frozen && size < old)
        freeze_before_truncate(s, s->db, size);
    int rc = bh_dfile_truncate(&s->db->disk, size);
    if (rc || size >= old)
        return rc;
    uint64_t keep = (size + BH_SUBBLOCK - 1) / BH_SUBBLOCK;
    uint64_t had = (old + BH_SUBBLOCK - 1) / BH_SUBBLOCK;
    cover_drop(s, keep, had - keep);
    rc = bh_map_set(&s->map, keep, had - keep, BH_BLOCK_ZERO);
    /* Being shorter is a change, too: the block that was cut shows it, or the header's where none
     * was. */
    uint64_t shown = size % BH_SUBBLOCK ? size / BH_SUBBLOCK : 0;
    if (bh_map_get(&s->map, shown) == BH_BLOCK_ABSENT) /* an undo after nothing but growth */
        shown = 0;
    if (rc == 0 && size > 0 && s->frozen)
        freeze_before_write(s, s->db, shown * BH_SUBBLOCK,
                            1); /* or the end of this flush would make it clean */
    if (rc == 0 && size > 0)
        rc = bh_map_set(&s->map, shown, 1, BH_BLOCK_DIRTY);
    cover_drop(s, shown, 1);
    return rc;
}

/* A client that writes to the database without a journal beside it has nothing to roll back from
 * when it dies. Where there are frames in -wal, it writes what is in them. */
bool store_needs_undo(const struct bh_store *s, enum bh_door door)
{
    return door == BH_DOOR_CLIENT && !(s->journal && s->journal->has_magic) && s->wal_size == 0;
}

static int db_write(struct bh_store *s, enum bh_door door, const void *buf, size_t len,
                    uint64_t offset)
{
    evict_note(s, offset, len);
    for (;;) { /* what was fetched may be evicted before the mutex is taken */
        pthread_mutex_lock(&s->mutex);
        bool absent = write_needs_fetch(s, door, offset, len);
        int rc = 0;
        if (!absent && store_needs_undo(s, door))
            rc = undo_before_write(s, offset, len);
        if (!absent && rc == 0)
            rc = db_write_locked(s, buf, len, offset);
        pthread_mutex_unlock(&s->mutex);
        if (absent)
            rc = fetch_first(s, offset, len);
        if (rc || !absent)
            return rc;
    }
}

static int db_truncate(struct bh_store *s, enum bh_door door, uint64_t size)
{
    for (;;) { /* as in db_write */
        pthread_mutex_lock(&s->mutex);
        uint64_t fetch = truncation_fetch(s, door, size);
        int rc = 0;
        if (fetch == 0 && store_needs_undo(s, door))
            rc = undo_before_truncate(s, size);
        if (fetch == 0 && rc == 0)
            rc = db_truncate_locked(s, size);
        pthread_mutex_unlock(&s->mutex);
        if (fetch > 0)
            rc = fetch_first(s, size, fetch);
        if (rc || fetch == 0)
            return rc;
    }
}

static int wal_write(struct bh_file *f, const void *buf, size_t len, uint64_t offset)
{
    struct bh_store *s = f->store;
    BH_LOCK_SCOPE(&s->mutex);
    if (s->frozen)
        freeze_before_write(s, f, offset, len);
    if (f == s->wal) {
        s->wal_changes++;
        if (offset + len > s->wal_size)
            s->wal_size = offset + len;
    }
    return bh_dfile_write(&f->disk, buf, len, offset);
}

/* What is cut off was put into the database's file before. */
static int wal_truncate(struct bh_file *f, uint64_t size)
{
    struct bh_store *s = f->store;
    BH_LOCK_SCOPE(&s->mutex);
    if (s->frozen)
        freeze_before_truncate(s, f, size);
    int rc = bh_dfile_truncate(&f->disk, size);
    if (rc == 0 && f == s->wal) {
        s->wal_size = size;
        cover_clear(s); /* what its frames lay over shows now */
        if (size == 0)
            s->wal_flushed = s->wal_changes;
    }
    return rc;
}

int bh_file_write(struct bh_file *f, enum bh_door door, const void *buf, size_t len,
                  uint64_t offset)
{
    if (len == 0)
        return 0;
    if (offset + len < offset || offset + len > INT64_MAX)
        return EFBIG;
    if (f->kind == BH_FILE_DB)
        return db_write(f->store, door, buf, len, offset);
    if (f->kind == BH_FILE_WAL)
        return wal_write(f, buf, len, offset);
    int rc = bh_dfile_write(&f->disk, buf, len, offset);
    if (f->kind == BH_FILE_JOURNAL && offset < STORE_JOURNAL_MAGIC)
        store_note_magic(f);
    return rc;
}

int bh_file_truncate(struct bh_file *f, enum bh_door door, uint64_t size)
{
    if (size > INT64_MAX)
        return EFBIG;
    if (f->kind == BH_FILE_WAL)
        return wal_truncate(f, size);
    if (f->kind != BH_FILE_DB) {
        int rc = bh_dfile_truncate(&f->disk, size);
        if (f->kind == BH_FILE_JOURNAL)
            store_note_magic(f);
        return rc;
    }
    return db_truncate(f->store, door, size);
}

int store_sync_map(struct bh_store *s)
{
    pthread_mutex_lock(&s->mutex);
    uint64_t changes = s->map.changes;
    bool needed = bh_map_needs_sync(&s->map), stale = s->map.stale;
    struct bh_dfile file = s->map.file;
    pthread_mutex_unlock(&s->mutex);
    if (stale)
        return EIO;
    if (!needed)
        return 0;
    int rc = bh_dfile_sync(&file);
    if (rc == 0) {
        BH_LOCK_SCOPE(&s->mutex);
        if (s->map.synced < changes)
            s->map.synced = changes;
    }
    return rc;
}

static int sync_db(struct bh_file *f)
{
    struct bh_store *s = f->store;
    pthread_rwlock_rdlock(&s->generation_lock);
    int rc = store_sync_map(s);
    if (rc == 0)
        rc = bh_dfile_sync(&f->disk);
    pthread_rwlock_unlock(&s->generation_lock);
    return rc;
}

int bh_file_sync(struct bh_file *f)
{
    int rc = f->kind == BH_FILE_DB    ? sync_db(f)
             : f->kind == BH_FILE_SHM ? 0
                                      : bh_dfile_sync(&f->disk);
    if (rc == 0)
        f->synced = true;
    return rc;
}

int bh_store_sync(struct bh_store *s)
{
    struct bh_file *wal;
    int rc = bh_file_sync(s->db);
    if (rc || bh_store_lookup(s, BH_WAL_NAME, &wal) != 0)
        return rc;
    rc = bh_file_sync(wal);
    bh_file_unref(wal);
    return rc ? rc : bh_store_sync_names(s);
}

int bh_store_sync_names(struct bh_store *s)
{
    return bh_disk_sync_names(s->disk);
}

uint64_t bh_store_dirty_bytes(struct bh_store *s)
{
    BH_LOCK_SCOPE(&s->mutex);
    return (s->map.dirty - s->cover.count) * BH_SUBBLOCK +
           (s->wal_changes != s->wal_flushed ? s->wal_size : 0);
}

bool bh_store_is_dirty(struct bh_store *s)
{
    return bh_store_dirty_bytes(s) > 0;
}

/* As SQLite decides it: a -wal that is not empty counts more than the header's "read version". */
bool is_wal_locked(struct bh_store *s)
{
    unsigned char mode = 0;
    if ((s->journal && s->journal->has_magic) || s->undo.end > 0)
        return false;
    if (s->wal_size > 0)
        return true;
    return bh_pread_full(s->db->disk.fd, &mode, 1, 19, NULL) == 0 && mode == 2;
}

bool bh_store_is_wal(struct bh_store *s)
{
    BH_LOCK_SCOPE(&s->mutex);
    return is_wal_locked(s);
}

uint64_t bh_store_wal_size(struct bh_store *s)
{
    BH_LOCK_SCOPE(&s->mutex);
    return s->wal_size;
}

int bh_store_mark_all(struct bh_store *s, enum bh_block_state state)
{
    BH_LOCK_SCOPE(&s->mutex);
    uint64_t blocks = (bh_file_size(s->db) + BH_SUBBLOCK - 1) / BH_SUBBLOCK;
    if (s->map.absent > 0) /* the file has holes there */
        return EBUSY;
    cover_clear(s);
    return bh_map_set(&s->map, 0, blocks, state);
}

int bh_store_make_clean(struct bh_store *s)
{
    BH_LOCK_SCOPE(&s->mutex);
    cover_clear(s);
    for (uint64_t b = 0; b < s->map.used && s->map.dirty > 0; b++) {
        int rc = bh_map_get(&s->map, b) == BH_BLOCK_DIRTY
                     ? bh_map_set(&s->map, b, 1, BH_BLOCK_CLEAN)
                     : 0;
        if (rc)
            return rc;
    }
    s->wal_flushed = s->wal_changes;
    return 0;
}

void bh_store_set_title(struct bh_store *s, const char *title)
{
    s->title = title;
}

struct bh_locks *bh_store_locks(struct bh_store *s)
{
    return s->locks;
}

struct bh_disk *bh_store_disk(struct bh_store *s)
{
    return s->disk;
}

struct bh_file *bh_store_db(struct bh_store *s)
{
    return s->db;
}

/* --- opening --- */

int bh_store_make_generation(struct bh_disk *disk, uint64_t generation, struct bh_error *err)
{
    char names[2][32];
    store_generation_names(generation, names[0], names[1]);
    for (int i = 0; i < 2; i++) {
        struct bh_dfile f;
        int rc = bh_disk_open_file(disk, names[i], O_RDWR | O_CREAT | O_TRUNC, 0644, &f);
        if (rc == 0) {
            rc = bh_dfile_sync(&f);
            bh_dfile_close(&f);
        }
        if (rc)
            return bh_fail(err, rc, "%s/%s cannot be made: %s", bh_disk_path(disk), names[i],
                           strerror(rc));
    }
    int rc = bh_disk_sync_names(disk);
    return rc ? bh_fail(err, rc, "%s cannot be synced: %s", bh_disk_path(disk), strerror(rc)) : 0;
}

int store_open_generation(struct bh_store *s, uint64_t generation, struct bh_dfile *db,
                          struct bh_map *map, struct bh_error *err)
{
    char names[2][32];
    store_generation_names(generation, names[0], names[1]);
    int rc = bh_disk_open_file(s->disk, names[0], O_RDWR, 0, db);
    if (rc)
        return bh_fail(err, rc, "the database file %s/%s cannot be opened: %s",
                       bh_disk_path(s->disk), names[0], strerror(rc));
    rc = bh_map_open(map, s->disk, names[1], false, err);
    struct stat st;
    if (rc == 0 && fstat(db->fd, &st) != 0)
        rc = bh_fail(err, errno, "%s/%s cannot be examined: %s", bh_disk_path(s->disk), names[0],
                     strerror(errno));
    if (rc == 0) { /* a crash between a truncation and its note */
        uint64_t end = ((uint64_t)st.st_size + BH_SUBBLOCK - 1) / BH_SUBBLOCK;
        if (map->used > end && (rc = bh_map_set(map, end, map->used - end, BH_BLOCK_ZERO)) != 0)
            bh_fail(err, rc, "%s/%s cannot be written: %s", bh_disk_path(s->disk), names[1],
                    strerror(rc));
    }
    if (rc)
        bh_dfile_close(db);
    return rc;
}

static int open_side(struct bh_store *s, const char *name, struct bh_error *err)
{
    struct bh_file *f = store_file_new(s, name, bh_file_kind_of(name));
    if (!f)
        return bh_fail(err, ENOMEM, "out of memory while opening %s", name);
    int rc = bh_disk_open_file(s->disk, name, O_RDWR, 0, &f->disk);
    if (rc) {
        bh_file_unref(f);
        return bh_fail(err, rc, "%s/%s cannot be opened: %s", bh_disk_path(s->disk), name,
                       strerror(rc));
    }
    if (f->kind == BH_FILE_JOURNAL)
        store_note_magic(f);
    store_link_side(s, f);
    return 0;
}

/* Other generations, and what an interrupted download, import or state change left. */
static bool is_leftover(const char *name, uint64_t generation)
{
    char db[32], map[32];
    size_t len = strlen(name);
    store_generation_names(generation, db, map);
    if ((!strncmp(name, "db.", 3) || !strncmp(name, "map.", 4)) && strcmp(name, db) &&
        strcmp(name, map))
        return true;
    return !strncmp(name, "incoming", 8) || (len > 4 && !strcmp(name + len - 4, ".new"));
}

static int scan(struct bh_store *s, struct bh_error *err)
{
    int fd = openat(bh_disk_dirfd(s->disk), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir)
        return bh_fail(err, errno, "the state directory %s cannot be read: %s",
                       bh_disk_path(s->disk), strerror(errno));
    int rc = 0;
    for (struct dirent *e; rc == 0 && (e = readdir(dir));) {
        enum bh_file_kind kind = bh_file_kind_of(e->d_name);
        if (kind == BH_FILE_JOURNAL || kind == BH_FILE_SUPER || kind == BH_FILE_WAL)
            rc = open_side(s, e->d_name, err);
        else if (is_leftover(e->d_name, s->generation)) {
            rc = bh_disk_unlink(s->disk, e->d_name);
            if (rc)
                bh_fail(err, rc, "the leftover %s/%s cannot be removed: %s", bh_disk_path(s->disk),
                        e->d_name, strerror(rc));
        }
    }
    closedir(dir);
    return rc;
}

int bh_store_open(struct bh_store **out, struct bh_disk *disk, uint64_t generation,
                  struct bh_error *err)
{
    struct bh_store *s = calloc(1, sizeof *s);
    if (!s)
        return bh_fail(err, ENOMEM, "out of memory while opening the state directory");
    pthread_mutex_init(&s->mutex, NULL);
    pthread_mutex_init(&s->shm_wire, NULL);
    pthread_mutex_init(&s->fetches.mutex, NULL);
    pthread_cond_init(&s->fetches.done, NULL);
    pthread_cond_init(&s->stepped, NULL);
    pthread_rwlock_init(&s->generation_lock, NULL);
    evict_init(s);
    s->disk = disk;
    s->title = BH_DB_NAME;
    s->generation = generation;
    s->undo.file.fd = -1;
    s->map.file.fd = -1;
    s->db = store_file_new(s, BH_DB_NAME, BH_FILE_DB);
    s->locks = s->db ? bh_locks_new(&s->db->locks) : NULL;
    int rc = s->locks ? 0 : bh_fail(err, ENOMEM, "out of memory while opening the state directory");
    if (rc == 0)
        rc = store_open_generation(s, generation, &s->db->disk, &s->map, err);
    if (rc == 0)
        rc = scan(s, err);
    if (rc == 0)
        rc = undo_open_existing(s, err);
    if (rc) {
        bh_store_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

void bh_store_close(struct bh_store *s)
{
    if (!s)
        return;
    evict_close(s);
    assert(!s->frozen);
    undo_close(s);
    cover_clear(s);
    bh_map_close(&s->map);
    while (s->side) {
        struct bh_file *f = s->side;
        s->side = f->next;
        bh_file_unref(f);
    }
    bh_file_unref(s->db);
    bh_locks_free(s->locks);
    pthread_rwlock_destroy(&s->generation_lock);
    bh_origin_unref(s->origin);
    pthread_cond_destroy(&s->stepped);
    pthread_cond_destroy(&s->fetches.done);
    pthread_mutex_destroy(&s->fetches.mutex);
    pthread_mutex_destroy(&s->shm_wire);
    pthread_mutex_destroy(&s->mutex);
    free(s);
}
