#!/usr/bin/env bash
# WAL and its two files: the mode changes back and forth with every rollback mode; live.db-wal and live.db-shm come with the
# first client and go with the last, or with the change of the mode; whoever writes, cuts or removes them past SQLite is
# refused, and whoever copies them does no harm; what was committed outlives kill -9 of all; a snapshot in the bucket that
# is in WAL mode is loaded, and what goes there never is.
# level: quick
# time: 120
# buckets: file ceph
# level@ceph: long
. "${BASH_SOURCE%/*}/../lib.sh"

live_journal delete
mount_bh
sql "CREATE TABLE t(i INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(0, printf('%20000c', 'x'))"
rows=1

root_has() { # NAME...: that and nothing else
    assert_eq "$(ls -A "$MNT" | grep -vxE "blobs|branches|files|snapshots" | sort | xargs)" "$*" "what is in the root"
}
add() {
    sql "INSERT INTO t(v) VALUES('row')"
    rows=$((rows + 1))
    assert_eq "$(sql 'SELECT count(*) FROM t')" $rows "rows"
}

# --- back and forth ---
for mode in delete truncate persist memory off; do
    assert_eq "$(sql "PRAGMA journal_mode=$mode; INSERT INTO t(v) VALUES('row'); PRAGMA journal_mode=WAL; INSERT INTO t(v) VALUES('row')" | xargs)" \
        "$mode wal" "into WAL, from $mode"
    rows=$((rows + 2))
    assert_eq "$(version_bytes "$DB")" "2 2" "the header in WAL"
    add
    assert_eq "$(sql 'PRAGMA journal_mode')" wal "the mode of a new client"
    [ ! -e "$DB-wal" ] || fail "live.db-wal is there without a client"
    flush
    assert_eq "$(snapshot_value 'SELECT count(*) FROM t')" $rows "rows in the bucket, from WAL"
    assert_eq "$(version_bytes "$(snap_file)")" "1 1" "the header in the bucket, from WAL"
    assert_eq "$(version_bytes "$DB")" "2 2" "the header after a flush"
    assert_eq "$(sql "PRAGMA journal_mode=$mode; INSERT INTO t(v) VALUES('row'); PRAGMA journal_mode" | xargs)" "$mode $mode" \
        "out of WAL, into $mode"
    rows=$((rows + 1))
    assert_eq "$(version_bytes "$DB")" "1 1" "the header in a rollback mode"
    add
    integrity
    [ ! -e "$DB-wal" ] || fail "live.db-wal is there in mode $mode"
    [ ! -e "$DB-shm" ] || fail "live.db-shm is there in mode $mode"
done
sql 'PRAGMA journal_mode=DELETE' >/dev/null

# --- the files come and go ---
session a
assert_eq "$(ask a 'PRAGMA journal_mode=WAL')" wal
ask a "INSERT INTO t(v) VALUES('row')" >/dev/null
rows=$((rows + 1))
root_has .ctl live.db live.db-shm live.db-wal
page=$(ask a 'PRAGMA page_size')
size=$(stat -c %s "$DB-wal")
assert_between "$size" $((32 + 24 + page)) 1000000 "the size of live.db-wal"
assert_eq $(((size - 32) % (24 + page))) 0 "live.db-wal beyond its header, in frames"
assert_eq "$(stat -c %s "$DB-shm")" 32768 "the size of live.db-shm"
for file in wal shm; do
    assert_eq "$(stat -c '%F %h %u %a' "$DB-$file")" "regular file 1 $(id -u) $(stat -c %a "$DB")" "live.db-$file"
done
assert_eq "$(ls -1iA "$MNT" | awk '{print $1}' | sort -u | wc -l)" 8 "different inode numbers"
assert_eq "$(wc -c <"$DB-wal")" "$size" "the bytes of live.db-wal"
assert_eq "$(wc -c <"$DB-shm")" 32768 "the bytes of live.db-shm"
for ((i = 0; i < 20; i++)); do ask a "INSERT INTO t(v) VALUES('row')" >/dev/null; done
rows=$((rows + 20))
assert_eq $((($(stat -c %s "$DB-wal") - 32) % (24 + page))) 0 "a grown live.db-wal, in frames"
[ "$(stat -c %s "$DB-wal")" -gt "$size" ] || fail "live.db-wal does not grow"

