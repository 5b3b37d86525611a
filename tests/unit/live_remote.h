/* Clients' pages of the wal-index, for tests: an array stands for what the kernel holds of the
 * file, the hooks copy from it and to it and remember what they were asked for. */
#ifndef LIVE_REMOTE_H
#define LIVE_REMOTE_H

#include "live_fixture.h"

#include "live/shm.h"
#include "util/cleanup.h"

enum { REMOTE_REGIONS = 8, WORDS = BH_SHM_REGION / 4 };

static struct remote {
    _Atomic uint32_t pages[REMOTE_REGIONS * WORDS];
    uint32_t pulled[REMOTE_REGIONS * WORDS];
    atomic_uint regions; /* of the clients' file */
    bool valid;          /* the pages were read from the file, and not forgotten since */
    ino_t ino;           /* of that file */
    atomic_int mapped;   /* clients that have them mapped */
    struct bh_shm_word pushed[4 * WORDS];
    size_t pushed_count;
    atomic_uint pulls, pushes, releases, told;
    int pull_rc, push_rc; /* of the next calls */
    int good_pushes;      /* if not 0: the next so many but one go well, the others fail with EIO */
} remote;
static pthread_mutex_t remote_mutex = PTHREAD_MUTEX_INITIALIZER; /* valid */

static inline void remote_reset(void)
{
    memset((void *)&remote, 0, sizeof remote);
}

/* What the kernel does when somebody needs pages that it has not. */
static inline int remote_need(struct bh_file *shm)
{
    uint32_t words[WORDS];
    struct stat st;
    BH_LOCK_SCOPE(&remote_mutex);
    int rc = bh_file_stat(shm, &st);
    if (rc || (remote.valid && remote.ino == st.st_ino))
        return rc;
    rc = bh_shm_before_read(shm->shm);
    unsigned regions = (unsigned)(bh_file_size(shm) / BH_SHM_REGION);
    for (unsigned i = 0; rc == 0 && i < regions && i < REMOTE_REGIONS; i++) {
        rc = bh_pread_full(shm->disk.fd, words, sizeof words, (uint64_t)i * BH_SHM_REGION, NULL);
        for (size_t w = 0; rc == 0 && w < WORDS; w++)
            remote.pages[i * WORDS + w] = words[w];
    }
    remote.regions = regions;
    remote.valid = rc == 0;
    remote.ino = st.st_ino;
    return rc;
}

/* A client maps the file. */
static inline int remote_map(struct bh_file *shm)
{
    remote.mapped++;
    int rc = remote_need(shm);
    remote.mapped -= rc != 0;
    return rc;
}

/* The file has at least so many regions now, of zeros. */
static inline int remote_extend(struct bh_file *shm, unsigned regions)
{
    BH_LOCK_SCOPE(&remote_mutex);
    if (remote.regions >= regions)
        return 0;
    if (regions > REMOTE_REGIONS)
        return ENOSPC;
    for (size_t w = (size_t)remote.regions * WORDS; w < (size_t)regions * WORDS; w++)
        remote.pages[w] = 0;
    remote.regions = regions;
    return bh_file_truncate(shm, BH_DOOR_CLIENT, (uint64_t)regions * BH_SHM_REGION);
}

static inline int remote_pull(void *arg, struct bh_file *f, unsigned regions,
                              const uint32_t **words)
{
    (void)arg;
    remote.pulls++;
    int rc = remote.pull_rc ? remote.pull_rc : remote_need(f);
    if (rc == 0)
        rc = remote_extend(f, regions);
    for (size_t i = 0; rc == 0 && i < (size_t)regions * WORDS; i++)
        remote.pulled[i] = remote.pages[i];
    *words = remote.pulled;
    return rc;
}

static inline int remote_push(void *arg, struct bh_file *f, unsigned regions,
                              const struct bh_shm_word *words, size_t count)
{
    (void)arg;
    remote.pushes++;
    int rc = remote.push_rc ? remote.push_rc : remote_need(f);
    if (rc == 0)
        rc = remote_extend(f, regions);
    if (rc)
        return rc;
    if (remote.good_pushes == 1)
        return EIO;
    remote.good_pushes -= remote.good_pushes > 1;
    for (size_t i = 0; i < count; i++) {
        if (words[i].at >= remote.regions * WORDS)
            return EINVAL;
        remote.pages[words[i].at] = words[i].value;
        if (remote.pushed_count < sizeof remote.pushed / sizeof *remote.pushed)
            remote.pushed[remote.pushed_count++] = words[i];
    }
    return 0;
}

/* What is in the pages gets into the file. */
static inline void remote_release(void *arg, struct bh_file *of)
{
    uint32_t words[WORDS];
    struct bh_store *s = *(struct bh_store **)arg;
    struct bh_file *f;
    BH_LOCK_SCOPE(&remote_mutex);
    remote.releases++;
    if (!remote.valid || bh_store_lookup(s, BH_SHM_NAME, &f))
        return;
    for (unsigned i = 0; i < remote.regions; i++) {
        for (size_t w = 0; w < WORDS; w++)
            words[w] = remote.pages[i * WORDS + w];
        if (bh_pwrite_full(f->disk.fd, words, sizeof words, (uint64_t)i * BH_SHM_REGION))
            abort();
    }
    bh_file_unref(f);
}

/* Pages that are mapped would be written back and read again. */
static inline void remote_data_changed(void *arg, struct bh_file *f, uint64_t offset, uint64_t len)
{
    (void)arg, (void)offset, (void)len;
    if (f->kind != BH_FILE_SHM)
        return;
    remote.told++;
    BH_LOCK_SCOPE(&remote_mutex);
    remote.valid &= remote.mapped > 0;
}

/* store: where the pointer to it will be. */
static inline struct bh_live_hooks remote_hooks(struct bh_store **store_at)
{
    return (struct bh_live_hooks){.arg = store_at,
                                  .data_changed = remote_data_changed,
                                  .index_pull = remote_pull,
                                  .index_push = remote_push,
                                  .index_release = remote_release};
}

static inline int remote_dms(struct bh_file *shm, uint64_t id, enum bh_lock_type type)
{
    struct bh_lock_request r = {.set = &shm->locks,
                                .owner = {.id = id},
                                .pid = getpid(),
                                .type = type,
                                .start = BH_WAL_DMS,
                                .end = BH_WAL_DMS};
    return bh_locks_request(bh_store_locks(shm->store), &r);
}

#endif
