#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"

static int append(char ***list, size_t *count_, const char *text, struct bh_error *err)
{
    char **p = realloc(*list, (*count_ + 1) * sizeof *p);
    char *copy = p ? strdup(text) : NULL;
    if (p)
        *list = p;
    if (!copy)
        return bh_fail(err, ENOMEM, "out of memory");
    p[(*count_)++] = copy;
    return 0;
}

/* SECTION.KEY=VALUE is a setting of ours, everything else FUSE's or mount's. */
static bool is_setting(const char *option)
{
    size_t section = strspn(option, "abcdefghijklmnopqrstuvwxyz_");
    return section > 0 && option[section] == '.';
}

static int take_option(struct options *o, const char *option, struct bh_error *err)
{
    /* What fstab and mount(8) say to everybody and FUSE does not know. */
    static const char *const ignored[] = {"rw",    "auto",    "noauto", "user",    "nouser",
                                          "users", "_netdev", "nofail", "defaults"};
    if (!*option)
        return 0;
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
        if (!strcmp(option, ignored[i]))
            return 0;
    if (!strncmp(option, "x-", 2))
        return 0;
    if (!strcmp(option, "follow"))
        return append(&o->settings, &o->setting_count, "snapshot.follow=1s", err);
    if (!strncmp(option, "follow=", 7)) {
        BH_FREE char *setting = NULL;
        if (asprintf(&setting, "snapshot.%s", option) < 0)
            setting = NULL;
        return setting ? append(&o->settings, &o->setting_count, setting, err)
                       : bh_fail(err, ENOMEM, "out of memory");
    }
    if (is_setting(option)) {
        if (!strchr(option, '='))
            return bh_fail(err, EINVAL, "-o %s has no value; write -o SECTION.KEY=VALUE", option);
        return append(&o->settings, &o->setting_count, option, err);
    }
    if (!strcmp(option, "ro"))
        o->read_only = true;
    if (!strncmp(option, "fsname=", 7))
        o->has_fsname = true;
    if (!strncmp(option, "subtype=", 8))
        o->has_subtype = true;
    return append(&o->fuse, &o->fuse_count, option, err);
}

/* Splits at commas; "\," is a comma in a value. */
static int take_options(struct options *o, const char *list, struct bh_error *err)
{
    BH_FREE char *one = malloc(strlen(list) + 1);
    size_t n = 0;
    if (!one)
        return bh_fail(err, ENOMEM, "out of memory");
    for (const char *p = list;; p++) {
        if (p[0] == '\\' && p[1] == ',') {
            one[n++] = *++p;
            continue;
        }
        if (*p && *p != ',') {
            one[n++] = *p;
            continue;
        }
        one[n] = '\0';
        n = 0;
        int rc = take_option(o, one, err);
        if (rc || !*p)
            return rc;
    }
}

static int parse_flags(struct options *o, int argc, char **argv, struct bh_error *err)
{
    static const struct option longs[] = {{"help", no_argument, NULL, 'h'},
                                          {"version", no_argument, NULL, 'V'},
                                          {"config", required_argument, NULL, 'c'},
                                          {"foreground", no_argument, NULL, 'f'},
                                          {NULL, 0, NULL, 0}};
    *o = (struct options){0};
    opterr = 0;
    optind = 1;
    for (int c; (c = getopt_long(argc, argv, ":fdshVc:o:", longs, NULL)) != -1;) {
        int rc = 0;
        switch (c) {
        case 'd':
            o->debug = true;
            /* fall through */
        case 'f':
            o->foreground = true;
            break;
        case 's': /* one loop thread, which is what there is in any case */
            break;
        case 'h':
            o->help = true;
            break;
        case 'V':
            o->version = true;
            break;
        case 'c':
            o->config_file = optarg;
            break;
        case 'o':
            rc = take_options(o, optarg, err);
            break;
        case ':':
            return bh_fail(err, EINVAL, "the option -%c needs an argument; see bhfs --help",
                           optopt);
        default:
            return bh_fail(err, EINVAL, "there is no option %s; see bhfs --help", argv[optind - 1]);
        }
        if (rc)
            return rc;
    }
    return 0;
}

int options_parse(struct options *o, int argc, char **argv, struct bh_error *err)
{
    int rc = parse_flags(o, argc, argv, err);
    if (rc || o->help || o->version)
        return rc;
    int left = argc - optind;
    if (left < 1 || left > 2)
        return bh_fail(err, EINVAL,
                       left < 1 ? "no mount point was given; see bhfs --help"
                                : "there are too many arguments; see bhfs --help");
    if (left == 1 && argv[optind][0] != '/' && strstr(argv[optind], "://"))
        return bh_fail(err, EINVAL,
                       "no mount point was given, only a bucket: bhfs BUCKET-URL MOUNTPOINT");
    o->url = left == 2 ? argv[optind] : NULL;
    o->mountpoint = argv[argc - 1];
    return 0;
}

int options_parse_bucket(struct options *o, int argc, char **argv, struct bh_error *err)
{
    int rc = parse_flags(o, argc, argv, err);
    if (rc)
        return rc;
    if (argc - optind > 1)
        return bh_fail(err, EINVAL,
                       "there are too many arguments: one BUCKET-URL, or none for the "
                       "configured one");
    o->url = optind < argc ? argv[optind] : NULL;
    return 0;
}

void options_free(struct options *o)
{
    for (size_t i = 0; i < o->setting_count; i++)
        free(o->settings[i]);
    for (size_t i = 0; i < o->fuse_count; i++)
        free(o->fuse[i]);
    free(o->settings);
    free(o->fuse);
}
