/* The undo log for clients with journal_mode MEMORY or OFF: the old content of what they overwrite,
 * from their first write under EXCLUSIVE to their next fsync or unlock. If they (or the daemon) die
 * in between, it is put back.
 *
 * A file of records: head (magic, block number, length, checksum), then the old bytes. The first
 * one has the database's old size as its number and no bytes. A record is in the page cache before
 * its block is overwritten: enough for a kill -9, not for a power cut, which SQLite does not
 * promise in these modes either. */
#include "live/store_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/io.h"

#define UNDO_NAME  "undo"
#define UNDO_MAGIC 0x6f646e75u

struct record {
    uint32_t magic;
    uint32_t len;
    uint64_t block; /* of the first record: the old size in bytes */
    uint64_t sum;
};

static uint64_t checksum(const struct record *r, const void *data)
{
    uint64_t h = 14695981039346656037u ^ r->block ^ ((uint64_t)r->len << 40); /* FNV-1a */
    const unsigned char *p = data;
    for (uint32_t i = 0; i < r->len; i++)
        h = (h ^ p[i]) * 1099511628211u;
    return h;
}

static int append(struct undo *u, uint64_t block, const void *data, uint32_t len)
{
    unsigned char buf[sizeof(struct record) + BH_SUBBLOCK];
    struct record r = {.magic = UNDO_MAGIC, .len = len, .block = block};
    r.sum = checksum(&r, data);
    memcpy(buf, &r, sizeof r);
    if (len)
        memcpy(buf + sizeof r, data, len);
    int rc = bh_dfile_write(&u->file, buf, sizeof r + len, u->end);
    if (rc == 0)
        u->end += sizeof r + len;
    return rc;
}

static int begin(struct bh_store *s)
{
    struct undo *u = &s->undo;
    if (u->end > 0)
        return 0;
    if (u->file.fd < 0) {
        int rc = bh_disk_open_file(s->disk, UNDO_NAME, O_RDWR | O_CREAT, 0600, &u->file);
        if (rc)
            return rc;
    }
    u->old_size = bh_file_size(s->db);
    uint64_t blocks = u->old_size / BH_SUBBLOCK + 1;
    free(u->saved);
    u->saved = calloc(blocks / 8 + 1, 1);
    u->saved_blocks = u->saved ? blocks : 0;
    if (!u->saved)
        return ENOMEM;
    return append(u, u->old_size, NULL, 0);
}

static int save(struct bh_store *s, uint64_t first, uint64_t end)
{
    struct undo *u = &s->undo;
    for (uint64_t b = first; b < end && b < u->saved_blocks; b++) {
        unsigned char buf[BH_SUBBLOCK];
        size_t got;
        if (u->saved[b / 8] >> (b % 8) & 1)
            continue;
        int rc = bh_pread_full(s->db->disk.fd, buf, sizeof buf, b * BH_SUBBLOCK, &got);
        if (rc == 0 && got > 0)
            rc = append(u, b, buf, (uint32_t)got);
        if (rc)
            return rc;
        u->saved[b / 8] |= (uint8_t)(1u << b % 8);
    }
    return 0;
}

int undo_before_write(struct bh_store *s, uint64_t offset, uint64_t len)
{
    int rc = begin(s);
    return rc ? rc : save(s, offset / BH_SUBBLOCK, (offset + len - 1) / BH_SUBBLOCK + 1);
}

int undo_before_truncate(struct bh_store *s, uint64_t size)
{
    int rc = begin(s);
    return rc ? rc : save(s, size / BH_SUBBLOCK, UINT64_MAX);
}

/* A log that stays would undo a commit after a crash, so every way to empty it is tried. None needs
 * space. */
