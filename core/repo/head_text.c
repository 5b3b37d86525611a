/* Heads, snapshot records, labels and the format object as text: lines "name: value" from a table,
 * and as the last one the checksum of those before it. */
#include "repo/head.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bucket/bucket_util.h"
#include "repo/head_private.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/sha256.h"

#define LINE_MAX_LEN  4096 /* with its line break */
#define CHECKSUM      "checksum: "
#define CHECKSUM_LINE (sizeof CHECKSUM - 1 + BH_SHA256_HEX - 1 + 1)
#define YEAR_10000_MS INT64_C(253402300800000)

/* --- what a line may hold --- */

enum type {
    TYPE_KIND, /* what the text is: a constant */
    TYPE_VERSION,
    TYPE_YES_NO,
    TYPE_BRANCH,
    TYPE_ID,
    TYPE_WRITER,
    TYPE_HOST,
    TYPE_TIME,
    TYPE_U32,
    TYPE_U64, /* below 2^63, so that one more always fits */
    TYPE_I64, /* not negative */
    TYPE_PAGE_SIZE,
    TYPE_BLOCK_SIZE,
    TYPE_FANOUT,
    TYPE_ROOT,
    TYPE_INDEX, /* a root whose size is a number of entries */
};

enum {
    OPTIONAL = 1, /* "" is a value */
    LATER = 2,    /* older texts lack the line: "" */
};

struct field {
    const char *name;
    enum type type;
    unsigned flags;
    size_t offset, size;
    const char *kind;
};

struct layout {
    const struct field *fields;
    size_t count;
    size_t size; /* of the struct */
};

struct format_text {
    uint32_t version, block_size, fanout;
};

struct label_text {
    char label[BH_BRANCH_MAX], id[BH_SNAPSHOT_ID_MAX];
};

#define SIZE_OF(type, member) sizeof(((type *)0)->member)
#define KIND(value)                                                                                \
    {                                                                                              \
        .name = "bhfs", .type = TYPE_KIND, .kind = (value)                                         \
    }
#define F(type_, name_, what, member, flags_)                                                      \
    {                                                                                              \
        .name = (name_), .type = TYPE_##what, .flags = (flags_),                                   \
        .offset = offsetof(type_, member), .size = SIZE_OF(type_, member)                          \
    }
#define ENTRY(type_, e, optional)                                                                  \
    F(type_, "snapshot", ID, e.id, optional), F(type_, "created", TIME, e.time_ms, 0),             \
        F(type_, "made_on", BRANCH, e.branch, optional), F(type_, "flags", U32, e.flags, 0),       \
        F(type_, "page_size", PAGE_SIZE, e.page_size, 0), F(type_, "db", ROOT, e.db, 0),           \
        F(type_, "names", ROOT, e.names, 0), F(type_, "uploaded", U64, e.uploaded, 0),             \
        F(type_, "changed", U64, e.changed, 0), F(type_, "blobs", U32, e.blobs, 0)

/* The order is that of the lines. A field never leaves the format, nor changes its meaning. */
static const struct field head_fields[] = {
    KIND("head"),
    F(struct bh_head, "branch", BRANCH, branch, 0),
    F(struct bh_head, "deleted", YES_NO, deleted, 0),
    F(struct bh_head, "sequence", U64, sequence, 0),
    F(struct bh_head, "previous", ID, previous, OPTIONAL),
    ENTRY(struct bh_head, newest, OPTIONAL),
    F(struct bh_head, "index", INDEX, index, 0),
    F(struct bh_head, "forked_from", BRANCH, forked_from, OPTIONAL),
    F(struct bh_head, "fork_snapshot", ID, fork_snapshot, OPTIONAL),
    F(struct bh_head, "lease_host", HOST, lease.host, OPTIONAL),
    F(struct bh_head, "lease_pid", I64, lease.pid, 0),
    F(struct bh_head, "lease_writer", WRITER, lease.writer, OPTIONAL),
    F(struct bh_head, "lease_epoch", U64, lease.epoch, 0),
    F(struct bh_head, "lease_expires", TIME, lease.expires_ms, 0),
};

