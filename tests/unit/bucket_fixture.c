#include "bucket_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

char dir[64];
struct bh_bucket *b;

const char *path_of(const char *name)
{
    static char path[8192];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

bool exists(const char *name)
{
    return access(path_of(name), F_OK) == 0;
}

void shell(const char *command)
{
    char line[8192];
    snprintf(line, sizeof line, "cd %s && %s", dir, command);
    assert_int_equal(system(line), 0);
}

int dir_setup(void **state)
{
    strcpy(dir, "/tmp/bhfs-test-dir-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    return bh_bucket_dir_open(&b, dir, ERR);
}

int dir_teardown(void **state)
{
    bh_bucket_close(b);
    char line[256];
    snprintf(line, sizeof line, "chmod -R u+rwx %s; rm -rf %s", dir, dir);
    return system(line);
}

void reopen(void)
{
    bh_bucket_close(b);
    must(bh_bucket_dir_open(&b, dir, ERR));
}
