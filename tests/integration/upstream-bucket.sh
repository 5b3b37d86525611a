#!/usr/bin/env bash
# A bucket is common ground with the program that writes plain snapshots only: what a plain client put there as that does (KEY,
# KEY.prev, no metadata of ours, branches) is mounted; what the mount flushed is for a plain client one sound database file; and
# what the other wrote while nothing was mounted is what the next mount shows.
# level: quick
# time: 90
# buckets: file ceph swift
# level@ceph: quick
. "${BASH_SOURCE%/*}/../lib.sh"

# The other's live database is a plain file. upstream_flush [KEY]: backed up to a file, KEY copied to KEY.prev, the file
# uploaded; a database that has not changed is not uploaded.
theirs=$T/upstream.db
upstream_flush() {
    local key=${1:-$SNAP}
    rm -f "$T/backup.db"
    sqlite3 -batch -bail "$theirs" ".backup '$T/backup.db'"
    if bucket_has "$key"; then
        bucket_copy "$key" "$key.prev"
    fi
    bucket_put "$T/backup.db" "$key"
}
# upstream_restore: downloaded, checked, copied in.
upstream_restore() {
    rm -f "$theirs" "$T/restored.db"
    bucket_get "$SNAP" "$T/restored.db"
    integrity "$T/restored.db"
    sqlite3 -batch -bail "$theirs" ".restore '$T/restored.db'"
}

# Theirs first: two snapshots, a branch, a blob and the library's tables; rows with what SQL can hold.
sqlite3 -batch -bail "$theirs" "
    CREATE TABLE bh_kv(key TEXT PRIMARY KEY, value BLOB, created_at REAL, updated_at REAL);
    CREATE TABLE filestore(bh_key TEXT PRIMARY KEY, object_key TEXT, size INTEGER, mime TEXT, filename TEXT, metadata TEXT,
        created_at REAL);
    CREATE TABLE t(i INTEGER PRIMARY KEY, v);
    INSERT INTO bh_kv VALUES('greeting', x'00ff', 1.5, 1.5);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) INSERT INTO t SELECT i, 'theirs ' || i FROM n"
upstream_flush
before=$(digest "$theirs")
echo 'a blob' >"$T/blob"
sha=$(sha256sum "$T/blob" | cut -d' ' -f1)
bucket_put "$T/blob" "files/$sha"
sqlite3 -batch -bail "$theirs" "INSERT INTO filestore VALUES('$sha', 'files/$sha', 7, 'text/plain', 'blob.txt', '{}', 2.5)"
upstream_flush
upstream_flush "$SNAP.branch.experiment"
first=$(digest "$theirs")

mount_bh
assert_eq "$(digest)" "$first" "what the mount shows of a snapshot that it did not write"
integrity
assert_eq "$(status_of recovered)" none
assert_eq "$(status_of unflushed)" no
umount_bh
assert_eq "$(bucket_ls)" "$(printf '%s\n' "$SNAP" "$SNAP.branch.experiment" "$SNAP.prev" "files/$sha" | sort)" \
    "the bucket after a mount that wrote nothing"
mount_at "$MNT" "$T/state-branch" "$URL" -o snapshot.branch=experiment
assert_eq "$(digest)" "$first" "their branch"
umount_bh
drop_state

# Ours on top of it: the one before ours is theirs, in KEY.prev; they open ours and go on.
mount_bh
sql "INSERT INTO t VALUES(5000, 'ours'); DELETE FROM t WHERE i % 3 = 0; INSERT INTO bh_kv VALUES('reply', 'text', 3.5, 3.5)"
ours=$(digest)
umount_bh
assert_eq "$(digest "$(snap_file "$SNAP.prev")")" "$first" "KEY.prev after our first flush"
upstream_restore
assert_eq "$(digest "$theirs")" "$ours" "what they restore from our snapshot"
assert_eq "$(head -c 16 "$T/restored.db" | tr -d '\0')" "SQLite format 3" "how the object begins"
bucket_get "files/$sha" "$T/blob.again"
cmp "$T/blob" "$T/blob.again"

# They write while nothing of ours is mounted: the next mount has theirs, with its state directory and without.
sqlite3 -batch -bail "$theirs" "INSERT INTO t VALUES(6000, 'theirs again'); UPDATE t SET v = upper(v) WHERE i < 100"
upstream_flush
second=$(digest "$theirs")
assert_eq "$(digest "$(snap_file "$SNAP.prev")")" "$ours" "KEY.prev after their flush"
mount_bh
assert_eq "$(digest)" "$second" "what a mount with a state directory shows of their newer snapshot"
assert_eq "$(status_of recovered)" none "recovered, in status"
umount_bh
drop_state
mount_bh
assert_eq "$(digest)" "$second" "what a mount without a state directory shows of their newer snapshot"
sql "INSERT INTO t VALUES(7000, 'ours again')"
umount_bh
upstream_restore
assert_eq "$(sqlite3 "$theirs" 'SELECT max(i) FROM t')" 7000 "what they restore in the end"
assert_eq "$(digest "$(snap_file "$SNAP.prev")")" "$second" "KEY.prev in the end"

# A snapshot of theirs that comes while we are mounted is not overwritten unseen: it becomes a branch.
mount_bh
sqlite3 -batch -bail "$theirs" "INSERT INTO t VALUES(8000, 'theirs, meanwhile')"
upstream_flush
sql "INSERT INTO t VALUES(9000, 'ours, meanwhile')"
flush
assert_eq "$(snapshot_value 'SELECT max(i) FROM t')" 9000 "the snapshot after our flush"
branch=$(ls "$MNT/branches" | grep '^upstream-')
log_has "branch $branch" || fail "the log does not name the branch"
assert_eq "$(sqlite3 "$MNT/branches/$branch/live.db" 'SELECT max(i) FROM t')" 8000 "the branch with their content"
assert_eq "$(ls "$MNT/branches" | grep -c .)" 3 "branches: $(ls "$MNT/branches" | xargs)"
umount_bh
mount_bh
assert_eq "$(sql 'SELECT max(i) FROM t')" 9000 "what the next mount shows"
assert_eq "$(status_of recovered)" none "recovered, in status"
umount_bh
[ "$before" != "$first" ] || fail "the first two snapshots are the same: this shows little"
