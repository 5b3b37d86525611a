/* The table of keys. A new key is one line here, one in buckethead.ini.sample and a field in
 * config.h. */
#include "config/keys.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static const char *const journals[] = {"delete", "truncate", "persist", "memory",
                                       "off",    "wal",      NULL};
static const char *const plains[] = {"auto", "always", "on_stop", "never", NULL};
static const char *const recovers[] = {"no", "prev", NULL};
static const char *const sses[] = {"none", "AES256", "aws:kms", NULL};
static const char *const payloads[] = {"auto", "signed", "unsigned", NULL};
static const char *const addressings[] = {"auto", "path", "virtual", NULL};
static const char *const credentials[] = {"auto", "anonymous", NULL};
static const char *const shownesses[] = {"shown", "hidden", NULL};
static const char *const levels[] = {"error", "warning", "info", "debug", NULL};

#define MIB    (INT64_C(1) << 20)
#define SECOND INT64_C(1000)
#define HOUR   (3600 * SECOND)
#define DAY    (24 * HOUR)

/* clang-format off */
#define AT(sec, member) offsetof(struct bh_config, sec.member)
#define STRING(sec, key, def, flags, check, help, ...)                                             \
    {#sec, #key, BH_KEY_STRING, AT(sec, key), def, 0, 0, flags, help, {__VA_ARGS__}, NULL, check}
#define COUNT(sec, key, def, min, max, flags, help)                                                \
    {#sec, #key, BH_KEY_COUNT, AT(sec, key), def, min, max, flags, help, {NULL}, NULL, NULL}
#define SIZE(sec, key, def, min, max, flags, help)                                                 \
    {#sec, #key, BH_KEY_SIZE, AT(sec, key), def, min, max, flags, help, {NULL}, NULL, NULL}
#define DURATION(sec, key, def, min, max, flags, help)                                             \
    {#sec, #key, BH_KEY_DURATION, AT(sec, key##_ms), def, min, max, flags, help, {NULL}, NULL, NULL}
#define BOOLEAN(sec, key, def, flags, help)                                                        \
    {#sec, #key, BH_KEY_BOOL, AT(sec, key), def, 0, 0, flags, help, {NULL}, NULL, NULL}
#define CHOICE(sec, key, def, choices, flags, help)                                                \
    {#sec, #key, BH_KEY_CHOICE, AT(sec, key), def, 0, 0, flags, help, {NULL}, choices, NULL}
/* clang-format on */

const struct bh_key bh_keys[] = {
    STRING(bucket, url, "", BH_KEY_FILE_FORM | BH_KEY_URL, bh_check_url,
           "file:///DIR, s3://BUCKET/PREFIX?endpoint=URL&region=NAME or r2://ACCOUNT/BUCKET/PREFIX",
           NULL),
    STRING(bucket, name, "", 0, bh_check_bucket_name, "the S3 bucket, instead of url", NULL),
    STRING(bucket, prefix, "", 0, bh_check_prefix, "what every object key begins with", NULL),
    STRING(bucket, endpoint_url, "", 0, bh_check_endpoint,
           "http(s)://HOST of the store; empty: AWS", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    STRING(bucket, region, "us-east-1", 0, bh_check_word, "region that requests are signed for",
           "AWS_REGION", "AWS_DEFAULT_REGION"),
    STRING(bucket, access_key_id, "", BH_KEY_FILE_FORM, bh_check_word, "name of the access key",
           "AWS_ACCESS_KEY_ID"),
    STRING(bucket, secret_access_key, "", BH_KEY_FILE_FORM | BH_KEY_SECRET, bh_check_word,
           "its secret; the file must be readable by you alone", "AWS_SECRET_ACCESS_KEY"),
    STRING(bucket, session_token, "", BH_KEY_FILE_FORM | BH_KEY_SECRET, bh_check_word,
           "token of temporary credentials", "AWS_SESSION_TOKEN"),
    CHOICE(bucket, credentials, "auto", credentials, 0,
           "auto: see buckethead.ini(5), or anonymous: requests are not signed"),
    STRING(bucket, profile, "", 0, bh_check_word,
           "profile of ~/.aws/credentials and ~/.aws/config that credentials come from",
           "AWS_PROFILE"),
    STRING(bucket, account_id, "", 0, bh_check_account,
           "Cloudflare account: sets endpoint_url, and region to auto, unless given",
           "BUCKETHEAD_CLOUDFLARE__ACCOUNT_ID"),
    CHOICE(bucket, addressing, "auto", addressings, 0,
           "auto, path (HOST/BUCKET/KEY) or virtual (BUCKET.HOST/KEY)"),
    BOOLEAN(bucket, create, "false", 0, "create the bucket if it does not exist"),
    STRING(bucket, proxy, "", BH_KEY_FILE_FORM | BH_KEY_SECRET, bh_check_proxy,
           "http(s)://[USER:PASSWORD@]HOST:PORT, socks5://... or none; empty: the environment's",
           NULL),
    STRING(bucket, ca_file, "", 0, bh_check_path,
           "certificates to trust instead of the system's, a PEM file", "AWS_CA_BUNDLE"),
    COUNT(bucket, connections, "16", 1, 256, 0, "requests at once"),
    SIZE(bucket, part_size, "16MiB", 5 * MIB, 5120 * MIB, 0,
         "what is larger is sent and fetched in parts of this size"),
    CHOICE(bucket, payload, "auto", payloads, 0,
           "auto, signed or unsigned: whether signatures cover what is sent, too"),
    STRING(bucket, storage_class, "", 0, bh_check_word,
           "such as STANDARD_IA; empty: the bucket's own", NULL),
    CHOICE(bucket, sse, "none", sses, BH_KEY_ANY_CASE,
           "encryption at rest that is asked for: none, AES256 or aws:kms"),
    STRING(bucket, sse_kms_key_id, "", 0, bh_check_word,
           "with sse = aws:kms: the key; empty: the account's own", NULL),
    BOOLEAN(bucket, requester_pays, "false", 0, "agree to pay for requests to another's bucket"),
    COUNT(bucket, attempts, "5", 1, 100, 0, "tries of one request, in all"),
    DURATION(bucket, retry_base, "100ms", 1, 60 * SECOND, 0,
             "pause before the second try; it doubles with each"),
    DURATION(bucket, retry_time, "2m", 1, DAY, 0, "bound of all tries of one request together"),
    DURATION(bucket, connect_timeout, "10s", 10, HOUR, 0,
             "a connection that takes longer has failed"),
    DURATION(bucket, timeout, "30s", 10, HOUR, 0,
             "a request without progress for this long has failed"),
    STRING(bucket, fault, "", BH_KEY_COMMAND, NULL, "testing: rules by which requests fail", NULL),
    COUNT(bucket, fault_seed, "0", 0, INT64_MAX, 0, "testing: seed of these rules"),

    STRING(snapshot, key, "bucketsqlite/snap.db", 0, bh_check_object_key,
           "object key of the newest snapshot", NULL),
    STRING(snapshot, branch, "main", 0, bh_check_branch, "branch to work on", NULL),
    DURATION(snapshot, interval, "30s", 0, 366 * DAY, BH_KEY_RELOADABLE,
             "time between flushes; 0: only when asked"),
    DURATION(snapshot, min_interval, "0", 0, 366 * DAY, BH_KEY_RELOADABLE,
             "`flush` does nothing sooner than this after the last one"),
    BOOLEAN(snapshot, keep_previous, "true", BH_KEY_RELOADABLE,
            "keep the snapshot before as KEY.prev"),
    DURATION(snapshot, stop_timeout, "60s", 1, DAY, BH_KEY_RELOADABLE,
             "bound of the last flush at unmount"),
    CHOICE(snapshot, recover, "no", recovers, 0, "prev: start from KEY.prev if KEY is damaged"),
    BOOLEAN(snapshot, history, "true", 0,
            "keep every flush as a snapshot in KEY.bhfs/; false: the newest, in KEY, alone"),
    CHOICE(snapshot, plain, "auto", plains, 0,
           "when KEY is written beside the history: auto, always, on_stop or never"),
    SIZE(snapshot, block_size, "16KiB", 4096, 1 << 20, 0,
         "of a new history: what a change costs at least; a power of two"),
    DURATION(snapshot, lease, "15m", 5 * SECOND, 7 * DAY, 0,
             "how long a branch is kept for a writer that is not heard of"),
    DURATION(snapshot, follow, "0", 0, DAY, 0,
             "of a read-only mount: how often it looks for a newer snapshot, to show it; 0: never"),
    BOOLEAN(snapshot, steal, "false", 0, "take the branch from the writer that has it"),
    BOOLEAN(
        snapshot, check, "false", 0,
        "testing: every flush is compared with all of the database, and fails if it is not that"),

    COUNT(retention, keep_last, "0", 0, INT64_MAX, BH_KEY_RELOADABLE,
          "gc keeps so many of the newest snapshots; with all keep_ keys 0: every one"),
    COUNT(retention, keep_hourly, "0", 0, INT64_MAX, BH_KEY_RELOADABLE,
          "and the newest of each of the last so many hours that have one (UTC)"),
    COUNT(retention, keep_daily, "0", 0, INT64_MAX, BH_KEY_RELOADABLE, "the same, of days"),
    COUNT(retention, keep_weekly, "0", 0, INT64_MAX, BH_KEY_RELOADABLE,
          "the same, of weeks (from Monday on)"),
    COUNT(retention, keep_monthly, "0", 0, INT64_MAX, BH_KEY_RELOADABLE, "the same, of months"),
    DURATION(retention, grace, "24h", SECOND, 366 * DAY, BH_KEY_RELOADABLE,
             "gc deletes what nothing refers to so long after it has found it"),

    STRING(live, dir, "", 0, bh_check_live_dir,
           "where the live database is: empty (state directory), memory, or an absolute path",
           NULL),
    CHOICE(live, journal, "wal", journals, 0,
           "journal mode of a new database: wal, delete, truncate, persist, memory, off"),
    BOOLEAN(live, hydrate, "false", 0,
            "fetch all that is not local in the background; false: as it is read"),
    SIZE(live, cache_max, "10GiB", 0, INT64_MAX, BH_KEY_RELOADABLE,
         "so much of what is in the bucket too is kept here; 0: all that was ever fetched"),
    SIZE(live, wal_limit, "16MiB", 0, INT64_MAX, 0,
         "live.db-wal is checkpointed by the daemon beyond this; 0: by clients only"),
    DURATION(live, busy_timeout, "5s", 0, HOUR, 0,
             "how long the daemon waits for a client's transaction"),
    DURATION(live, window, "50ms", 0, 10 * SECOND, 0,
             "requests that come within this share a transaction"),
    STRING(live, powercut_dir, "", 0, bh_check_path, "testing: what was fsynced is mirrored here",
           NULL),
    COUNT(live, powercut_seed, "0", 0, INT64_MAX, 0, "testing: seed of what a power cut takes"),

    STRING(files, prefix, "files/", 0, bh_check_files_prefix,
           "what the keys of blobs begin with; ends in /", NULL),
    SIZE(files, cache_max, "10GiB", 0, INT64_MAX, BH_KEY_RELOADABLE,
         "so much of what is in the bucket too is kept here; 0: all that was ever fetched"),
    DURATION(files, timeout, "60s", SECOND, HOUR, 0,
             "a read that the bucket does not answer fails after this"),

    STRING(mount, cpu, "auto", 0, bh_check_cpu,
           "CPU of the loop thread: auto (follows its busiest client), off, or a number", NULL),
    DURATION(mount, dir_timeout, "10s", SECOND, HOUR, 0,
             "mkdir, rmdir and mv in snapshots/ and branches/ answer within this, and go on"),
    COUNT(mount, workers, "4", 1, 64, 0, "threads for what may sleep"),
    CHOICE(mount, history, "shown", shownesses, 0,
           "hidden: snapshots/ and branches/ are in no listing, and entered by name"),

    BOOLEAN(profiling, enabled, "false", 0, "write flushes.jsonl and a summary at stop"),
    STRING(profiling, dir, "", 0, bh_check_path, "where to, a directory; needed when enabled",
           NULL),

    STRING(hooks, on_flush_start, "", BH_KEY_RELOADABLE | BH_KEY_COMMAND, NULL,
           "shell command when a flush begins, which does not wait for it", NULL),
    STRING(hooks, on_flush_complete, "", BH_KEY_RELOADABLE | BH_KEY_COMMAND, NULL,
           "shell command after a flush that succeeded", NULL),
    STRING(hooks, on_flush_error, "", BH_KEY_RELOADABLE | BH_KEY_COMMAND, NULL,
           "shell command after a flush that failed", NULL),

    CHOICE(log, level, "info", levels, BH_KEY_RELOADABLE, "error, warning, info or debug"),
    STRING(log, file, "", BH_KEY_RELOADABLE, bh_check_path, "append the log to this file too",
           NULL),
};

const size_t bh_key_count = sizeof bh_keys / sizeof bh_keys[0];

static bool names_file_form(const struct bh_key *key, const char *name)
{
    size_t len = strlen(key->name);
    return key->flags & BH_KEY_FILE_FORM && strncmp(name, key->name, len) == 0 &&
           strcmp(name + len, "_file") == 0;
}

const struct bh_key *bh_key_find(const char *section, const char *name, bool *is_file)
{
    for (size_t i = 0; i < bh_key_count; i++) {
        const struct bh_key *key = &bh_keys[i];
        if (strcmp(section, key->section) != 0)
            continue;
        bool file = names_file_form(key, name);
        if (file || strcmp(name, key->name) == 0) {
            if (is_file)
                *is_file = file;
            return key;
        }
    }
    return NULL;
}

struct bh_config_origin *bh_key_origin(const struct bh_config *cfg, const struct bh_key *key)
{
    return &cfg->origins[key - bh_keys];
}

/* Levenshtein's distance of two names; what is beyond 63 bytes does not count. */
static unsigned distance(const char *a, const char *b)
{
    enum { MAX = 64 };
    unsigned row[MAX];
    size_t la = strnlen(a, MAX - 1), lb = strnlen(b, MAX - 1);
    for (size_t j = 0; j <= lb; j++)
        row[j] = (unsigned)j;
    for (size_t i = 1; i <= la; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= lb; j++) {
            unsigned best = diagonal + (tolower((unsigned char)a[i - 1]) != b[j - 1]);
            diagonal = row[j];
            if (diagonal + 1 < best)
                best = diagonal + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[lb];
}

const struct bh_key *bh_key_nearest(const char *section, const char *name, bool *is_file)
{
    const struct bh_key *nearest = NULL;
    unsigned least = 0;
    *is_file = false;
    for (size_t i = 0; i < bh_key_count; i++) {
        const struct bh_key *key = &bh_keys[i];
        /* the right key in the wrong section is nearer than another key in the right one */
        unsigned away = distance(section, key->section);
        away = away > 4 ? 4 : away;
        char file[64] = "";
        strncat(file, key->name, 50);
        for (int form = 0; form <= !!(key->flags & BH_KEY_FILE_FORM); form++) {
            unsigned d = away + distance(name, file);
            if (!nearest || d < least) {
                nearest = key;
                least = d;
                *is_file = form;
            }
            strcat(file, "_file");
        }
    }
    return nearest;
}

bool bh_section_known(const char *section)
{
    for (size_t i = 0; i < bh_key_count; i++)
        if (strcmp(section, bh_keys[i].section) == 0)
            return true;
    return false;
}

const char *bh_section_nearest(const char *section)
{
    const char *nearest = bh_keys[0].section;
    for (size_t i = 1; i < bh_key_count; i++)
        if (distance(section, bh_keys[i].section) < distance(section, nearest))
            nearest = bh_keys[i].section;
    return nearest;
}
