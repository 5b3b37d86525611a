#!/usr/bin/env bash
# Names and paths in files/: any byte, 255 of them, paths of PATH_MAX and deeper; statfs and stat.
# level: full
# time: 60
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

posix names
