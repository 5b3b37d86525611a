#!/usr/bin/env bash
# mknod(2) in files/: fifos, devices and their numbers, sockets, files; every error.
# level: full
# time: 60
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

posix mknod
