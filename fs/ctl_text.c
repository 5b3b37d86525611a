/* What status, status.json, metrics and flush show. One table of facts serves both forms of status.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon.h"
#include "util/clock.h"

struct facts {
    struct bh_strbuf *out;
    bool json;
    unsigned count;
};

static void text(struct facts *f, const char *name, const char *value)
{
    if (f->json) {
        bh_strbuf_addf(f->out, "%s\n  \"%s\": ", f->count++ ? "," : "{", name);
        bh_strbuf_add_json(f->out, value);
    } else {
        bh_strbuf_addf(f->out, "%s: ", name);
        for (const char *c = value; *c;
             c++) /* a line is a line, whatever a mount point is called */
            bh_strbuf_add(f->out, *c == '\n' ? " " : c, 1);
        bh_strbuf_add(f->out, "\n", 1);
    }
}

static void number(struct facts *f, const char *name, uint64_t value)
{
    if (f->json)
        bh_strbuf_addf(f->out, "%s\n  \"%s\": %" PRIu64, f->count++ ? "," : "{", name, value);
    else
        bh_strbuf_addf(f->out, "%s: %" PRIu64 "\n", name, value);
}

/* False: no flush is busy with files. */
static bool files_progress(struct facts *f, const struct bh_files_status *st)
{
    if (st->phase == BH_FILES_IDLE)
        return false;
    text(f, "flush_under_way", st->phase == BH_FILES_HASHING ? "hashing files" : "uploading files");
    number(f, "flush_files_done", st->files_done);
    number(f, "flush_files_total", st->files_total);
    number(f, "flush_bytes_done", st->bytes_done);
    number(f, "flush_bytes_total", st->bytes_total);
    return true;
}

static void progress(struct facts *f, struct daemon *d, const struct bh_files_status *files)
{
    static const char *const phases[] = {"none", "freezing", "hashing",
                                         "keeping the previous snapshot", "uploading"};
    struct bh_progress *p = bh_progress_of(d->bh);
    int phase = atomic_load(&p->phase);
    if (files_progress(f, files))
        return;
    text(f, "flush_under_way", phases[phase]);
    if (phase) {
        number(f, "flush_bytes_done", atomic_load(&p->done));
        number(f, "flush_bytes_total", atomic_load(&p->total));
    }
}

static void last_flush(struct facts *f, const struct bh_info *info)
{
    char when[32];
    text(f, "last_flush",
         info->last_flush_ms ? bh_format_time(info->last_flush_ms, when, sizeof when) : "never");
    text(f, "last_flush_result",
         info->last_error[0]   ? info->last_error
         : info->last_flush_ms ? "ok"
                               : "none yet");
}

