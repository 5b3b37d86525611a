/* The process's log: stderr or a file, and a bounded copy in memory that `.ctl/log` shows.
 * One log a process, as there is one stderr. Every function may be called from any thread, none of
 * them blocks on anything but the log's own mutex and the write of one line. Never log a secret. */
#ifndef BH_UTIL_LOG_H
#define BH_UTIL_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

enum bh_log_level { BH_LOG_ERROR, BH_LOG_WARNING, BH_LOG_INFO, BH_LOG_DEBUG };

/* Level, file (NULL or "": none) and whether lines go to stderr too. May be called again to change
 * them. Returns an errno when the file cannot be opened for appending; nothing changes then. */
int bh_log_setup(enum bh_log_level level, const char *file, bool to_stderr, struct bh_error *err);

/* Opens the file anew (after log rotation). */
int bh_log_reopen(struct bh_error *err);

/* One event, one line: "2026-11-23T03:11:00.123Z info: TEXT". Newlines in the text become spaces.
 */
void bh_log(enum bh_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The copy in memory: at most 1 MiB; when that is full the older half is dropped (its size shrinks
 * then, as a rotated file's does). bh_log_read copies from offset, returns the number of bytes, 0
 * at the end. */
uint64_t bh_log_size(void);
size_t bh_log_read(uint64_t offset, void *buf, size_t len);

/* fn(arg) is called after each line, without the log's mutex; it must not log. NULL: nobody. */
void bh_log_on_append(void (*fn)(void *arg), void *arg);

#endif
