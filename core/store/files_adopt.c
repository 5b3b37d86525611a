/* Rows of table filestore that upstream put: they get a name in files/ (DECISIONS 23).
 *
 * A row has been looked at if its rowid is at most that of the last one that was (names.db keeps
 * it, with a mark of what that row was; if it is another one now, or gone, all are looked at
 * again, and the next flush puts rows that our names should have: the database may have been
 * replaced). A new one whose content has no name gets one. What the user removes leaves no row
 * behind: a flush deletes it, and until then names.db has the content among the dropped ones. */
#include "store/files_adopt.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/files_private.h"
#include "store/files_scan.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

#define QUIET_MAX 10000u /* names that are made anew by each mount until something is flushed */

/* --- names --- */

#define ENDING_MAX 32u /* an extension that is longer is none */

/* At most len bytes of it, no character cut in two. */
static size_t cut(const char *name, size_t have, size_t len)
{
    if (have <= len)
        return have;
    for (size_t back = 0; back < 4; back++)
        if (((unsigned char)name[len - back] & 0xc0) != 0x80)
            return len - back;
    return len; /* that is no UTF-8 */
}

static const char *ending_of(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot && dot != name && strlen(dot) <= ENDING_MAX ? dot : name + strlen(name);
}

/* stem + middle + ending, the stem cut to what is left. */
static void join(const char *stem, size_t stem_len, const char *middle, const char *ending,
                 char out[FILES_NAME_MAX + 1])
{
    size_t middle_len = strlen(middle), ending_len = strlen(ending);
    size_t len = cut(stem, stem_len, FILES_NAME_MAX - middle_len - ending_len);
    memmove(out, stem, len);
    memcpy(out + len, middle, middle_len);
    memcpy(out + len + middle_len, ending, ending_len + 1);
}

void files_safe_name(const char *name, size_t len, const char *key, char out[FILES_NAME_MAX + 1])
{
    BH_FREE char *text = len ? malloc(len + 1) : NULL;
    if (!text) {
        snprintf(out, FILES_NAME_MAX + 1, "%s", key);
        return;
    }
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)name[i];
        text[i] = c == '/' || c < ' ' || c == 0x7f ? '_' : (char)c;
    }
    text[len] = '\0';
    if (!strcmp(text, ".") || !strcmp(text, ".."))
        text[0] = '_';
    const char *ending = ending_of(text);
    join(text, (size_t)(ending - text), "", ending, out);
}

void files_numbered_name(const char *name, uint64_t number, char out[FILES_NAME_MAX + 1])
{
    char middle[32];
    const char *ending = ending_of(name);
    snprintf(middle, sizeof middle, " (%llu)", (unsigned long long)number);
    join(name, (size_t)(ending - name), middle, ending, out);
}

/* --- giving names --- */

struct adoption {
    struct bh_files *files;
    struct files_scan scan;
    struct files_touched *dropped; /* rows of these are to go; ascending */
    size_t dropped_count;
    bool quiet;
    uint64_t made;
};

static int is_taken(struct bh_files *f, const char *name, bool *taken, struct bh_error *err)
{
    struct bh_inode i;
    int rc = bh_names_lookup(f->names, BH_NAMES_ROOT, name, &i, true, err);
    *taken = rc == 0;
    return rc == ENOENT ? 0 : rc;
}

/* A number whose name is free, where the one before is not: among thousands in a few steps. */
static int free_name(struct bh_files *f, const char *name, char out[FILES_NAME_MAX + 1],
                     struct bh_error *err)
{
    uint64_t low = 1, high = 2;
    bool taken;
    snprintf(out, FILES_NAME_MAX + 1, "%s", name);
    int rc = is_taken(f, name, &taken, err);
    if (rc || !taken)
        return rc;
    for (;; low = high, high *= 2) {
        files_numbered_name(name, high, out);
        rc = is_taken(f, out, &taken, err);
        if (rc || !taken)
            break;
    }
    while (rc == 0 && high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        files_numbered_name(name, middle, out);
        rc = is_taken(f, out, &taken, err);
        *(taken ? &low : &high) = middle;
    }
    files_numbered_name(name, high, out);
    return rc;
}

static void set_meta(struct bh_files *f, uint64_t ino, const struct bh_strbuf *meta)
{
    for (const char *at = meta->data; at && !meta->failed && at < meta->data + meta->len;) {
        const char *value = at + strlen(at) + 1;
        struct bh_error err;
        int rc = bh_names_setxattr(f->names, ino, at, value, strlen(value), 0, true, &err);
        if (rc)
            bh_log(BH_LOG_WARNING, "%s of a row of table filestore is not kept: %s", at,
                   strerror(rc));
        at = value + strlen(value) + 1;
    }
}

