/* Packs are filled in memory by one thread; full ones go up in threads of their own. */
#include "repo/pack_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bucket/bucket_util.h"
#include "util/array.h"
#include "util/cleanup.h"
#include "util/thread.h"

struct pack {
    uint64_t id;
    struct bh_strbuf data;
    struct bh_pack_entry *entries;
    size_t count, room;
};

/* A pack on its way. All but the pack's bytes is guarded by the writer's mutex. */
struct slot {
    struct bh_pack_writer *writer;
    struct pack *pack; /* NULL: the slot is free, or its upload is over */
    pthread_t thread;
    bool has_thread; /* to be joined */
};

struct bh_pack_writer {
    struct bh_packs *packs;
    enum bh_tree_kind tree;
    struct bh_call call;
    atomic_bool over; /* uploads end soon */
    struct pack *open;
    uint64_t *ids;
    size_t id_count, id_room;
    uint64_t sealed; /* bytes of the packs that are full */
    ZSTD_CCtx *context;
    void *scratch; /* room for what a record is compressed to */
    size_t scratch_size;

    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t changed;
    int rc; /* the first failure; nothing is uploaded after it */
    struct bh_error error;
    struct slot slots[BH_PACKS_PARALLEL_MAX];
};

/* --- failures --- */

/* Keeps the first; returns what is kept. */
static int remember(struct bh_pack_writer *w, int rc, const struct bh_error *why)
{
    BH_LOCK_SCOPE(&w->mutex);
    if (!w->rc) {
        w->rc = rc;
        w->error = *why;
        w->error.code = rc;
    }
    atomic_store(&w->over, true);
    pthread_cond_broadcast(&w->changed);
    return w->rc;
}

static int failed(struct bh_pack_writer *w, struct bh_error *err)
{
    BH_LOCK_SCOPE(&w->mutex);
    return w->rc ? bh_fail(err, w->rc, "%s", w->error.text) : 0;
}

static int no_memory(struct bh_pack_writer *w, struct bh_error *err)
{
    struct bh_error why;
    remember(w, bh_fail(&why, ENOMEM, "out of memory for a pack of changed blocks"), &why);
    return failed(w, err);
}

/* --- uploads --- */

static void pack_free(struct pack *pack)
{
    if (!pack)
        return;
    bh_strbuf_free(&pack->data);
    free(pack->entries);
    free(pack);
}

static int upload(struct bh_pack_writer *w, const struct pack *pack, struct bh_error *err)
{
    const struct bh_source src = {.size = pack->data.len, .data = pack->data.data};
    char name[BH_PACK_NAME_MAX];
    struct bh_error why = {0};
    BH_FREE char *key = bh_packs_key(w->packs, pack->id);
    if (!key)
        return bh_fail(err, ENOMEM, "out of memory for the upload of a pack");
    bh_pack_name(pack->id, name);
    int rc = bh_packs_put_new(w->packs, key, &src, &w->call, &why);
    if (rc == EEXIST)
        return bh_fail(err, EIO, "a pack of the name %s is there already: flush again", name);
    return rc ? bh_fail(err, rc, "pack %s is not uploaded: %s", name, why.text) : 0;
}

/* Uploads the slot's pack and makes the slot free (but for its thread). */
static void upload_slot(struct slot *slot)
{
    struct bh_pack_writer *w = slot->writer;
    struct bh_error err = {0};
    int rc = upload(w, slot->pack, &err);
    pack_free(slot->pack);
    if (rc)
        remember(w, rc, &err);
    BH_LOCK_SCOPE(&w->mutex);
    slot->pack = NULL;
    pthread_cond_broadcast(&w->changed);
}

static void *slot_main(void *arg)
{
    upload_slot(arg);
    return NULL;
}

/* The thread no longer wants the mutex, which the caller holds: slot->pack was seen NULL. */
static void slot_join(struct slot *slot)
{
    if (slot->has_thread)
        pthread_join(slot->thread, NULL);
    slot->has_thread = false;
}

