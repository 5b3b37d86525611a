#!/usr/bin/env bash
# Nothing can be changed where nothing may be: the files/ of a snapshot, of another branch, of a read-only mount: EROFS, from
# everything that would. With BH_DIR: of a read-only bind mount.
# level: full
# time: 60
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

refuses() { # DIR
    mkdir -p "$T/work"
    (cd "$T/work" && BH_READ_ONLY=$1 exec python3 "$SRC/tests/helpers/posix/erofs.py") || fail "in $1"
}

files_mount
(cd "$FILES" && python3 "$SRC/tests/helpers/posix/erofs.py" prepare)
if [ -n "$OTHER" ]; then
    mkdir "$OTHER/ro"
    mount --bind "$FILES" "$OTHER/ro"
    mount -o remount,bind,ro "$OTHER/ro"
    refuses "$OTHER/ro"
    umount "$OTHER/ro"
    exit
fi
mkdir "$MNT/snapshots/x" "$MNT/branches/side"
refuses "$MNT/snapshots/x/files"
refuses "$MNT/branches/side/files"
umount_bh
mount_bh -o ro -o allow_other
refuses "$FILES"
umount_bh
