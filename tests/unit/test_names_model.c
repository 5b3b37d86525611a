/* 120,000 random operations beside a model, with checkpoints, kills and starts between, once with
 * so little memory that everything comes back from the database all the time. */
#include "names_model.h"
#include "util/clock.h"

static unsigned done_count, refused_count;

static int some_node(bool directory)
{
    for (int tries = 0; tries < 40; tries++) {
        int k = (int)any(NODES);
        if (model.node[k].used && (!directory || is_dir(k)))
            return k;
    }
    return 0;
}

static uint64_t ino_of(int k)
{
    return model.node[k].i.ino;
}

/* After an operation: these nodes, with these times. */
static void changed(int k, bool mtime, int64_t since)
{
    struct bh_inode is;
    if (!model.node[k].used) {
        must_fail(get(ino_of(k), &is), ENOENT);
        return;
    }
    must(get(ino_of(k), &is));
    check_node(k, &is, mtime, true, since);
}

static bool refused(int expected, int rc)
{
    must_fail(rc, expected);
    refused_count += expected != 0;
    done_count += expected == 0;
    return expected != 0;
}

static void do_make(void)
{
    static const uint32_t modes[] = {S_IFREG | 0644, S_IFREG | 0600, S_IFDIR | 0755,
                                     S_IFDIR | 0700, S_IFLNK | 0777, S_IFIFO | 0600};
    int d = some_node(false), name = (int)any(NAMES), k = free_node();
    struct node *dir = &model.node[d];
    uint32_t mode = modes[any(6)];
    struct bh_inode out;
    int64_t since = bh_real_ns();
    if (k < 0)
        return;
    int expected = !is_dir(d)              ? ENOTDIR
                   : dir->i.nlink == 0     ? ENOENT
                   : dir->child[name] >= 0 ? EEXIST
                                           : 0;
    if (refused(expected, make(ino_of(d), name_of(name), mode, &out)))
        return;
    struct node *n = &model.node[k];
    clear_node(n);
    n->i = (struct bh_inode){.ino = out.ino,
                             .mode = mode,
                             .nlink = S_ISDIR(mode) ? 2 : 1,
                             .uid = 21,
                             .gid = 22,
                             .atime = out.atime};
    if (dir->i.mode & S_ISGID) {
        n->i.gid = dir->i.gid;
        n->i.mode |= S_ISDIR(mode) ? S_ISGID : 0;
    }
    if (S_ISLNK(mode))
        n->i.content.size = strlen("some/target");
    n->parent = S_ISDIR(mode) ? d : -1;
    dir->child[name] = k;
    dir->i.nlink += S_ISDIR(mode) != 0;
    check_node(k, &out, true, true, since);
    changed(d, true, since);
}

static void do_link(void)
{
    int k = some_node(false), d = some_node(true), name = (int)any(NAMES);
    struct node *dir = &model.node[d], *n = &model.node[k];
    int64_t since = bh_real_ns();
    int expected = dir->i.nlink == 0       ? ENOENT
                   : is_dir(k)             ? EPERM
                   : n->i.nlink == 0       ? ENOENT
                   : dir->child[name] >= 0 ? EEXIST
                                           : 0;
    if (refused(expected, link_to(ino_of(k), ino_of(d), name_of(name), NULL)))
        return;
    dir->child[name] = k;
    n->i.nlink++;
    changed(k, false, since);
    changed(d, true, since);
}

static void do_remove(void)
{
    int d = some_node(true), name = (int)any(NAMES), k = model.node[d].child[name];
    bool directory = any(2);
    int64_t since = bh_real_ns();
    int expected = k < 0                                ? ENOENT
                   : directory && !is_dir(k)            ? ENOTDIR
                   : !directory && is_dir(k)            ? EISDIR
                   : directory && count_children(k) > 0 ? ENOTEMPTY
                                                        : 0;
    unsigned gone = gone_count;
    if (refused(expected, directory ? rmdir_name(ino_of(d), name_of(name), NULL)
                                    : unlink_name(ino_of(d), name_of(name), NULL)))
        return;
    model.node[d].child[name] = -1;
    model.node[d].i.nlink -= directory;
    drop_link(k);
    assert_int_equal(gone_count, gone + !model.node[k].used);
    changed(k, false, since);
    changed(d, true, since);
}