static const struct field record_fields[] = {
    KIND("snapshot"),
    ENTRY(struct bh_record, entry, 0),
    F(struct bh_record, "parent", ID, parent, OPTIONAL),
    F(struct bh_record, "host", HOST, host, OPTIONAL),
    F(struct bh_record, "index", INDEX, index, 0),
};

static const struct field format_fields[] = {
    KIND("format"),
    F(struct format_text, "version", VERSION, version, 0),
    F(struct format_text, "block_size", BLOCK_SIZE, block_size, 0),
    F(struct format_text, "fanout", FANOUT, fanout, 0),
};

static const struct field label_fields[] = {
    KIND("label"),
    F(struct label_text, "label", BRANCH, label, LATER),
    F(struct label_text, "snapshot", ID, id, 0),
};

#define LAYOUT(name, type)                                                                         \
    static const struct layout name##_layout = {                                                   \
        name##_fields, sizeof name##_fields / sizeof name##_fields[0], sizeof(type)}
LAYOUT(head, struct bh_head);
LAYOUT(record, struct bh_record);
LAYOUT(format, struct format_text);
LAYOUT(label, struct label_text);

/* --- encoding --- */

/* Bytes of the character at s; 0: not UTF-8, or a control character. */
static size_t printable(const char *s)
{
    unsigned char c = (unsigned char)*s;
    size_t n = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    char one[5] = {0};
    if (c < ' ' || c == 0x7f)
        return 0;
    for (size_t i = 0; i < n && s[i]; i++)
        one[i] = s[i];
    bool c1 = c == 0xc2 && (unsigned char)one[1] < 0xa0;
    return strlen(one) == n && bh_utf8_valid(one) && !c1 ? n : 0;
}

void bh_clean_host(const char *host, char out[BH_HOST_MAX])
{
    size_t len = 0;
    memset(out, 0, BH_HOST_MAX);
    while (*host) {
        size_t n = printable(host), step = n ? n : 1;
        if (len + step >= BH_HOST_MAX)
            return;
        memcpy(out + len, n ? host : "?", step);
        len += step;
        host += step;
    }
}

static void print_host(const char *host, struct bh_strbuf *out)
{
    char clean[BH_HOST_MAX];
    bh_clean_host(host, clean);
    bh_strbuf_addf(out, "%s", clean);
}

static void print_root(const struct bh_root *root, struct bh_strbuf *out)
{
    char hex[2 * BH_REF_SIZE + 1];
    bh_ref_hex(&root->ref, hex);
    bh_strbuf_addf(out, "%s %u %" PRIu64, hex, root->depth, root->size);
}

static void print_time(int64_t ms, struct bh_strbuf *out)
{
    char when[32];
    if (ms >= 0 && ms < YEAR_10000_MS) /* else nothing, which the check of the whole refuses */
        bh_strbuf_addf(out, "%s", bh_format_time(ms, when, sizeof when));
}

static void print_value(const struct field *f, const void *from, struct bh_strbuf *out)
{
    switch (f->type) {
    case TYPE_KIND:
        bh_strbuf_addf(out, "%s", f->kind);
        break;
    case TYPE_YES_NO:
        bh_strbuf_addf(out, "%s", *(const bool *)from ? "yes" : "no");
        break;
    case TYPE_BRANCH:
    case TYPE_ID:
    case TYPE_WRITER:
        bh_strbuf_addf(out, "%.*s", (int)f->size - 1, (const char *)from);
        break;
    case TYPE_HOST:
        print_host(from, out);
        break;
    case TYPE_TIME:
        print_time(*(const int64_t *)from, out);
        break;
    case TYPE_U64:
        bh_strbuf_addf(out, "%" PRIu64, *(const uint64_t *)from);
        break;
    case TYPE_I64:
        bh_strbuf_addf(out, "%" PRId64, *(const int64_t *)from);
        break;
    case TYPE_ROOT:
    case TYPE_INDEX:
        print_root(from, out);
        break;
    default:
        bh_strbuf_addf(out, "%" PRIu32, *(const uint32_t *)from);
    }
}

static int decode(const struct layout *l, void *to, const char *text, size_t len, const char *what,
                  struct bh_error *err);

