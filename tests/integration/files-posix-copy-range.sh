#!/usr/bin/env bash
# copy_file_range(2) in files/: between files and within one.
# level: full
# time: 60
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

posix copyrange
