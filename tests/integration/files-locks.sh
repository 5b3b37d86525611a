#!/usr/bin/env bash
# Locks in files/: byte ranges (conflicts, waiting, deadlock, release by close, exit and kill), those of open file descriptions,
# flock: between processes, as on a local disk.
# level: quick
# time: 60
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

posix locks
