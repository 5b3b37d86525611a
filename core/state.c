/* What a struct bh tells of itself, and what may change of its configuration. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bh_private.h"
#include "internal.h"
#include "util/cleanup.h"

void bh_get_info(struct bh *b, struct bh_info *out)
{
    memset(out, 0, sizeof *out);
    pthread_mutex_lock(&b->life);
    out->started = b->started;
    out->stopped = b->stopped;
    snprintf(out->branch, sizeof out->branch, "%s", b->cfg->snapshot.branch);
    if (b->history) {
        struct bh_history_status st;
        bh_history_status(b->history, &st);
        if (st.branch[0])
            memcpy(out->branch, st.branch, sizeof out->branch);
    }
    if (b->live) {
        out->live_bytes = bh_file_size(bh_store_db(b->live->store));
        out->dirty_bytes = bh_live_dirty_bytes(b->live);
    }
    pthread_mutex_unlock(&b->life);
    BH_LOCK_SCOPE(&b->mutex);
    memcpy(out->snapshot, b->snapshot, sizeof out->snapshot);
    memcpy(out->sha256, b->sha256, sizeof out->sha256);
    out->flush_index = b->flush_index;
    out->last_flush_ms = b->last_flush_ms;
    out->last_flush_seconds = b->last_flush_seconds;
    out->last_flush_bytes = b->last_flush_bytes;
    out->debounced = b->debounced;
    memcpy(out->last_error, b->last_error, sizeof out->last_error);
    snprintf(out->recovered, sizeof out->recovered, "%s", b->recovered.text);
}

struct bh_live *bh_live_of(struct bh *b)
{
    return b->live;
}

const struct bh_config *bh_config_of(struct bh *b)
{
    return b->cfg;
}

const char *bh_snapshot_key(struct bh *b)
{
    return bh_plain_key(b->plain);
}

void bh_bucket_stats_of(struct bh *b, struct bh_bucket_stats *out)
{
    bh_bucket_stats(b->bucket, out);
}

void bh_bucket_describe_of(struct bh *b, struct bh_strbuf *out)
{
    bh_bucket_describe(b->bucket, out);
}

struct bh_progress *bh_progress_of(struct bh *b)
{
    return bh_plain_progress(b->plain);
}

uint64_t bh_rescues_of(struct bh *b)
{
    return bh_plain_rescues(b->plain);
}

void bh_flush_counts(struct bh *b, uint64_t counts[4])
{
    BH_LOCK_SCOPE(&b->mutex);
    memcpy(counts, b->outcomes, sizeof b->outcomes);
}

char *bh_config_string(struct bh *b, char *const *field)
{
    BH_LOCK_SCOPE(&b->mutex);
    return strdup(*field ? *field : "");
}

void bh_config_text(struct bh *b, struct bh_strbuf *out)
{
    BH_LOCK_SCOPE(&b->mutex);
    bh_config_dump(b->cfg, out);
}

int bh_reload(struct bh *b, struct bh_config *fresh, struct bh_strbuf *changes,
              struct bh_error *err)
{
    pthread_mutex_lock(&b->mutex);
    int rc = bh_config_apply_reload(b->cfg, fresh, changes, err);
    if (rc == 0 && b->running)
        rc = bh_store_set_cache_max(b->live->store, b->cfg->live.cache_max, err);
    if (rc == 0 && b->running && b->files)
        bh_blobs_set_cache_max(bh_files_blobs(b->files), b->cfg->files.cache_max);
    b->kick = true;
    pthread_cond_broadcast(&b->changed);
    pthread_mutex_unlock(&b->mutex);
    bh_config_free(fresh);
    return rc;
}
