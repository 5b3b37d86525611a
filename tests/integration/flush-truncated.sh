#!/usr/bin/env bash
# What a flush keeps of a database that is being cut short: a client empties a large -wal, or VACUUM makes the database
# small, while the content is being frozen, uploaded to the history or written to KEY. More than a few megabytes are not
# kept aside, so the flush begins anew with what is there then: it succeeds, and the bucket has what is committed.
# level: full
# time: 400
. "$(dirname "${BASH_SOURCE[0]}")/../load.sh" || exit 1

rules=$T/rules
: >"$rules"
live_journal wal
mount_bh -o snapshot.interval=0 -o live.wal_limit=64MiB -o bucket.fault="@$rules"
make_counter
value=0

# client SQL...: one statement after the other, by the client that stays.
client() {
    local statement answer
    for statement in "$@"; do
        answer=$(ask client "$statement")
        [[ "$answer" != error* ]] || fail_at_caller "$statement: $answer"
    done
}

under_way() {
    [ "$(status_of flush_under_way)" != none ]
}

# cut_during_flush RULE WHAT SQL: the SQL, by a client, while the flush waits as RULE says.
cut_during_flush() {
    local puts flusher
    echo "$1" >"$rules"
    touch "$CTL/force_flush" 2>"$T/flush.err" &
    flusher=$!
    wait_for 20 under_way
    sleep 1
    client "$3"
    wait "$flusher" || fail "$2: $(cat "$T/flush.err") $(last_status)"
    : >"$rules"
    assert_eq "$(last_status)" ok "$2: last_status"
    assert_eq "$(snapshot_value 'SELECT n FROM c')" $value "$2: the counter in the bucket"
    assert_eq "$(snapshot_value 'PRAGMA integrity_check')" ok "$2: integrity_check of the snapshot"
}

# grow: a megabyte more than is kept aside, in the database or in -wal.
grow() {
    value=$((value + 1))
    client BEGIN 'CREATE TABLE IF NOT EXISTS big(x)' 'INSERT INTO big VALUES(randomblob(6000000))' "UPDATE c SET n = $value" COMMIT
}

session client
assert_eq "$(ask client 'PRAGMA journal_mode=WAL')" wal
client 'PRAGMA wal_autocheckpoint=0'
for key in '*snap.db' '*.bhfs/packs/*' '*.bhfs/snapshots/*'; do
    grow
    cut_during_flush "put:delay=3s:key=$key:first=1" "-wal emptied while $key waits" 'PRAGMA wal_checkpoint(TRUNCATE)'
    assert_eq "$(stat -c %s "$DB-wal")" 0 "bytes of live.db-wal"
    client 'DROP TABLE big' VACUUM 'PRAGMA wal_checkpoint(TRUNCATE)'
    flush
done
assert_eq "$(ask client 'PRAGMA journal_mode=DELETE')" delete
for key in '*snap.db' '*.bhfs/packs/*'; do
    grow
    flush
    value=$((value + 1))
    client 'DROP TABLE big' "UPDATE c SET n = $value"
    cut_during_flush "put:delay=3s:key=$key:first=1" "VACUUM while $key waits" 'VACUUM'
done

# --- at any moment ---
# Where the cut comes is left to chance: also before the list of changes is made.
assert_eq "$(ask client 'PRAGMA journal_mode=WAL')" wal
client 'PRAGMA wal_autocheckpoint=0'
rounds=${BH_ROUNDS:-6}
(
    trap - ERR EXIT
    flushes=0
    while [ ! -e "$T/enough" ]; do
        touch "$CTL/force_flush" || exit 1
        flushes=$((flushes + 1))
    done
    echo $flushes >"$T/flushes"
) 2>"$T/flush.err" &
flusher=$!
for ((i = 0; i < rounds; i++)); do
    grow
    client 'DELETE FROM big' 'PRAGMA wal_checkpoint(TRUNCATE)'
done
touch "$T/enough"
wait $flusher || fail "a flush: $(cat "$T/flush.err") $(last_status)"
echo "$(cat "$T/flushes") flushes, $(metric 'bhfs_flushes_total{result="uploaded"}') uploads while -wal was emptied $rounds times"
leave client
umount_bh
assert_eq "$(snapshot_value 'SELECT n FROM c')" $value 'the last snapshot'
assert_eq "$(snapshot_value 'PRAGMA integrity_check')" ok 'integrity_check of the last snapshot'
