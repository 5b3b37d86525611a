/* Commands of [hooks]: run by the shell beside the flush, which never waits for them. */
#ifndef BHFS_HOOKS_H
#define BHFS_HOOKS_H

#include <stddef.h>

/* Starts `sh -c command` with "NAME=VALUE" variables (at most 4) added to the environment, without
 * credentials. An empty command is none. How it ends is logged. */
void hook_run(const char *command, const char *const variables[], size_t count);

#endif
