/* Listing a directory bucket in byte order of the keys.
 *
 * The tree is walked depth first, the names of one directory sorted as if each directory's ended in
 * '/': that is the order of the keys. Only the names of the directories on the way are in memory.
 * The escaped keys, few as they are, are collected and sorted first and merged in. What the prefix,
 * start_after or the last common prefix rule out is not walked. */
#include "bucket/dir_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "util/clock.h"

struct names {
    char **items; /* a directory's name ends in '/' */
    size_t count, cap;
};

struct lister {
    struct bh_dir *d;
    const struct bh_list_request *req;
    bh_list_fn *fn;
    void *arg;
    const struct bh_call *call;
    struct bh_error *err;
    struct names escaped;
    size_t escaped_next;
    size_t sent;
    bool full;
    char key[BH_KEY_MAX + DIR_NAME_FOUND + 3]; /* of the entry under way */
    char rolled[BH_KEY_MAX + 1];               /* the last common prefix sent, "" before */
};

/* --- names --- */

static void names_free(struct names *n)
{
    for (size_t i = 0; i < n->count; i++)
        free(n->items[i]);
    free(n->items);
    *n = (struct names){0};
}

static bool names_add(struct names *n, const char *name, const char *suffix)
{
    if (n->count == n->cap) {
        size_t cap = n->cap ? 2 * n->cap : 32;
        char **items = realloc(n->items, cap * sizeof *items);
        if (!items)
            return false;
        n->items = items;
        n->cap = cap;
    }
    char *s = malloc(strlen(name) + strlen(suffix) + 1);
    if (!s)
        return false;
    strcpy(stpcpy(s, name), suffix);
    n->items[n->count++] = s;
    return true;
}

static int compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b); /* by unsigned bytes */
}

static void names_sort(struct names *n)
{
    if (n->count > 1)
        qsort(n->items, n->count, sizeof *n->items, compare);
}

