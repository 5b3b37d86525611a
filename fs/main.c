#include <string.h>

#include "daemon.h"

int bhfs_main(int argc, char **argv, const struct bhfs_extension *ext)
{
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
    } commands[] = {
        {"umount", command_umount}, {"flush", command_flush},   {"status", command_status},
        {"import", command_import}, {"export", command_export}, {"inspect", command_inspect},
    };
    for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof *commands; i++)
        if (!strcmp(argv[1], commands[i].name))
            return commands[i].run(argc - 1, argv + 1);
    return bhfs_mount_main(argc, argv, ext);
}
