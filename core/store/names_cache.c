/* Objects in memory. An object is in one list at most: changed ones in those of the checkpoint,
 * unchanged ones that nobody needs in `idle`, whose oldest are dropped. An inode is needed by its
 * entries in memory, references and pins; the root always. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "store/names_private.h"
#include "util/random.h"

/* --- lists --- */

void list_init(struct list *l)
{
    l->head.next = l->head.prev = &l->head;
    l->count = 0;
}

static struct list *list_of(struct bh_names *n, enum place p)
{
    switch (p) {
    case PLACE_IDLE:
        return &n->idle;
    case PLACE_CHANGED:
        return &n->changed[0];
    case PLACE_CHANGED1:
        return &n->changed[1];
    case PLACE_DONE:
        return &n->done;
    case PLACE_NONE:
        break;
    }
    return NULL;
}

void list_move(struct bh_names *n, struct object *o, enum place to)
{
    struct list *from = list_of(n, (enum place)o->place), *l = list_of(n, to);
    if (from) {
        o->prev->next = o->next;
        o->next->prev = o->prev;
        from->count--;
        if (from == &n->idle)
            n->idle_weight -= o->weight;
    }
    o->place = (uint8_t)to;
    if (!l)
        return;
    o->next = &l->head;
    o->prev = l->head.prev;
    o->prev->next = o->next->prev = o;
    l->count++;
    if (l == &n->idle)
        n->idle_weight += o->weight;
}

size_t changed_count(const struct bh_names *n)
{
    return n->changed[0].count + n->changed[1].count + n->done.count;
}

/* --- tables --- */

/* The tables are large and mostly empty, and are emptied by slices: a page of each, of which it is
 * known whether anything was ever put into it. */
#define SLICE 512u /* buckets */

static void touch(struct bh_names *n, uint64_t bucket)
{
    uint64_t slice = bucket / SLICE;
    n->touched[slice / 64] |= UINT64_C(1) << slice % 64;
}

/* The next touched slice from `from` on; UINT64_MAX: there is none. */
static uint64_t next_touched(const struct bh_names *n, uint64_t from)
{
    for (; from <= n->mask / SLICE; from++) {
        uint64_t word = n->touched[from / 64] >> from % 64;
        if (word)
            return from + (unsigned)__builtin_ctzll(word);
        from |= 63;
    }
    return UINT64_MAX;
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * UINT64_C(0x9e3779b97f4a7c15);
    return h ^ h >> 32;
}

static uint64_t hash_bytes(uint64_t h, const void *data, size_t len)
{
    const uint8_t *p = data;
    uint64_t word;
    for (; len >= sizeof word; p += sizeof word, len -= sizeof word) {
        memcpy(&word, p, sizeof word);
        h = mix(h, word);
    }
    word = len;
    for (size_t i = 0; i < len; i++)
        word = word << 8 | p[i];
    return mix(h, word);
}

static struct inode **inode_bucket(struct bh_names *n, uint64_t ino)
{
    return &n->inodes[mix(n->seed, ino) & n->mask];
}
static struct inode **content_bucket(struct bh_names *n, const uint8_t *hash)
{
    return &n->contents[hash_bytes(n->seed, hash, BH_SHA256_LEN) & n->mask];
}
static struct entry **entry_bucket(struct bh_names *n, const struct inode *of, enum kind kind,
                                   const char *name, size_t len)
{
    uint64_t h = mix(n->seed + kind, of->i.ino);
    return &n->entries[hash_bytes(h, name, len) & n->mask];
}

int cache_init(struct bh_names *n)
{
    uint64_t size = 1024, want = n->opt.cache + (n->opt.read_only ? 0 : CHANGED_MAX / 4);
    while (size < want)
        size *= 2;
    n->mask = size - 1;
    list_init(&n->idle);
    list_init(&n->changed[0]);
    list_init(&n->changed[1]);
    list_init(&n->done);
    /* Untouched pages of it cost nothing. */
    n->inodes = calloc(size, sizeof(void *));
    n->contents = calloc(size, sizeof(void *));
    n->entries = calloc(size, sizeof(void *));
    n->touched = calloc((size / SLICE + 63) / 64, sizeof *n->touched);
    bh_random_bytes(&n->seed, sizeof n->seed);
    return n->inodes && n->contents && n->entries && n->touched ? 0 : ENOMEM;
}

void object_free(struct object *o)
{
    if (!o)
        return;
    if (o->kind == KIND_INODE)
        free(inode_of(o)->target);
    else
        free(entry_of(o)->value);
    free(o);
}

static void bury(struct bh_names *n, struct object *o)
{
    list_move(n, o, PLACE_NONE);
    o->dead = true;
    if (o->pins == 0)
        object_free(o);
}

static void bury_slice_of_entries(struct bh_names *n, uint64_t slice)
{
    for (uint64_t b = slice * SLICE; b < (slice + 1) * SLICE; b++)
        for (struct entry *e = n->entries[b], *next; e; e = next) {
            next = e->chain;
            e->of = NULL;
            bury(n, &e->o);
        }
}

