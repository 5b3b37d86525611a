#!/usr/bin/env bash
# chmod(2) in files/: modes of every kind, who may, and when set-id bits go.
# level: full
# time: 90
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

posix chmod
