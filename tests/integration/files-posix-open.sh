#!/usr/bin/env bash
# open(2) in files/: making, opening, O_TRUNC, O_EXCL, O_NOFOLLOW, O_DIRECTORY, ETXTBSY; who may, and every error.
# level: full
# time: 90
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

posix open
