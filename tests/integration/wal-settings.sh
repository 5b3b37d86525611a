#!/usr/bin/env bash
# WAL with what clients set: every synchronous, wal_autocheckpoint, journal_size_limit, locking_mode=EXCLUSIVE, mode=ro and
# immutable=1, mmap_size, every page size; transactions larger than the cache, with a flush in their middle; bhfs import
# beside connected clients; -shm written back by sync in between; a read-only mount of what was in WAL. The daemon commits
# beside all of it.
# level: full
# time: 300
# buckets: file ceph
# level@ceph: long
. "$(dirname "${BASH_SOURCE[0]}")/../load.sh" || exit 1

live_journal delete
mount_bh -o snapshot.interval=0 -o live.busy_timeout=1s
make_counter
assert_eq "$(sql 'PRAGMA journal_mode=WAL')" wal
total=0

# counters WHAT OPTION...: two clients with these options, of which one opens anew again and again, and the daemon.
counters() {
    local what=$1 pids=()
    shift
    start counter -n 200 -j WAL "$@" "$DB"
    pids+=("$PID")
    start counter -n 200 -j WAL -k 20 "$@" "$DB"
    pids+=("$PID")
    attempt door run 200 'UPDATE c SET n = n + 1'
    [ "$STATUS" -eq 0 ] || fail "$what: the daemon's increments: $OUT"
    reap 0 "${pids[@]}"
    total=$((total + 600))
    exact "$what"
}

exact() {
    assert_eq "$(sql 'SELECT n FROM c')" $total "$1: the sum, as a client sees it"
    assert_eq "$(door query 'SELECT n FROM c')" $total "$1: the sum, as the daemon sees it"
    integrity
}

for sync in OFF NORMAL FULL EXTRA; do
    counters "synchronous=$sync" -s $sync
done
for pages in 0 1 10 1000; do
    counters "wal_autocheckpoint=$pages" -x "PRAGMA wal_autocheckpoint=$pages"
done
counters 'journal_size_limit=0' -x 'PRAGMA journal_size_limit=0; PRAGMA wal_autocheckpoint=5'
counters 'cache_size=1' -x 'PRAGMA cache_size=1; PRAGMA cache_spill=1'

# --- sync(2) writes the dirty pages of -shm, which nobody needs, to the daemon ---
(
    trap - ERR EXIT
    while [ ! -e "$T/enough" ]; do
        sync -f "$MNT" || exit 1
        sync "$DB" "$DB-shm" 2>/dev/null || true # -shm goes with its last client
        sleep 0.01
    done
) &
syncer=$!
session stays
ask stays 'SELECT n FROM c' >/dev/null
counters 'beside sync'
counters 'beside sync'
touch "$T/enough"
wait $syncer || fail "sync of the mount failed"
leave stays
exact 'after sync'

