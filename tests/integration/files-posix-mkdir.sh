#!/usr/bin/env bash
# mkdir(2) in files/: what it makes, what changes in the parent, who may, every error.
# level: quick
# time: 60
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

posix mkdir
