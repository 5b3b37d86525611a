#!/usr/bin/env bash
# link(2) in files/: one file under several names; every error.
# level: full
# time: 90
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

posix link
