#!/usr/bin/env bash
# mount.bhfs, the helper of mount(8) and fstab: takes options as mount(8) passes them, drops what is not for bhfs, gives
# the statuses of mount(8).
# level: quick
# time: 60
. "${BASH_SOURCE%/*}/../lib.sh"
need_fuse

export PATH=$BHFS_BUILD/fs:$PATH
helper=$SRC/mountscripts/mount.bhfs
printf '[live]\ndir = %s\n[snapshot]\ninterval = 0\n' "$STATE" >"$T/other.ini"

"$helper" "$URL" "$MNT" -n -v -o "rw,noauto,user,_netdev,nofail,x-systemd.automount,noatime,nosuid,nodev,config=$T/other.ini,snapshot.min_interval=5s"
daemons[$MNT]=$(status_of pid)
assert_eq "$(findmnt -n -o FSTYPE,SOURCE -M "$MNT" | xargs)" "fuse.bhfs file://$BUCKET" "findmnt"
assert_eq "$(status_of state_dir)" "$STATE" "the state directory of config="
assert_match "$(cat "$CTL/config")" 'snapshot\.min_interval = 5(s|000)' "an option of the mount"
sql 'CREATE TABLE t(i); INSERT INTO t VALUES(1)'
umount_bh

"$helper" "$URL" "$MNT" -r -o "config=$T/other.ini"
daemons[$MNT]=$(status_of pid)
assert_match "$(findmnt -n -o OPTIONS -M "$MNT")" '(^|,)ro(,|$)' "-r"
assert_eq "$(sql 'SELECT i FROM t')" 1
umount_bh

# -f: everything but the mount.
"$helper" "$URL" "$MNT" -f -o "config=$T/other.ini"
! mounted "$MNT" || fail "-f mounted"

fails() {
    local status=$1 regex=$2
    shift 2
    must_fail "$helper" "$@"
    assert_eq "$STATUS" "$status" "the status of: $*"
    assert_match "$OUT" "$regex" "what it says to: $*"
    ! mounted "$MNT" || fail "mounted by: $*"
}
fails 32 'no-bucket' "file://$T/no-bucket" "$MNT" -o "config=$T/other.ini"
fails 32 'no-such\.ini' "$URL" "$MNT" -o "config=$T/no-such.ini"
fails 32 'nonsense' "$URL" "$MNT" -o "config=$T/other.ini,nonsense"
fails 32 'remount' "$URL" "$MNT" -o remount,ro
fails 1 'usage' "$URL"
