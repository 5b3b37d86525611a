#!/usr/bin/env bash
# A flush every 50 ms while four clients write in WAL mode, one reads and the daemon commits, first with the checkpoints
# that SQLite makes by itself, then with all modes of checkpoints by a client and by the daemon (live.wal_limit) besides.
# Every snapshot is sound and holds the transactions in the order of their commits, from the first to some last, without a
# gap and none by half: at least those that had been acknowledged when the flush began. The last one holds all.
# level: full
# time: 240
# buckets: file ceph
. "$(dirname "${BASH_SOURCE[0]}")/../load.sh" || exit 1

seconds=${BH_SECONDS:-${BHFS_LONG:+60}}
seconds=${seconds:-10}
[ -z "$BHFS_SANITIZE" ] || seconds=10
least=$((seconds * 2)) # snapshots of each part; a busy machine makes few
[ "$ON" = file ] || least=$((seconds / 2))
[ -z "$BHFS_SANITIZE" ] || least=5

live_journal wal
mount_bh -o snapshot.interval=0 -o live.wal_limit=1MiB
make_counter
assert_eq "$(sql 'PRAGMA journal_mode=WAL')" wal

# daemon_commits: the daemon's rows take part in the order of commits, each with the counter's next value.
daemon_commits() {
    trap - ERR EXIT
    while [ ! -e "$T/enough" ]; do
        door run 5 'INSERT INTO log SELECT 9, (SELECT count(*) + 1 FROM log WHERE client = 9), n + 1, NULL FROM c' || return 1
        sleep 0.01
    done >"$T/daemon.out" 2>&1
}

# Every mode of checkpoint by turns; says how many of each did all that they should.
cat >"$T/checkpoints.py" <<'END'
import os, sqlite3, sys, time
c = sqlite3.connect(sys.argv[1], timeout=0.2, isolation_level=None)
done = {"PASSIVE": 0, "FULL": 0, "RESTART": 0, "TRUNCATE": 0}
while not os.path.exists(sys.argv[2]):
    for mode in done:
        busy, _, _ = c.execute("PRAGMA wal_checkpoint(%s)" % mode).fetchone()
        done[mode] += not busy
        time.sleep(0.02)
c.close()
print(*("%s=%d" % i for i in done.items()))
END

# Arguments: the directory of the snapshots, which are numbered in their order, with what had been acknowledged before each
# in NUMBER.acked (how many lines); and the file of all acknowledgements.
cat >"$T/check.py" <<'END'
import glob, os, sqlite3, sys
directory, acks = sys.argv[1:]
acked = [int(line.split()[2]) for line in open(acks)] # the counter's values
last = {}
numbers = sorted(int(os.path.basename(f)[:-3]) for f in glob.glob(directory + "/*.db"))
for number in numbers:
    path = "%s/%d.db" % (directory, number)
    c = sqlite3.connect("file:%s?immutable=1" % path, uri=True)
    def wrong(text):
        sys.exit("snapshot %d of %d: %s" % (number, len(numbers), text))
    with open(path, "rb") as f:
        if f.read(20)[18:] != b"\1\1":
            wrong("its header does not say rollback mode")
    found = c.execute("PRAGMA integrity_check").fetchall()
    if found != [("ok",)]:
        wrong("integrity_check: %s" % found[:3])
    n, = c.execute("SELECT n FROM c").fetchone()
    rows, lowest, highest = c.execute("SELECT count(*), ifnull(min(n), 1), ifnull(max(n), 0) FROM log").fetchone()
    if (rows, lowest, highest) != (n, 1, n):
        wrong("c.n is %d, log has %d rows from %d to %d" % (n, rows, lowest, highest))
    if c.execute("SELECT count(DISTINCT n) FROM log").fetchone()[0] != n:
        wrong("two transactions with one number")
    for client, rows, lowest, highest in c.execute("SELECT client, count(*), min(seq), max(seq) FROM log GROUP BY 1"):
        if lowest != 1 or highest != rows:
            wrong("client %d: %d rows from %d to %d" % (client, rows, lowest, highest))
        if highest < last.get(client, 0):
            wrong("client %d: %d transactions, %d in an earlier snapshot" % (client, highest, last[client]))
        last[client] = highest
    known = int(open("%s/%d.acked" % (directory, number)).read())
    if known and max(acked[:known]) > n:
        wrong("it has %d transactions, %d had been acknowledged when its flush began" % (n, max(acked[:known])))
    if number == numbers[0]:
        first = n
    c.close()
print("%d snapshots, of %d to %d transactions" % (len(numbers), first, n))
END

take_snapshot() {
    number=$((number + 1))
    acked >"$T/snaps/$number.acked"
    touch "$CTL/force_flush" || fail "flush $number: $(last_status)"
    bucket_get "$SNAP" "$T/snaps/$number.db"
}

: >"$ACKS"
for part in alone checkpoints; do
    rm -rf "$T/snaps" "$T/enough"
    mkdir "$T/snaps"
    began=$(now_ms) before=$(sql 'SELECT n FROM c') number=0 clients=() checkpoints=
    for id in 1 2 3 4; do
        seq=$(sql "SELECT count(*) + 1 FROM log WHERE client = $id")
        start counter -n 1000000 -i $id -q "$seq" -p 60 -w 2 -j WAL -a "$ACKS" "$DB"
        clients+=("$PID")
    done
    start longreader -m 120 -p 30 "$DB"
    clients+=("$PID")
    daemon_commits &
    daemon_part=$!
    if [ $part = checkpoints ]; then
        python3 "$T/checkpoints.py" "$DB" "$T/enough" >"$T/checkpoints.out" 2>&1 &
        checkpoints=$!
    fi
    while [ $(($(now_ms) - began)) -lt $((seconds * 1000)) ]; do
        next=$(($(now_ms) + 50))
        take_snapshot
        rest=$((next - $(now_ms)))
        [ $rest -le 0 ] || sleep_ms $rest
    done
    stop "${clients[@]}"
    touch "$T/enough"
    wait $daemon_part || fail "$part: the daemon's own transactions failed: $(cat "$T/daemon.out")"
    if [ -n "$checkpoints" ]; then
        wait "$checkpoints" || fail "the client that makes checkpoints: $(cat "$T/checkpoints.out")"
        cat "$T/checkpoints.out"
        [[ ! "$(cat "$T/checkpoints.out")" =~ =0( |$) ]] || fail "a mode of checkpoint never got through: this shows little"
    fi
    take_snapshot
    attempt python3 "$T/check.py" "$T/snaps" "$ACKS"
    [ "$STATUS" -eq 0 ] || fail "$part: $OUT"
    echo "$part: $OUT"
    assert_between "$number" $least 1000000 "$part: snapshots"
    assert_eq "$(snapshot_value 'SELECT n FROM c')" "$(sql 'SELECT n FROM c')" "$part: the last snapshot"
    assert_eq "$(digest "$(snap_file)")" "$(digest)" "$part: the content of the last snapshot"
    [ "$(sql 'SELECT n FROM c')" -gt $((before + seconds * 10)) ] || fail "$part: hardly anything was committed: this shows nothing"
    check_acks
done
umount_bh
