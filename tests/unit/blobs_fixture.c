#include "blobs_fixture.h"

#include <dirent.h>

#include "util/cleanup.h"
#include "util/io.h"

char scratch[64];
struct bh_disk *disk;
struct bh_bucket *bucket;
struct bh_blobs *blobs;
struct bh_blobs_options options;
const char *mirror;
bool no_start;
char test_said[BH_ERROR_TEXT_MAX];
static uint64_t log_begin;

const char *at(const char *name)
{
    static char paths[8][300];
    static unsigned turn;
    char *path = paths[turn++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", scratch, name);
    return path;
}

bool is_there(const char *name)
{
    return access(at(name), F_OK) == 0;
}

void hex_of(const uint8_t hash[BH_SHA256_LEN], char hex[BH_SHA256_HEX])
{
    bh_sha256_format(hash, hex);
}

const char *local(char letter, const uint8_t hash[BH_SHA256_LEN])
{
    static char names[4][100];
    static unsigned turn;
    char hex[BH_SHA256_HEX], *name = names[turn++ % 4];
    hex_of(hash, hex);
    snprintf(name, sizeof names[0], "state/%c-%s", letter, hex);
    return name;
}

const char *object(const uint8_t hash[BH_SHA256_LEN])
{
    static char names[4][100];
    static unsigned turn;
    char hex[BH_SHA256_HEX], *name = names[turn++ % 4];
    hex_of(hash, hex);
    snprintf(name, sizeof names[0], "files/%s", hex);
    return name;
}

uint64_t requests(enum bh_bucket_op op)
{
    struct bh_bucket_stats s;
    bh_bucket_stats(bucket, &s);
    return s.requests[op];
}

bool log_has(const char *text)
{
    size_t size = (size_t)(bh_log_size() - log_begin);
    char *lines = calloc(1, size + 1);
    assert_non_null(lines);
    bh_log_read(log_begin, lines, size);
    bool has = strstr(lines, text) != NULL;
    free(lines);
    return has;
}

void set_rules(const char *rules)
{
    FILE *f = fopen(at("rules.new"), "we");
    assert_non_null(f);
    fputs(rules, f);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(rename(at("rules.new"), at("rules")), 0);
}

int blobs_setup(void **state)
{
    char rules[128];
    struct bh_bucket *below;
    (void)state;
    bh_log_setup(BH_LOG_DEBUG, NULL, getenv("BHFS_TEST_LOG") != NULL, NULL);
    log_begin = bh_log_size();
    strcpy(scratch, "/tmp/bhfs-test-blobs-XXXXXX");
    if (!mkdtemp(scratch) || mkdir(at("state"), 0700) != 0 || mkdir(at("bucket"), 0700) != 0)
        return -1;
    options = (struct bh_blobs_options){.prefix = "files/",
                                        .parallel = 4,
                                        .part_size = 5 * MIB,
                                        .pause_ms = 20,
                                        .read_timeout_ms = 20000};
    mirror = NULL;
    no_start = false;
    test_error = (struct bh_error){0};
    snprintf(rules, sizeof rules, "@%s", at("rules"));
    return bh_bucket_dir_open(&below, at("bucket"), ERR) ||
           bh_bucket_fault_wrap(&bucket, below, rules, 1, ERR);
}

int blobs_teardown(void **state)
{
    char command[128];
    (void)state;
    if (blobs)
        close_blobs();
    bh_bucket_close(bucket);
    bucket = NULL;
    snprintf(command, sizeof command, "rm -rf '%s'", scratch);
    return system(command);
}

void open_blobs(bool recheck)
{
    must(bh_disk_open(&disk, at("state"), mirror ? at(mirror) : NULL, 1, ERR));
    options.disk = disk;
    options.bucket = bucket;
    must(bh_blobs_open(&blobs, &options, recheck, ERR));
    if (!no_start)
        must(bh_blobs_start(blobs, ERR));
}

void close_blobs(void)
{
    bh_blobs_close(blobs);
    bh_disk_close(disk);
    blobs = NULL;
    disk = NULL;
}

void crash(void)
{
    close_blobs();
    open_blobs(false);
}

void content(uint64_t seed, uint64_t offset, void *buf, size_t len)
{
    unsigned char *to = buf;
    for (size_t i = 0; i < len;) {
        uint64_t x = (offset + i) / 8 * 0x9E3779B97F4A7C15u + seed * 0xD1B54A32D192ED03u;
        x ^= x >> 29;
        x *= 0xBF58476D1CE4E5B9u;
        x ^= x >> 32;
        for (unsigned at_byte = (unsigned)((offset + i) % 8); at_byte < 8 && i < len;
             at_byte++, i++)
            to[i] = (unsigned char)(x >> (8 * at_byte));
    }
}

uint64_t make_data(uint64_t seed, uint64_t size, struct bh_dfile *f)
{
    uint64_t number;
    char *buf = malloc(MIB);
    assert_non_null(buf);
    must(bh_data_create(blobs, &number, f, ERR));
    for (uint64_t done = 0; done < size; done += MIB) {
        size_t n = size - done < MIB ? (size_t)(size - done) : MIB;
        content(seed, done, buf, n);
        assert_int_equal(bh_dfile_write(f, buf, n, done), 0);
    }
    free(buf);
    return number;
}

void publish(uint64_t seed, uint64_t size, uint8_t hash[BH_SHA256_LEN])
{
    struct bh_dfile f;
    uint64_t number = make_data(seed, size, &f);
    must(bh_blobs_publish(blobs, &f, size, number, true, NULL, NULL, hash, NULL, ERR));
    bh_dfile_close(&f);
    bh_data_remove(blobs, number);
}

static int read_content(void *arg, uint64_t offset, void *buf, size_t len, struct bh_error *err)
{
    (void)err;
    content(*(uint64_t *)arg, offset, buf, len);
    return 0;
}

void put_object(uint64_t seed, uint64_t size, uint8_t hash[BH_SHA256_LEN])
{
    struct bh_source source = {.size = size, .read = read_content, .arg = &seed};
    struct bh_sha256 *h = bh_sha256_new();
    char *buf = malloc(MIB);
    assert_non_null(h);
    assert_non_null(buf);
    for (uint64_t done = 0; done < size; done += MIB) {
        size_t n = size - done < MIB ? (size_t)(size - done) : MIB;
        content(seed, done, buf, n);
        bh_sha256_update(h, buf, n);
    }
    bh_sha256_raw(h, hash);
    bh_sha256_free(h);
    free(buf);
    must(bh_bucket_put(bucket, object(hash), &source, NULL, NULL, NULL, NULL, ERR));
}

struct bh_blob *open_blob(const uint8_t hash[BH_SHA256_LEN], uint64_t size)
{
    struct bh_blob *o;
    assert_int_equal(bh_blob_open(blobs, hash, size, &o), 0);
    return o;
}

void must_read(struct bh_blob *o, uint64_t seed, uint64_t offset, size_t len)
{
    unsigned char *have = malloc(len + 1), *want = malloc(len + 1);
    size_t got;
    assert_non_null(have);
    assert_non_null(want);
    must(bh_blob_read(o, have, len, offset, &got, NULL, ERR));
    assert_int_equal(got, len);
    content(seed, offset, want, len);
    if (memcmp(have, want, len) != 0)
        fail_msg("the %zu bytes at %llu are wrong", len, (unsigned long long)offset);
    free(have);
    free(want);
}

void must_have_blob(const uint8_t hash[BH_SHA256_LEN], uint64_t seed, uint64_t size)
{
    struct bh_blob *o = open_blob(hash, size);
    for (uint64_t done = 0; done < size; done += MIB)
        must_read(o, seed, done, size - done < MIB ? (size_t)(size - done) : MIB);
    bh_blob_close(o);
}

struct bh_blobs_stats stats(void)
{
    struct bh_blobs_stats s;
    bh_blobs_stats(blobs, &s);
    return s;
}

void must_store_all(void)
{
    must(bh_blobs_wait(blobs, 5, NULL, ERR));
    assert_int_equal(stats().pending, 0);
    assert_int_equal(stats().pending_bytes, 0);
}
