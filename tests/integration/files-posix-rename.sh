#!/usr/bin/env bash
# rename(2) in files/, with RENAME_NOREPLACE and RENAME_EXCHANGE: every kind over every kind, sticky directories, every error.
# level: full
# time: 120
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

posix rename
