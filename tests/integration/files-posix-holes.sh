#!/usr/bin/env bash
# Holes in files/: SEEK_HOLE, SEEK_DATA, fallocate with its flags: right, or EOPNOTSUPP.
# level: full
# time: 60
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

posix holes
