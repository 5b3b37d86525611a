#!/usr/bin/env bash
# Permission bits in files/: of owner, group and others, for files and directories, for users in several groups.
# level: full
# time: 90
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

posix permissions