static int give_name(struct adoption *a, const struct files_found *found, struct bh_error *err)
{
    struct bh_files *f = a->files;
    char name[FILES_NAME_MAX + 1];
    int64_t ns = found->ns ? found->ns : bh_real_ns();
    struct bh_inode made, what = {.mode = S_IFREG | 0644,
                                  .uid = getuid(),
                                  .gid = getgid(),
                                  .atime = ns,
                                  .mtime = ns,
                                  .content = {.size = found->size, .hash_size = found->size}};
    memcpy(what.content.hash, found->hash, sizeof found->hash);
    int rc;
    do { /* EEXIST: somebody made that just now */
        rc = free_name(f, found->name, name, err);
        if (rc == 0)
            rc = bh_names_make(f->names, BH_NAMES_ROOT, name, &what, NULL, false, &made, true, err);
    } while (rc == EEXIST);
    if (rc)
        return bh_fail_prefix(err, rc, "\"%s\" cannot be named in files/", name);
    set_meta(f, made.ino, &found->meta);
    a->made++;
    /* It is of a client, and in no snapshot: gc does not know it. */
    if (!a->quiet || bh_store_is_dirty(f->live->store)) {
        struct files_touched t = {
            .size = found->size, .ino = made.ino, .at = bh_real_ns(), .at_ms = -1};
        memcpy(t.hash, found->hash, sizeof t.hash);
        files_touch_at(f, &t);
    }
    if (a->quiet && a->made > QUIET_MAX) {
        a->quiet = false;
        bh_names_quiet(f->names, false);
        atomic_store(&f->changed, true);
    }
    BH_LOCK_SCOPE(&f->mutex);
    if (f->appeared)
        f->appeared(f->appeared_arg, name);
    return 0;
}

/* Whether a row is one that is to go. Only where all rows are looked at is that to be asked: new
 * ones have come since; and one that says so has, too. */
static bool is_dropped(const struct adoption *a, const struct files_found *found)
{
    const struct files_touched *d = NULL;
    if (a->scan.all && a->dropped_count)
        d = bsearch(found->hash, a->dropped, a->dropped_count, sizeof *a->dropped,
                    bh_sha256_compare);
    return d && found->ns <= d->at;
}

static int name_found(struct adoption *a, struct bh_error *err)
{
    int rc = 0;
    for (size_t i = 0; i < a->scan.count && rc == 0; i++) {
        const struct files_found *found = &a->scan.found[i];
        bool has;
        rc = bh_names_has_hash(a->files->names, found->hash, &has, err);
        if (rc == 0 && !has && !is_dropped(a, found))
            rc = give_name(a, found, err);
    }
    return rc;
}

/* --- what is to go --- */

static int touch_dropped(void *arg, const uint8_t hash[BH_SHA256_LEN], int64_t at)
{
    struct files_touched t = {.at = at};
    memcpy(t.hash, hash, sizeof t.hash);
    files_touch_at(arg, &t);
    return 0;
}

/* What earlier lives, or flushes that failed, have left. */
static int read_dropped(struct bh_files *f, struct bh_error *err)
{
    pthread_mutex_lock(&f->mutex);
    bool known = f->dropped_known;
    f->dropped_known = true;
    pthread_mutex_unlock(&f->mutex);
    int rc = known ? 0 : bh_names_each_dropped(f->names, touch_dropped, f, err);
    if (rc) {
        BH_LOCK_SCOPE(&f->mutex);
        f->dropped_known = false;
    }
    return rc;
}

static int list_dropped(struct adoption *a, struct bh_error *err)
{
    struct bh_files *f = a->files;
    BH_LOCK_SCOPE(&f->mutex);
    a->dropped = malloc((f->touched_count + 1) * sizeof *a->dropped);
    if (!a->dropped)
        return bh_fail(err, ENOMEM, "out of memory while table filestore is read");
    for (size_t i = 0; i < f->touched_count; i++)
        if (f->touched[i].ino == 0)
            a->dropped[a->dropped_count++] = f->touched[i];
    qsort(a->dropped, a->dropped_count, sizeof *a->dropped, bh_sha256_compare);
    size_t kept = 0; /* each once, with its latest time */
    for (size_t i = 0; i < a->dropped_count; i++)
        if (kept == 0 || bh_sha256_compare(&a->dropped[i], &a->dropped[kept - 1]) != 0)
            a->dropped[kept++] = a->dropped[i];
        else if (a->dropped[i].at > a->dropped[kept - 1].at)
            a->dropped[kept - 1].at = a->dropped[i].at;
    a->dropped_count = kept;
    return 0;
}