# A second client sees it all; with two of them there is no way out of WAL, and the attempt harms nobody.
session b
assert_eq "$(ask b 'SELECT count(*) FROM t')" $rows
for client in a b; do
    for mode in DELETE TRUNCATE OFF; do
        assert_eq "$(ask $client "PRAGMA journal_mode=$mode")" "error: database is locked" "out of WAL with two clients"
    done
    ask $client "INSERT INTO t(v) VALUES('row')" >/dev/null
    rows=$((rows + 1))
    assert_eq "$(ask a 'SELECT count(*) FROM t')/$(ask b 'SELECT count(*) FROM t')" "$rows/$rows" "rows after a refused change"
done
assert_eq "$(ask a 'PRAGMA journal_mode')" wal
assert_eq "$(version_bytes "$DB")" "2 2"
root_has .ctl live.db live.db-shm live.db-wal

# --- refused ---
unharmed() {
    assert_eq "$(ask a 'SELECT count(*) FROM t')/$(ask b 'SELECT count(*) FROM t')" "$rows/$rows" "rows after: $*"
    ask a "INSERT INTO t(v) VALUES('row')" >/dev/null
    rows=$((rows + 1))
    assert_eq "$(ask b 'SELECT count(*) FROM t')" $rows "rows of the other client after: $*"
}
refused() { # FILE COMMAND...
    local file=$1
    shift
    must_fail "$@"
    assert_match "$OUT" 'not permitted' "what this says: $*"
    assert_match "$(last_status)" "live\\.db-$file" "the sentence after: $*"
    unharmed "$@"
}
head -c 50000 /dev/urandom >"$T/noise"
cp "$DB-wal" "$T/wal.copy"
refused wal sh -c ": >'$DB-wal'"
refused wal cp "$T/noise" "$DB-wal"
refused wal cp "$T/wal.copy" "$DB-wal"
refused wal truncate -s 0 "$DB-wal"
refused wal truncate -s 100 "$DB-wal"
refused wal dd if="$T/noise" of="$DB-wal" bs=4096 count=1 conv=notrunc status=none
refused wal bash -c "cat '$T/noise' >>'$DB-wal'"
refused wal rm -f "$DB-wal"
refused shm rm -f "$DB-shm"
refused shm truncate -s 0 "$DB-shm"
refused shm truncate -s 4096 "$DB-shm"
refused shm sh -c ": >'$DB-shm'"
must_fail mv "$DB-wal" "$T/wal"
must_fail mv "$DB-shm" "$T/shm"
must_fail mv "$DB-wal" "$DB-shm"
unharmed mv
must_fail dd if="$T/noise" of="$DB" bs=4096 count=1 conv=notrunc status=none
must_fail sh -c ": >'$DB'"
unharmed "writing to live.db"

# --- looked at and copied, with clients connected ---
for ((i = 0; i < 3; i++)); do
    cat "$DB-shm" "$DB-wal" >/dev/null
    cp -r "$MNT" "$T/copy$i"
    tar -C "$MNT" --exclude=./.ctl -cf - . | tar -tf - >"$T/tar"
    assert_eq "$(grep -c '^\./live\.db' "$T/tar")" 3 "files of the database in a tar"
    ask b "INSERT INTO t(v) VALUES('row')" >/dev/null
    rows=$((rows + 1))
done
# With nobody writing meanwhile, such a copy is the database as it was.
assert_eq "$(sqlite3 -batch "$T/copy2/live.db" 'PRAGMA integrity_check; SELECT count(*) FROM t')" "ok
$((rows - 1))" "a copy of the three files"
unharmed copies
leave b
integrity
root_has .ctl live.db live.db-shm live.db-wal
leave a
root_has .ctl live.db
for file in wal shm; do
    [ ! -e "$DB-$file" ] || fail "live.db-$file is not listed, but found"
done
assert_eq "$(sql 'SELECT count(*) FROM t')" $rows
add

# They also go with the change of the mode, under the client that changes it.
session a
ask a "INSERT INTO t(v) VALUES('row')" >/dev/null
rows=$((rows + 1))
assert_eq "$(ask a 'PRAGMA journal_mode=DELETE')" delete
root_has .ctl live.db
assert_eq "$(ask a 'PRAGMA journal_mode=WAL')" wal
ask a "INSERT INTO t(v) VALUES('row')" >/dev/null
rows=$((rows + 1))
root_has .ctl live.db live.db-shm live.db-wal
assert_eq "$(sql 'SELECT count(*) FROM t')" $rows
leave a

