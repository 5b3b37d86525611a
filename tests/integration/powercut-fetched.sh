#!/usr/bin/env bash
# The power goes while a database is used of which most was in the bucket only a moment ago: what was fetched is not synced,
# and is fetched again; what clients with pages smaller than 4 KiB wrote beside it in one block is there, and so is the
# rest of that block. In rollback modes and in WAL.
# level: full
# time: 240
. "$(dirname "${BASH_SOURCE[0]}")/../load.sh" || exit 1

rounds=${BH_ROUNDS:-${BHFS_LONG:+60}}
rounds=${rounds:-8}
say_seed

mount_with_power() {
    local seed
    random seed 1 1000000
    mount_bh -o snapshot.interval=0 -o snapshot.plain=never -o live.powercut_dir="$T/shadow" -o live.powercut_seed="$seed"
}

live_journal delete
mount_bh -o snapshot.interval=0 -o snapshot.plain=never
sql 'PRAGMA page_size=1024; VACUUM'
make_counter
assert_eq "$(sql 'PRAGMA page_size')" 1024
# Rows that clients with other numbers write between: page by page everything is touched sooner or later.
sql "WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 8000)
     INSERT INTO log SELECT 1 + n % 3, n, n, hex(randomblob(100)) FROM i; UPDATE c SET n = 8000;
     CREATE TABLE touched(id INTEGER PRIMARY KEY, x);
     WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 6000)
     INSERT INTO touched SELECT n, hex(randomblob(100)) FROM i"
storm_seq=100000

# Transactions over scattered pages, with so small a cache that they go to the database before the commit.
cat >"$T/scatter.py" <<'END'
import random, sqlite3, sys
r = random.Random(int(sys.argv[3]))
try:
    c = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)
    c.execute("PRAGMA journal_mode=" + sys.argv[2])
    c.execute("PRAGMA synchronous=FULL")
    c.execute("PRAGMA cache_size=5")
    while True:
        c.execute("BEGIN IMMEDIATE")
        for _ in range(40):
            c.execute("UPDATE touched SET x=hex(randomblob(100)) WHERE id=?", (r.randint(1, 6000),))
        c.execute("COMMIT")
except sqlite3.OperationalError as e:
    if "disk I/O" not in str(e) and "unable to open" not in str(e):
        raise
END

for ((round = 1; round <= rounds; round++)); do
    modes=(DELETE TRUNCATE PERSIST WAL)
    mode=${modes[round % 4]}
    file_mode=delete
    [ $mode != WAL ] || file_mode=wal
    assert_eq "$(sql "PRAGMA journal_mode=$file_mode")" $file_mode
    touch "$CTL/flush"
    umount_bh
    drop_state
    rm -rf "$T/shadow"
    mount_with_power
    [ "$(metric bhfs_absent_bytes)" -gt 3000000 ] || fail "round $round: most of it should be in the bucket only"
    python3 "$T/scatter.py" "$DB" $mode "$SEED$round" >"$T/scatter.out" 2>&1 &
    scatter=$!
    random ms 50 1200
    storm "$ms" FULL $mode
    kill -KILL $scatter 2>/dev/null || true
    wait $scatter 2>/dev/null || true
    [ ! -s "$T/scatter.out" ] || fail "round $round: $(cat "$T/scatter.out")"
    rm -rf "$STATE"
    cp -a "$T/shadow" "$STATE"
    mount_with_power
    check_acks
    assert_eq "$(door query 'PRAGMA integrity_check')" ok "round $round, $mode, $ms ms (seed $SEED)"
done
echo "$rounds rounds, $(acked) acknowledged transactions, all there"
umount_bh
drop_state
mount_bh -o snapshot.interval=0
check_acks
umount_bh
