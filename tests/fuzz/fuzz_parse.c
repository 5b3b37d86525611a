/* Sizes, durations and truth values as people write them; what comes out is written as a person
 * reads it. */
#include "fuzz.h"

#include <errno.h>

#include "util/parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t bytes;
    int64_t ms;
    bool yes;
    char buf[32], wide[64];
    BH_FREE char *text = string_of(data, size);
    int rc = bh_parse_size(text, &bytes);
    must(rc == 0 || rc == EINVAL || rc == ERANGE);
    if (rc == 0) {
        must(bytes <= INT64_MAX);
        must(!strcmp(bh_format_size(bytes, buf, sizeof buf),
                     bh_format_size(bytes, wide, sizeof wide)));
    }
    rc = bh_parse_duration(text, &ms);
    must(rc == 0 || rc == EINVAL || rc == ERANGE);
    if (rc == 0) {
        must(ms >= 0);
        must(!strcmp(bh_format_duration(ms, buf, sizeof buf),
                     bh_format_duration(ms, wide, sizeof wide)));
        bh_format_duration(-ms, buf, sizeof buf);
    }
    rc = bh_parse_bool(text, &yes);
    must(rc == 0 || rc == EINVAL);
    return 0;
}
