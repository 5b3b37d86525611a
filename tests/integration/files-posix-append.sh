#!/usr/bin/env bash
# write(2) in files/: O_APPEND by several processes, holes, limits, fsync, sendfile and splice.
# level: full
# time: 60
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

posix append
