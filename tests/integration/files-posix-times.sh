#!/usr/bin/env bash
# The three times of files and directories in files/: what each operation changes, and what nothing changes.
# level: full
# time: 90
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

posix times
