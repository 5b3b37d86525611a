/* The table of what is here: entries by hash, and in the order of their last use. */
#include "store/blobs_private.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/clock.h"
#include "util/log.h"

#define SLOTS_FIRST 1024
#define DISK_BLOCK  4096u

void bh_blobs_name(char name[BLOBS_NAME], enum blobs_kind kind, const uint8_t hash[BH_SHA256_LEN])
{
    name[0] = "?pcur"[kind];
    name[1] = '-';
    bh_sha256_format(hash, name + 2);
}

void bh_blobs_map_name(char name[BLOBS_NAME], const uint8_t hash[BH_SHA256_LEN])
{
    bh_blobs_name(name, KIND_PARTS, hash);
    strcat(name, ".map");
}

void bh_blobs_temp_name(char name[BLOBS_NAME])
{
    uint64_t random;
    bh_random_bytes(&random, sizeof random);
    snprintf(name, BLOBS_NAME, "t-%016" PRIx64, random);
}

void bh_data_name(char name[BLOBS_NAME], uint64_t number)
{
    snprintf(name, BLOBS_NAME, "d-%016" PRIx64, number);
}

uint64_t bh_data_number(const char *name)
{
    char again[BLOBS_NAME];
    if (strncmp(name, "d-", 2) != 0)
        return 0;
    uint64_t number = strtoull(name + 2, NULL, 16);
    bh_data_name(again, number);
    return strcmp(again, name) == 0 ? number : 0;
}

void bh_blobs_unlink_name(struct bh_blobs *b, const char *name)
{
    int rc = bh_disk_unlink(b->o.disk, name);
    if (rc && rc != ENOENT)
        bh_log(BH_LOG_WARNING, "%s in %s cannot be removed: %s", name, bh_disk_path(b->o.disk),
               strerror(rc));
}

void bh_blobs_unlink(struct bh_blobs *b, enum blobs_kind kind, const uint8_t hash[BH_SHA256_LEN])
{
    char name[BLOBS_NAME];
    if (kind == KIND_NONE)
        return;
    if (kind == KIND_PARTS) { /* the map first: it says that the other one is there */
        bh_blobs_map_name(name, hash);
        bh_blobs_unlink_name(b, name);
    }
    bh_blobs_name(name, kind, hash);
    bh_blobs_unlink_name(b, name);
}

void bh_blobs_key(const struct bh_blobs *b, const uint8_t hash[BH_SHA256_LEN],
                  char key[BH_KEY_MAX + 1])
{
    char hex[BH_SHA256_HEX];
    bh_sha256_format(hash, hex);
    snprintf(key, BH_KEY_MAX + 1, "%s%s", b->prefix, hex);
}

/* --- by hash --- */

static size_t slot_of(const struct bh_blobs *b, const uint8_t hash[BH_SHA256_LEN])
{
    uint64_t start;
    memcpy(&start, hash, sizeof start);
    return (size_t)start & (b->slot_count - 1);
}

struct blobs_entry *bh_blobs_find(struct bh_blobs *b, const uint8_t hash[BH_SHA256_LEN])
{
    if (!b->slot_count)
        return NULL;
    struct blobs_entry *e = b->slots[slot_of(b, hash)];
    while (e && memcmp(e->hash, hash, BH_SHA256_LEN) != 0)
        e = e->next;
    return e;
}

/* Twice as many slots; if there is no memory for them, chains become longer. */
static void grow(struct bh_blobs *b)
{
    size_t before = b->slot_count, count = before ? 2 * before : SLOTS_FIRST;
    struct blobs_entry **old = b->slots, **slots = calloc(count, sizeof(struct blobs_entry *));
    if (!slots)
        return;
    b->slots = slots;
    b->slot_count = count;
    for (size_t i = 0; i < before; i++)
        for (struct blobs_entry *e = old[i], *next; e; e = next) {
            next = e->next;
            e->next = slots[slot_of(b, e->hash)];
            slots[slot_of(b, e->hash)] = e;
        }
    free(old);
}

struct blobs_entry *bh_blobs_entry(struct bh_blobs *b, const uint8_t hash[BH_SHA256_LEN])
{
    struct blobs_entry *e = bh_blobs_find(b, hash);
    if (e)
        return e;
    if (b->entry_count >= b->slot_count)
        grow(b);
    if (!b->slot_count || !(e = calloc(1, sizeof *e)))
        return NULL;
    memcpy(e->hash, hash, BH_SHA256_LEN);
    e->next = b->slots[slot_of(b, hash)];
    b->slots[slot_of(b, hash)] = e;
    b->entry_count++;
    return e;
}