/* Waits for a free slot and gives it the pack. NULL: the writer has failed. */
static struct slot *take_slot(struct bh_pack_writer *w, struct pack *pack)
{
    BH_LOCK_SCOPE(&w->mutex);
    while (!w->rc) {
        for (unsigned i = 0; i < w->packs->options.parallel; i++) {
            struct slot *slot = &w->slots[i];
            if (slot->pack)
                continue;
            slot_join(slot);
            slot->pack = pack;
            return slot;
        }
        pthread_cond_wait(&w->changed, &w->mutex); /* uploads end with the call: so does this */
    }
    return NULL;
}

static void wait_for_all(struct bh_pack_writer *w)
{
    BH_LOCK_SCOPE(&w->mutex);
    for (unsigned i = 0; i < BH_PACKS_PARALLEL_MAX; i++) {
        while (w->slots[i].pack)
            pthread_cond_wait(&w->changed, &w->mutex);
        slot_join(&w->slots[i]);
    }
}

/* The open pack gets its trailer and goes up: here, or in a thread of its own. */
static int send_open(struct bh_pack_writer *w, bool here, struct bh_error *err)
{
    struct pack *pack = bh_take_ptr(w->open);
    int rc = bh_pack_trailer_encode(&pack->data, pack->id, (uint32_t)pack->data.len, pack->entries,
                                    pack->count);
    w->sealed += pack->data.len;
    if (rc) {
        struct bh_error why;
        pack_free(pack);
        remember(w,
                 bh_fail(&why, rc, "a pack of changed blocks cannot be closed: %s", strerror(rc)),
                 &why);
        return failed(w, err);
    }
    struct slot *slot = take_slot(w, pack);
    if (!slot) {
        pack_free(pack);
        return failed(w, err);
    }
    if (!here)
        slot->has_thread = bh_thread_start(&slot->thread, slot_main, slot) == 0;
    if (!slot->has_thread)
        upload_slot(slot);
    return failed(w, err);
}

/* --- records --- */

static int begin_pack(struct bh_pack_writer *w, struct bh_error *err)
{
    uint8_t header[BH_PACK_HEADER_SIZE];
    struct pack *pack = calloc(1, sizeof *pack);
    if (!pack || !bh_grow(w->ids, w->id_room, w->id_count)) {
        free(pack);
        return no_memory(w, err);
    }
    while (pack->id == 0)
        bh_random_bytes(&pack->id, sizeof pack->id);
    bh_pack_header_encode(pack->id, header);
    bh_strbuf_add(&pack->data, header, sizeof header);
    w->ids[w->id_count++] = pack->id;
    w->open = pack;
    return 0;
}

/* What is to be stored of a record: *bytes is data itself, or the scratch. */
static int compress(struct bh_pack_writer *w, const void *data, size_t len, const void **bytes,
                    struct bh_ref *ref)
{
    size_t room = ZSTD_compressBound(len), got;
    *bytes = data;
    ref->stored = (uint32_t)len;
    ref->encoding = BH_ENC_RAW;
    if (w->packs->options.level == 0)
        return 0;
    if (!w->context && !(w->context = ZSTD_createCCtx()))
        return ENOMEM;
    if (room > w->scratch_size) {
        free(w->scratch);
        w->scratch = malloc(room);
        w->scratch_size = w->scratch ? room : 0;
        if (!w->scratch)
            return ENOMEM;
    }
    got = ZSTD_compressCCtx(w->context, w->scratch, room, data, len, w->packs->options.level);
    if (ZSTD_isError(got)) /* there is room: so there was no memory */
        return ENOMEM;
    if (got <= len - len / 16) {
        *bytes = w->scratch;
        ref->stored = (uint32_t)got;
        ref->encoding = BH_ENC_ZSTD;
    }
    return 0;
}

static bool is_zeros(const uint8_t *data, size_t len)
{
    return data[0] == 0 && memcmp(data, data + 1, len - 1) == 0;
}

static bool is_full(const struct bh_pack_writer *w, uint32_t more)
{
    const struct pack *p = w->open;
    return p && p->data.len + more + (p->count + 1) * BH_PACK_ENTRY_SIZE + BH_PACK_FOOTER_SIZE >
                    w->packs->options.part_size;
}