/* Appends the text. EINVAL: a value that the decoder would refuse is never written. */
static int encode(const struct layout *l, const void *from, struct bh_strbuf *out)
{
    char hex[BH_SHA256_HEX];
    size_t start = out->len;
    BH_FREE void *check = malloc(l->size);
    for (size_t i = 0; i < l->count; i++) {
        const char *value = (const char *)from + l->fields[i].offset;
        if ((l->fields[i].flags & LATER) && !*value)
            continue;
        bh_strbuf_addf(out, "%s: ", l->fields[i].name);
        print_value(&l->fields[i], value, out);
        bh_strbuf_add(out, "\n", 1);
    }
    if (!check || out->failed || bh_sha256_hex_of(out->data + start, out->len - start, hex))
        return ENOMEM;
    bh_strbuf_addf(out, CHECKSUM "%s\n", hex);
    if (out->failed)
        return ENOMEM;
    struct bh_error why;
    int rc = decode(l, check, out->data + start, out->len - start, "", &why);
    if (rc) {
        out->len = start;
        out->data[start] = '\0';
    }
    return rc == 0 || rc == ENOMEM ? rc : EINVAL;
}

/* --- values --- */

/* Plain decimal, as printf writes it. */
static bool parse_number(const char *s, uint64_t max, uint64_t *out)
{
    uint64_t n = 0;
    size_t len = strspn(s, "0123456789");
    if (len == 0 || s[len] || (len > 1 && s[0] == '0'))
        return false;
    for (; *s; s++) {
        uint64_t digit = (uint64_t)(*s - '0');
        if (digit > max || n > (max - digit) / 10)
            return false;
        n = n * 10 + digit;
    }
    *out = n;
    return true;
}

static bool parse_time(const char *s, int64_t *ms)
{
    char again[32];
    if (!bh_has_form(s, "dddd-dd-ddTdd:dd:dd.dddZ") || strcmp(s, "1970") < 0)
        return false;
    struct tm tm = {.tm_year = atoi(s) - 1900,
                    .tm_mon = atoi(s + 5) - 1,
                    .tm_mday = atoi(s + 8),
                    .tm_hour = atoi(s + 11),
                    .tm_min = atoi(s + 14),
                    .tm_sec = atoi(s + 17)};
    *ms = (int64_t)timegm(&tm) * 1000 + atoi(s + 20);
    /* timegm takes 31 April for 1 May. */
    return *ms < YEAR_10000_MS && strcmp(bh_format_time(*ms, again, sizeof again), s) == 0;
}

static bool is_power_of_two(uint64_t n, uint64_t min, uint64_t max)
{
    return n >= min && n <= max && (n & (n - 1)) == 0;
}

static bool parse_text(const struct field *f, const char *value, char *to)
{
    if (strlen(value) >= f->size)
        return false;
    memset(to, 0, f->size);
    memcpy(to, value, strlen(value));
    if (!*value && (f->flags & OPTIONAL))
        return true;
    switch (f->type) {
    case TYPE_BRANCH:
        return bh_is_branch_name(value);
    case TYPE_ID:
        return bh_is_snapshot_id(value);
    case TYPE_WRITER:
        return value[strspn(value, "0123456789abcdef")] == '\0';
    default: /* a host */
        for (size_t n; *value; value += n)
            if ((n = printable(value)) == 0)
                return false;
        return true;
    }
}

static bool parse_small(const struct field *f, const char *value, uint32_t *to)
{
    uint64_t n;
    if (!parse_number(value, UINT32_MAX, &n))
        return false;
    *to = (uint32_t)n;
    switch (f->type) {
    case TYPE_PAGE_SIZE:
        return n == 0 || is_power_of_two(n, 512, 65536);
    case TYPE_BLOCK_SIZE:
        return is_power_of_two(n, BH_BLOCK_MIN, BH_BLOCK_MAX);
    case TYPE_FANOUT:
        return n == BH_FANOUT;
    default:
        return true;
    }
}

static bool parse_large(const char *value, uint64_t *to)
{
    return parse_number(value, INT64_MAX, to);
}

static bool parse_root(const struct field *f, char *value, struct bh_root *root)
{
    uint64_t depth;
    char *second = strchr(value, ' ');
    char *third = second ? strchr(second + 1, ' ') : NULL;
    if (!third)
        return false;
    *second++ = *third++ = '\0';
    if (strlen(value) != (size_t)2 * BH_REF_SIZE ||
        bh_ref_from_hex(&root->ref, value, f->name, NULL))
        return false;
    if (!parse_number(second, BH_DEPTH_MAX, &depth) || !parse_large(third, &root->size))
        return false;
    root->depth = (unsigned)depth;
    return f->type != TYPE_INDEX || root->size % BH_INDEX_ENTRY_SIZE == 0;
}