# --- locking_mode=EXCLUSIVE ---
# locked WHAT: others are kept out, the daemon says by whom; total is what it was.
locked() {
    must_fail sqlite3 -batch "$DB" 'SELECT n FROM c'
    assert_match "$OUT" 'database is locked' "$1: another client"
    must_fail door run 1 'UPDATE c SET n = n + 1'
    assert_match "$OUT" '^error 16 ' "$1: the daemon's errno, EBUSY"
    assert_match "$OUT" "(^|[^0-9])${session_pid[x]}([^0-9]|\$)" "$1: the daemon's sentence names the client"
}
# From the first access: its index is on its heap, there is no -shm.
session x
ask x 'PRAGMA locking_mode=EXCLUSIVE' >/dev/null
assert_eq "$(ask x 'SELECT n FROM c')" $total "what an exclusive client reads"
assert_eq "$(ask x 'UPDATE c SET n = n + 1 RETURNING n')" $((total + 1)) "what an exclusive client writes"
total=$((total + 1))
[ -s "$DB-wal" ] || fail "an exclusive client has no live.db-wal"
[ ! -e "$DB-shm" ] || fail "an exclusive client has a live.db-shm"
locked 'exclusive from the first'
assert_eq "$(ask x 'UPDATE c SET n = n + 1 RETURNING n')" $((total + 1))
assert_eq "$(ask x 'PRAGMA wal_checkpoint(TRUNCATE)')" '0|0|0' "the checkpoint of an exclusive client"
assert_eq "$(ask x 'UPDATE c SET n = n + 1 RETURNING n')" $((total + 2))
total=$((total + 2))
leave x
exact 'after an exclusive client'
counters 'after an exclusive client'
# Killed.
session x
ask x 'PRAGMA locking_mode=EXCLUSIVE' >/dev/null
assert_eq "$(ask x 'UPDATE c SET n = n + 1 RETURNING n')" $((total + 1))
total=$((total + 1))
ask x 'BEGIN' >/dev/null
ask x 'UPDATE c SET n = -1' >/dev/null
kill_session x
exact 'after a killed exclusive client'
counters 'after a killed exclusive client'
# Later: with a -shm, and back.
session x
session y
assert_eq "$(ask x 'SELECT n FROM c')" $total
ask x 'PRAGMA locking_mode=EXCLUSIVE' >/dev/null
assert_eq "$(ask y 'SELECT n FROM c')" $total "another client before the first exclusive write"
assert_eq "$(ask x 'UPDATE c SET n = n + 1')" 'error: database is locked' "exclusive beside another client"
leave y
assert_eq "$(ask x 'UPDATE c SET n = n + 1 RETURNING n')" $((total + 1)) "exclusive beside the daemon alone"
total=$((total + 1))
locked 'exclusive later'
assert_eq "$(ask x 'UPDATE c SET n = n + 1 RETURNING n')" $((total + 1))
total=$((total + 1))
ask x 'PRAGMA locking_mode=NORMAL' >/dev/null
assert_eq "$(ask x 'SELECT n FROM c')" $total
door run 1 'UPDATE c SET n = n + 1' >/dev/null
total=$((total + 1))
assert_eq "$(ask x 'SELECT n FROM c')" $total "what the client sees that was exclusive"
counters 'beside a client that was exclusive'
leave x

# --- read-only connections ---
session ro "file:$DB?mode=ro"
assert_eq "$(ask ro 'SELECT n FROM c')" $total "mode=ro"
assert_match "$(ask ro 'UPDATE c SET n = 0')" 'readonly' "a write with mode=ro"
counters 'beside mode=ro'
assert_eq "$(ask ro 'SELECT n FROM c')" $total "mode=ro after the others"
ask ro BEGIN >/dev/null
before=$(ask ro 'SELECT n FROM c')
counters 'beside a reader with mode=ro'
assert_eq "$(ask ro 'SELECT n FROM c')" "$before" "what a transaction with mode=ro sees"
ask ro COMMIT >/dev/null
assert_eq "$(ask ro 'SELECT n FROM c')" $total
door run 1 'UPDATE c SET n = n + 1' >/dev/null
total=$((total + 1))
assert_eq "$(ask ro 'SELECT n FROM c')" $total "what mode=ro sees of the daemon's commit"
leave ro
exact 'after mode=ro' # which cannot clean up behind it
assert_eq "$(ls -A "$MNT" | sort | xargs)" '.ctl blobs branches files live.db snapshots' "what is in the root"
session fixed "file:$DB?immutable=1"
assert_eq "$(ask fixed 'SELECT n FROM c')" $total "immutable=1"
assert_eq "$(ask fixed 'PRAGMA integrity_check')" ok "immutable=1: integrity_check"
leave fixed

# --- mmap_size ---
sql "CREATE TABLE big(id INTEGER PRIMARY KEY, v INTEGER, pad); WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 3000)
     INSERT INTO big SELECT i, 0, printf('%500c', 'x') FROM s"
session mapped
assert_eq "$(ask mapped 'PRAGMA mmap_size=268435456')" 268435456 "mmap_size"
assert_eq "$(ask mapped 'SELECT sum(v), count(*) FROM big')" '0|3000'
session keeper
for ((i = 1; i <= 25; i++)); do
    door run 1 'UPDATE big SET v = v + 1' >/dev/null
    assert_eq "$(ask mapped 'SELECT sum(v), min(v), count(*) FROM big')" "$((3000 * i))|$i|3000" "mmap_size: after the daemon's commit $i"
    case $((i % 3)) in
    0) ask keeper 'PRAGMA wal_checkpoint(PASSIVE)' >/dev/null ;;
    1) assert_eq "$(ask keeper 'PRAGMA wal_checkpoint(TRUNCATE)')" '0|0|0' ;;
    esac
    assert_eq "$(ask mapped 'SELECT sum(v), min(v), count(*) FROM big')" "$((3000 * i))|$i|3000" "mmap_size: after checkpoint $i"
