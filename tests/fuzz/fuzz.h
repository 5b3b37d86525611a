/* What the fuzzers share. A fuzzer gives bytes from outside to a decoder of core/ and checks what
 * must hold for whatever comes back; everything else is found by the sanitizers. Its files are in
 * $TMPDIR, which tests/fuzz/run makes in memory and removes. */
#ifndef FUZZ_H
#define FUZZ_H

#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/error.h"
#include "util/log.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define must(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: this does not hold: %s\n", __FILE__, __LINE__, #condition);    \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* A failure is an errno and a sentence of one line, a success is 0. */
static inline void must_be_told(int rc, const struct bh_error *err)
{
    if (rc == 0)
        return;
    must(rc > 0 && rc == err->code);
    must(err->text[0] && !strchr(err->text, '\n'));
}

/* $TMPDIR/NAME, in one of four buffers. */
static inline const char *at(const char *name)
{
    static char paths[4][512];
    static unsigned turn;
    const char *dir = getenv("TMPDIR");
    char *path = paths[turn++ % 4];
    int n = snprintf(path, sizeof paths[0], "%s/%s", dir ? dir : "/dev/shm", name);
    must(n < (int)sizeof paths[0]);
    return path;
}

static inline void write_file(const char *path, const void *data, size_t size)
{
    BH_FD int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    must(fd >= 0 && write(fd, data, size) == (ssize_t)size);
}

/* The bytes as a string that ends where they do, for ASan's sake: freed by the caller. */
static inline char *string_of(const uint8_t *data, size_t size)
{
    char *s = malloc(size + 1);
    must(s);
    if (size)
        memcpy(s, data, size);
    s[size] = '\0';
    return s;
}

static inline void be_quiet(void)
{
    bh_log_setup(BH_LOG_ERROR, NULL, false, NULL);
}

#endif