# With nobody there, a -wal that somebody makes up is kept out of the database.
attempt cp "$T/noise" "$DB-wal"
[ "$STATUS" -ne 0 ] || fail "noise was taken for live.db-wal"
attempt cp "$T/wal.copy" "$DB-wal"
[ "$STATUS" -ne 0 ] || fail "an old live.db-wal was taken for a new one"
assert_eq "$(sql 'SELECT count(*) FROM t')" $rows "rows beside a foreign live.db-wal"
integrity

# --- kill -9 ---
# killed WHO...: a client leaves frames in live.db-wal that no checkpoint has seen; what happens to WHO; what is there then.
killed() {
    local i
    session a
    session b
    ask a 'PRAGMA wal_autocheckpoint=0' >/dev/null
    for ((i = 0; i < 10; i++)); do ask a "INSERT INTO t(v) VALUES(printf('%3000c', 'w'))" >/dev/null; done
    rows=$((rows + 10))
    assert_eq "$(ask b 'SELECT count(*) FROM t')" $rows
    # Not committed: never to be seen again.
    ask b 'PRAGMA cache_size=5' >/dev/null
    ask b 'BEGIN IMMEDIATE' >/dev/null
    ask b "UPDATE t SET v = 'lost' || v" >/dev/null
    case "$1" in
    clients) kill_session a b ;;
    daemon-first)
        kill_daemon
        kill_session a b
        ;;
    clients-first)
        kill_session a b
        kill_daemon
        ;;
    esac
    [ "$1" = clients ] || mount_bh
    if [ "$2" = flush ]; then
        flush
        assert_eq "$(snapshot_value 'SELECT count(*) FROM t')" $rows "$*: rows in the bucket"
        integrity "$(snap_file)"
    fi
    assert_eq "$(sql 'SELECT count(*) FROM t')" $rows "$*: rows"
    assert_eq "$(sql "SELECT count(*) FROM t WHERE v LIKE 'lost%'")" 0 "$*: rows of the lost transaction"
    integrity
    add
    root_has .ctl live.db
    assert_eq "$(sql 'PRAGMA journal_mode')" wal "$*: the mode"
}
for next in flush client; do
    killed clients $next
    killed daemon-first $next
    killed clients-first $next
done
# Killed clients, and then an orderly end at once.
session a
ask a "INSERT INTO t(v) VALUES('row')" >/dev/null
rows=$((rows + 1))
kill_session a
content=$(digest)
session a
assert_eq "$(ask a 'SELECT count(*) FROM t')" $rows
kill_session a
umount_bh
assert_eq "$(version_bytes "$(snap_file)")" "1 1" "the header in the bucket"
assert_eq "$(digest "$(snap_file)")" "$content" "the content in the bucket"
mount_bh
assert_eq "$(version_bytes "$DB")" "2 2" "the header of live.db in the next mount"
assert_eq "$(digest)" "$content" "the content in the next mount"
add
umount_bh

# --- somebody else's snapshot, in WAL mode, put into the bucket by hand ---
drop_state
bucket_empty
sqlite3 "$T/foreign.db" "PRAGMA journal_mode=WAL; CREATE TABLE t(i); INSERT INTO t VALUES(42)" >/dev/null
assert_eq "$(version_bytes "$T/foreign.db")" "2 2" "the header of the foreign snapshot"
bucket_put "$T/foreign.db" "$SNAP"
mount_bh
assert_eq "$(sql 'SELECT i FROM t')" 42
integrity
sql 'INSERT INTO t VALUES(43)'
flush
assert_eq "$(version_bytes "$(snap_file)")" "1 1" "the header of the next snapshot"
assert_eq "$(snapshot_value 'SELECT group_concat(i) FROM t')" 42,43
integrity "$(snap_file)"
assert_eq "$(sql 'PRAGMA journal_mode=WAL')" wal
sql 'INSERT INTO t VALUES(44)'
umount_bh
drop_state
mount_bh
assert_eq "$(sql 'SELECT count(*) FROM t')" 3
integrity
umount_bh

# --- a new database in WAL ---
drop_state
bucket_empty
live_journal wal
mount_bh
sql 'CREATE TABLE t(i); INSERT INTO t VALUES(1)'
assert_eq "$(sql 'PRAGMA journal_mode')" wal "the mode of a new database with live.journal=wal"
root_has .ctl live.db
flush
assert_eq "$(snapshot_value 'SELECT i FROM t')" 1
assert_eq "$(version_bytes "$(snap_file)")" "1 1"
umount_bh