/* Puts the record, of which all but the place is known, into a pack. */
static int append(struct bh_pack_writer *w, struct bh_pack_entry *e, const void *bytes,
                  struct bh_error *err)
{
    int rc = is_full(w, e->ref.stored) ? send_open(w, false, err) : 0;
    if (!rc && !w->open)
        rc = begin_pack(w, err);
    if (rc)
        return rc;
    struct pack *pack = w->open;
    e->ref.pack = pack->id;
    e->ref.offset = (uint32_t)pack->data.len;
    bh_strbuf_add(&pack->data, bytes, e->ref.stored);
    if (pack->data.failed || !bh_grow(pack->entries, pack->room, pack->count))
        return no_memory(w, err);
    pack->entries[pack->count++] = *e;
    return 0;
}

int bh_pack_add(struct bh_pack_writer *w, enum bh_record_kind kind, unsigned level, uint64_t number,
                const void *data, size_t len, struct bh_ref *ref, struct bh_error *err)
{
    struct bh_pack_entry e = {
        .kind = kind, .tree = w->tree, .level = level, .number = number, .raw = (uint32_t)len};
    const void *bytes;
    *ref = (struct bh_ref){0};
    if (!bh_record_shape_ok(kind, w->tree, level, number, len))
        return bh_fail(err, EINVAL,
                       "there is no record of kind %d, level %u, number %llu and %zu bytes",
                       (int)kind, level, (unsigned long long)number, len);
    int rc = bh_call_check(&w->call, "the upload of changed blocks", err);
    int first = failed(w, err); /* which ends the call, too: that is why it is asked second */
    if (rc || first || is_zeros(data, len))
        return first ? first : rc;
    if (bh_content_hash(data, len, e.ref.hash) || compress(w, data, len, &bytes, &e.ref))
        return no_memory(w, err);
    rc = append(w, &e, bytes, err);
    if (!rc)
        *ref = e.ref;
    return rc;
}

int bh_pack_add_stored(struct bh_pack_writer *w, const struct bh_pack_entry *entry,
                       const void *bytes, struct bh_ref *ref, struct bh_error *err)
{
    struct bh_pack_entry e = *entry;
    int rc = bh_call_check(&w->call, "the rewriting of packs", err);
    int first = failed(w, err);
    if (rc || first)
        return first ? first : rc;
    rc = append(w, &e, bytes, err);
    if (!rc)
        *ref = e.ref;
    return rc;
}

/* --- the writer --- */

int bh_pack_writer_new(struct bh_pack_writer **out, struct bh_packs *p, enum bh_tree_kind tree,
                       const struct bh_call *call, struct bh_error *err)
{
    struct bh_pack_writer *w = calloc(1, sizeof *w);
    if (!w)
        return bh_fail(err, ENOMEM, "out of memory for a pack of changed blocks");
    w->packs = p;
    w->tree = tree;
    w->call = bh_packs_call(call, &w->over);
    for (unsigned i = 0; i < BH_PACKS_PARALLEL_MAX; i++)
        w->slots[i].writer = w;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->changed, NULL);
    *out = w;
    return 0;
}

void bh_pack_writer_set_tree(struct bh_pack_writer *w, enum bh_tree_kind tree)
{
    w->tree = tree;
}

int bh_pack_writer_finish(struct bh_pack_writer *w, struct bh_error *err)
{
    if (w->open && !failed(w, NULL))
        (void)send_open(w, true, NULL);
    wait_for_all(w);
    return failed(w, err);
}

bool bh_pack_writer_failed(struct bh_pack_writer *w)
{
    return failed(w, NULL) != 0;
}

uint64_t bh_pack_writer_bytes(const struct bh_pack_writer *w)
{
    return w->sealed + (w->open ? w->open->data.len : 0);
}

const uint64_t *bh_pack_writer_ids(const struct bh_pack_writer *w, size_t *count)
{
    *count = w->id_count;
    return w->ids;
}

void bh_pack_writer_free(struct bh_pack_writer *w)
{
    if (!w)
        return;
    atomic_store(&w->over, true); /* what still goes up would be garbage */
    wait_for_all(w);
    pack_free(w->open);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->mutex);
    ZSTD_freeCCtx(w->context);
    free(w->scratch);
    free(w->ids);
    free(w);
}
