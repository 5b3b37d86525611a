#!/usr/bin/env bash
# rmdir(2) in files/: what may be removed, by whom; every error.
# level: full
# time: 60
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

posix rmdir
