/* The state file. What is accepted is the same after it was written and read again. */
#include "fuzz.h"

#include "config/config.h"
#include "live/statedir.h"
#include "util/io.h"

static struct bh_config *cfg;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    struct bh_error err = {0};
    BH_STRBUF dir = {0};
    be_quiet();
    bh_strbuf_addf(&dir, "live.dir=%s", at("state"));
    const char *const options[] = {dir.data};
    const struct bh_config_request req = {
        .url = "s3://b", .overrides = options, .override_count = 1};
    must(mkdir(at("state"), 0700) == 0 && bh_config_load(&cfg, &req, &err) == 0);
    return 0;
}

/* Opens and writes it. NULL: refused. Else the text written, freed by the caller. */
static char *open_and_save(void)
{
    char *text = NULL;
    struct bh_statedir sd;
    struct bh_error err = {0};
    int rc = bh_statedir_open(&sd, cfg, &err);
    must_be_told(rc, &err);
    if (rc)
        return NULL;
    must(sd.state.identity && sd.state.mountpoint);
    must(bh_statedir_save(&sd, &err) == 0);
    must(bh_read_small_file(AT_FDCWD, at("state/state"), 1 << 20, &text, NULL, &err) == 0);
    bh_statedir_close(&sd);
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    write_file(at("state/state"), data, size);
    BH_FREE char *first = open_and_save();
    BH_FREE char *second = first ? open_and_save() : NULL;
    must(!first || (second && !strcmp(first, second)));
    return 0;
}
