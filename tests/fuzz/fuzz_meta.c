/* What a directory bucket finds in .bhfs-meta. The input's first line says what the rest is:
 * "record", the metadata of the object k; "upload", the info file of a multipart upload; "escaped",
 * the path of a file below escaped/. */
#include "fuzz.h"

#include <errno.h>
#include <ftw.h>
#include <time.h>

#include "bucket/bucket.h"
#include "bucket/bucket_util.h"
#include "bucket/dir_internal.h"

#define UPLOAD "0123456789abcdef0123456789abcdef"

static struct bh_bucket *b;
static const struct bh_source body = {.size = 5, .data = "hello"};

static const char *in_bucket(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "bucket/%s", name);
    return at(path);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return ftw->level ? remove(path) : 0;
}

/* An empty bucket but for the object k, whose size and time are those in the corpus. */
static void make_bucket(void)
{
    static const struct timespec times[2] = {{1700000000, 123456789}, {1700000000, 123456789}};
    must(nftw(in_bucket(""), remove_one, 8, FTW_DEPTH | FTW_PHYS) == 0);
    write_file(in_bucket("k"), body.data, body.size);
    must(utimensat(AT_FDCWD, in_bucket("k"), times, 0) == 0);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    struct bh_error err = {0};
    be_quiet();
    must(mkdir(at("bucket"), 0700) == 0 && bh_bucket_dir_open(&b, at("bucket"), &err) == 0);
    return 0;
}

/* Writes the file at path in the bucket and the directories on the way, as far as there can be
 * such. */
static void put_file(char *path, const void *data, size_t size)
{
    int dir = open(in_bucket(""), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    char *save = NULL, *name = strtok_r(path, "/", &save);
    for (char *next; name && (next = strtok_r(NULL, "/", &save)); name = next) {
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
            continue;
        mkdirat(dir, name, 0700);
        int below = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        close(dir);
        if ((dir = below) < 0)
            return;
    }
    int fd = name ? openat(dir, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) : -1;
    must(fd < 0 || write(fd, data, size) == (ssize_t)size);
    if (fd >= 0)
        close(fd);
    close(dir);
}

static void must_have_valid_meta(const struct bh_object_info *info)
{
    struct bh_meta copy = {0};
    must(info->meta.count <= BH_META_ITEMS_MAX);
    for (size_t i = 0; i < info->meta.count; i++)
        must(bh_meta_set(&copy, info->meta.items[i].name, info->meta.items[i].value, NULL) == 0);
    must(copy.count == info->meta.count); /* no name twice */
}

static void must_have_same_meta(const struct bh_object_info *x, const struct bh_object_info *y)
{
    must(x->meta.count == y->meta.count);
    for (size_t i = 0; i < x->meta.count; i++) {
        const char *value = bh_meta_get(&y->meta, x->meta.items[i].name);
        must(value && !strcmp(value, x->meta.items[i].value));
    }
}

/* The object k is whole, and its copies have the metadata that it has. */
static void look_at_k(void)
{
    struct bh_object_info info, copied;
    struct bh_error err = {0};
    BH_FREE char *data = NULL;
    size_t len;
    must(bh_bucket_head(b, "k", &info, NULL, &err) == 0);
    must_have_valid_meta(&info);
    must(bh_bucket_get_small(b, "k", 100, &data, &len, NULL, NULL, &err) == 0);
    must(len == body.size && !memcmp(data, body.data, len));
    must(bh_bucket_copy(b, "k", "c", NULL, NULL, NULL, &err) == 0);
    must(bh_bucket_head(b, "c", &copied, NULL, &err) == 0);
    must_have_same_meta(&info, &copied);
    must(bh_bucket_put(b, "k", &body, &info.meta, NULL, NULL, NULL, &err) == 0);
    must(bh_bucket_head(b, "k", &copied, NULL, &err) == 0);
    must_have_same_meta(&info, &copied);
}

static int see_key(void *arg, const char *key, bool is_prefix, const struct bh_object_info *info,
                   struct bh_error *err)
{
    char *last = arg;
    struct bh_object_info found;
    must(bh_key_check(key, err) == 0 && strcmp(last, key) < 0);
    must(is_prefix || bh_bucket_head(b, key, &found, NULL, err) == 0);
    strcpy(last, key);
    return 0;
}

static void look_at_list(const struct bh_list_request *req)
{
    char last[BH_KEY_MAX + 1] = "";
    struct bh_error err = {0};
    must_be_told(bh_bucket_list(b, req, see_key, last, NULL, &err), &err);
}

/* Goes on with an upload that was found. */
static int see_upload(void *arg, const char *key, const char *id, int64_t started_ms,
                      struct bh_error *err)
{
    struct bh_part part = {0};
    struct bh_object_info info;
    must(!strcmp(id, UPLOAD));
    int rc = bh_bucket_mp_part(b, key, id, 1, &body, &part, NULL, err);
    if (!rc)
        rc = bh_bucket_mp_complete(b, key, id, &part, 1, NULL, NULL, NULL, err);
    if (rc == 0) {
        must(bh_bucket_head(b, key, &info, NULL, err) == 0 && info.size == body.size);
        must_have_valid_meta(&info);
    }
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[DIR_PATH_MAX], hash[65];
    struct bh_error err = {0};
    const uint8_t *newline = size ? memchr(data, '\n', size) : NULL;
    const uint8_t *rest = newline ? newline + 1 : data + size;
    size_t len = (size_t)(data + size - rest);
    if (!newline || len >= DIR_PATH_MAX - sizeof DIR_ESCAPED)
        return 0;
    make_bucket();
    switch (data[0]) {
    case 'r':
        must(bh_sha256_hex_of("k", 1, hash) == 0);
        snprintf(path, sizeof path, DIR_RECORDS "/%.2s/%s", hash, hash);
        put_file(path, rest, len);
        look_at_k();
        break;
    case 'u':
        strcpy(path, DIR_MULTIPART "/" UPLOAD "/info");
        put_file(path, rest, len);
        must_be_told(bh_bucket_mp_list(b, "", see_upload, NULL, NULL, &err), &err);
        break;
    case 'e':
        snprintf(path, sizeof path, DIR_ESCAPED "/%.*s", (int)len, (const char *)rest);
        put_file(path, body.data, body.size);
        break;
    default:
        return 0;
    }
    look_at_list(&(struct bh_list_request){.prefix = ""});
    look_at_list(&(struct bh_list_request){.prefix = "a", .delimiter = "/", .start_after = "a/."});
    return 0;
}