static bool parse_value(const struct field *f, char *value, void *to)
{
    uint64_t n;
    switch (f->type) {
    case TYPE_KIND:
        return strcmp(value, f->kind) == 0;
    case TYPE_YES_NO:
        *(bool *)to = strcmp(value, "yes") == 0;
        return *(bool *)to || strcmp(value, "no") == 0;
    case TYPE_BRANCH:
    case TYPE_ID:
    case TYPE_WRITER:
    case TYPE_HOST:
        return parse_text(f, value, to);
    case TYPE_TIME:
        return parse_time(value, to);
    case TYPE_U64:
        return parse_large(value, to);
    case TYPE_I64:
        if (!parse_large(value, &n))
            return false;
        *(int64_t *)to = (int64_t)n;
        return true;
    case TYPE_ROOT:
    case TYPE_INDEX:
        return parse_root(f, value, to);
    default:
        return parse_small(f, value, to);
    }
}

static const char *description(enum type type)
{
    switch (type) {
    case TYPE_KIND:
        return "is not what such an object says";
    case TYPE_YES_NO:
        return "is neither yes nor no";
    case TYPE_BRANCH:
        return "is no name of a branch";
    case TYPE_ID:
        return "is no id of a snapshot";
    case TYPE_WRITER:
        return "is no id of a writer";
    case TYPE_HOST:
        return "is no name of a host";
    case TYPE_TIME:
        return "is no time of the form 2026-11-27T07:21:49.123Z";
    case TYPE_PAGE_SIZE:
        return "is no page size of SQLite";
    case TYPE_BLOCK_SIZE:
        return "is no power of two from 4096 to 1048576";
    case TYPE_FANOUT:
        return "is not 256";
    case TYPE_ROOT:
    case TYPE_INDEX:
        return "is no reference, depth and size of a tree";
    default:
        return "is no number, or out of range";
    }
}

/* --- decoding --- */

