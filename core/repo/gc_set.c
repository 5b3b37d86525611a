/* Open addressing with linear probing; nothing is ever removed. */
#include "repo/gc_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KIND_SHIFT 56

/* --- keys --- */

static uint64_t tag(enum gc_kind kind)
{
    return (uint64_t)kind << KIND_SHIFT;
}

struct gc_key gc_pack_key(uint64_t id)
{
    return (struct gc_key){id, tag(GC_PACK)};
}

struct gc_key gc_moved_key(uint64_t id)
{
    return (struct gc_key){id, tag(GC_MOVED)};
}

/* "YYYYMMDDTHHMMSS.mmmZ-xxxxxxxx": 17 decimal and 8 hexadecimal digits. */
struct gc_key gc_record_key(const char *id)
{
    struct gc_key key = {0, tag(GC_RECORD)};
    const char *dash = strchr(id, '-');
    for (const char *p = id; p < dash; p++)
        if (*p >= '0' && *p <= '9')
            key.a = key.a * 10 + (uint64_t)(*p - '0');
    key.b |= strtoul(dash + 1, NULL, 16);
    return key;
}

/* The size says only what of the content counts. */
struct gc_key gc_root_key(const struct bh_root *root)
{
    return (struct gc_key){root->ref.pack,
                           tag(GC_ROOT) | (uint64_t)root->depth << 32 | root->ref.offset};
}

int gc_text_key(const char *text, struct gc_key *key)
{
    uint8_t hash[BH_HASH_SIZE];
    if (bh_content_hash(text, strlen(text), hash))
        return ENOMEM;
    memcpy(&key->a, hash, sizeof key->a);
    memcpy(&key->b, hash + sizeof key->a, sizeof key->b);
    key->b = key->b << 8 >> 8 | tag(GC_TEXT);
    return 0;
}

enum gc_kind gc_key_kind(const struct gc_key *key)
{
    return (enum gc_kind)(key->b >> KIND_SHIFT);
}

void gc_key_name(const struct gc_key *key, char name[GC_NAME_MAX])
{
    char pack[BH_PACK_NAME_MAX];
    if (gc_key_kind(key) != GC_RECORD) {
        bh_pack_name(key->a, pack);
        snprintf(name, GC_NAME_MAX, "%s/%s", gc_key_kind(key) == GC_PACK ? "packs" : "moved", pack);
        return;
    }
    char digits[32];
    snprintf(digits, sizeof digits, "%017" PRIu64, key->a);
    snprintf(name, GC_NAME_MAX, "snapshots/%.8sT%.6s.%.3sZ-%08" PRIx32, digits, digits + 8,
             digits + 14, (uint32_t)key->b);
}

/* --- sets --- */

static uint64_t mix(const struct gc_key *key) /* splitmix64's finaliser */
{
    uint64_t x = key->a ^ key->b * UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* Its slot, or the empty one where it belongs. */
static struct gc_slot *find(struct gc_slot *slots, size_t room, const struct gc_key *key)
{
    size_t at = (size_t)mix(key) & (room - 1);
    while (slots[at].key.b && (slots[at].key.a != key->a || slots[at].key.b != key->b))
        at = (at + 1) & (room - 1);
    return &slots[at];
}

static int grow(struct gc_set *s)
{
    size_t room = s->room ? s->room * 2 : 64;
    struct gc_slot *slots = calloc(room, sizeof *slots);
    if (!slots)
        return ENOMEM;
    for (size_t i = 0; i < s->room; i++)
        if (s->slots[i].key.b)
            *find(slots, room, &s->slots[i].key) = s->slots[i];
    free(s->slots);
    s->slots = slots;
    s->room = room;
    return 0;
}

int gc_set_add(struct gc_set *s, struct gc_key key, int64_t value)
{
    if (s->count >= s->room / 2 && grow(s) != 0)
        return ENOMEM;
    struct gc_slot *slot = find(s->slots, s->room, &key);
    if (slot->key.b)
        return EEXIST;
    *slot = (struct gc_slot){key, value};
    s->count++;
    return 0;
}

int64_t *gc_set_get(const struct gc_set *s, struct gc_key key)
{
    if (!s->room)
        return NULL;
    struct gc_slot *slot = find(s->slots, s->room, &key);
    return slot->key.b ? &slot->value : NULL;
}

void gc_set_free(struct gc_set *s)
{
    free(s->slots);
    *s = (struct gc_set){0};
}
