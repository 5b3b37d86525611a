#!/usr/bin/env bash
# chown(2) in files/: owners and groups, who may give what to whom, and when set-id bits go.
# level: full
# time: 90
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

posix chown
