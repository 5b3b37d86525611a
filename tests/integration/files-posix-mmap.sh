#!/usr/bin/env bash
# mmap(2) of files in files/: shared and private, between processes, beside read, write and truncate.
# level: full
# time: 60
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

posix mapping
