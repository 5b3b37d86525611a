/* Packs: whether they are there, what their trailers list, and (full) every byte of them; of those
 * that gc has rewritten, where their records are now. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "repo/pack_private.h"
#include "repo/verify_private.h"
#include "util/array.h"
#include "util/cleanup.h"

#define LISTED_MAX  ((uint64_t)64 << 20) /* bytes of trailers in memory */
#define BATCH_COUNT 1024u
#define BATCH_BYTES ((size_t)8 << 20)
#define WHAT        "a pack"

struct record {
    uint32_t offset, stored;
    uint8_t encoding, level;
    bool fits; /* its size is that of a block or node of this bucket */
    uint8_t hash[BH_HASH_SIZE];
};

struct verify_pack {
    uint64_t id;
    enum {
        PACK_LISTED,
        PACK_BLIND, /* there, but without a trailer */
        PACK_MISSING,
        PACK_MOVED
    } state;
    struct record *records; /* LISTED, ascending; NULL: forgotten */
    size_t count;
    struct bh_moved_entry *moved; /* MOVED */
    size_t moved_count;
    uint32_t *bad; /* offsets of records that are damaged */
    size_t bad_count, bad_room;
    size_t damage; /* number + 1; 0: none */
    uint64_t used;
};

/* --- damage --- */

/* Of the sentences of the readers, what is of interest here. */
static void shorten(const struct bh_error *why, char text[BH_ERROR_TEXT_MAX])
{
    const char *begin = strncmp(why->text, WHAT ": ", strlen(WHAT ": "))
                            ? why->text
                            : why->text + strlen(WHAT ": ");
    const char *end = strstr(begin, "; verify tells");
    size_t len = end ? (size_t)(end - begin) : strlen(begin);
    memcpy(text, begin, len);
    text[len] = '\0';
}

static int note(struct verify *v, struct verify_pack *p, const struct bh_error *why,
                struct bh_error *err)
{
    char text[BH_ERROR_TEXT_MAX];
    BH_FREE char *key = NULL;
    if (p->damage || (v->salvaging && p->state == PACK_MISSING))
        return 0;
    shorten(why, text);
    key = bh_packs_key(v->packs, p->id);
    struct verify_damage *d = key ? verify_note(v, key, text) : NULL;
    if (!d)
        return bh_fail(err, ENOMEM, "out of memory while verifying");
    p->damage = (size_t)(d - v->damages) + 1;
    return 0;
}

/* Something needs what is not to be had of this pack. */
static void hit(struct verify *v, const struct verify_pack *p, uint64_t *mask)
{
    const uint64_t shared = (uint64_t)1 << VERIFY_BITS;
    if (!p->damage) { /* reclaimed, or so */
        *mask |= shared;
        return;
    }
    struct verify_damage *d = &v->damages[p->damage - 1];
    if (!d->bit)
        d->bit = v->bits < VERIFY_BITS ? (uint64_t)1 << v->bits++ : shared;
    *mask |= d->bit;
}

static int add_bad(struct verify *v, struct verify_pack *p, uint32_t offset,
                   const struct bh_error *why, struct bh_error *err)
{
    int rc = note(v, p, why, err);
    for (size_t i = 0; i < p->bad_count && !rc; i++)
        if (p->bad[i] == offset)
            return 0;
    if (!rc && !bh_grow(p->bad, p->bad_room, p->bad_count))
        rc = bh_fail(err, ENOMEM, "out of memory while verifying");
    if (rc)
        return rc;
    p->bad[p->bad_count++] = offset;
    v->damages[p->damage - 1].records++;
    return 0;
}

static bool is_bad(const struct verify_pack *p, uint32_t offset)
{
    for (size_t i = 0; i < p->bad_count; i++)
        if (p->bad[i] == offset)
            return true;
    return false;
}

/* --- every byte of a pack --- */

static int check_content(const struct bh_pack_entry *e, const uint8_t *content,
                         struct bh_error *why)
{
    struct bh_ref ref;
    int rc = 0;
    for (unsigned i = 0; e->kind == BH_RECORD_NODE && i < BH_FANOUT && !rc; i++)
        rc = bh_ref_decode(&ref, content + i * BH_REF_SIZE, "a node", why);
    return rc;
}