static int forget(struct bh_store *s)
{
    struct undo *u = &s->undo;
    static const struct record nothing;
    if (u->end == 0)
        return 0;
    int rc = bh_dfile_truncate(&u->file, 0);
    if (rc && bh_dfile_write(&u->file, &nothing, sizeof nothing, 0) == 0)
        rc = 0;
    if (rc && bh_disk_unlink(s->disk, UNDO_NAME) == 0) {
        bh_dfile_close(&u->file);
        rc = 0;
    }
    if (rc)
        return rc;
    u->end = 0;
    free(u->saved);
    u->saved = NULL;
    u->saved_blocks = 0;
    return 0;
}

bool bh_store_undo_pending(struct bh_store *s)
{
    BH_LOCK_SCOPE(&s->mutex);
    return s->undo.end > 0;
}

int bh_store_undo_forget(struct bh_store *s)
{
    BH_LOCK_SCOPE(&s->mutex);
    return forget(s);
}

/* The next whole record, its bytes in buf. False at the end or at a torn one, whose block was never
 * overwritten. */
static bool next_record(struct undo *u, uint64_t *at, struct record *r,
                        unsigned char buf[BH_SUBBLOCK])
{
    size_t got;
    if (bh_pread_full(u->file.fd, r, sizeof *r, *at, &got) || got < sizeof *r ||
        r->magic != UNDO_MAGIC || r->len > BH_SUBBLOCK)
        return false;
    if (bh_pread_full(u->file.fd, buf, r->len, *at + sizeof *r, &got) || got < r->len ||
        checksum(r, buf) != r->sum)
        return false;
    *at += sizeof *r + r->len;
    return true;
}

/* What was put back, as one range: the invalidation skips what the kernel does not hold anyway. */
struct extent {
    uint64_t begin, end;
};

static void extend(struct extent *e, uint64_t begin, uint64_t end)
{
    bool empty = e->begin == e->end;
    e->begin = empty || begin < e->begin ? begin : e->begin;
    e->end = empty || end > e->end ? end : e->end;
}

static int play(struct bh_store *s, struct extent *changed)
{
    unsigned char buf[BH_SUBBLOCK];
    struct record r;
    uint64_t at = 0;
    struct undo *u = &s->undo;
    if (u->end == 0)
        return 0;
    if (!next_record(u, &at, &r, buf)) /* torn before anything was overwritten */
        return forget(s);
    uint64_t old_size = r.block;
    int rc = 0;
    while (rc == 0 && next_record(u, &at, &r, buf)) {
        rc = db_write_locked(s, buf, r.len, r.block * BH_SUBBLOCK);
        extend(changed, r.block * BH_SUBBLOCK, r.block * BH_SUBBLOCK + r.len);
    }
    uint64_t size = bh_file_size(s->db);
    if (rc == 0 && size != old_size) {
        rc = db_truncate_locked(s, old_size);
        if (size > old_size)
            extend(changed, old_size, size);
    }
    if (rc == 0)
        rc = bh_dfile_sync(&s->db->disk);
    return rc ? rc : forget(s);
}

int bh_store_undo_play(struct bh_store *s,
                       void (*changed)(void *arg, uint64_t offset, uint64_t len), void *arg)
{
    struct extent e = {0};
    pthread_mutex_lock(&s->mutex);
    int rc = play(s, &e);
    pthread_mutex_unlock(&s->mutex);
    if (changed &&
        e.end > e.begin) /* with EXCLUSIVE still held, but no mutex that a handler wants */
        changed(arg, e.begin, e.end - e.begin);
    return rc;
}

int undo_open_existing(struct bh_store *s, struct bh_error *err)
{
    struct stat st;
    int rc = bh_disk_open_file(s->disk, UNDO_NAME, O_RDWR, 0, &s->undo.file);
    if (rc == ENOENT)
        return 0;
    if (rc == 0 && fstat(s->undo.file.fd, &st) != 0)
        rc = errno;
    if (rc)
        return bh_fail(err, rc, "%s/" UNDO_NAME " cannot be opened: %s", bh_disk_path(s->disk),
                       strerror(rc));
    s->undo.end = (uint64_t)st.st_size;
    return 0;
}

void undo_close(struct bh_store *s)
{
    bh_dfile_close(&s->undo.file);
    free(s->undo.saved);
}