/* What the bucket says about itself, "name: value" lines, as facts. */
static void bucket_facts(struct facts *f, struct daemon *d)
{
    BH_STRBUF lines = {0};
    struct bh_bucket_stats s;
    char *save = NULL;
    bh_bucket_describe_of(d->bh, &lines);
    for (char *line = strtok_r(lines.data, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char name[64], *value = strstr(line, ": ");
        if (!value || value - line > 40)
            continue;
        snprintf(name, sizeof name, "bucket_%.*s", (int)(value - line), line);
        text(f, name, value + 2);
    }
    bh_bucket_stats_of(d->bh, &s);
    uint64_t requests = 0, errors = 0;
    for (int i = 0; i < BH_OP_COUNT; i++) {
        requests += s.requests[i];
        errors += s.errors[i];
    }
    number(f, "bucket_requests", requests);
    number(f, "bucket_errors", errors);
    number(f, "bucket_retries", s.retries);
    number(f, "bucket_bytes_up", s.bytes_up);
    number(f, "bucket_bytes_down", s.bytes_down);
}

/* --- the history --- */

/* False: there is none, as snapshot.history is off. */
static bool history_of(struct daemon *d, struct bh_history_status *st)
{
    struct bh_history *h = bh_history_of(d->bh);
    *st = (struct bh_history_status){0};
    if (h)
        bh_history_status(h, st);
    return h != NULL;
}

static void lease(struct facts *f, const struct bh_history_status *st)
{
    char value[80], when[32];
    if (st->fenced) {
        text(f, "lease", "fenced: another writer has the branch");
        return;
    }
    if (!st->have_lease) {
        text(f, "lease", "none");
        return;
    }
    snprintf(value, sizeof value, "%s%s %s", st->advisory ? "advisory, " : "",
             st->lease_left_ms > 0 ? "held until" : "ended at",
             bh_format_time(bh_real_ms() + st->lease_left_ms, when, sizeof when));
    text(f, "lease", value);
}

static void history(struct facts *f, struct daemon *d)
{
    struct bh_history_status st;
    if (!history_of(d, &st)) {
        text(f, "history", "off");
        return;
    }
    text(f, "history", st.ready ? "on" : "none yet");
    number(f, "snapshots", st.snapshots);
    lease(f, &st);
    text(f, "plain", st.plain_error[0] ? st.plain_error : "ok");
    number(f, "absent_bytes", st.absent_bytes);
    struct bh_store_cache c;
    bh_store_cache(d->store, &c);
    number(f, "cache_bytes", c.clean_bytes);
    number(f, "cache_max", c.max);
    number(f, "evicted_bytes", c.evicted_bytes);
}

static void seconds(struct facts *f, const char *name, int64_t ms)
{
    char value[32];
    snprintf(value, sizeof value, "%.3f", (double)ms / 1000);
    if (f->json)
        bh_strbuf_addf(f->out, "%s\n  \"%s\": %s", f->count++ ? "," : "{", name, value);
    else
        text(f, name, value);
}

static void following(struct facts *f, struct daemon *d)
{
    struct bh_follow_status st;
    bool follows = bh_follow_status_of(d->bh, &st);
    text(f, "following", follows ? "yes" : "no");
    if (!follows)
        return;
    text(f, "follow_newest", st.newest[0] ? st.newest : "none");
    seconds(f, "follow_lag_seconds", st.lag_ms);
    if (st.looked_ago_ms >= 0)
        seconds(f, "follow_poll_age_seconds", st.looked_ago_ms);
    else if (f->json)
        bh_strbuf_addf(f->out, ",\n  \"follow_poll_age_seconds\": null");
    else
        text(f, "follow_poll_age_seconds", "never");
    number(f, "follow_steps", st.steps);
    text(f, "follow_error", st.error[0] ? st.error : "none");
}

static void file_facts(struct facts *f, const struct bh_files_status *st)
{
    number(f, "files", st->names.inodes);
    number(f, "files_unpublished", st->unpublished);
    number(f, "uploads_pending", st->blobs.pending);
    number(f, "uploads_pending_bytes", st->blobs.pending_bytes);
    number(f, "uploads_under_way", st->blobs.uploading);
    number(f, "uploaded_files", st->blobs.uploaded);
    number(f, "uploaded_bytes", st->blobs.uploaded_bytes);
    text(f, "upload_error", st->blobs.error[0] ? st->blobs.error : "none");
    number(f, "files_cache_bytes", st->blobs.cached_bytes);
    number(f, "files_cache_max", st->blobs.cache_max);
}

void text_branch(struct daemon *d, struct bh_strbuf *out)
{
    struct bh_info info;
    bh_get_info(d->bh, &info);
    bh_strbuf_addf(out, "%s\n", info.branch);
}

void text_hydrate(struct daemon *d, struct bh_strbuf *out)
{
    struct facts f = {.out = out};
    struct bh_history_status st;
    history_of(d, &st);
    number(&f, "live_bytes", bh_file_size(d->db));
    number(&f, "absent_bytes", st.absent_bytes);
    text(&f, "state", st.absent_bytes ? "some of it is in the bucket only" : "everything is local");
}

static void status(struct daemon *d, struct facts *f)
{
    struct bh_info info;
    struct bh_files_status files = {.phase = BH_FILES_IDLE};
    struct bh_lock_summary locks = bh_locks_summary(d->locks, &d->db->locks);
    char when[32];
    bh_get_info(d->bh, &info);
    if (d->files)
        bh_files_status(d->files, &files);
    text(f, "state", d->read_only ? "mounted read-only" : "mounted");
    text(f, "version", BHFS_VERSION);
    text(f, "mountpoint", d->mountpoint);
    text(f, "bucket", d->display_url);
    text(f, "key", bh_snapshot_key(d->bh));
    text(f, "branch", info.branch);
    text(f, "snapshot", info.snapshot[0] ? info.snapshot : "none");
    number(f, "pid", (uint64_t)getpid());
    text(f, "since", bh_format_time(d->started_ms, when, sizeof when));
    text(f, "state_dir", bh_disk_path(bh_store_disk(d->store)));
    text(f, "durability",
         bh_disk_is_memory(bh_store_disk(d->store))
             ? "commits survive a killed process, not a power cut (state directory in memory)"
             : "commits survive a killed process and a power cut");
    number(f, "live_bytes", info.live_bytes);
    number(f, "dirty_bytes", info.dirty_bytes);
    text(f, "journal", bh_store_is_wal(d->store) ? "wal" : "rollback");
    number(f, "wal_bytes", bh_store_wal_size(d->store));
    text(f, "unflushed", bh_is_dirty(d->bh) ? "yes" : "no");
    history(f, d);
    if (d->files)
        file_facts(f, &files);
    following(f, d);
    number(f, "flushes", info.flush_index);
    last_flush(f, &info);
    progress(f, d, &files);
    text(f, "last_error", info.last_error[0] ? info.last_error : "none");
    text(f, "recovered", info.recovered[0] ? info.recovered : "none");
    number(f, "clients", locks.clients);
    bucket_facts(f, d);
}

void text_status(struct daemon *d, struct bh_strbuf *out)
{
    status(d, &(struct facts){.out = out});
}

void text_status_json(struct daemon *d, struct bh_strbuf *out)
{
    status(d, &(struct facts){.out = out, .json = true});
    bh_strbuf_addf(out, "\n}\n");
}

void text_flush(struct daemon *d, struct bh_strbuf *out)
{
    struct facts f = {.out = out};
    struct bh_info info;
    char when[32];
    bh_get_info(d->bh, &info);
    text(&f, "time",
         info.last_flush_ms ? bh_format_time(info.last_flush_ms, when, sizeof when) : "never");
    text(&f, "snapshot", info.snapshot[0] ? info.snapshot : "none");
    number(&f, "bytes", info.last_flush_bytes);
    bh_strbuf_addf(out, "seconds: %.3f\n", info.last_flush_seconds);
    text(&f, "result",
         info.last_error[0] ? info.last_error
         : info.debounced
             ? "debounced: asked again within snapshot.min_interval (force_flush does it)"
         : info.last_flush_ms ? "ok"
                              : "none yet");
}

/* --- metrics, in Prometheus's text format --- */

static void metric(struct bh_strbuf *out, const char *name, const char *type, const char *help)
{
    bh_strbuf_addf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void counter(struct bh_strbuf *out, const char *name, const char *help, uint64_t value)
{
    metric(out, name, "counter", help);
    bh_strbuf_addf(out, "%s %" PRIu64 "\n", name, value);
}

static void gauge(struct bh_strbuf *out, const char *name, const char *help, uint64_t value)
{
    metric(out, name, "gauge", help);
    bh_strbuf_addf(out, "%s %" PRIu64 "\n", name, value);
}

static void bucket_metrics(struct daemon *d, struct bh_strbuf *out)
{
    struct bh_bucket_stats s;
    bh_bucket_stats_of(d->bh, &s);
    metric(out, "bhfs_bucket_requests_total", "counter", "Requests to the bucket.");
    for (int i = 0; i < BH_OP_COUNT; i++)
        bh_strbuf_addf(out, "bhfs_bucket_requests_total{op=\"%s\"} %" PRIu64 "\n",
                       bh_bucket_op_name((enum bh_bucket_op)i), s.requests[i]);
    metric(out, "bhfs_bucket_errors_total", "counter", "Requests to the bucket that failed.");
    for (int i = 0; i < BH_OP_COUNT; i++)
        bh_strbuf_addf(out, "bhfs_bucket_errors_total{op=\"%s\"} %" PRIu64 "\n",
                       bh_bucket_op_name((enum bh_bucket_op)i), s.errors[i]);
    metric(out, "bhfs_bucket_seconds_total", "counter", "Time spent in requests to the bucket.");
    for (int i = 0; i < BH_OP_COUNT; i++)
        bh_strbuf_addf(out, "bhfs_bucket_seconds_total{op=\"%s\"} %.6f\n",
                       bh_bucket_op_name((enum bh_bucket_op)i), (double)s.nanoseconds[i] / 1e9);
    metric(out, "bhfs_bucket_bytes_total", "counter", "Bytes of object bodies.");
    bh_strbuf_addf(out, "bhfs_bucket_bytes_total{direction=\"up\"} %" PRIu64 "\n", s.bytes_up);
    bh_strbuf_addf(out, "bhfs_bucket_bytes_total{direction=\"down\"} %" PRIu64 "\n", s.bytes_down);
    metric(out, "bhfs_bucket_failures_total", "counter",
           "Requests to the bucket that failed, by what went wrong.");
    for (int i = 0; i < BH_BUCKET_ERROR_COUNT; i++)
        bh_strbuf_addf(out, "bhfs_bucket_failures_total{kind=\"%s\"} %" PRIu64 "\n",
                       bh_bucket_error_name((enum bh_bucket_error_kind)i), s.failures[i]);
    counter(out, "bhfs_bucket_connects_total", "Connections opened to the bucket.", s.connects);
    counter(out, "bhfs_bucket_retries_total", "Requests that were repeated.", s.retries);
}

static void flush_metrics(struct daemon *d, struct bh_strbuf *out)
{
    static const char *const results[] = {"unchanged", "uploaded", "debounced", "failed"};
    static const double quantiles[] = {0.5, 0.99, 0.999, 1};
    uint64_t counts[4], freezes = 0;
    bh_flush_counts(d->bh, counts);
    metric(out, "bhfs_flushes_total", "counter", "Flushes by result.");
    for (int i = 0; i < 4; i++)
        bh_strbuf_addf(out, "bhfs_flushes_total{result=\"%s\"} %" PRIu64 "\n", results[i],
                       counts[i]);
    metric(out, "bhfs_freeze_seconds", "gauge",
           "How long a freeze held the store's lock, of the last 4096.");
    for (int i = 0; i < 4; i++)
        bh_strbuf_addf(out, "bhfs_freeze_seconds{quantile=\"%g\"} %.9f\n", quantiles[i],
                       (double)bh_store_freeze_ns(d->store, quantiles[i], &freezes) / 1e9);
    counter(out, "bhfs_freezes_total", "Freezes for flushes.", freezes);
}

static void follow_metrics(struct daemon *d, struct bh_strbuf *out)
{
    struct bh_follow_status st;
    bool follows = bh_follow_status_of(d->bh, &st);
    gauge(out, "bhfs_following", "Whether this mount follows its branch (snapshot.follow).",
          follows);
    if (!follows)
        return;
    metric(out, "bhfs_follow_lag_seconds", "gauge",
           "Since when what is shown is known not to be the newest snapshot.");
    bh_strbuf_addf(out, "bhfs_follow_lag_seconds %.3f\n", (double)st.lag_ms / 1000);
    metric(out, "bhfs_follow_poll_age_seconds", "gauge",
           "Since the last look at the branch that the bucket answered.");
    if (st.looked_ago_ms >= 0)
        bh_strbuf_addf(out, "bhfs_follow_poll_age_seconds %.3f\n", (double)st.looked_ago_ms / 1000);
    counter(out, "bhfs_follow_steps_total", "Snapshots that were shown one after the other.",
            st.steps);
    counter(out, "bhfs_follow_failures_total", "Looks and steps that failed, or had to wait.",
            st.failures);
}

static void file_metrics(struct daemon *d, struct bh_strbuf *out)
{
    struct bh_files_status st;
    if (!d->files)
        return;
    bh_files_status(d->files, &st);
    gauge(out, "bhfs_files", "Inodes in files/.", st.names.inodes);
    gauge(out, "bhfs_names_in_memory", "Inodes and names that are kept in memory.",
          st.names.in_memory);
    gauge(out, "bhfs_names_changed", "Of these, changed and not in names.db yet.",
          st.names.changed);
    gauge(out, "bhfs_names_log_bytes", "Size of the log of names.", st.names.log_bytes);
    counter(out, "bhfs_names_checkpoints_total", "Times that names.db was written.",
            st.names.checkpoints);
    gauge(out, "bhfs_files_unpublished", "Files that were written and closed, and not hashed yet.",
          st.unpublished);
    gauge(out, "bhfs_uploads_pending", "Contents that are not in the bucket yet.",
          st.blobs.pending);
    gauge(out, "bhfs_uploads_pending_bytes", "Their bytes.", st.blobs.pending_bytes);
    counter(out, "bhfs_uploads_total", "Contents that were uploaded.", st.blobs.uploaded);
    counter(out, "bhfs_uploaded_bytes_total", "Their bytes.", st.blobs.uploaded_bytes);
    counter(out, "bhfs_files_fetched_bytes_total", "Bytes of contents that were fetched.",
            st.blobs.fetched_bytes);
    gauge(out, "bhfs_files_cache_bytes", "Bytes of contents that are here and in the bucket.",
          st.blobs.cached_bytes);
    gauge(out, "bhfs_files_cache_max_bytes", "The bound on them (files.cache_max); 0: none.",
          st.blobs.cache_max);
    counter(out, "bhfs_files_evicted_bytes_total", "Bytes of them that were given up to keep it.",
            st.blobs.evicted_bytes);
}

void text_metrics(struct daemon *d, struct bh_strbuf *out)
{
    struct bh_info info;
    bh_get_info(d->bh, &info);
    metric(out, "bhfs_fuse_requests_total", "counter", "Requests of the kernel.");
    for (int i = 0; i < OP_COUNT; i++)
        bh_strbuf_addf(out, "bhfs_fuse_requests_total{op=\"%s\"} %" PRIu64 "\n", op_names[i],
                       (uint64_t)atomic_load(&d->requests[i]));
    flush_metrics(d, out);
    bucket_metrics(d, out);
    gauge(out, "bhfs_dirty_bytes", "Changed since the last flush.", info.dirty_bytes);
    gauge(out, "bhfs_live_bytes", "Size of live.db.", info.live_bytes);
    struct bh_history_status st;
    if (history_of(d, &st)) {
        gauge(out, "bhfs_absent_bytes", "Bytes of live.db that are in the bucket only.",
              st.absent_bytes);
        struct bh_store_cache c;
        bh_store_cache(d->store, &c);
        gauge(out, "bhfs_cache_bytes", "Bytes of live.db that are here as they are in the bucket.",
              c.clean_bytes);
        gauge(out, "bhfs_cache_max_bytes", "The bound on them (live.cache_max); 0: none.", c.max);
        counter(out, "bhfs_evicted_bytes_total", "Bytes of them that were given up to keep it.",
                c.evicted_bytes);
        gauge(out, "bhfs_snapshots", "Snapshots in the history of this branch.", st.snapshots);
    }
    follow_metrics(d, out);
    file_metrics(d, out);
    gauge(out, "bhfs_wal_bytes", "Size of live.db-wal.", bh_store_wal_size(d->store));
    counter(out, "bhfs_sql_transactions_total", "Transactions of the daemon itself.",
            bh_sql_transactions(d->live->sql));
    counter(out, "bhfs_locks_parked_total",
            "Lock requests that waited for the daemon or another client.",
            bh_locks_parked_total(d->locks));
    counter(out, "bhfs_invalidations_total", "Calls that made the kernel forget.",
            notify_total(d->notify));
    counter(out, "bhfs_undone_total",
            "Half-made transactions of dead clients without a journal that were undone.",
            atomic_load(&d->live->undone));
    counter(out, "bhfs_rescues_total", "Branches made for unflushed changes when this mount began.",
            bh_rescues_of(d->bh));
    gauge(out, "bhfs_last_flush_timestamp_seconds", "When the last flush succeeded.",
          (uint64_t)(info.last_flush_ms / 1000));
}
