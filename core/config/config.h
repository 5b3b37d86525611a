/* The configuration: defaults, the AWS_ variables of the environment, an ini file, the BUCKETHEAD_
 * variables, the bucket URL of the command line and `-o SECTION.KEY=VALUE`, each standing over the
 * one before it. Read once; what a SIGHUP may change is re-read. */
#ifndef BH_CONFIG_H
#define BH_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"
#include "util/log.h"
#include "util/strbuf.h"

enum bh_bucket_kind { BH_BUCKET_NONE, BH_BUCKET_FILE, BH_BUCKET_S3 };
enum bh_sse { BH_SSE_NONE, BH_SSE_AES256, BH_SSE_KMS };
enum bh_payload { BH_PAYLOAD_AUTO, BH_PAYLOAD_SIGNED, BH_PAYLOAD_UNSIGNED };
enum bh_addressing { BH_ADDRESSING_AUTO, BH_ADDRESSING_PATH, BH_ADDRESSING_VIRTUAL };
enum bh_credentials_kind { BH_CREDENTIALS_AUTO, BH_CREDENTIALS_ANONYMOUS };
enum bh_plain_policy { BH_PLAIN_AUTO, BH_PLAIN_ALWAYS, BH_PLAIN_ON_STOP, BH_PLAIN_NEVER };
enum bh_history_names { BH_HISTORY_SHOWN, BH_HISTORY_HIDDEN };
enum bh_recover { BH_RECOVER_NO, BH_RECOVER_PREV };
enum bh_journal {
    BH_JOURNAL_DELETE,
    BH_JOURNAL_TRUNCATE,
    BH_JOURNAL_PERSIST,
    BH_JOURNAL_MEMORY,
    BH_JOURNAL_OFF,
    BH_JOURNAL_WAL
};

struct bh_config {
    struct {
        char *url;                /* as given, never with a secret */
        enum bh_bucket_kind kind; /* from url, or S3 if name is set */
        char *path;               /* file://: the absolute directory */
        char *name;               /* s3://: the bucket */
        char *prefix;             /* key prefix, "" or ending in "/" */
        char *endpoint_url;
        char *region;
        char *access_key_id; /* it, the secret and the token are of one source */
        char *secret_access_key;
        char *session_token;
        enum bh_credentials_kind credentials;
        char *profile;       /* of the shared files of AWS's tools; "": default */
        bool profile_chosen; /* for this program, not by AWS_PROFILE: it alone is meant */
        char *account_id;    /* Cloudflare: sets the endpoint and region "auto" */
        enum bh_addressing addressing;
        bool create;          /* a bucket that does not exist */
        char *proxy;          /* may hold a password; "": what the environment says; "none" */
        char *ca_file;        /* "": the system's certificates */
        uint64_t connections; /* requests at once */
        uint64_t part_size;   /* bytes, of uploads and downloads in parts */
        enum bh_payload payload;
        char *storage_class; /* "": the bucket's own */
        enum bh_sse sse;
        char *sse_kms_key_id; /* "": AWS's own key; else sse is BH_SSE_KMS */
        bool requester_pays;
        uint64_t attempts; /* of one request, in all */
        int64_t retry_base_ms;
        int64_t retry_time_ms;      /* all attempts of one request together */
        int64_t connect_timeout_ms; /* name look-up, connection, TLS */
        int64_t timeout_ms;         /* of one request without progress */
        char *fault;                /* rules of the fault layer; "" in earnest use */
        uint64_t fault_seed;
    } bucket;
    struct {
        char *key;               /* bucketsqlite/snap.db */
        char *branch;            /* main */
        int64_t interval_ms;     /* of the flush loop; 0: only when asked */
        int64_t min_interval_ms; /* debounce of `flush`; 0: none */
        bool keep_previous;
        int64_t stop_timeout_ms; /* bound of the last flush */
        enum bh_recover recover;
        bool history; /* keep the history layer beside the plain snapshot */
        enum bh_plain_policy plain;
        uint64_t block_size; /* of a new history */
        int64_t lease_ms;
        int64_t follow_ms; /* how often a read-only mount looks for a newer snapshot; 0: never */
        bool steal;        /* the lease of another writer */
        bool check; /* testing: what a flush has stored is compared with all of the database */
    } snapshot;
    struct {
        uint64_t keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly; /* all 0: all */
        int64_t grace_ms; /* before gc deletes what nothing refers to */
    } retention;
    struct {
        char *dir; /* "" : the default state directory; "memory": tmpfs; else an absolute path */
        enum bh_journal journal; /* WAL: of a new database; else of the daemon's transactions */
        bool hydrate;
        uint64_t cache_max;      /* bytes of clean content that are kept; 0: all that was fetched */
        uint64_t wal_limit;      /* bytes of -wal at which the daemon checkpoints; 0: never */
        int64_t busy_timeout_ms; /* how long the daemon waits for a client's transaction */
        int64_t window_ms;       /* how long the SQL thread gathers requests into one transaction */
        char *powercut_dir;      /* testing: what was fsynced is mirrored here; "" in earnest use */
        uint64_t powercut_seed;
    } live;
    struct {
        char *prefix;       /* of blobs' keys, after bucket.prefix; ends in "/" */
        uint64_t cache_max; /* bytes of blobs that are in the bucket, too; 0: all */
        int64_t timeout_ms; /* of one read */
    } files;
    struct {
        char *cpu; /* "auto": the loop thread follows its busiest client; "off"; or a CPU number */
        int64_t dir_timeout_ms;
        uint64_t workers; /* threads for what may sleep (fsync, cold reads, commands) */
        enum bh_history_names history; /* whether the root's listing has snapshots/ and branches/ */
    } mount;
    struct {
        bool enabled;
        char *dir;
    } profiling;
    struct {
        char *on_flush_start;
        char *on_flush_complete;
        char *on_flush_error;
    } hooks;
    struct {
        enum bh_log_level level;
        char *file;
    } log;
    struct bh_config_origin *origins; /* where each key's value came from; private */
    char *file;                       /* the ini file that was read, NULL if none */
};