done
ask keeper 'DELETE FROM big WHERE id > 1000' >/dev/null
assert_match "$(ask keeper VACUUM)" '^$' "VACUUM beside a mapped client"
assert_eq "$(ask keeper 'PRAGMA wal_checkpoint(TRUNCATE)')" '0|0|0'
assert_eq "$(ask mapped 'SELECT sum(v), count(*) FROM big')" '25000|1000' "mmap_size: after the file has shrunk"
door run 1 'INSERT INTO big SELECT id + 1000, v, pad FROM big' >/dev/null
assert_eq "$(ask mapped 'SELECT sum(v), count(*) FROM big')" '50000|2000' "mmap_size: after the file has grown"
leave mapped keeper
counters 'mmap_size' -x 'PRAGMA mmap_size=268435456'

# --- a transaction larger than the cache ---
# What it has written so far is in -wal without a commit: a flush in its middle has nothing of it.
sql 'CREATE TABLE blobs(id INTEGER PRIMARY KEY, x BLOB)'
megabytes=50
spill() { # FROM TO: rows of 1 MB
    ask large "WITH RECURSIVE s(i) AS (SELECT $1 UNION ALL SELECT i + 1 FROM s WHERE i < $2) INSERT INTO blobs SELECT i, randomblob(1000000) FROM s" >/dev/null
}
for end in ROLLBACK kill COMMIT; do
    session large
    ask large 'PRAGMA cache_size=50' >/dev/null
    ask large 'BEGIN IMMEDIATE' >/dev/null
    spill 1 $((megabytes / 2))
    assert_between "$(stat -c %s "$DB-wal")" $((megabytes * 400000)) $((megabytes * 2000000)) "$end: bytes of live.db-wal in the middle"
    flush
    assert_eq "$(snapshot_value 'SELECT count(*) FROM blobs')" 0 "$end: rows of an open transaction in the bucket"
    assert_eq "$(snapshot_value 'SELECT n FROM c')" $total "$end: the counter in the bucket"
    assert_eq "$(snapshot_value 'PRAGMA integrity_check')" ok "$end: integrity_check of the snapshot"
    assert_eq "$(sql 'SELECT count(*), (SELECT n FROM c) FROM blobs')" "0|$total" "$end: what another client sees"
    spill $((megabytes / 2 + 1)) $megabytes
    rows=0
    case $end in
    kill) kill_session large ;;
    *)
        assert_eq "$(ask large $end)" '' "$end"
        [ $end = ROLLBACK ] || rows=$megabytes
        leave large
        ;;
    esac
    assert_eq "$(door query 'SELECT count(*) FROM blobs')" $rows "$end: rows, as the daemon sees them"
    assert_eq "$(sql 'SELECT count(*), ifnull(sum(length(x)), 0) FROM blobs')" "$rows|${rows}$([ $rows = 0 ] || echo 000000)" "$end: rows"
    counters "after $end"
    flush
    assert_eq "$(snapshot_value 'SELECT count(*), (SELECT n FROM c) FROM blobs')" "$rows|$total" "$end: rows in the bucket"
    assert_eq "$(snapshot_value 'PRAGMA integrity_check')" ok "$end: integrity_check of the snapshot"
done
sql 'DROP TABLE blobs; DROP TABLE big; VACUUM'

# --- page sizes ---
for size in 512 1024 8192 65536; do
    assert_eq "$(sql "PRAGMA journal_mode=DELETE; PRAGMA page_size=$size; VACUUM; PRAGMA page_size; PRAGMA journal_mode=WAL" | xargs)" \
        "delete $size wal" "page size $size"
    counters "page size $size"
    session a
    ask a "CREATE TABLE p(x)" >/dev/null
    ask a "INSERT INTO p VALUES(randomblob(200000))" >/dev/null
    flush
    assert_eq "$(snapshot_value 'PRAGMA page_size; SELECT n FROM c; SELECT length(x) FROM p; PRAGMA integrity_check' | xargs)" \
        "$size $total 200000 ok" "page size $size: the snapshot"
    assert_eq $((($(stat -c %s "$DB-wal") - 32) % (24 + size))) 0 "page size $size: live.db-wal, in frames"
    ask a "DROP TABLE p" >/dev/null
    leave a
done
assert_eq "$(sql 'PRAGMA journal_mode=DELETE; PRAGMA page_size=4096; VACUUM; PRAGMA journal_mode=WAL' | xargs)" 'delete wal'

