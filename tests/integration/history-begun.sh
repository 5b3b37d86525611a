#!/usr/bin/env bash
# A database that was kept without a history (snapshot.history=false) gets one: with the state of the last mount, and without. The
# plain snapshot is the first one's base, and nothing is lost.
# level: full
# buckets: file ceph
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh" || exit 1

for state in kept lost; do
    bucket_empty
    drop_state
    mount_bh -o snapshot.history=false
    sql 'CREATE TABLE t(x); INSERT INTO t VALUES(1)'
    flush
    sql 'INSERT INTO t VALUES(2)'
    flush
    umount_bh
    [ "$state" = kept ] || drop_state

    mount_bh
    assert_eq "$(sql 'SELECT group_concat(x) FROM t')" 1,2 "$state: the database at first"
    sql 'INSERT INTO t VALUES(3)'
    flush
    echo content >"$MNT/files/a"
    flush
    assert_eq "$(ls "$MNT/snapshots" | wc -l)" 2 "$state: snapshots"
    umount_bh
    drop_state
    mount_bh
    assert_eq "$(sql 'SELECT group_concat(x) FROM t')" 1,2,3 "$state: the database from the bucket alone"
    assert_eq "$(cat "$MNT/files/a")" content "$state: a file from the bucket alone"
    umount_bh
done