static bool starts_with(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

/* --- what is wanted --- */

static bool key_wanted(const struct lister *l, const char *key)
{
    return starts_with(key, l->req->prefix) &&
           (!l->req->start_after || strcmp(key, l->req->start_after) > 0);
}

/* May a key below the directory dir ("a/b/") be wanted? */
static bool dir_wanted(const struct lister *l, const char *dir)
{
    const char *after = l->req->start_after;
    if (!starts_with(dir, l->req->prefix) && !starts_with(l->req->prefix, dir))
        return false;
    if (after && strcmp(dir, after) < 0 && !starts_with(after, dir))
        return false;
    return !(l->rolled[0] && starts_with(dir, l->rolled));
}

/* Reads a directory's entries into names. add decides what becomes of each and returns false for no
 * memory. */
static int read_names(struct lister *l, const char *path, size_t key_len, struct names *out,
                      bool (*add)(struct lister *l, size_t key_len, const char *name, bool is_dir,
                                  struct names *out))
{
    BH_FD int at = -1;
    int rc = bh_dir_walk(l->d, path, BH_DIR_FIND, &at);
    int fd = rc ? -1 : openat(at, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (!rc && fd < 0)
        rc = errno;
    if (rc) /* gone since its name was read, or not a directory by now */
        return rc == ENOENT || rc == ENOTDIR ? 0 : bh_dir_fail(l->d, l->err, rc, "listed", path);
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return bh_fail(l->err, ENOMEM, "out of memory while listing");
    }
    errno = 0;
    for (const struct dirent *e; !rc && (e = readdir(dir)); errno = 0) {
        struct stat st;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        bool is_dir = e->d_type == DT_DIR, is_file = e->d_type == DT_REG;
        if (e->d_type == DT_UNKNOWN && fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
            is_dir = S_ISDIR(st.st_mode);
            is_file = S_ISREG(st.st_mode);
        }
        if ((is_dir || is_file) && !add(l, key_len, e->d_name, is_dir, out))
            rc = bh_fail(l->err, ENOMEM, "out of memory while listing");
    }
    if (!rc && errno)
        rc = bh_dir_fail(l->d, l->err, errno, "listed", path);
    closedir(dir);
    names_sort(out);
    return rc;
}

/* --- sending --- */

/* The common prefix that key is rolled up to, in prefix; false if it stands for itself. */
static bool roll_up(const struct lister *l, const char *key, char prefix[BH_KEY_MAX + 1])
{
    const char *delimiter = l->req->delimiter;
    const char *at = delimiter ? strstr(key + strlen(l->req->prefix), delimiter) : NULL;
    if (!at)
        return false;
    size_t len = (size_t)(at - key) + strlen(delimiter);
    memcpy(prefix, key, len);
    prefix[len] = '\0';
    return true;
}

static int send_key(struct lister *l, const char *key, const struct stat *st)
{
    struct bh_object_info info = {0};
    char prefix[BH_KEY_MAX + 1];
    bool is_prefix = roll_up(l, key, prefix);
    if (is_prefix) {
        bool again = strcmp(prefix, l->rolled) == 0;
        strcpy(l->rolled, prefix);
        /* A prefix that start_after names or is behind was in the page before. */
        if (again || (l->req->start_after && strcmp(prefix, l->req->start_after) <= 0))
            return 0;
    } else {
        bh_dir_info(st, &info);
    }
    int rc = l->fn(l->arg, is_prefix ? prefix : key, is_prefix, &info, l->err);
    l->sent++;
    l->full = l->req->max && l->sent >= l->req->max;
    return rc;
}

/* Sends the escaped keys before key (NULL: all that are left); passes over one that equals it. */
static int send_escaped(struct lister *l, const char *key)
{
    while (!l->full && l->escaped_next < l->escaped.count) {
        const char *mine = l->escaped.items[l->escaped_next];
        int order = key ? strcmp(mine, key) : -1;
        if (order > 0)
            break;
        l->escaped_next++;
        BH_DIR_OBJECT o = {.fd = -1};
        int rc = order < 0 ? bh_dir_find(l->d, mine, O_PATH, &o, NULL) : ENOENT;
        if (!rc)
            rc = send_key(l, mine, &o.st);
        else
            rc = rc == ENOENT ? 0 : bh_dir_fail(l->d, l->err, rc, "listed", mine);
        if (rc)
            return rc;
    }
    return 0;
}

/* --- the escaped keys --- */

static bool add_any(struct lister *l, size_t key_len, const char *name, bool is_dir,
                    struct names *out)
{
    return names_add(out, name, is_dir ? "/" : "");
}

/* Adds the wanted keys below path; encoded is what the directories so far stand for. */
static int collect_escaped(struct lister *l, char path[DIR_PATH_MAX], size_t encoded_len,
                           char encoded[3 * BH_KEY_MAX + DIR_NAME_FOUND + 2])
{
    struct names names = {0};
    size_t path_len = strlen(path);
    int rc = read_names(l, path, 0, &names, add_any);
    for (size_t i = 0; !rc && i < names.count; i++) {
        char key[BH_KEY_MAX + 1];
        size_t len = strlen(names.items[i]);
        bool is_dir = names.items[i][len - 1] == '/';
        size_t take = is_dir ? len - 2 : len; /* without "+/" */
        if (encoded_len + take > 3 * BH_KEY_MAX || path_len + len + 2 > DIR_PATH_MAX)
            continue;
        memcpy(encoded + encoded_len, names.items[i], take);
        if (is_dir) {
            path[path_len] = '/';
            memcpy(path + path_len + 1, names.items[i], len - 1);
            path[path_len + len] = '\0';
            rc = collect_escaped(l, path, encoded_len + take, encoded);
            path[path_len] = '\0';
        } else if (bh_dir_decode(encoded, encoded_len + take, key, sizeof key) &&
                   key_wanted(l, key) && bh_utf8_valid(key) && !names_add(&l->escaped, key, "")) {
            rc = bh_fail(l->err, ENOMEM, "out of memory while listing");
        }
    }
    names_free(&names);
    return rc;
}

/* --- the tree --- */

/* Keeps what may lead to a wanted key. l->key holds the directory. */
static bool add_wanted(struct lister *l, size_t key_len, const char *name, bool is_dir,
                       struct names *out)
{
    size_t len = strlen(name);
    if (key_len == 0 &&
        (strcmp(name, DIR_META) == 0 || (is_dir && strcmp(name, "lost+found") == 0)))
        return true;
    if (key_len + len > BH_KEY_MAX || !bh_utf8_valid(name))
        return true; /* no key has such a name */
    strcpy(stpcpy(l->key + key_len, name), is_dir ? "/" : "");
    bool wanted = is_dir ? dir_wanted(l, l->key) : key_wanted(l, l->key);
    l->key[key_len] = '\0';
    return !wanted || names_add(out, name, is_dir ? "/" : "");
}

/* Sends what is below the directory l->key[0..key_len), which is "" or ends in '/'. */
static int walk_tree(struct lister *l, size_t key_len)
{
    struct names names = {0};
    l->key[key_len] = '\0';
    int rc = bh_call_check(l->call, "the listing", l->err);
    if (!rc)
        rc = read_names(l, l->key, key_len, &names, add_wanted);
    BH_FD int at = -1; /* not kept open below: a key may have 500 components */
    for (size_t i = 0; !rc && !l->full && i < names.count; i++) {
        struct stat st;
        size_t len = strlen(names.items[i]);
        memcpy(l->key + key_len, names.items[i], len + 1);
        if (names.items[i][len - 1] == '/') {
            if (at >= 0)
                close(bh_take_fd(&at));
            if (dir_wanted(l, l->key))
                rc = walk_tree(l, key_len + len);
            continue;
        }
        if (i % 256 == 255)
            rc = bh_call_check(l->call, "the listing", l->err);
        if (l->rolled[0] && starts_with(l->key, l->rolled))
            continue;
        if (!rc)
            rc = send_escaped(l, l->key);
        if (rc || l->full)
            break;
        l->key[key_len] = '\0';
        if (at < 0 && bh_dir_walk(l->d, l->key, BH_DIR_FIND, &at) != 0)
            break; /* the whole directory is gone */
        memcpy(l->key + key_len, names.items[i], len + 1);
        if (fstatat(at, names.items[i], &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
            rc = send_key(l, l->key, &st);
    }
    names_free(&names);
    return rc;
}

/* The deepest directory that every key with the prefix is below. */
static size_t start_directory(struct lister *l)
{
    const char *slash = strrchr(l->req->prefix, '/');
    size_t len = slash ? (size_t)(slash - l->req->prefix) : 0;
    memcpy(l->key, l->req->prefix, len);
    l->key[len] = '\0';
    if (len == 0 || !bh_dir_is_natural(l->key, DIR_NAME_FOUND))
        return 0;
    l->key[len] = '/';
    return len + 1;
}

static int list(struct lister *l)
{
    char path[DIR_PATH_MAX] = DIR_ESCAPED;
    char encoded[3 * BH_KEY_MAX + DIR_NAME_FOUND + 2];
    int rc = collect_escaped(l, path, 0, encoded);
    names_sort(&l->escaped);
    if (!rc)
        rc = walk_tree(l, start_directory(l));
    if (!rc)
        rc = send_escaped(l, NULL);
    names_free(&l->escaped);
    return rc;
}

int bh_dir_list(struct bh_bucket *b, const struct bh_list_request *req, bh_list_fn *fn, void *arg,
                const struct bh_call *call, struct bh_error *err)
{
    struct bh_dir *d = bh_dir_of(b);
    int64_t start = bh_mono_ns();
    BH_FREE struct lister *l = calloc(1, sizeof *l);
    if (!l)
        return bh_fail(err, ENOMEM, "out of memory while listing");
    *l = (struct lister){.d = d, .req = req, .fn = fn, .arg = arg, .call = call, .err = err};
    return bh_counters_note(&d->counters, BH_OP_LIST, start, list(l));
}