static int adopt(struct adoption *a, struct bh_error *err)
{
    struct bh_files *f = a->files;
    struct bh_names_rows seen;
    int rc = read_dropped(f, err);
    bh_names_rows(f->names, &seen);
    a->scan.last = seen;
    while (rc == 0 && !a->scan.end) {
        rc = bh_sql_run(f->live->sql, BH_SQL_READ, files_scan_chunk, &a->scan, err);
        if (rc == 0 && a->scan.all && !a->dropped)
            rc = list_dropped(a, err);
        if (rc == 0)
            rc = name_found(a, err);
        files_scan_forget(&a->scan);
    }
    if (rc == 0 && !a->scan.last.mark)
        a->scan.last.row = 0; /* there is none */
    if (rc == 0 && (a->scan.last.mark || seen.mark))
        bh_names_set_rows(f->names, &a->scan.last);
    /* Another database: it may not have ours. */
    if (rc == 0 && a->scan.all && (seen.mark || a->scan.restarts)) {
        BH_LOCK_SCOPE(&f->mutex);
        f->reconcile = true;
    }
    if (a->made)
        bh_log(BH_LOG_INFO, "%llu rows of table filestore have a name in files/ now",
               (unsigned long long)a->made);
    if (a->scan.bad > FILES_NAMED_BAD)
        bh_log(BH_LOG_WARNING, "%llu rows of table filestore get no name in files/",
               (unsigned long long)a->scan.bad);
    free(a->scan.found);
    free(a->dropped);
    return rc;
}

/* False: the database is its first page, so that it need not be opened, which would show -wal and
 * -shm to who looks at a new one. */
static bool may_have_tables(const struct bh_files *f)
{
    struct bh_store *s = f->live->store;
    struct bh_file *db = bh_store_db(s);
    uint64_t size = bh_file_size(db);
    unsigned char head[18];
    size_t got;
    if (bh_store_wal_size(s) > 0 || size > 65536)
        return true;
    if (bh_file_read(db, head, sizeof head, 0, &got) != 0 || got < sizeof head)
        return size > 0;
    uint64_t page = (uint64_t)head[16] << 8 | head[17]; /* 1: 65536 */
    return size > (page == 1 ? 65536 : page);
}

/* Where clients write all the time a look waits for its turn among them, and a flush right after
 * another needs none: after one that took long and found nothing there is none for a while. What
 * is left out makes the files count as changed, so that a later flush looks. */
#define SLOW_MS     30
#define REST_FACTOR 20
#define REST_MAX_MS 2000
/* After one that failed the publisher looks again: there may be no other flush for long. */
#define AGAIN_MS 5000

static void note_look(struct bh_files *f, const struct adoption *a, int64_t began_ms, int rc,
                      const struct bh_error *err)
{
    int64_t now = bh_mono_ms(), took = now - began_ms, rest = took * REST_FACTOR;
    bool idle = rc == 0 && !a->scan.all && a->made == 0 && a->scan.bad == 0;
    if (rest > REST_MAX_MS)
        rest = REST_MAX_MS;
    f->look_not_before_ms = idle && took >= SLOW_MS ? now + rest : 0;
    bool told = f->look_failed;
    f->look_failed = rc != 0;
    if (rc == 0 || rc == ESHUTDOWN)
        return;
    bh_log(told ? BH_LOG_DEBUG : BH_LOG_WARNING,
           "rows of table filestore have no name in files/ yet: %s", err->text);
    BH_LOCK_SCOPE(&f->mutex);
    f->adopt = true;
    f->adopt_not_before_ms = now + AGAIN_MS;
    pthread_cond_signal(&f->wake);
}

void files_adopt(struct bh_files *f, enum files_look how)
{
    int64_t began = bh_mono_ms();
    bool quiet = how == FILES_LOOK_QUIET;
    if (quiet && !may_have_tables(f))
        return;
    bool later = how == FILES_LOOK_SOON && began < f->look_not_before_ms;
    atomic_store(&f->look_due, later);
    if (later)
        return;
    struct adoption a = {.files = f, .quiet = quiet, .scan = {.prefix = f->prefix}};
    struct bh_error err;
    if (quiet)
        bh_names_quiet(f->names, true);
    int rc = adopt(&a, &err);
    if (a.quiet)
        bh_names_quiet(f->names, false);
    note_look(f, &a, began, rc, &err);
}