static int rename_refused(int d, int from, int e, int to, unsigned flags)
{
    int a = model.node[d].child[from], b = model.node[e].child[to];
    if (model.node[d].i.nlink == 0 || model.node[e].i.nlink == 0 || a < 0)
        return ENOENT;
    if (b < 0 && flags == RENAME_EXCHANGE)
        return ENOENT;
    if (b >= 0 && flags == RENAME_NOREPLACE)
        return EEXIST;
    if (a == b)
        return 0;
    if (is_dir(a) && is_below(e, a))
        return EINVAL;
    if (flags == RENAME_EXCHANGE)
        return is_dir(b) && is_below(d, b) ? EINVAL : 0;
    if (b < 0)
        return 0;
    if (is_dir(a) != is_dir(b))
        return is_dir(a) ? ENOTDIR : EISDIR;
    return is_dir(b) && count_children(b) > 0 ? ENOTEMPTY : 0;
}

static void put_at(int k, int d, int from_dir)
{
    if (!is_dir(k))
        return;
    model.node[from_dir].i.nlink--;
    model.node[d].i.nlink++;
    model.node[k].parent = d;
}

static void do_rename(void)
{
    static const unsigned all[] = {0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE};
    int d = some_node(true), e = any(3) ? some_node(true) : d;
    int from = (int)any(NAMES), to = (int)any(NAMES);
    int a = model.node[d].child[from], b = model.node[e].child[to];
    unsigned flags = all[any(4)];
    struct bh_inode moved, replaced;
    int64_t since = bh_real_ns();
    if (refused(rename_refused(d, from, e, to, flags),
                rename_name(ino_of(d), name_of(from), ino_of(e), name_of(to), flags, &moved,
                            &replaced)))
        return;
    assert_int_equal(moved.ino, ino_of(a));
    assert_int_equal(replaced.ino, b >= 0 && a != b ? ino_of(b) : 0);
    if (a == b)
        return;
    model.node[d].child[from] = flags == RENAME_EXCHANGE ? b : -1;
    model.node[e].child[to] = a;
    put_at(a, e, d);
    if (b >= 0 && flags == RENAME_EXCHANGE)
        put_at(b, d, e);
    else if (b >= 0) {
        model.node[e].i.nlink -= is_dir(b);
        drop_link(b);
    }
    changed(a, false, since);
    if (b >= 0)
        changed(b, false, since);
    changed(d, true, since);
    changed(e, true, since);
}

static void do_set(void)
{
    int k = some_node(false);
    struct node *n = &model.node[k];
    unsigned what = any(64);
    int64_t since = bh_real_ns();
    struct bh_inode to = {.mode = any(010000),
                          .uid = any(100),
                          .gid = any(100),
                          .atime = (int64_t)any(UINT32_MAX) - 1000,
                          .mtime = any(UINT32_MAX)};
    to.content = (struct bh_content){.size = any(1000), .data = any(3), .hash_size = any(100)};
    to.content.hash[any(3)] = (uint8_t)any(3);
    if (memcmp(to.content.hash, "\0\0\0", 3) == 0)
        to.content.hash_size = 0;
    bool content = what & BH_SET_CONTENT;
    if (refused(content && !S_ISREG(n->i.mode) ? EINVAL : 0, set(ino_of(k), what, &to, NULL)))
        return;
    if (what & BH_SET_MODE)
        n->i.mode = (n->i.mode & S_IFMT) | to.mode;
    if (what & BH_SET_UID)
        n->i.uid = to.uid;
    if (what & BH_SET_GID)
        n->i.gid = to.gid;
    if (what & BH_SET_ATIME)
        n->i.atime = to.atime;
    if (what & BH_SET_MTIME)
        n->i.mtime = to.mtime;
    if (content)
        n->i.content = to.content;
    struct bh_inode is;
    must(get(ino_of(k), &is));
    check_node(k, &is, false, what & ~(unsigned)BH_SET_CONTENT, since);
}

