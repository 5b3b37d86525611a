/* What is written from one end to the other is hashed meanwhile; what is changed, cut, moved or
 * removed after that is never taken for what was hashed. */
#include "blobs_fixture.h"

#include "store/blobs_private.h"

#define ALL  (64 * MIB)
#define WAIT 20000 /* ms for a thread that lets others go first */

static struct bh_dfile file;
static uint64_t number;
static unsigned seed;

static void create(void)
{
    open_blobs(false);
    must(bh_data_create(blobs, &number, &file, ERR));
}

static unsigned next_random(unsigned below)
{
    return (unsigned)rand_r(&seed) % below;
}

static void change(uint64_t offset, uint64_t len)
{
    static char buf[MIB];
    for (size_t i = 0; i < len; i += 4096)
        memcpy(buf + i, &(unsigned){(unsigned)rand_r(&seed)}, sizeof(unsigned));
    bh_data_changes(blobs, number, offset, offset + len);
    assert_int_equal(bh_dfile_write(&file, buf, len, offset), 0);
}

/* One write after the other. */
static void run(uint64_t offset, uint64_t end)
{
    for (uint64_t n; offset < end; offset += n) {
        n = end - offset < 128 * KIB ? end - offset : 128 * KIB;
        change(offset, n);
    }
}

static void resize(uint64_t size)
{
    bh_data_shrinks(blobs, number, size);
    assert_int_equal(bh_dfile_truncate(&file, size), 0);
}

static uint64_t size_now(void)
{
    struct stat st;
    assert_int_equal(fstat(file.fd, &st), 0);
    return (uint64_t)st.st_size;
}

/* How much of it is hashed: of what would be published now. */
static uint64_t hashed(void)
{
    uint64_t bytes = 0;
    bh_sha256_free(bh_blobs_written_hash(blobs, number, size_now(), &bytes));
    return bytes;
}

/* Writes on until so much is hashed, as what was asked for is not gone on with before that. */
static void must_hash(uint64_t want)
{
    int64_t until = bh_mono_ms() + WAIT;
    while (hashed() < want) {
        assert_true(bh_mono_ms() < until);
        run(size_now(), size_now() + 128 * KIB);
        usleep(5000);
    }
}

static void must_publish_right(bool take)
{
    uint8_t hash[BH_SHA256_LEN], want[BH_SHA256_LEN];
    must(bh_blobs_hash(file.fd, size_now(), NULL, NULL, "the file", want, ERR));
    must(bh_blobs_publish(blobs, &file, size_now(), number, take, NULL, NULL, hash, NULL, ERR));
    assert_memory_equal(hash, want, sizeof want);
}

static void close_file(void)
{
    bh_dfile_close(&file);
    bh_data_remove(blobs, number);
}

static void test_what_is_written_is_hashed(void **state)
{
    create();
    run(0, ALL);
    must_hash(ALL - 24 * MIB);
    must_publish_right(false); /* as one that is open */
    run(size_now(), size_now() + 3 * MIB);
    must_publish_right(true);
    close_file();
    assert_null(bh_blobs_written_hash(blobs, number, UINT64_MAX, &(uint64_t){0}));
}

static void test_changed_afterwards(void **state)
{
    create();
    run(0, ALL);
    must_hash(32 * MIB);
    change(3 * MIB + 1, 1);
    assert_int_equal(hashed(), 0);
    must_publish_right(false);
    must_hash(64 * MIB); /* as it is written on */
    must_publish_right(true);
    close_file();
}

static void test_changed_where_nothing_is_hashed_yet(void **state)
{
    create();
    run(0, ALL);
    must_hash(16 * MIB);
    uint64_t before = hashed();
    change(size_now() - 1, 1);
    assert_int_equal(hashed(), before);
    must_publish_right(true);
    close_file();
}

static void test_cut(void **state)
{
    create();
    run(0, ALL);
    must_hash(32 * MIB);
    resize(20 * MIB);
    assert_int_equal(hashed(), 0);
    resize(ALL); /* zeros */
    must_publish_right(false);
    run(20 * MIB, ALL);
    must_publish_right(true);
    close_file();
}

static void test_here_and_there(void **state)
{
    create();
    for (int i = 0; i < 200; i++)
        change((uint64_t)next_random(100) * MIB, MIB / 2);
    usleep(50000);
    assert_int_equal(hashed(), 0);
    must_publish_right(true);
    close_file();
}

/* What a blob has is not hashed again. */
static void test_appended_to_a_blob(void **state)
{
    create();
    run(0, ALL);
    uint8_t hash[BH_SHA256_LEN];
    must(bh_blobs_publish(blobs, &file, ALL, number, false, NULL, NULL, hash, NULL, ERR));
    bh_data_is_copy(blobs, number, hash, ALL, ALL);
    run(ALL, ALL + 24 * MIB);
    must_hash(ALL);
    must_hash(ALL + 8 * MIB);
    must_publish_right(false);
    change(1, 1);
    must_publish_right(true);
    close_file();
}

static void test_more_files_than_are_known(void **state)
{
    struct bh_dfile files[12];
    uint64_t numbers[12];
    open_blobs(false);
    for (int i = 0; i < 12; i++)
        must(bh_data_create(blobs, &numbers[i], &files[i], ERR));
    for (uint64_t at = 0; at < 40 * MIB; at += 5 * MIB)
        for (int i = 0; i < 12; i++) {
            file = files[i];
            number = numbers[i];
            run(at, at + 5 * MIB);
        }
    for (int i = 0; i < 12; i++) {
        file = files[i];
        number = numbers[i];
        must_publish_right(true);
        close_file();
    }
}

static void test_removed_while_it_is_hashed(void **state)
{
    open_blobs(false);
    for (int i = 0; i < 20; i++) {
        must(bh_data_create(blobs, &number, &file, ERR));
        run(0, 24 * MIB + (uint64_t)i * 128 * KIB);
        close_file();
        assert_null(bh_blobs_written_hash(blobs, number, ALL, &(uint64_t){0}));
    }
}

/* All of it at random, against what is in the file. */
static void test_at_random(void **state)
{
    create();
    for (int i = 0; i < 250; i++) {
        uint64_t size = size_now(), at = size ? (uint64_t)next_random((unsigned)size) : 0;
        switch (next_random(8)) {
        case 0:
            change(at, 1 + next_random(MIB - 1));
            break;
        case 1:
            run(at, at + next_random(20 * MIB));
            break;
        case 2:
            if (size > ALL || next_random(4) == 0)
                resize(at);
            break;
        case 3:
            bh_data_changes(blobs, number, at, at + 64 * KIB);
            assert_int_equal(bh_dfile_punch(&file, at, 64 * KIB), 0);
            break;
        case 4:
            if (size)
                must_publish_right(false);
            break;
        default:
            run(size, size + next_random(8 * MIB));
        }
    }
    must_publish_right(true);
    close_file();
}

int main(void)
{
    const char *given = getenv("BH_SEED");
    seed = given ? (unsigned)atoi(given) : (unsigned)bh_mono_ns();
    print_message("BH_SEED=%u\n", seed);
    const struct CMUnitTest tests[] = {
        TEST(test_what_is_written_is_hashed),
        TEST(test_changed_afterwards),
        TEST(test_changed_where_nothing_is_hashed_yet),
        TEST(test_cut),
        TEST(test_here_and_there),
        TEST(test_appended_to_a_blob),
        TEST(test_more_files_than_are_known),
        TEST(test_removed_while_it_is_hashed),
        TEST(test_at_random),
    };
    return cmocka_run_group_tests_name("what is hashed while it is written", tests, NULL, NULL);
}