static void bury_slice_of_inodes(struct bh_names *n, uint64_t slice)
{
    for (uint64_t b = slice * SLICE; b < (slice + 1) * SLICE; b++)
        for (struct inode *i = n->inodes[b], *next; i; i = next) {
            next = i->chain;
            i->first[0] = i->first[1] = i->named = NULL;
            i->same_prev = NULL;
            if (i->i.ino == BH_NAMES_ROOT)
                i->o.pins--;
            bury(n, &i->o);
        }
}

static void bury_all(struct bh_names *n)
{
    for (uint64_t s = 0; (s = next_touched(n, s)) != UINT64_MAX; s++)
        bury_slice_of_entries(n, s);
    for (uint64_t s = 0; (s = next_touched(n, s)) != UINT64_MAX; s++)
        bury_slice_of_inodes(n, s);
}

void cache_free(struct bh_names *n)
{
    if (n->inodes && n->entries && n->touched)
        bury_all(n);
    free(n->inodes);
    free(n->contents);
    free(n->entries);
    free(n->touched);
}

void cache_forget(struct bh_names *n)
{
    bury_all(n);
    for (uint64_t s = 0; (s = next_touched(n, s)) != UINT64_MAX; s++) {
        memset(n->entries + s * SLICE, 0, SLICE * sizeof *n->entries);
        memset(n->inodes + s * SLICE, 0, SLICE * sizeof *n->inodes);
        memset(n->contents + s * SLICE, 0, SLICE * sizeof *n->contents);
        n->touched[s / 64] &= ~(UINT64_C(1) << s % 64);
    }
    n->in_memory = 0;
}

/* --- inodes --- */

struct inode *inode_find(struct bh_names *n, uint64_t ino)
{
    struct inode *i = *inode_bucket(n, ino);
    while (i && i->i.ino != ino)
        i = i->chain;
    return i;
}

struct inode *inode_new(const struct bh_inode *i, const char *target, size_t target_len)
{
    struct inode *o = calloc(1, sizeof *o);
    if (!o)
        return NULL;
    o->o.kind = KIND_INODE;
    o->o.weight = 1 + (uint32_t)target_len / 256;
    o->i = *i;
    if (target && !(o->target = malloc(target_len + 1))) {
        free(o);
        return NULL;
    }
    if (target) {
        memcpy(o->target, target, target_len);
        o->target[target_len] = '\0';
    }
    return o;
}

/* Only one that exists and has a published content is found by it. */
static void content_remove(struct inode *i)
{
    if (!i->same_prev)
        return;
    *i->same_prev = i->same;
    if (i->same)
        i->same->same_prev = i->same_prev;
    i->same_prev = NULL;
}

static void content_insert(struct bh_names *n, struct inode *i)
{
    if (i->gone || bh_sha256_is_none(i->i.content.hash))
        return;
    struct inode **b = content_bucket(n, i->i.content.hash);
    i->same = *b;
    i->same_prev = b;
    if (*b)
        (*b)->same_prev = &i->same;
    *b = i;
    touch(n, (uint64_t)(b - n->contents));
}

struct inode *same_content(struct bh_names *n, const uint8_t hash[BH_SHA256_LEN])
{
    struct inode *i = *content_bucket(n, hash);
    while (i && (i->i.nlink == 0 || memcmp(i->i.content.hash, hash, BH_SHA256_LEN) != 0))
        i = i->same;
    return i;
}

void inode_insert(struct bh_names *n, struct inode *i)
{
    struct inode **b = inode_bucket(n, i->i.ino);
    i->chain = *b;
    *b = i;
    touch(n, (uint64_t)(b - n->inodes));
    n->in_memory++;
    content_insert(n, i);
    if (i->i.ino == BH_NAMES_ROOT)
        i->o.pins++;
}

void inode_apply(struct bh_names *n, struct inode *i, const struct bh_inode *to, bool gone)
{
    bool other = gone || memcmp(i->i.content.hash, to->content.hash, BH_SHA256_LEN) != 0;
    note_lost(n, i, to, gone);
    if (other)
        content_remove(i);
    i->i = *to;
    i->gone = gone;
    if (other)
        content_insert(n, i);
}

static void inode_drop(struct bh_names *n, struct inode *i)
{
    struct inode **p = inode_bucket(n, i->i.ino);
    while (*p != i)
        p = &(*p)->chain;
    *p = i->chain;
    content_remove(i);
}

/* --- entries --- */

struct entry *entry_find(struct bh_names *n, const struct inode *of, enum kind kind,
                         const char *name, size_t len)
{
    struct entry *e = *entry_bucket(n, of, kind, name, len);
    while (e && (e->of != of || e->name_len != len || e->o.kind != kind ||
                 memcmp(e->name, name, len) != 0))
        e = e->chain;
    return e;
}