struct bh_config_request {
    const char *file;             /* -c, or NULL: look in the documented places */
    const char *url;              /* the bucket URL of the command line, or NULL */
    const char *const *overrides; /* "section.key=value", in order */
    size_t override_count;
    bool use_environment; /* environment and the documented file places */
    bool bucket_optional; /* true: no bucket is no error (tools that do not need one) */
};

/* Fresh configuration in *out; freed with bh_config_free. EINVAL with file, line and what was
 * meant; ENOENT, EACCES (a file with a secret that others can read). Not thread safe with setenv.
 */
int bh_config_load(struct bh_config **out, const struct bh_config_request *req,
                   struct bh_error *err);
void bh_config_free(struct bh_config *cfg);

/* One "section.key = value   # where from" line a key, secrets as "***". */
void bh_config_dump(const struct bh_config *cfg, struct bh_strbuf *out);

/* Where a value came from, as the dump says it; NULL: it is the default. Valid as long as cfg and
 * until the next reload. */
const char *bh_config_where(const struct bh_config *cfg, const char *section, const char *name);

/* Takes over from `fresh` what may change while running (flush interval, debounce, stop timeout,
 * keep_previous, log, hooks) and appends one line to `changes` for each difference: what changed,
 * or what needs a remount. The caller serialises it with readers of those keys. */
int bh_config_apply_reload(struct bh_config *cfg, struct bh_config *fresh,
                           struct bh_strbuf *changes, struct bh_error *err);

/* The canonical text that identifies bucket, key and branch (no secret): what the state directory's
 * name is hashed from. Also what `mount` and `df` show: bh_config_display_url. Both are freed by
 * the caller; NULL: no memory. */
char *bh_config_identity(const struct bh_config *cfg);
char *bh_config_display_url(const struct bh_config *cfg);

/* The object key of the branch's plain snapshot: prefix + KEY, or prefix + KEY.branch.NAME. Freed
 * by the caller. */
char *bh_config_snapshot_key(const struct bh_config *cfg);
/* The same of another branch. */
char *bh_config_branch_key(const struct bh_config *cfg, const char *branch);

#endif
