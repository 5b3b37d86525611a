/* Whole databases: the newest snapshots as SQLite sees them, and the plain objects. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "repo/verify_private.h"
#include "util/array.h"
#include "util/cleanup.h"
#include "util/io.h"
#include "util/sha256.h"

#define STEP ((size_t)4 << 20)

static int no_memory(struct bh_error *err)
{
    return bh_fail(err, ENOMEM, "out of memory while verifying");
}

/* --- integrity checks --- */

/* One of the two databases of a snapshot. */
struct checked {
    const struct bh_root *root;
    char what[64 + BH_SNAPSHOT_ID_MAX];
};

static int copy_out(struct verify *v, const struct checked *c, int fd, struct bh_error *err)
{
    BH_FREE uint8_t *buf = malloc(STEP);
    const uint64_t size = c->root->size;
    int rc = buf ? 0 : no_memory(err);
    for (uint64_t at = 0; at < size && !rc; at += STEP) {
        size_t len = size - at < STEP ? (size_t)(size - at) : STEP;
        rc = bh_tree_read(v->trees, c->root, at, buf, len, c->what, v->call, err);
        int wrong = rc ? 0 : bh_pwrite_full(fd, buf, len, at);
        if (wrong)
            rc = bh_fail(err, wrong,
                         "there is no room for a temporary copy of %s, on which the integrity "
                         "check is run: %s",
                         c->what, strerror(wrong));
    }
    return rc;
}

/* Damage: in why, EIO. */
static int check_copy(struct verify *v, const struct checked *c, struct bh_error *why)
{
    const char *tmp = getenv("TMPDIR");
    const char *dir = v->h->live ? v->h->live->dir.path : tmp && *tmp ? tmp : "/tmp";
    char path[4096];
    if (snprintf(path, sizeof path, "%s/verify-XXXXXX", dir) >= (int)sizeof path)
        return bh_fail(why, ENAMETOOLONG, "the name of %.100s... is too long", dir);
    BH_FD int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        return bh_fail(why, errno, "%s cannot be made: %s", path, strerror(errno));
    int rc = copy_out(v, c, fd, why);
    if (!rc)
        rc = bh_database_check(path, c->what, why);
    unlink(path);
    return rc;
}

static int check_database(struct verify *v, struct verify_snapshot *s, const char *title,
                          const struct bh_root *root, bool *whole, struct bh_error *err)
{
    struct checked c = {.root = root};
    struct bh_error why = {0};
    char name[64 + BH_SNAPSHOT_ID_MAX];
    if (root->size == 0)
        return 0;
    snprintf(c.what, sizeof c.what, "%s of snapshot %s", title, s->e.id);
    int rc = check_copy(v, &c, &why);
    v->checked_databases++;
    *whole = *whole && rc == 0;
    if (!rc)
        return 0;
    if (!verify_is_damage(v, rc))
        return bh_fail(err, rc, "%s", why.text);
    s->damaged = true;
    snprintf(name, sizeof name, "snapshots/%s", s->e.id);
    if (root == &s->e.names) /* or the report would leave out which of the two it is */
        bh_fail_prefix(&why, rc, "integrity check");
    return verify_note_name(v, name, why.text, err);
}

static int check_branch(struct verify *v, struct verify_branch *b, struct bh_error *err)
{
    const struct bh_index_entry *e = &b->head.newest;
    struct verify_snapshot *s = verify_snapshot_of(v, e->id);
    bool whole = true;
    if (!s || s->mask || s->damaged)
        return 0;
    int rc = check_database(v, s, "the database", &s->e.db, &whole, err);
    if (!rc)
        rc = check_database(v, s, BH_NAMES_NAME, &s->e.names, &whole, err);
    b->checked = rc == 0 && whole;
    return rc;
}

int verify_databases(struct verify *v, struct bh_error *err)
{
    int rc = 0;
    for (size_t i = 0; i < v->branch_count && !rc; i++) {
        struct verify_branch *b = &v->branches[i];
        bool same = !b->readable || b->head.deleted || !b->head.newest.id[0];
        for (size_t k = 0; k < i && !same; k++)
            same =
                !strcmp(v->branches[k].head.newest.id, b->head.newest.id) && v->branches[k].checked;
        if (!same)
            rc = check_branch(v, b, err);
    }
    return rc;
}

/* --- plain objects --- */

/* A plain object as it comes in. One that was assembled by a mount that had not all of it tells no
 * hash: it is compared with its snapshot. */
