#!/usr/bin/env bash
# Checkpoints: the daemon keeps the -wal of clients that never make one bounded (live.wal_limit); a client's checkpoint of
# 1,000 pages takes less than 100 ms; and every mode of checkpoint does all it should where no other client is in the way,
# also while the daemon commits, without a busy timeout.
# level: full
# time: 200
# serial
. "$(dirname "${BASH_SOURCE[0]}")/../load.sh" || exit 1

live_journal wal
mount_bh -o snapshot.interval=0 -o live.wal_limit=1MiB
make_counter
assert_eq "$(sql 'PRAGMA journal_mode=WAL')" wal

# --- bounded ---
# One that stays, so that the file does; it grows only, and is written from its beginning again.
session stays
ask stays 'SELECT n FROM c' >/dev/null
clients=()
for id in 1 2; do
    start counter -n 1500 -i $id -p 3000 -j WAL -x 'PRAGMA wal_autocheckpoint=0' "$DB"
    clients+=("$PID")
done
reap 0 "${clients[@]}"
size=$(stat -c %s "$DB-wal")
written=$(sql 'SELECT sum(length(pad)) FROM log')
echo "live.db-wal has $size bytes after $written bytes of rows"
assert_between "$written" 8000000 100000000 "bytes of rows that were written"
assert_between "$size" 0 5000000 "bytes of live.db-wal with a limit of 1 MiB"
# A reader that stays on an old state is in the way; when it is gone, the file is used from its beginning again.
ask stays BEGIN >/dev/null
before=$(ask stays 'SELECT n FROM c')
start counter -n 500 -i 3 -p 3000 -x 'PRAGMA wal_autocheckpoint=0' "$DB"
reap 0 "$PID"
assert_eq "$(ask stays 'SELECT n FROM c')" "$before" "what the reader sees"
ask stays COMMIT >/dev/null
size=$(stat -c %s "$DB-wal")
start counter -n 1500 -i 4 -p 3000 -x 'PRAGMA wal_autocheckpoint=0' "$DB"
reap 0 "$PID"
assert_between "$(stat -c %s "$DB-wal")" 0 $((size + 5000000)) "bytes of live.db-wal after the reader"
assert_eq "$(ask stays 'SELECT n FROM c')" 5000
leave stays
integrity
umount_bh

# --- quick ---
mount_bh -o snapshot.interval=0
cat >"$T/checkpoint.py" <<'END'
import sqlite3, statistics, sys, time
c = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)
mode = c.execute("PRAGMA journal_mode=WAL").fetchone()[0]
assert mode == "wal", mode
c.execute("PRAGMA wal_autocheckpoint=0")
c.execute("CREATE TABLE big(id INTEGER PRIMARY KEY, x BLOB)")
c.execute("WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 4000) "
          "INSERT INTO big SELECT i, randomblob(3000) FROM s") # a page each
c.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
times = []
for i in range(9):
    c.execute("UPDATE big SET x = randomblob(3000) WHERE id % 4 = ?", (i % 4,))
    begin = time.monotonic()
    busy, log, done = c.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    times.append((time.monotonic() - begin) * 1000)
    assert busy == 0 and log == done >= 1000, (busy, log, done)
c.execute("DROP TABLE big")
c.close()
print("%.1f" % statistics.median(times))
END
sqlite3 "$T/native.db" 'CREATE TABLE t(i)'
native=$(python3 "$T/checkpoint.py" "$T/native.db")
took=$(python3 "$T/checkpoint.py" "$DB")
echo "a checkpoint of 1,000 pages: $took ms; of a native file: $native ms"
[ -n "$BHFS_SANITIZE" ] || assert_between "$took" 0.01 100 "ms that a checkpoint of 1,000 pages takes"

# --- complete ---
# all_modes WHAT: 25 checkpoints of each mode by one client without a busy timeout.
all_modes() {
    local i mode answer busy log back rest
    session alone "$DB" 0
    ask alone 'PRAGMA wal_autocheckpoint=0' >/dev/null
    for ((i = 1; i <= 25; i++)); do
        for mode in PASSIVE FULL RESTART TRUNCATE; do
            answer=$(ask alone 'UPDATE c SET n = n + 1 RETURNING n')
            assert_match "$answer" '^[0-9]+$' "$1: an increment"
            answer=$(ask alone "PRAGMA wal_checkpoint($mode)")
            IFS='|' read -r busy log back rest <<<"$answer"
            [ "$busy" = 0 ] || fail "$1: checkpoint $i, $mode: $answer"
            case "$1:$mode" in
            alone:TRUNCATE)
                assert_eq "$answer" "0|0|0" "$1: checkpoint $i, $mode"
                assert_eq "$(stat -c %s "$DB-wal")" 0 "$1: bytes of live.db-wal after a TRUNCATE"
                ;;
            alone:* | *:FULL | *:RESTART)
                assert_between "$log" 1 100000 "$1: checkpoint $i, $mode: frames"
                assert_eq "$back" "$log" "$1: checkpoint $i, $mode: frames written back, of all"
                ;;
            esac
            [[ -z "$rest" ]] || fail "$1: checkpoint $i, $mode: $answer"
        done
    done
    leave alone
}
n=$(sql 'SELECT n FROM c')
all_modes alone
assert_eq "$(sql 'SELECT n FROM c')" $((n + 100)) "increments between checkpoints"

n=$(sql 'SELECT n FROM c')
(
    trap - ERR EXIT
    runs=0
    while [ ! -e "$T/enough" ]; do
        door run 50 'UPDATE c SET n = n + 1' >/dev/null || exit 1
        runs=$((runs + 50))
    done
    echo $runs >"$T/runs"
) >"$T/daemon.out" 2>&1 &
daemon_part=$!
all_modes 'beside the daemon'
touch "$T/enough"
wait $daemon_part || fail "the daemon's own transactions failed: $(cat "$T/daemon.out")"
runs=$(cat "$T/runs")
echo "the daemon made $runs transactions beside 100 checkpoints"
[ "$runs" -ge 100 ] || fail "the daemon hardly committed: this shows nothing"
assert_eq "$(sql 'SELECT n FROM c')" $((n + 100 + runs)) "increments of both"
assert_eq "$(door query 'PRAGMA integrity_check')" ok "integrity_check by the daemon"
integrity
n=$(sql 'SELECT n FROM c')
umount_bh
assert_eq "$(snapshot_value 'SELECT n FROM c')" "$n" "the counter in the bucket"
assert_eq "$(snapshot_value 'PRAGMA integrity_check')" ok "integrity_check of the snapshot"
