#!/usr/bin/env bash
# utimensat(2) in files/: nanoseconds, now, omit, before 1970 and after 2106; who may, every error.
# level: full
# time: 90
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

posix utimensat
