/* halfcommit: a client in write-ahead mode that dies between its commit frame and the index. Its
 * transaction is in -wal, whole and with valid checksums, but SQLite's index does not know of it:
 * to the other clients it never was, and the next writer puts its own frames in that place.
 *
 *   halfcommit DB SQL     begins, runs SQL, writes the frames of the commit
 *
 * Prints "written" once the commit frame is in the file, then waits for SIGKILL. */
#include "client.h"

#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

enum { FRAME_HEADER = 24 }; /* SQLite file format, section "The Write-Ahead Log" */

static bool committing, is_last;

/* Of the main database and -wal. A frame is written in two parts: its header, whose second word is
 * not 0 in a commit frame, and the page. */
static ssize_t write_and_look(int fd, const void *buf, size_t len, off_t offset)
{
    const unsigned char *p = buf;
    ssize_t n = pwrite(fd, buf, len, offset);
    if (!committing || n != (ssize_t)len)
        return n;
    if (is_last && len != FRAME_HEADER) {
        printf("written\n");
        fflush(stdout);
        for (;;)
            pause();
    }
    is_last = len == FRAME_HEADER && (p[4] || p[5] || p[6] || p[7]);
    return n;
}

int main(int argc, char **argv)
{
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    if (argc != 3)
        client_die(CLIENT_WRONG, "usage: halfcommit DB SQL");
    for (int i = 0; i < 2; i++) {
        const char *const names[] = {"pwrite", "pwrite64"};
        if (vfs->xSetSystemCall(vfs, names[i], (sqlite3_syscall_ptr)write_and_look) != SQLITE_OK)
            client_die(CLIENT_WRONG, "this SQLite cannot be told how to write");
    }
    sqlite3 *db = client_open(argv[1], "WAL", "FULL", 20000);
    client_exec(db, "BEGIN IMMEDIATE");
    client_exec(db, argv[2]);
    committing = true;
    client_exec(db, "COMMIT");
    client_die(CLIENT_WRONG, "the commit frame was not seen");
}