static int read_alone(struct verify *v, struct verify_pack *p, const struct bh_pack_entry *e,
                      struct bh_error *err)
{
    struct bh_error why = {0};
    int rc = bh_packs_read(v->packs, &e->ref, e->raw, v->scratch, WHAT, v->call, &why);
    if (!rc)
        rc = check_content(e, v->scratch, &why);
    if (!rc)
        return 0;
    return verify_is_damage(v, rc) ? add_bad(v, p, e->ref.offset, &why, err)
                                   : bh_fail(err, rc, "%s", why.text);
}

static int read_batch(struct verify *v, struct verify_pack *p, const struct bh_pack_entry *e,
                      size_t count, struct bh_error *err)
{
    struct bh_pack_want wants[BATCH_COUNT];
    struct bh_error why = {0};
    size_t at = 0;
    for (size_t i = 0; i < count; at += e[i++].raw)
        wants[i] = (struct bh_pack_want){.ref = e[i].ref, .raw = e[i].raw, .buf = v->scratch + at};
    v->read_records += count;
    int rc = bh_packs_read_many(v->packs, wants, count, WHAT, v->call, &why);
    at = 0;
    for (size_t i = 0; i < count && !rc; at += e[i++].raw)
        rc = check_content(&e[i], v->scratch + at, &why);
    if (!rc)
        return 0;
    if (!verify_is_damage(v, rc))
        return bh_fail(err, rc, "%s", why.text);
    rc = 0;
    for (size_t i = 0; i < count && !rc; i++) /* which? */
        rc = read_alone(v, p, &e[i], err);
    return rc;
}

static int read_header(struct verify *v, struct verify_pack *p, struct bh_error *err)
{
    uint8_t header[BH_PACK_HEADER_SIZE];
    struct bh_error why = {0};
    uint64_t id = 0;
    int rc = bh_packs_fetch(v->packs, p->id, 0, header, sizeof header, WHAT, v->call, &why);
    if (!rc)
        rc = bh_pack_header_decode(&id, header, &why);
    if (!rc && id != p->id)
        rc = bh_fail(&why, EIO, "its head is that of another pack");
    if (!rc)
        return 0;
    return verify_is_damage(v, rc) ? note(v, p, &why, err) : bh_fail(err, rc, "%s", why.text);
}

static int read_all(struct verify *v, struct verify_pack *p, const struct bh_pack_entry *e,
                    size_t count, struct bh_error *err)
{
    int rc = read_header(v, p, err);
    for (size_t i = 0, n; i < count && !rc; i += n) {
        size_t bytes = 0;
        for (n = 0; i + n < count && n < BATCH_COUNT && bytes + e[i + n].raw <= BATCH_BYTES; n++)
            bytes += e[i + n].raw;
        rc = read_batch(v, p, e + i, n, err);
    }
    return rc;
}

/* --- trailers --- */

static void forget(struct verify *v, struct verify_pack *p)
{
    if (!p->records)
        return;
    v->listed_bytes -= p->count * sizeof *p->records;
    free(p->records);
    p->records = NULL;
}

static void forget_oldest(struct verify *v)
{
    while (v->listed_bytes > LISTED_MAX) {
        struct verify_pack *oldest = NULL;
        for (size_t i = 0; i < v->pack_count; i++)
            if (v->all_packs[i]->records && (!oldest || v->all_packs[i]->used < oldest->used))
                oldest = v->all_packs[i];
        if (!oldest)
            return;
        forget(v, oldest);
    }
}

static int keep_records(struct verify *v, struct verify_pack *p, const struct bh_pack_entry *e,
                        size_t count, struct bh_error *err)
{
    struct record *r = calloc(count, sizeof *r);
    if (!r)
        return bh_fail(err, ENOMEM, "out of memory while verifying");
    for (size_t i = 0; i < count; i++) {
        r[i] = (struct record){.offset = e[i].ref.offset,
                               .stored = e[i].ref.stored,
                               .encoding = (uint8_t)e[i].ref.encoding,
                               .level = (uint8_t)e[i].level,
                               .fits = e[i].level > 0 || e[i].raw == v->block_size};
        memcpy(r[i].hash, e[i].ref.hash, BH_HASH_SIZE);
    }
    v->listed_bytes += count * sizeof *r;
    forget_oldest(v);
    p->records = r;
    p->count = count;
    return 0;
}

/* --- moved records --- */