void bh_blobs_entry_drop(struct bh_blobs *b, struct blobs_entry *e)
{
    if (e->kind != KIND_NONE || e->job || e->content || e->pins)
        return;
    struct blobs_entry **p = &b->slots[slot_of(b, e->hash)];
    while (*p != e)
        p = &(*p)->next;
    *p = e->next;
    b->entry_count--;
    free(e);
}

void bh_blobs_table_free(struct bh_blobs *b)
{
    for (size_t i = 0; i < b->slot_count; i++)
        for (struct blobs_entry *e = b->slots[i], *next; e; e = next) {
            next = e->next;
            assert(!e->content);
            if (e->job)
                free(e->job->edit);
            free(e->job);
            free(e);
        }
    free(b->slots);
}

/* --- by use --- */

static bool is_cached(enum blobs_kind kind)
{
    return kind == KIND_CACHED || kind == KIND_UNSURE || kind == KIND_PARTS;
}

/* Not to be evicted yet: no head names it, and its object may have to be written anew, which parts
 * are of no use for. */
static bool is_to_be_kept(const struct bh_blobs *b, const struct blobs_entry *e)
{
    return b->o.keep_unnamed && e->flush > b->named && e->kind != KIND_PARTS;
}

static struct blobs_uses *list_of(struct bh_blobs *b, const struct blobs_entry *e)
{
    return e->kept ? &b->kept : &b->may_go;
}

static void unlist(struct bh_blobs *b, struct blobs_entry *e)
{
    struct blobs_uses *l = list_of(b, e);
    *(e->older ? &e->older->newer : &l->oldest) = e->newer;
    *(e->newer ? &e->newer->older : &l->newest) = e->older;
    e->older = e->newer = NULL;
}

/* Who evicts does not have to look at what is kept, however much that is. */
static void list_newest(struct bh_blobs *b, struct blobs_entry *e)
{
    e->kept = is_to_be_kept(b, e);
    struct blobs_uses *l = list_of(b, e);
    e->older = l->newest;
    *(l->newest ? &l->newest->newer : &l->oldest) = e;
    l->newest = e;
}

static void look_for_crowd(struct bh_blobs *b)
{
    if (b->cache_max && b->cached_bytes > b->cache_max)
        pthread_cond_signal(&b->crowded);
}

static uint64_t on_disk(uint64_t bytes)
{
    return (bytes + DISK_BLOCK - 1) / DISK_BLOCK * DISK_BLOCK;
}

void bh_blobs_resize(struct bh_blobs *b, struct blobs_entry *e, uint64_t bytes)
{
    b->cached_bytes += on_disk(bytes) - e->bytes;
    e->bytes = on_disk(bytes);
    look_for_crowd(b);
}

void bh_blobs_become(struct bh_blobs *b, struct blobs_entry *e, enum blobs_kind kind,
                     uint64_t bytes)
{
    if (is_cached(e->kind)) {
        unlist(b, e);
        b->cached_bytes -= e->bytes;
    }
    e->kind = (uint8_t)kind;
    e->bytes = on_disk(bytes);
    if (!is_cached(kind))
        return;
    list_newest(b, e);
    b->cached_bytes += e->bytes;
    look_for_crowd(b);
}

void bh_blobs_used(struct bh_blobs *b, struct blobs_entry *e)
{
    if (is_cached(e->kind)) {
        unlist(b, e);
        list_newest(b, e);
    }
}

void bh_blobs_needs_head(struct bh_blobs *b, struct blobs_entry *e)
{
    e->flush = b->flush;
    bh_blobs_used(b, e);
}

void bh_blobs_let_go(struct bh_blobs *b, uint32_t flush)
{
    b->named = flush;
    for (struct blobs_entry *e = b->kept.oldest, *newer; e; e = newer) {
        newer = e->newer;
        if (is_to_be_kept(b, e))
            continue;
        unlist(b, e);
        list_newest(b, e);
    }
    look_for_crowd(b);
}

static uint32_t now_s(void)
{
    return (uint32_t)(bh_boot_ms() / 1000) + 1; /* 0 means never */
}

void bh_blobs_seen(struct blobs_entry *e)
{
    e->seen_s = now_s();
}

bool bh_blobs_seen_lately(const struct blobs_entry *e)
{
    return e->seen_s && now_s() - e->seen_s < BLOBS_TRUST_S;
}
