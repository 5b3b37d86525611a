#!/usr/bin/env bash
# All of KEY.bhfs/ was removed from the bucket: a machine without a state mounts the plain snapshot, and is told that there is no
# history; what rows of filestore name has its content. One that has a state refuses to flush and says what to do.
# level: full
. "${BASH_SOURCE%/*}/../files.sh"

files_mount
sql 'CREATE TABLE t(x); INSERT INTO t VALUES(1)'
mkdir "$FILES/d"
echo hello >"$FILES/d/a"
flush
umount_bh
cp -a "$STATE" "$T/kept"
drop_state
rm -rf "$T/bucket/$SNAP.bhfs"

files_mount
assert_match "$(status_of recovered)" "there is no history in .*$SNAP.bhfs/" "recovered, in status"
assert_eq "$(sql 'SELECT x FROM t')" 1 "the database"
wait_for 10 test -e "$FILES/a"
assert_eq "$(cat "$FILES/a")" hello "a content that a row names"
umount_bh

# From here on there is a history again: it is said no more.
drop_state
files_mount
assert_eq "$(status_of recovered)" none "recovered, once there is a history again"
umount_bh