struct entry *entry_new(struct inode *of, enum kind kind, const char *name, size_t len)
{
    struct entry *e = calloc(1, sizeof *e + len + 1);
    if (!e)
        return NULL;
    e->o.kind = (uint8_t)kind;
    e->o.weight = 1;
    e->of = of;
    e->name_len = (uint8_t)len;
    memcpy(e->name, name, len);
    return e;
}

static struct entry **siblings(struct entry *e)
{
    return &e->of->first[e->o.kind == KIND_XATTR];
}

void entry_insert(struct bh_names *n, struct entry *e)
{
    struct entry **b = entry_bucket(n, e->of, (enum kind)e->o.kind, e->name, e->name_len);
    struct entry **first = siblings(e);
    e->chain = *b;
    *b = e;
    touch(n, (uint64_t)(b - n->entries));
    e->next = *first;
    e->prev = first;
    if (*first)
        (*first)->prev = &e->next;
    *first = e;
    n->in_memory++;
    object_settle(n, &e->of->o); /* it is needed now */
}

static void count(struct entry *e, int by)
{
    if (!e->present)
        return;
    if (e->o.kind == KIND_NAME)
        e->of->names_known += (uint64_t)(int64_t)by;
    else
        e->of->xattr_bytes += (uint32_t)by * (e->name_len + e->value_len);
}

/* The inode that a name leads to knows it by that name, or does not any more. */
static void note_name(struct bh_names *n, struct entry *e, bool leads)
{
    struct inode *i = e->o.kind == KIND_NAME && e->present && e->ino ? inode_find(n, e->ino) : NULL;
    if (i && leads)
        i->named = e;
    else if (i && i->named == e)
        i->named = NULL;
}

void entry_apply(struct bh_names *n, struct entry *e, bool present, uint64_t ino, uint8_t type,
                 uint8_t *value, uint32_t len)
{
    count(e, -1);
    note_name(n, e, false);
    if (e->value != value)
        free(e->value);
    e->present = present;
    e->ino = ino;
    e->type = type;
    e->value = value;
    e->value_len = len;
    count(e, 1);
    note_name(n, e, true);
    if (e->o.place == PLACE_IDLE) {
        n->idle_weight -= e->o.weight;
        n->idle_weight += 1 + len / 256;
    }
    e->o.weight = 1 + len / 256;
}

static void entry_drop(struct bh_names *n, struct entry *e)
{
    struct entry **p = entry_bucket(n, e->of, (enum kind)e->o.kind, e->name, e->name_len);
    struct inode *of = e->of;
    while (*p != e)
        p = &(*p)->chain;
    *p = e->chain;
    *e->prev = e->next;
    if (e->next)
        e->next->prev = e->prev;
    count(e, -1);
    note_name(n, e, false);
    if (e->o.kind == KIND_XATTR && e->present)
        of->xattrs_known = false;
    object_settle(n, &of->o);
}

/* --- what stays and what goes --- */

static bool is_needed(const struct object *o)
{
    if (o->pins)
        return true;
    if (o->kind != KIND_INODE)
        return false;
    const struct inode *i = (const struct inode *)(const void *)o;
    return i->refs || i->first[0] || i->first[1];
}

void object_settle(struct bh_names *n, struct object *o)
{
    if (o->place > PLACE_IDLE || o->dead)
        return;
    enum place p = is_needed(o) ? PLACE_NONE : PLACE_IDLE;
    if (p != o->place)
        list_move(n, o, p);
}

void object_used(struct bh_names *n, struct object *o)
{
    if (o->place == PLACE_IDLE && n->idle.head.prev != o)
        list_move(n, o, PLACE_IDLE);
}

void object_changed(struct bh_names *n, struct object *o)
{
    list_move(n, o, (enum place)(PLACE_CHANGED + n->turn));
}

void object_pin(struct bh_names *n, struct object *o)
{
    o->pins++;
    object_settle(n, o);
}

void object_unpin(struct bh_names *n, struct object *o)
{
    o->pins--;
    if (o->pins == 0 && o->dead)
        object_free(o);
    else if (o->pins == 0)
        object_settle(n, o);
}

void cache_evict(struct bh_names *n)
{
    /* Each call looks at a few, so that none takes long; there are more calls than new objects. */
    uint64_t oldest = n->loads.next != &n->loads ? n->loads.next->began : UINT64_MAX;
    for (int tries = 0; tries < 64 && n->idle_weight > n->opt.cache; tries++) {
        struct object *o = n->idle.head.next;
        struct entry *e = o->kind == KIND_INODE ? NULL : entry_of(o);
        if (o->written > oldest || (e && e->o.kind == KIND_XATTR && e->of->kept)) {
            list_move(n, o, PLACE_IDLE);
            continue;
        }
        list_move(n, o, PLACE_NONE);
        if (e)
            entry_drop(n, e);
        else
            inode_drop(n, inode_of(o));
        n->in_memory--;
        object_free(o);
    }
}
