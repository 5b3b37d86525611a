#include <errno.h>
#include <stdlib.h>

#include "repo/verify_private.h"

static struct verify_slot *slot_of(const struct verify_map *m, uint64_t a, uint32_t b)
{
    uint64_t hash = (a ^ (uint64_t)b << 32 ^ b) * 0x9e3779b97f4a7c15u;
    size_t at = (size_t)(hash >> 32) & (m->room - 1);
    while (m->slots[at].used && (m->slots[at].a != a || m->slots[at].b != b))
        at = (at + 1) & (m->room - 1);
    return &m->slots[at];
}

uint64_t *verify_map_find(const struct verify_map *m, uint64_t a, uint32_t b)
{
    struct verify_slot *s = m->room ? slot_of(m, a, b) : NULL;
    return s && s->used ? &s->value : NULL;
}

static int rehash(struct verify_map *m)
{
    struct verify_map bigger = {.count = m->count, .room = m->room ? 2 * m->room : 256};
    bigger.slots = calloc(bigger.room, sizeof *bigger.slots);
    if (!bigger.slots)
        return ENOMEM;
    for (size_t i = 0; i < m->room; i++)
        if (m->slots[i].used)
            *slot_of(&bigger, m->slots[i].a, m->slots[i].b) = m->slots[i];
    free(m->slots);
    *m = bigger;
    return 0;
}

int verify_map_set(struct verify_map *m, uint64_t a, uint32_t b, uint64_t value)
{
    if (m->count >= m->room / 4 * 3 && rehash(m))
        return ENOMEM;
    struct verify_slot *s = slot_of(m, a, b);
    m->count += !s->used;
    *s = (struct verify_slot){.a = a, .b = b, .value = value, .used = true};
    return 0;
}

void verify_map_free(struct verify_map *m)
{
    free(m->slots);
    *m = (struct verify_map){0};
}
