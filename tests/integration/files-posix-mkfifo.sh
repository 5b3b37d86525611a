#!/usr/bin/env bash
# mkfifo(3) in files/: what it makes, that it carries bytes, every error.
# level: full
# time: 60
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

posix mkfifo
