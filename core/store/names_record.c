/* The form of an object in the log: the whole of its state, so that a later record of the same
 * object makes an earlier one superfluous. Numbers are little-endian.
 *
 *   inode      1, flags, ino 8; unless it is gone: mode 4, nlink 4, uid 4, gid 4, rdev 8, atime 8,
 *              mtime 8, ctime 8, parent 8, entries 8, size 8, data 8;
 *              if flags say so: hash 32, hash_size 8; target's length 2, target
 *   name       2, flags, directory 8, ino 8, mode >> 12, length 1, name
 *   attribute  3, flags, ino 8, length of the name 1, of the value 4, name, value
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "store/names_private.h"

enum { FLAG_PRESENT = 1, FLAG_FRESH = 2, FLAG_HASH = 4, FLAG_TARGET = 8 };

bool bytes_room(struct bytes *b, size_t len)
{
    if (b->cap - b->len >= len)
        return true;
    size_t cap = b->cap ? b->cap : 4096;
    while (cap - b->len < len)
        cap *= 2;
    uint8_t *p = realloc(b->data, cap);
    if (!p)
        return false;
    b->data = p;
    b->cap = cap;
    return true;
}

static uint8_t *put8(uint8_t *p, uint8_t v)
{
    *p = v;
    return p + 1;
}
static uint8_t *put32(uint8_t *p, uint32_t v)
{
    v = htole32(v);
    memcpy(p, &v, sizeof v);
    return p + sizeof v;
}
static uint8_t *put64(uint8_t *p, uint64_t v)
{
    v = htole64(v);
    memcpy(p, &v, sizeof v);
    return p + sizeof v;
}
static uint8_t *put_bytes(uint8_t *p, const void *data, size_t len)
{
    if (len)
        memcpy(p, data, len);
    return p + len;
}

static uint8_t *put_inode(uint8_t *p, const struct record *r)
{
    const struct bh_inode *i = &r->inode;
    const struct bh_content *c = &i->content;
    bool hash = !bh_sha256_is_none(c->hash);
    p = put8(p, RECORD_INODE);
    p = put8(p, (uint8_t)((r->present ? FLAG_PRESENT : 0) | (r->fresh ? FLAG_FRESH : 0) |
                          (hash ? FLAG_HASH : 0) | (r->target ? FLAG_TARGET : 0)));
    p = put64(p, i->ino);
    if (!r->present)
        return p;
    p = put32(p, i->mode);
    p = put32(p, i->nlink);
    p = put32(p, i->uid);
    p = put32(p, i->gid);
    p = put64(p, i->rdev);
    p = put64(p, (uint64_t)i->atime);
    p = put64(p, (uint64_t)i->mtime);
    p = put64(p, (uint64_t)i->ctime);
    p = put64(p, i->parent);
    p = put64(p, i->entries);
    p = put64(p, c->size);
    p = put64(p, c->data);
    if (hash) {
        p = put_bytes(p, c->hash, sizeof c->hash);
        p = put64(p, c->hash_size);
    }
    if (r->target) {
        p = put8(p, (uint8_t)r->target_len);
        p = put8(p, (uint8_t)(r->target_len >> 8));
        p = put_bytes(p, r->target, r->target_len);
    }
    return p;
}

int record_add(struct bytes *b, const struct record *r)
{
    if (!bytes_room(b, 160 + r->target_len + r->name_len + r->value_len))
        return ENOMEM;
    uint8_t *p = b->data + b->len;
    uint8_t flags = r->present ? FLAG_PRESENT : 0;
    switch (r->type) {
    case RECORD_INODE:
        p = put_inode(p, r);
        break;
    case RECORD_NAME:
        p = put8(put8(p, RECORD_NAME), flags);
        p = put64(p, r->of);
        p = put64(p, r->ino);
        p = put8(p, r->file_type);
        p = put8(p, (uint8_t)r->name_len);
        p = put_bytes(p, r->name, r->name_len);
        break;
    case RECORD_XATTR:
        p = put8(put8(p, RECORD_XATTR), flags);
        p = put64(p, r->of);
        p = put8(p, (uint8_t)r->name_len);
        p = put32(p, (uint32_t)r->value_len);
        p = put_bytes(p, r->name, r->name_len);
        p = put_bytes(p, r->value, r->value_len);
        break;
    }
    b->len = (size_t)(p - b->data);
    return 0;
}

/* --- reading --- */

struct cursor {
    const uint8_t *at, *end;
    bool failed;
};

static const uint8_t *take(struct cursor *c, size_t len)
{
    static const uint8_t zeros[BH_SHA256_LEN];
    if (c->failed || (size_t)(c->end - c->at) < len) {
        c->failed = true;
        return zeros;
    }
    c->at += len;
    return c->at - len;
}
static uint8_t get8(struct cursor *c)
{
    return *take(c, 1);
}
static uint32_t get32(struct cursor *c)
{
    uint32_t v;
    memcpy(&v, take(c, sizeof v), sizeof v);
    return le32toh(v);
}
static uint64_t get64(struct cursor *c)
{
    uint64_t v;
    memcpy(&v, take(c, sizeof v), sizeof v);
    return le64toh(v);
}

