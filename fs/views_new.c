/* What the nodes of snapshots/, branches/ and blobs/ stand for. */
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"
#include "util/strbuf.h"
#include "views.h"

#define INO_VIEWS (1ull << 62) /* beyond those of everything else in the mount */

ino_t view_ino(const char *path, const char *name)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (; *path; path++)
        h = (h ^ (unsigned char)*path) * 0x100000001b3u;
    if (name)
        h = (h ^ '/') * 0x100000001b3u;
    for (; name && *name; name++)
        h = (h ^ (unsigned char)*name) * 0x100000001b3u;
    return (ino_t)(h >> 2 | INO_VIEWS);
}

bool view_is_dir(const struct view *v)
{
    if (v->inode)
        return S_ISDIR(v->inode->mode);
    return v->kind != VIEW_DB && v->kind != VIEW_INFO;
}

bool view_has_verbs(const struct view *v)
{
    return v->kind == VIEW_BRANCHES || (v->kind == VIEW_SNAPSHOTS && !v->branch[0]);
}

static void print_path(struct bh_strbuf *out, enum view_kind kind, const char *branch,
                       const char *name)
{
    static const char *const inside[] = {[VIEW_DB] = BH_DB_NAME,
                                         [VIEW_INFO] = "info",
                                         [VIEW_FILES] = FILES_NAME,
                                         [VIEW_BLOBS] = BLOBS_NAME,
                                         [VIEW_BLOB] = NULL};
    const char *in_it = inside[kind];
    if (kind == VIEW_BRANCHES || branch[0])
        bh_strbuf_addf(out, "branches");
    if (branch[0])
        bh_strbuf_addf(out, "/%s", branch);
    if (kind == VIEW_SNAPSHOTS || name[0])
        bh_strbuf_addf(out, "%ssnapshots", branch[0] ? "/" : "");
    if (name[0])
        bh_strbuf_addf(out, "/%s", name);
    if (in_it)
        bh_strbuf_addf(out, "%s%s", out->len ? "/" : "", in_it);
}

static struct view_set *set_new(const char *path, const struct bh_index_entry *e)
{
    size_t len = strlen(path) + 1;
    struct view_set *set = calloc(1, sizeof *set + len);
    if (!set)
        return NULL;
    set->users = 1;
    set->fixed = e != NULL;
    if (e)
        set->e = *e;
    memcpy(set->path, path, len);
    return set;
}

void view_free(struct view *v)
{
    if (v && v->set && atomic_fetch_sub(&v->set->users, 1) == 1)
        free(v->set);
    free(v);
}

bool view_is_same(const struct view *a, const struct view *b)
{
    if (a->kind != b->kind || a->ino != b->ino)
        return false;
    if (a->kind != VIEW_FILE && a->kind != VIEW_BLOB)
        return !strcmp(a->key, b->key);
    return a->set == b->set && a->inode->ino == b->inode->ino &&
           !memcmp(a->inode->content.hash, b->inode->content.hash, BH_SHA256_LEN);
}

struct view *view_new(enum view_kind kind, const char *branch, const char *name,
                      const struct bh_index_entry *e)
{
    BH_STRBUF path = {0};
    print_path(&path, kind, branch, name);
    if (path.failed)
        return NULL;
    bool has_set = kind == VIEW_FILES || kind == VIEW_BLOBS;
    size_t size = 2 * path.len + strlen(branch) + strlen(name) + BH_SNAPSHOT_ID_MAX + 5;
    size_t own = has_set ? sizeof(struct bh_inode) : e ? sizeof *e : 0;
    struct view *v = malloc(sizeof *v + own + size);
    struct view_set *set = has_set ? set_new(path.data, e) : NULL;
    if (!v || (has_set && !set)) {
        free(v);
        free(set);
        return NULL;
    }
    *v = (struct view){.kind = kind,
                       .fixed = e != NULL,
                       .ino = view_ino(path.data, NULL),
                       .set = set,
                       .object_key = ""};
    if (e)
        v->e = set ? &set->e : memcpy(v + 1, e, sizeof *e);
    char *at = (char *)(v + 1) + own;
    v->branch = at;
    at = stpcpy(at, branch) + 1;
    v->name = at;
    at = stpcpy(at, name) + 1;
    v->path = at;
    at = stpcpy(at, path.data) + 1;
    v->key = at;
    at = stpcpy(at, path.data);
    if (e)
        stpcpy(stpcpy(at, "@"), e->id);
    return v;
}