static void do_xattr(void)
{
    int k = some_node(false), x = (int)any(XATTRS),
        len = (int)any(3) ? (int)any(20) : (int)any(3000);
    struct node *n = &model.node[k];
    static const int all[] = {0, XATTR_CREATE, XATTR_REPLACE};
    int flags = all[any(3)], rc, expected = 0;
    uint8_t value[3000];
    int64_t since = bh_real_ns();
    memset(value, (uint8_t)(len * 7), sizeof value);
    if (any(3) == 0) {
        expected = n->xattr[x] < 0 ? ENODATA : 0;
        rc = removexattr_of(ino_of(k), xattr_name(x));
        len = -1;
    } else {
        if (n->xattr[x] >= 0 && flags == XATTR_CREATE)
            expected = EEXIST;
        if (n->xattr[x] < 0 && flags == XATTR_REPLACE)
            expected = ENODATA;
        rc = setxattr_of(ino_of(k), xattr_name(x), value, (size_t)len, flags);
    }
    if (refused(expected, rc))
        return;
    n->xattr[x] = len;
    changed(k, false, since);
}

static void do_reference(void)
{
    int k = some_node(false);
    struct node *n = &model.node[k];
    struct bh_inode is;
    if (k == 0)
        return;
    if (n->refs == 0 || any(3) == 0) {
        int rc = bh_names_ref(names, ino_of(k));
        if (rc == EAGAIN) { /* what is dropped at once with little memory may need more tries */
            must(bh_names_get(names, ino_of(k), &is, true, ERR));
            rc = bh_names_ref(names, ino_of(k));
        }
        if (rc != EAGAIN) {
            must(rc);
            n->refs++;
        }
        return;
    }
    unsigned gone = gone_count;
    bh_names_unref(names, ino_of(k));
    n->refs--;
    settle_node(k);
    assert_int_equal(gone_count, gone + !n->used);
}

/* --- time goes on --- */

static struct model saved;
static bool have_saved;

static void do_swap(void)
{
    must(bh_names_hold(names, ERR));
    must_fail(bh_names_set(names, ROOT, 0, &(struct bh_inode){0}, NULL, false, ERR), EAGAIN);
    if (!have_saved || any(2)) {
        copy_file("names.db", "saved.db");
        saved = model;
        have_saved = true;
        bh_names_release(names, false);
        return;
    }
    copy_file("saved.db", "other.db");
    assert_int_equal(rename(at("other.db"), at("names.db")), 0);
    bh_names_release(names, true);
    model = saved;
    model_restarts();
}

static void do_event(void)
{
    switch (any(10)) {
    case 0:
        close_names();
        names_db_is_whole();
        open_names();
        model_restarts();
        break;
    case 1:
    case 2:
        kill_names();
        open_names();
        model_restarts();
        break;
    case 3:
        do_swap();
        break;
    case 4:
        must(bh_names_sync(names, ERR));
        break;
    default:
        must(bh_names_checkpoint(names, ERR));
    }
}

static void random_operations(int count, size_t cache, int64_t checkpoint_ms, unsigned seed)
{
    static void (*const all[])(void) = {do_make,   do_make,   do_make,     do_link,
                                        do_remove, do_remove, do_rename,   do_rename,
                                        do_set,    do_xattr,  do_reference};
    seed_random(seed);
    options.cache = cache;
    options.checkpoint_ms = checkpoint_ms;
    have_saved = false;
    done_count = refused_count = 0;
    open_names();
    model = (struct model){0};
    clear_node(&model.node[0]);
    model.node[0].i = inode(ROOT);
    model.node[0].parent = 0;
    for (int i = 0; i < count; i++) {
        if (any(150) == 0)
            do_event();
        if (i % 2500 == 0)
            check_everything();
        all[any(sizeof all / sizeof *all)]();
    }
    check_everything();
    assert_true(done_count > (unsigned)count / 5 && refused_count > (unsigned)count / 10);
    close_names();
    names_db_is_whole();
}

static void test_little_memory(void **state)
{
    random_operations(40000, 20, 0, 1);
}
static void test_almost_no_memory(void **state)
{
    random_operations(15000, 1, 0, 2);
}
static void test_enough_memory(void **state)
{
    random_operations(45000, 0, 0, 3);
}
static void test_with_the_thread(void **state)
{
    random_operations(20000, 40, 1, 4);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, names_setup, names_teardown)
    const struct CMUnitTest tests[] = {
        T(test_little_memory),
        T(test_almost_no_memory),
        T(test_enough_memory),
        T(test_with_the_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
