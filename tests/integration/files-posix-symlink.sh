#!/usr/bin/env bash
# symlink(2) and readlink(2) in files/: targets of every form, following them, every error.
# level: full
# time: 60
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

posix symlink
