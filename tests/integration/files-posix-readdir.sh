#!/usr/bin/env bash
# Directories in files/: 20,000 entries (100,000 in --long), positions, changes while they are read.
# level: full
# time: 120
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

posix readdir
