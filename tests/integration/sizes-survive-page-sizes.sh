#!/usr/bin/env bash
# Databases of every page size, grown and shrunk, vacuumed, with big blobs, flushed at every stage: what is in the bucket and
# what is restored from it is what was written, row for row.
# level: quick
# time: 200
# buckets: file ceph
# level@ceph: long
. "${BASH_SOURCE%/*}/../lib.sh"

# flushed STAGE: flushes; the snapshot is the same and sound, and has the size that live.db has
flushed() {
    content=$(digest)
    flush
    assert_eq "$(stat -c %s "$(snap_file)")" "$(stat -c %s "$DB")" "page size $page, $1: size of the snapshot"
    assert_eq "$(digest "$(snap_file)")" "$content" "page size $page, $1: the snapshot"
    integrity "$(snap_file)"
}
# restored STAGE: flushed, and the same after the loss of the machine
restored() {
    flushed "$1"
    umount_bh
    drop_state
    mount_bh
    assert_eq "$(digest)" "$content" "page size $page, $1: the restored database"
    assert_eq "$(sql 'PRAGMA page_size')" "$page" "page size after the restore"
    integrity
}

live_journal delete # in WAL a page size stays
shapes=(512:1 1024:2 4096:0 8192:2 65536:1)
[ "$ON" = file ] || [ -n "$BHFS_LONG" ] || shapes=(512:1 8192:2 65536:1) # a server is slow
for shape in "${shapes[@]}"; do # page size and auto_vacuum: 0 none, 1 full, 2 incremental
    page=${shape%:*} vacuum=${shape#*:}
    bucket_empty
    drop_state
    mount_bh
    sql "PRAGMA page_size=$page; PRAGMA auto_vacuum=$vacuum; CREATE TABLE t(i INTEGER PRIMARY KEY, v TEXT, b BLOB); CREATE INDEX tv ON t(v);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000) INSERT INTO t SELECT i, 'value ' || i * 7919 % 4001, NULL FROM n"
    assert_eq "$(sql 'PRAGMA page_size')" "$page" "page size"
    restored filled
    sql "INSERT INTO t VALUES(5000, 'big', randomblob(3000000)), (5001, 'zero', zeroblob(2000000)), (5002, 'small', x'')"
    sql "UPDATE t SET b = randomblob(i % 700) WHERE i % 3 = 0"
    flushed "big blobs"
    sql "DELETE FROM t WHERE i IN (5000, 5001) OR i % 2 = 0"
    [ "$vacuum" != 2 ] || sql 'PRAGMA incremental_vacuum(50)' >/dev/null
    flushed deleted
    sql 'VACUUM'
    before=$(stat -c %s "$DB")
    assert_eq "$before" "$(($(sql 'PRAGMA page_count') * page))" "size after VACUUM"
    restored vacuumed
    # Growing again over what was cut off must never show what was there.
    sql "INSERT INTO t VALUES(6000, 'zeros', zeroblob(4000000))"
    assert_eq "$(sql "SELECT count(*) FROM t WHERE i = 6000 AND b = zeroblob(4000000)")" 1 "zeros after growing again"
    restored "grown again"
    sql "DROP TABLE t; VACUUM"
    assert_eq "$(stat -c %s "$DB")" "$(($(sql 'PRAGMA page_count') * page))" "size of an emptied database"
    restored emptied
    sql "CREATE TABLE u(x); INSERT INTO u VALUES(1)"
    restored "begun again"
    umount_bh
done

# The page size changed by VACUUM, between two flushes and without one.
page=4096
bucket_empty
drop_state
mount_bh
sql "CREATE TABLE t(i INTEGER PRIMARY KEY, b); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) INSERT INTO t SELECT i, randomblob(300) FROM n"
flushed filled
for page in 1024 65536 512; do
    sql "PRAGMA page_size=$page; VACUUM"
    restored "page size changed"
done
umount_bh
