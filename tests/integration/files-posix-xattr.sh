#!/usr/bin/env bash
# Extended attributes in files/: user.* and trusted.*, sizes, flags, who may; ACLs with effect or not at all.
# level: full
# time: 90
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

posix xattr
