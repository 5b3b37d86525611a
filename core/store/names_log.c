/* The log: files names.log.N, of which the last is written to and the others wait for their
 * checkpoint. Numbers are little-endian.
 *
 *   header  "bhnames" and 1, number 8, state 8, 4 zero bytes, CRC-32C of all that 4
 *   frame   "bhnf", CRC-32C of what follows 4, length of the records 4, number 8, synced 8, records
 *           (names_record.c)
 *
 * A frame is one operation, whole or not at all. Frames are numbered from 1, without a gap over all
 * logs. state: what meta.state of the database must be for this log to begin where the database
 * ends; logs that follow have the states of later checkpoints. synced: frames up to that number
 * were on the disk when this one was written; so a frame that is missing or damaged, and not
 * covered by any later one's `synced`, was cut off by a loss of power, any other is damage. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/names_private.h"
#include "util/bytes.h"
#include "util/crc.h"
#include "util/log.h"

static const char header_magic[8] = "bhnames\1";
static const char frame_magic[4] = "bhnf";

static uint32_t crc32c(const uint8_t *p, size_t len)
{
    return (uint32_t)bh_crc_of(&bh_crc32c, p, len);
}

/* --- forms --- */

static void header_put(uint8_t out[LOG_HEADER], const struct log_header *h)
{
    memset(out, 0, LOG_HEADER);
    memcpy(out, header_magic, sizeof header_magic);
    bh_put_le(out + 8, h->number, 8);
    bh_put_le(out + 16, h->state, 8);
    bh_put_le(out + LOG_HEADER - 4, crc32c(out, LOG_HEADER - 4), 4);
}

bool log_header_get(const uint8_t *in, struct log_header *h)
{
    h->number = bh_get_le(in + 8, 8);
    h->state = bh_get_le(in + 16, 8);
    return memcmp(in, header_magic, sizeof header_magic) == 0 &&
           bh_get_le(in + LOG_HEADER - 4, 4) == crc32c(in, LOG_HEADER - 4);
}

void frame_begin(struct bytes *b)
{
    b->len = 0;
    if (bytes_room(b, FRAME_HEADER)) /* else what is added finds no room either */
        b->len = FRAME_HEADER;
}

bool frame_get(const uint8_t *at, size_t left, struct frame *f)
{
    if (left < FRAME_HEADER || memcmp(at, frame_magic, sizeof frame_magic) != 0)
        return false;
    f->len = (uint32_t)bh_get_le(at + 8, 4);
    f->seq = bh_get_le(at + 12, 8);
    f->synced = bh_get_le(at + 20, 8);
    return left - FRAME_HEADER >= f->len &&
           bh_get_le(at + 4, 4) == crc32c(at + 8, FRAME_HEADER - 8 + f->len);
}

/* --- files --- */

void log_name(uint64_t number, char name[32])
{
    snprintf(name, 32, "names.log.%llu", (unsigned long long)number);
}

static int log_fail(struct bh_names *n, uint64_t number, int code, const char *what,
                    struct bh_error *err)
{
    return bh_fail(err, code, "%s/names.log.%llu cannot be %s: %s", bh_disk_path(n->opt.disk),
                   (unsigned long long)number, what, strerror(code));
}

/* Space for what comes next, and for removals. Only a disk that is full is an answer. */
static int get_space(struct log *l, uint64_t len)
{
    if (fallocate(l->file.fd, FALLOC_FL_KEEP_SIZE, (off_t)l->end, (off_t)len) == 0) {
        l->space = l->end + len;
        return 0;
    }
    if (errno == ENOSPC || errno == EDQUOT)
        return errno;
    l->space = 0;
    return 0;
}

int log_make(struct bh_names *n, uint64_t number, uint64_t state, struct log **out,
             struct bh_error *err)
{
    uint8_t header[LOG_HEADER];
    char name[32];
    struct log *l = calloc(1, sizeof *l);
    if (!l)
        return bh_fail(err, ENOMEM, "out of memory while a log of names is made");
    log_name(number, name);
    header_put(header, &(struct log_header){.number = number, .state = state});
    int rc = bh_disk_open_file(n->opt.disk, name, O_RDWR | O_CREAT | O_TRUNC, 0600, &l->file);
    if (rc) {
        free(l);
        return log_fail(n, number, rc, "made", err);
    }
    rc = bh_dfile_write(&l->file, header, sizeof header, 0);
    l->end = l->synced_end = LOG_HEADER;
    if (rc == 0)
        rc = get_space(l, LOG_AHEAD);
    if (rc == ENOSPC)
        rc = get_space(l, LOG_SPARE);
    if (rc == 0)
        rc = bh_dfile_sync(&l->file);
    if (rc == 0)
        rc = bh_disk_sync_names(n->opt.disk);
    if (rc) {
        bh_dfile_close(&l->file);
        bh_disk_unlink(n->opt.disk, name);
        free(l);
        return log_fail(n, number, rc, "made", err);
    }
    l->number = number;
    *out = l;
    return 0;
}