static void meet_pack(struct verify *v, uint64_t id)
{
    const struct gc_key key = gc_pack_key(id);
    char name[GC_NAME_MAX];
    gc_key_name(&key, name);
    verify_meet(v, name);
}

/* A pack that is missing. *why: of its moved record, if that is damaged. 0 also if it has none. */
static int load_moved(struct verify *v, struct verify_pack *p, struct bh_error *why,
                      struct bh_error *err)
{
    struct bh_error cause = {0};
    int rc = bh_packs_moved(v->packs, p->id, &p->moved, &p->moved_count, v->call, &cause);
    if (rc == 0)
        p->state = PACK_MOVED;
    else if (rc != ENOENT && !verify_is_damage(v, rc))
        return bh_fail(err, rc, "%s", cause.text);
    if (rc && rc != ENOENT)
        bh_fail(why, EIO, "it is missing, and %s", cause.text);
    return 0;
}

/* One that is there, but on its way out: what takes its place is no garbage. */
static int meet_moved(struct verify *v, uint64_t id, struct bh_error *err)
{
    BH_FREE struct bh_moved_entry *entries = NULL;
    size_t count;
    struct bh_error why = {0};
    char name[GC_NAME_MAX];
    const struct gc_key key = gc_moved_key(id);
    gc_key_name(&key, name);
    if (!verify_listed(v, name))
        return 0;
    int rc = bh_packs_moved(v->packs, id, &entries, &count, v->call, &why);
    if (rc == EIO && verify_is_damage(v, rc))
        return verify_note_name(v, name, why.text, err);
    if (rc)
        return rc == ENOENT ? 0 : bh_fail(err, rc, "%s", why.text);
    for (size_t i = 0; i < count; i++)
        meet_pack(v, entries[i].pack);
    return 0;
}

/* first: it has not been looked at before. */
static int load(struct verify *v, struct verify_pack *p, bool first, struct bh_error *err)
{
    BH_FREE struct bh_pack_entry *entries = NULL;
    struct bh_error why = {0};
    size_t count;
    int rc = bh_packs_trailer(v->packs, p->id, &entries, &count, NULL, v->call, &why);
    if (rc && !verify_is_damage(v, rc))
        return bh_fail(err, rc, "%s", why.text);
    p->state = rc == 0 ? PACK_LISTED : rc == ENOENT ? PACK_MISSING : PACK_BLIND;
    if (rc == ENOENT) {
        bh_fail(&why, rc, "it is missing");
        int moved = load_moved(v, p, &why, err);
        if (moved || p->state == PACK_MOVED)
            return moved;
    }
    if (rc)
        return note(v, p, &why, err);
    if (first)
        rc = meet_moved(v, p->id, err);
    if (!rc && v->full && first)
        rc = read_all(v, p, entries, count, err);
    return rc ? rc : keep_records(v, p, entries, count, err);
}

static int add_pack(struct verify *v, uint64_t id, struct verify_pack **out, struct bh_error *err)
{
    struct verify_pack *p = calloc(1, sizeof *p);
    if (!p || !bh_grow(v->all_packs, v->pack_room, v->pack_count) ||
        verify_map_set(&v->pack_map, id, 0, v->pack_count)) {
        free(p);
        return bh_fail(err, ENOMEM, "out of memory while verifying");
    }
    p->id = id;
    v->all_packs[v->pack_count++] = *out = p;
    meet_pack(v, id);
    return load(v, p, true, err);
}

static int get_pack(struct verify *v, uint64_t id, struct verify_pack **out, struct bh_error *err)
{
    const uint64_t *number = verify_map_find(&v->pack_map, id, 0);
    int rc = 0;
    if (!v->scratch && !(v->scratch = malloc(BATCH_BYTES)))
        return bh_fail(err, ENOMEM, "out of memory while verifying");
    if (!number)
        rc = add_pack(v, id, out, err);
    else
        *out = v->all_packs[*number];
    if (rc)
        return rc;
    (*out)->used = ++v->clock;
    return (*out)->state == PACK_LISTED && !(*out)->records ? load(v, *out, false, err) : 0;
}

void verify_packs_free(struct verify *v)
{
    for (size_t i = 0; i < v->pack_count; i++) {
        free(v->all_packs[i]->records);
        free(v->all_packs[i]->moved);
        free(v->all_packs[i]->bad);
        free(v->all_packs[i]);
    }
    free(v->all_packs);
    free(v->scratch);
    verify_map_free(&v->pack_map);
}

