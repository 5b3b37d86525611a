#!/usr/bin/env bash
# The first session of the README: an empty bucket is mounted, written to by sqlite3 and flushed; then the machine is
# lost, and all that was flushed is there on the next one, and in the bucket as a plain file.
# level: quick
# time: 60
# buckets: file ceph swift
# level@ceph: quick
. "${BASH_SOURCE%/*}/../lib.sh"

mount_bh
assert_eq "$(ls "$MNT" | xargs)" "blobs branches files live.db snapshots" "what a plain ls shows"
assert_eq "$(sql 'PRAGMA journal_mode; SELECT count(*) FROM sqlite_master' | xargs)" "wal 0" "a new database"

sql "CREATE TABLE person(id INTEGER PRIMARY KEY, name TEXT NOT NULL, born REAL, photo BLOB);
     CREATE INDEX person_name ON person(name);
     CREATE VIEW old AS SELECT name FROM person WHERE born < 1900;
     INSERT INTO person(name, born, photo) VALUES('Ada', 1815.9, zeroblob(100000)), ('Grace', 1906.9, x'00ff');"
sql "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
     INSERT INTO person(name, born) SELECT 'person ' || i, i FROM n"
sql "DELETE FROM person WHERE id % 7 = 3"
assert_eq "$(sql "SELECT name FROM old WHERE name = 'Ada'")" Ada
written=$(digest)

touch "$CTL/flush"
assert_eq "$(last_status)" ok
assert_eq "$(status_of unflushed)" no "unflushed, in status"
integrity "$(snap_file)"
assert_eq "$(digest "$(snap_file)")" "$written" "the snapshot in the bucket"

umount_bh
drop_state
mount_bh
integrity
assert_eq "$(digest)" "$written" "the content after the loss of the machine"
assert_eq "$(status_of recovered)" none "recovered, in status"

# And it goes on from there: a second round, now over an existing snapshot.
sql "UPDATE person SET name = upper(name); DROP VIEW old"
written=$(digest)
touch "$CTL/flush"
umount_bh
assert_eq "$(digest "$(snap_file)")" "$written" "the second snapshot"
bucket_has "$SNAP.prev" || fail "there is no snapshot before the last: $SNAP.prev"
integrity "$(snap_file "$SNAP.prev")"
drop_state
mount_bh
assert_eq "$(digest)" "$written" "the content after the second loss"
umount_bh