int log_reserve(struct bh_names *n)
{
    struct log **p = realloc(n->logs, (n->log_count + 1) * sizeof(struct log *));
    if (!p)
        return ENOMEM;
    n->logs = p;
    return 0;
}

int log_append(struct bh_names *n, bool removal, struct bh_error *err)
{
    struct log *l = n->logs[n->log_count - 1];
    uint8_t *p = n->frame.data;
    if (n->frame.len - FRAME_HEADER > UINT32_MAX)
        return bh_fail(err, EFBIG, "a change of names is too large");
    memcpy(p, frame_magic, sizeof frame_magic);
    bh_put_le(p + 8, n->frame.len - FRAME_HEADER, 4);
    bh_put_le(p + 12, n->seq + 1, 8);
    bh_put_le(p + 20, n->synced, 8);
    bh_put_le(p + 4, crc32c(p + 8, n->frame.len - 8), 4);
    bool enough = l->space == 0 || l->end + n->frame.len + (removal ? 0 : LOG_SPARE) <= l->space;
    int rc = enough ? 0 : get_space(l, LOG_AHEAD);
    if (rc && !removal)
        return log_fail(n, l->number, rc, "written", err);
    rc = bh_dfile_write(&l->file, p, n->frame.len, l->end);
    if (rc) { /* a part of it may be there, and is no frame; space beyond the end goes with it */
        bh_dfile_truncate(&l->file, l->end);
        l->space = l->space ? l->end : 0;
        return log_fail(n, l->number, rc, "written", err);
    }
    l->end += n->frame.len;
    n->seq++;
    return 0;
}

static void close_log(struct log *l)
{
    bh_dfile_close(&l->file);
    free(l);
}

void log_drop(struct bh_names *n, size_t count)
{
    char name[32];
    for (; count > 0; count--) {
        pthread_mutex_lock(&n->mutex);
        while (n->syncing)
            pthread_cond_wait(&n->cond, &n->mutex);
        struct log *l = n->logs[0];
        n->log_count--;
        memmove(n->logs, n->logs + 1, n->log_count * sizeof(struct log *));
        pthread_mutex_unlock(&n->mutex);
        log_name(l->number, name);
        close_log(l);
        int rc = bh_disk_unlink(n->opt.disk, name);
        if (rc)
            bh_log(BH_LOG_WARNING, "%s/%s cannot be removed: %s; it is not needed any more",
                   bh_disk_path(n->opt.disk), name, strerror(rc));
    }
}

void log_close_all(struct bh_names *n)
{
    for (size_t i = 0; i < n->log_count; i++)
        close_log(n->logs[i]);
    free(n->logs);
    n->logs = NULL;
    n->log_count = 0;
}

uint64_t log_bytes(struct bh_names *n)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < n->log_count; i++)
        sum += n->logs[i]->end;
    return sum;
}

/* --- syncs --- */

/* All logs, oldest first: a frame on the disk means that those before it are. With the mutex, which
 * it lets go of; no log goes while n->syncing. */
static int sync_logs(struct bh_names *n, struct bh_error *err)
{
    int rc = 0;
    for (size_t i = 0; i < n->log_count && rc == 0; i++) {
        struct log *l = n->logs[i];
        uint64_t end = l->end;
        if (end == l->synced_end)
            continue;
        pthread_mutex_unlock(&n->mutex);
        rc = bh_dfile_sync(&l->file);
        pthread_mutex_lock(&n->mutex);
        if (rc == 0)
            l->synced_end = end;
        else
            log_fail(n, l->number, rc, "synced", err);
    }
    return rc;
}

int bh_names_sync(struct bh_names *n, struct bh_error *err)
{
    int rc = 0;
    pthread_mutex_lock(&n->mutex);
    uint64_t epoch = n->epoch, upto = n->seq;
    while (rc == 0 && n->epoch == epoch && n->synced < upto && !n->bad) {
        if (n->syncing) {
            pthread_cond_wait(&n->cond, &n->mutex);
            continue;
        }
        uint64_t seq = n->seq;
        n->syncing = true;
        rc = sync_logs(n, err);
        n->syncing = false;
        bool missing = n->synced < seq; /* a checkpoint may have been faster */
        if (rc && missing)
            n->bad = seq; /* the kernel may have given the pages up: a second sync says nothing */
        else if (missing)
            n->synced = seq;
        pthread_cond_broadcast(&n->cond);
    }
    bool durable = n->epoch != epoch || n->synced >= upto;
    pthread_mutex_unlock(&n->mutex);
    return durable ? 0 : checkpoint(n, err);
}