struct incoming {
    struct verify *v;
    const struct bh_index_entry *e; /* NULL: no history has it */
    struct bh_object_info info;
    struct bh_sha256 *hash;
    uint8_t *buf; /* of a block */
    size_t len;
    uint64_t block;
    uint64_t wrong; /* the first block that differs, UINT64_MAX: none so far */
    bool blind;     /* the snapshot cannot be read either: that is told elsewhere */
};

static bool is_same_block(struct incoming *in)
{
    uint32_t size = bh_trees_block_size(in->v->trees);
    struct bh_error why;
    struct bh_ref ref;
    uint8_t hash[BH_HASH_SIZE], was[HISTORY_HEADER];
    bool first = in->block == 0 && in->len >= sizeof was;
    int rc = first ? bh_tree_read(in->v->trees, &in->e->db, 0, was, sizeof was, in->e->id,
                                  in->v->call, &why)
                   : 0;
    if (!rc && first)
        history_take_counters(in->buf, was); /* which may differ */
    if (!rc)
        rc = bh_tree_refs(in->v->trees, &in->e->db, in->block, 1, &ref, in->e->id, in->v->call,
                          &why);
    memset(in->buf + in->len, 0, size - in->len);
    if (rc || bh_content_hash(in->buf, size, hash)) {
        in->blind = true;
        return true;
    }
    if (bh_ref_is_zero(&ref))
        return in->buf[0] == 0 && !memcmp(in->buf, in->buf + 1, size - 1);
    return !memcmp(hash, ref.hash, sizeof hash);
}

static void end_block(struct incoming *in)
{
    if (in->wrong == UINT64_MAX && !is_same_block(in))
        in->wrong = in->block;
    in->block++;
    in->len = 0;
}

static int take_bytes(void *arg, const void *data, size_t len, struct bh_error *err)
{
    struct incoming *in = arg;
    bh_sha256_update(in->hash, data, len);
    if (!in->e || bh_meta_get(&in->info.meta, META_SHA256))
        return 0;
    for (size_t at = 0; at < len && !in->blind;) {
        size_t n = bh_trees_block_size(in->v->trees) - in->len;
        n = n < len - at ? n : len - at;
        memcpy(in->buf + in->len, (const uint8_t *)data + at, n);
        in->len += n;
        at += n;
        if (in->len == bh_trees_block_size(in->v->trees))
            end_block(in);
    }
    return 0;
}

/* e: of its snapshot, NULL if nobody knows it. Damage: EIO in why. */
static int check_content(struct verify *v, const char *key, const struct bh_index_entry *e,
                         struct bh_error *why)
{
    struct incoming in = {.v = v, .e = e, .hash = bh_sha256_new(), .wrong = UINT64_MAX};
    BH_FREE uint8_t *buf = in.buf = e ? malloc(bh_trees_block_size(v->trees)) : NULL;
    char hex[BH_SHA256_HEX] = "";
    int rc = in.hash && (buf || !e) ? 0 : no_memory(why);
    if (!rc)
        rc = bh_bucket_get(v->bucket, key, 0, UINT64_MAX, take_bytes, &in, &in.info, v->call, why);
    if (!rc)
        bh_sha256_hex(in.hash, hex);
    bh_sha256_free(in.hash);
    const char *told = rc ? NULL : bh_meta_get(&in.info.meta, META_SHA256);
    if (told && strcmp(told, hex) != 0)
        rc = bh_fail(why, EIO, "its SHA-256 is %s, not %s as when it was written", hex, told);
    if (!rc && in.len > 0 && !in.blind)
        end_block(&in);
    if (!rc && in.wrong != UINT64_MAX)
        rc = bh_fail(why, EIO, "its block %" PRIu64 " is not as snapshot %s has it", in.wrong,
                     e->id);
    return rc;
}

/* The snapshot that a plain object says it is. ENOENT: nobody knows it. */
static int find_entry(struct verify *v, const char *id, struct bh_index_entry *e,
                      struct bh_error *err)
{
    const struct verify_snapshot *s = verify_snapshot_of(v, id);
    struct bh_record r;
    struct bh_error why = {0};
    if (s) {
        *e = s->e;
        return 0;
    }
    int rc = bh_is_snapshot_id(id) ? verify_read_record(v, id, &r, &why) : ENOENT;
    if (rc && !verify_is_damage(v, rc))
        return bh_fail(err, rc, "%s", why.text);
    if (!rc)
        *e = r.entry;
    return rc ? ENOENT : 0;
}