static void get_inode(struct cursor *c, uint8_t flags, struct record *r)
{
    struct bh_inode *i = &r->inode;
    r->fresh = flags & FLAG_FRESH;
    i->ino = get64(c);
    if (!r->present)
        return;
    i->mode = get32(c);
    i->nlink = get32(c);
    i->uid = get32(c);
    i->gid = get32(c);
    i->rdev = get64(c);
    i->atime = (int64_t)get64(c);
    i->mtime = (int64_t)get64(c);
    i->ctime = (int64_t)get64(c);
    i->parent = get64(c);
    i->entries = get64(c);
    i->content.size = get64(c);
    i->content.data = get64(c);
    if (flags & FLAG_HASH) {
        memcpy(i->content.hash, take(c, BH_SHA256_LEN), BH_SHA256_LEN);
        i->content.hash_size = get64(c);
    }
    if (flags & FLAG_TARGET) {
        r->target_len = get8(c);
        r->target_len |= (size_t)get8(c) << 8;
        r->target = (const char *)take(c, r->target_len);
    }
    bool link = S_ISLNK(i->mode);
    if (inode_wrong(i) || link != (r->target != NULL) || r->target_len > TARGET_MAX_LEN)
        c->failed = true;
}

int record_next(const uint8_t **at, const uint8_t *end, struct record *r)
{
    struct cursor c = {.at = *at, .end = end};
    if (*at == end)
        return 0;
    *r = (struct record){.type = (enum record_type)get8(&c)};
    uint8_t flags = get8(&c);
    r->present = flags & FLAG_PRESENT;
    switch (r->type) {
    case RECORD_INODE:
        get_inode(&c, flags, r);
        break;
    case RECORD_NAME:
        r->of = get64(&c);
        r->ino = get64(&c);
        r->file_type = get8(&c);
        r->name_len = get8(&c);
        r->name = (const char *)take(&c, r->name_len);
        c.failed |= !c.failed && name_wrong(r->name, r->name_len) != NULL;
        break;
    case RECORD_XATTR:
        r->of = get64(&c);
        r->name_len = get8(&c);
        r->value_len = get32(&c);
        r->name = (const char *)take(&c, r->name_len);
        r->value = take(&c, r->value_len);
        c.failed |= r->name_len == 0 || r->value_len > VALUE_MAX_LEN;
        break;
    default:
        return -1;
    }
    if (c.failed)
        return -1;
    *at = c.at;
    return 1;
}

void record_of_inode(struct record *r, const struct inode *i, const struct bh_inode *state,
                     bool gone)
{
    *r = (struct record){.type = RECORD_INODE, .present = !gone, .inode = *state};
    if (i->target && !gone) {
        r->target = i->target;
        r->target_len = strlen(i->target);
    }
}

void record_of_entry(struct record *r, const struct entry *e)
{
    *r = (struct record){
        .type = e->o.kind == KIND_NAME ? RECORD_NAME : RECORD_XATTR,
        .present = e->present,
        .of = e->of->i.ino,
        .ino = e->ino,
        .file_type = e->type,
        .name = e->name,
        .name_len = e->name_len,
        .value = e->value,
        .value_len = e->value_len,
    };
}

/* --- what no record and no row may say --- */

const char *inode_wrong(const struct bh_inode *i)
{
    if (i->ino == 0 || i->ino > INT64_MAX)
        return "its number is out of range";
    switch (i->mode & S_IFMT) {
    case S_IFREG:
    case S_IFDIR:
    case S_IFLNK:
    case S_IFIFO:
    case S_IFSOCK:
    case S_IFCHR:
    case S_IFBLK:
        break;
    default:
        return "its mode has no type";
    }
    if (i->mode & ~(uint32_t)(S_IFMT | 07777))
        return "its mode has unknown bits";
    if (S_ISDIR(i->mode) && (i->parent == 0 || (i->parent == i->ino && i->ino != BH_NAMES_ROOT)))
        return "it is a directory that is in no other";
    if (S_ISDIR(i->mode) && (i->nlink == 1 || i->entries > INT64_MAX))
        return "its counts cannot be";
    if (i->content.size > INT64_MAX || i->content.hash_size > INT64_MAX)
        return "its size is out of range";
    return NULL;
}

const char *name_wrong(const char *name, size_t len)
{
    if (len == 0 || len > NAME_MAX_LEN)
        return "a name of a wrong length";
    if (memchr(name, 0, len) || memchr(name, '/', len))
        return "a name with a slash or a NUL";
    if (name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')))
        return "an entry \".\" or \"..\"";
    return NULL;
}
