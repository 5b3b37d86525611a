#!/usr/bin/env bash
# truncate(2) and ftruncate(2) in files/: contents of every size cut and grown, times, who may, every error.
# level: full
# time: 90
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

posix truncate