static int check_ours(struct verify *v, const char *key, const char *branch, const char *id,
                      uint64_t size, struct bh_error *err)
{
    struct bh_index_entry e;
    struct bh_error why = {0};
    BH_STRBUF proof = {0};
    int rc = find_entry(v, id, &e, err);
    if (rc && rc != ENOENT)
        return rc;
    bool known = rc == 0;
    bh_strbuf_addf(&v->notes, "plain: %s: snapshot %s, %" PRIu64 " bytes%s\n", key, id, size,
                   known || !v->trees ? "" : ", which no history has");
    rc = 0;
    if (known && e.db.size != size)
        rc = bh_fail(&why, EIO, "it has %" PRIu64 " bytes, snapshot %s has %" PRIu64, size, id,
                     e.db.size);
    else if (v->full)
        rc = check_content(v, key, known && v->trees ? &e : NULL, &why);
    if (rc == ENOENT) /* replaced or removed meanwhile */
        rc = 0;
    if (rc && !verify_is_damage(v, rc))
        return bh_fail(err, rc, "%s", why.text);
    if (rc && !verify_note(v, key, why.text))
        return no_memory(err);
    if (!known || !branch || strncmp(e.branch, branch, sizeof e.branch - 1) != 0 ||
        verify_branch_of(v, branch))
        return 0;
    bh_strbuf_addf(&proof, "%s is its snapshot %s", key, id);
    return proof.failed ? no_memory(err) : verify_lost_head(v, branch, proof.data, err);
}

/* branch: NULL for a .prev. */
static int look_at(struct verify *v, const char *key, const char *branch, bool say_none,
                   struct bh_error *err)
{
    struct bh_object_info info;
    struct bh_error why = {0};
    int rc = bh_bucket_head(v->bucket, key, &info, v->call, &why);
    if (rc == ENOENT && say_none)
        bh_strbuf_addf(&v->notes, "plain: %s: none\n", key);
    if (rc)
        return rc == ENOENT ? 0 : bh_fail(err, rc, "%s", why.text);
    v->plain_objects++;
    const char *id = bh_meta_get(&info.meta, META_SNAPSHOT);
    if (id)
        return check_ours(v, key, branch, id, info.size, err);
    bh_strbuf_addf(&v->notes, "plain: %s: of another program, %" PRIu64 " bytes\n", key, info.size);
    return 0;
}

static int look_at_both(struct verify *v, const char *branch, bool say_none, struct bh_error *err)
{
    BH_FREE char *key = bh_config_branch_key(v->h->cfg, branch);
    BH_STRBUF prev = {0};
    if (key)
        bh_strbuf_addf(&prev, "%s.prev", key);
    if (!key || prev.failed)
        return no_memory(err);
    int rc = look_at(v, key, branch, say_none, err);
    return rc ? rc : look_at(v, prev.data, NULL, false, err);
}

struct names {
    size_t skip; /* bytes before the name */
    char (*items)[BH_BRANCH_MAX];
    size_t count, room;
};

static int take_name(void *arg, const char *key, bool is_prefix, const struct bh_object_info *info,
                     struct bh_error *err)
{
    struct names *n = arg;
    const char *name = key + n->skip;
    if (is_prefix || !bh_is_branch_name(name)) /* NAME.prev, or somebody else's */
        return 0;
    if (!bh_grow(n->items, n->room, n->count))
        return no_memory(err);
    snprintf(n->items[n->count++], sizeof *n->items, "%s", name);
    return 0;
}

int verify_plain(struct verify *v, struct bh_error *err)
{
    BH_STRBUF prefix = {0};
    struct names names = {0};
    bh_strbuf_addf(&prefix, "%s%s.branch.", v->h->cfg->bucket.prefix, v->h->cfg->snapshot.key);
    if (prefix.failed)
        return no_memory(err);
    names.skip = prefix.len;
    const struct bh_list_request req = {.prefix = prefix.data, .delimiter = "/"};
    int rc = bh_bucket_list(v->bucket, &req, take_name, &names, v->call, err);
    if (!rc)
        rc = look_at_both(v, "main", true, err);
    for (size_t i = 0; i < names.count && !rc; i++)
        rc = look_at_both(v, names.items[i], false, err);
    free(names.items);
    return rc;
}
