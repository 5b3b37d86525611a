#!/usr/bin/env bash
# unlink(2) in files/: names that go, files that stay while they are open, sticky directories; every error.
# level: full
# time: 90
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

posix unlink