/* --- references --- */

static bool lists(const struct verify_pack *p, const struct bh_ref *ref, unsigned level)
{
    size_t low = 0, high = p->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (p->records[middle].offset < ref->offset)
            low = middle + 1;
        else
            high = middle;
    }
    const struct record *r = low < p->count ? &p->records[low] : NULL;
    return r && r->offset == ref->offset && r->stored == ref->stored &&
           r->encoding == ref->encoding && r->level == level && r->fits &&
           !memcmp(r->hash, ref->hash, BH_HASH_SIZE);
}

/* The pack that has the record, and *ref in it. One that is MOVED: its moved record does not tell
 * of this one. */
static int locate(struct verify *v, struct bh_ref *ref, struct verify_pack **p,
                  struct bh_error *err)
{
    int rc = get_pack(v, ref->pack, p, err);
    for (unsigned moves = 0; !rc && (*p)->state == PACK_MOVED && moves < BH_MOVES_MAX; moves++) {
        const struct bh_moved_entry *e = bh_moved_find((*p)->moved, (*p)->moved_count, ref->offset);
        if (!e)
            return 0;
        ref->pack = e->pack;
        ref->offset = e->offset;
        rc = get_pack(v, ref->pack, p, err);
    }
    return rc;
}

int verify_bad_record(struct verify *v, const struct bh_ref *ref, const struct bh_error *why,
                      uint64_t *mask, struct bh_error *err)
{
    struct verify_pack *p = NULL;
    struct bh_ref now = *ref;
    int rc = locate(v, &now, &p, err);
    if (!rc)
        rc = add_bad(v, p, now.offset, why, err);
    if (!rc)
        hit(v, p, mask);
    return rc;
}

static int read_block(struct verify *v, const struct bh_ref *ref, uint64_t *mask,
                      struct bh_error *err)
{
    struct bh_error why = {0};
    int rc = bh_packs_read(v->packs, ref, v->block_size, v->scratch, WHAT, v->call, &why);
    if (!rc)
        return 0;
    return verify_is_damage(v, rc) ? verify_bad_record(v, ref, &why, mask, err)
                                   : bh_fail(err, rc, "%s", why.text);
}

int verify_record(struct verify *v, const struct bh_ref *ref, unsigned level, bool look,
                  uint64_t *mask, struct bh_error *err)
{
    struct verify_pack *p = NULL;
    struct bh_error why = {0};
    struct bh_ref now = *ref;
    int rc = locate(v, &now, &p, err);
    if (rc)
        return rc;
    if (p->state == PACK_MISSING || is_bad(p, now.offset)) {
        hit(v, p, mask);
        return 0;
    }
    if (p->state == PACK_MOVED || (p->state == PACK_LISTED && !lists(p, &now, level))) {
        bh_fail(&why, EIO, "it has no %s at offset %u as it is referred to%s",
                level ? "node" : "block", now.offset,
                p->state == PACK_MOVED ? ", nor has its moved record" : "");
        return verify_bad_record(v, ref, &why, mask, err);
    }
    /* Without a trailer only reading tells; nodes are read by the walk. */
    if (level == 0 && (p->state == PACK_BLIND || (look && !v->full)))
        return read_block(v, ref, mask, err);
    return 0;
}

int verify_guess_block_size(struct verify *v, uint32_t *block_size, struct bh_error *err)
{
    *block_size = 0;
    for (size_t i = 0; i < v->object_count; i++) {
        BH_FREE struct bh_pack_entry *entries = NULL;
        struct bh_error why = {0};
        size_t count = 0;
        uint64_t id;
        const char *name = v->objects[i].name;
        if (strncmp(name, "packs/", 6) || bh_pack_id_of_name(&id, name + 6))
            continue;
        int rc = bh_packs_trailer(v->packs, id, &entries, &count, NULL, v->call, &why);
        if (rc && !verify_is_damage(v, rc))
            return bh_fail(err, rc, "%s", why.text);
        for (size_t k = 0; !rc && k < count; k++)
            if (entries[k].kind == BH_RECORD_BLOCK) {
                *block_size = entries[k].raw;
                return 0;
            }
    }
    return 0;
}
