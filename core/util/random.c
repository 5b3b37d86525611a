#include "util/random.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

void bh_random_bytes(void *buf, size_t len)
{
    size_t done = 0;
    while (done < len) {
        ssize_t n = getrandom((char *)buf + done, len - done, 0);
        if (n > 0)
            done += (size_t)n;
        else if (errno != EINTR)
            abort(); /* a kernel without getrandom is none that bhfs runs on */
    }
}

int64_t bh_jitter_ms(int64_t ms)
{
    uint32_t random;
    bh_random_bytes(&random, sizeof random);
    return ms / 2 + (int64_t)(random % (uint32_t)(ms / 2 + 1));
}