static int damaged(const char *what, struct bh_error *err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static int damaged(const char *what, struct bh_error *err, const char *fmt, ...)
{
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return bh_fail(err, EIO, "%s is damaged: %s", what, text);
}

static int check_whole(const char *text, size_t len, const char *what, struct bh_error *err)
{
    char hex[BH_SHA256_HEX];
    if (len > BH_HEAD_TEXT_MAX)
        return damaged(what, err, "%zu bytes are too many", len);
    if (len < CHECKSUM_LINE || text[len - 1] != '\n')
        return damaged(what, err, "it is cut off");
    size_t body = len - CHECKSUM_LINE;
    if ((body > 0 && text[body - 1] != '\n') ||
        memcmp(text + body, CHECKSUM, strlen(CHECKSUM)) != 0)
        return damaged(what, err, "its last line is not checksum");
    if (bh_sha256_hex_of(text, body, hex))
        return bh_fail(err, ENOMEM, "out of memory while reading %s", what);
    if (memcmp(text + body + strlen(CHECKSUM), hex, BH_SHA256_HEX - 1) != 0)
        return damaged(what, err, "the line checksum does not match the rest");
    return 0;
}

/* One line, without its break: cut into name and value. */
static int split_line(char *line, char **value, const char *what, struct bh_error *err)
{
    size_t len = strspn(line, "abcdefghijklmnopqrstuvwxyz0123456789_");
    int shown = len < 40 ? (int)len : 40;
    if (strlen(line) >= LINE_MAX_LEN)
        return damaged(what, err, "the line %.*s is too long", shown, line);
    for (const char *c = line; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            return damaged(what, err, "the line %.*s holds a control character", shown, line);
    if (len == 0 || len > 64 || line[len] != ':' || line[len + 1] != ' ')
        return damaged(what, err, "a line is not of the form name: value");
    line[len] = '\0';
    *value = line + len + 2;
    return 0;
}

static int take_line(const struct layout *l, char *line, void *to, uint32_t *seen, const char *what,
                     struct bh_error *err)
{
    char *value = line;
    int rc = split_line(line, &value, what, err);
    if (rc)
        return rc;
    if (strcmp(line, "checksum") == 0)
        return damaged(what, err, "the line checksum is not the last");
    for (size_t i = 0; i < l->count; i++) {
        const struct field *f = &l->fields[i];
        if (strcmp(line, f->name) != 0)
            continue;
        if (*seen & 1u << i)
            return damaged(what, err, "the line %s is there twice", f->name);
        *seen |= 1u << i;
        if (!parse_value(f, value, (char *)to + f->offset))
            return damaged(what, err, "the line %s %s", f->name, description(f->type));
        if (f->type == TYPE_VERSION && ((struct format_text *)to)->version != BH_FORMAT_VERSION)
            return bh_fail(err, ENOTSUP,
                           "%s says version %s of the format, which this bhfs does not know: use "
                           "the version of bhfs that made it, or a newer one",
                           what, value);
        break;
    }
    return 0;
}

/* to: filled only in part when it fails. */
static int decode(const struct layout *l, void *to, const char *text, size_t len, const char *what,
                  struct bh_error *err)
{
    uint32_t seen = 0;
    int rc = check_whole(text, len, what, err);
    if (rc)
        return rc;
    len -= CHECKSUM_LINE;
    BH_FREE char *copy = malloc(len + 1);
    if (!copy)
        return bh_fail(err, ENOMEM, "out of memory while reading %s", what);
    memcpy(copy, text, len);
    copy[len] = '\0';
    if (strlen(copy) != len || !bh_utf8_valid(copy))
        return damaged(what, err, "it is not UTF-8 text");
    memset(to, 0, l->size);
    for (char *line = copy, *end; rc == 0 && (end = strchr(line, '\n')); line = end + 1) {
        *end = '\0';
        rc = take_line(l, line, to, &seen, what, err);
    }
    for (size_t i = 0; rc == 0 && i < l->count; i++)
        if (!(seen & 1u << i) && !(l->fields[i].flags & LATER))
            rc = damaged(what, err, "the line %s is missing", l->fields[i].name);
    return rc;
}

/* --- the texts --- */

int bh_head_encode(const struct bh_head *h, struct bh_strbuf *out)
{
    return encode(&head_layout, h, out);
}

int bh_head_decode(struct bh_head *h, const char *text, size_t len, const char *what,
                   struct bh_error *err)
{
    struct bh_head got;
    int rc = decode(&head_layout, &got, text, len, what, err);
    if (rc == 0)
        *h = got;
    return rc;
}

int bh_record_encode(const struct bh_record *r, struct bh_strbuf *out)
{
    return encode(&record_layout, r, out);
}

int bh_record_decode(struct bh_record *r, const char *text, size_t len, const char *what,
                     struct bh_error *err)
{
    struct bh_record got;
    int rc = decode(&record_layout, &got, text, len, what, err);
    if (rc == 0)
        *r = got;
    return rc;
}

int bh_format_encode(uint32_t block_size, struct bh_strbuf *out)
{
    struct format_text t = {BH_FORMAT_VERSION, block_size, BH_FANOUT};
    return encode(&format_layout, &t, out);
}

int bh_format_decode(uint32_t *block_size, const char *text, size_t len, const char *what,
                     struct bh_error *err)
{
    struct format_text t;
    int rc = decode(&format_layout, &t, text, len, what, err);
    if (rc == 0)
        *block_size = t.block_size;
    return rc;
}

int bh_label_encode(const char *label, const char *id, struct bh_strbuf *out)
{
    struct label_text t = {0};
    if (!bh_is_snapshot_id(id) || (*label && !bh_is_label(label)))
        return EINVAL;
    memcpy(t.id, id, strlen(id));
    memcpy(t.label, label, strlen(label));
    return encode(&label_layout, &t, out);
}

int bh_label_decode(char label[BH_BRANCH_MAX], char id[BH_SNAPSHOT_ID_MAX], const char *text,
                    size_t len, const char *what, struct bh_error *err)
{
    struct label_text t;
    int rc = decode(&label_layout, &t, text, len, what, err);
    if (rc == 0) {
        memcpy(id, t.id, sizeof t.id);
        memcpy(label, t.label, sizeof t.label);
    }
    return rc;
}