# --- import beside clients ---
sqlite3 "$T/new.db" "CREATE TABLE c(n INTEGER NOT NULL); INSERT INTO c VALUES(1000000); CREATE TABLE other(x);
    CREATE TABLE log(client INTEGER, seq INTEGER, n INTEGER, pad BLOB, PRIMARY KEY(client, seq)) WITHOUT ROWID;
    WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 5000) INSERT INTO other SELECT i FROM s"
session a
session b
for client in a b; do
    assert_eq "$(ask $client 'SELECT n FROM c')" $total
    assert_match "$(ask $client 'SELECT x FROM other')" 'no such table'
done
"$BHFS" import "$T/new.db" "$MNT"
total=1000000
assert_eq "$(ask a 'SELECT n FROM c')" $total "a prepared statement, after the import"
assert_eq "$(ask b 'UPDATE c SET n = n + 1 RETURNING n')" $((total + 1)) "a write after the import"
total=$((total + 1))
assert_eq "$(ask a 'SELECT n FROM c')" $total
assert_eq "$(ask a 'SELECT count(*), sum(x) FROM other')" '5000|12502500'
assert_eq "$(ask b 'PRAGMA integrity_check')" ok
assert_eq "$(ask a 'PRAGMA journal_mode')/$(version_bytes "$DB")" 'wal/2 2' "the mode after the import"
counters 'after an import'
# A reader in a transaction holds it up for a bounded time, and is named; nothing has changed then.
ask a BEGIN >/dev/null
assert_eq "$(ask a 'SELECT n FROM c')" $total
began=$(now_ms)
must_fail "$BHFS" import "$T/new.db" "$MNT"
assert_between $(($(now_ms) - began)) 900 8000 "ms that the import waited for a reader"
assert_match "$OUT" "(^|[^0-9])${session_pid[a]}([^0-9]|\$)" "the sentence names the reader"
assert_eq "$(ask a 'SELECT n FROM c')" $total
ask a COMMIT >/dev/null
exact 'after an import that was held up'
flush
assert_eq "$(snapshot_value 'SELECT n FROM c')" $total
# Of another page size: done or refused, never by half.
sqlite3 "$T/pages.db" "PRAGMA page_size=8192; CREATE TABLE c(n INTEGER NOT NULL); INSERT INTO c VALUES(2000000); CREATE TABLE third(x);
    CREATE TABLE log(client INTEGER, seq INTEGER, n INTEGER, pad BLOB, PRIMARY KEY(client, seq)) WITHOUT ROWID"
attempt "$BHFS" import "$T/pages.db" "$MNT"
if [ "$STATUS" -eq 0 ]; then total=2000000; else [ -n "$OUT" ] || fail "refused without a sentence"; fi
echo "an import of another page size beside clients in WAL: status $STATUS, $OUT"
assert_eq "$(ask a 'SELECT n FROM c')/$(ask b 'SELECT n FROM c')" "$total/$total" "after an import of another page size"
assert_eq "$(ask a 'PRAGMA integrity_check')" ok "after an import of another page size"
counters 'after an import of another page size'
leave a b
"$BHFS" import "$T/pages.db" "$MNT"
total=2000000
counters 'after an import with no client'
assert_eq "$(sql 'PRAGMA page_size; PRAGMA journal_mode' | xargs)" '8192 wal' "page size and mode after an import"

# --- a read-only mount of what was in WAL ---
umount_bh
assert_eq "$(snapshot_value 'SELECT n FROM c')" $total
mount_bh -o snapshot.interval=0 -o ro
assert_eq "$(sql 'SELECT n FROM c')" $total "a read-only mount"
assert_eq "$(sql 'PRAGMA integrity_check')" ok "a read-only mount: integrity_check"
must_fail sqlite3 -batch "$DB" 'UPDATE c SET n = 0'
umount_bh
# And with what a dead daemon left in -wal.
mount_bh -o snapshot.interval=0
session a
ask a 'PRAGMA wal_autocheckpoint=0' >/dev/null
assert_eq "$(ask a 'UPDATE c SET n = n + 1 RETURNING n')" $((total + 1))
kill_daemon
kill_session a
mount_bh -o snapshot.interval=0 -o ro
assert_match "$(sql 'SELECT n FROM c')" "^($total|$((total + 1)))\$" "a read-only mount after kill -9" # the bucket's state, or what is here
umount "$MNT"
ended
mount_bh -o snapshot.interval=0
total=$((total + 1))
exact 'after a read-only mount'
umount_bh
