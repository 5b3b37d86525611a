/* For tests of store/names_view: names.db as a snapshot has it, read by a function that can refuse,
 * and hang. */
#ifndef NAMES_VIEW_FIXTURE_H
#define NAMES_VIEW_FIXTURE_H

#include "names_fixture.h"

#include <stdatomic.h>

#include "store/names_view.h"

#define FILE_ (S_IFREG | 0640)
#define DIR_  (S_IFDIR | 0750)
#define LINK_ (S_IFLNK | 0777)
#define WHAT  "snapshot 20260102T030405.678Z-0123abcd"

static struct bh_names_view *view;
static int db = -1;
static atomic_int refuse; /* an errno that reads end with */
static atomic_bool hang;  /* reads wait for this to end, or for the limits of their call */
static atomic_uint reads, hanging;

static inline int read_file(void *arg, uint64_t offset, void *buf, size_t len,
                            const struct bh_call *call, struct bh_error *err)
{
    int rc = atomic_load(&refuse);
    (void)arg;
    atomic_fetch_add(&reads, 1);
    if (rc)
        return bh_fail(err, rc, "no bytes today");
    atomic_fetch_add(&hanging, 1);
    while (rc == 0 && atomic_load(&hang)) {
        usleep(1000);
        rc = bh_call_check(call, "reading", err);
    }
    atomic_fetch_sub(&hanging, 1);
    if (rc)
        return rc;
    rc = bh_pread_full(db, buf, len, offset, NULL);
    return rc ? bh_fail(err, rc, "the file cannot be read") : 0;
}

static inline void open_view(void)
{
    struct stat st;
    struct bh_names_view_options o = {
        .read = read_file, .what = WHAT, .root = {.mode = S_IFDIR | 0711, .uid = 3, .gid = 4}};
    db = open(at("names.db"), O_RDONLY | O_CLOEXEC);
    assert_true(db >= 0 && fstat(db, &st) == 0);
    o.size = (uint64_t)st.st_size;
    must(bh_names_view_new(&view, &o, ERR));
}

static inline void close_view(void)
{
    bh_names_view_free(view);
    view = NULL;
    close(db);
    db = -1;
}

static inline int setup(void **state)
{
    int rc = names_setup(state);
    atomic_store(&refuse, 0);
    atomic_store(&hang, false);
    if (rc == 0)
        open_names();
    return rc;
}

static inline int teardown(void **state)
{
    if (view)
        close_view();
    return names_teardown(state);
}

/* names.db as a snapshot has it. */
static inline void freeze(void)
{
    must(bh_names_checkpoint(names, ERR));
    open_view();
}

static inline struct bh_inode seen(uint64_t ino)
{
    struct bh_inode i = {0};
    must(bh_names_view_get(view, ino, &i, NULL, ERR));
    return i;
}

static inline int look(uint64_t dir, const char *name, struct bh_inode *out)
{
    return bh_names_view_lookup(view, dir, name, out, NULL, ERR);
}

static inline void give_content(uint64_t ino, uint64_t size, uint64_t data, uint8_t hash,
                                uint64_t hash_size)
{
    struct bh_inode to = {.content = {.size = size, .data = data, .hash_size = hash_size}};
    memset(to.content.hash, hash, hash ? BH_SHA256_LEN : 0);
    must(set(ino, BH_SET_CONTENT, &to, NULL));
}

static inline void are_same(const struct bh_inode *a, const struct bh_inode *b)
{
    assert_int_equal(a->ino, b->ino);
    assert_int_equal(a->mode, b->mode);
    assert_int_equal(a->nlink, b->nlink);
    assert_int_equal(a->uid, b->uid);
    assert_int_equal(a->gid, b->gid);
    assert_int_equal(a->rdev, b->rdev);
    assert_int_equal(a->atime, b->atime);
    assert_int_equal(a->mtime, b->mtime);
    assert_int_equal(a->ctime, b->ctime);
    assert_int_equal(a->parent, b->parent);
    assert_int_equal(a->entries, b->entries);
    assert_int_equal(a->content.size, b->content.size);
    assert_int_equal(a->content.hash_size, b->content.hash_size);
    assert_int_equal(a->content.data, b->content.data);
    assert_memory_equal(a->content.hash, b->content.hash, BH_SHA256_LEN);
}

#endif
