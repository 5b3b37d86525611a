#!/usr/bin/env bash
# Write-ahead mode is not there yet: a client that asks for it is refused without harm, with a line in the log, and a
# snapshot whose header says WAL is converted when it is loaded.
# level: quick
# time: 60
# buckets: file ceph
. "${BASH_SOURCE%/*}/../lib.sh"

mount_bh
sql 'CREATE TABLE t(i); INSERT INTO t VALUES(1)'
sqlite3 "$DB" 'SELECT count(*) FROM t' >/dev/null

usable() {
    assert_eq "$(od -An -tu1 -j18 -N2 "$DB" | xargs)" "1 1" "version bytes of the header"
    integrity
    sql 'INSERT INTO t VALUES(2)'
    assert_eq "$(sql 'PRAGMA journal_mode')" delete "the mode of a new client"
    assert_eq "$(ls -A "$MNT" | sort | tr '\n' ' ')" '.ctl live.db ' "what is in the root"
}
# SQLite answers "wal" as soon as page 1 is changed in its cache; what counts is the error when that is to be written.
refused() {
    attempt sqlite3 -batch "$DB" "$1"
    [[ "$STATUS" -ne 0 || "$OUT" != *wal* ]] || fail "WAL was granted: $OUT"
}
refused 'PRAGMA journal_mode=WAL'
usable
grep -qi 'WAL' "$CTL/log" || fail "nothing about WAL in the log"

# In one session, with work before and after.
refused 'INSERT INTO t VALUES(3); PRAGMA journal_mode=WAL; INSERT INTO t VALUES(4); SELECT count(*) FROM t'
assert_eq "$(sql 'SELECT count(*) FROM t WHERE i = 3')" 1 "what was written before the attempt"
usable
# Beside another client that has it open.
python3 - "$DB" <<'END'
import sqlite3, sys
a = sqlite3.connect(sys.argv[1], timeout=5, isolation_level=None)
b = sqlite3.connect(sys.argv[1], timeout=5, isolation_level=None)
n = a.execute("SELECT count(*) FROM t").fetchone()[0]
for c in (a, b):
    try:
        mode = c.execute("PRAGMA journal_mode=WAL").fetchall()[0][0]
    except sqlite3.OperationalError:
        mode = "refused"
    assert mode != "wal", mode
a.close()
c = sqlite3.connect(sys.argv[1], timeout=5, isolation_level=None)
for i in range(20):
    c.execute("INSERT INTO t VALUES(?)", (i,))
assert c.execute("SELECT count(*) FROM t").fetchone()[0] == n + 20
END
usable
# On a database that is still empty.
umount_bh
drop_state
bucket_empty
mount_bh
refused 'PRAGMA journal_mode=WAL; CREATE TABLE t(i)'
sql 'CREATE TABLE IF NOT EXISTS t(i)'
usable
flush
umount_bh
drop_state

# Somebody else's snapshot, in WAL mode, put into the bucket by hand.
bucket_empty
sqlite3 "$T/foreign.db" "PRAGMA journal_mode=WAL; CREATE TABLE t(i); INSERT INTO t VALUES(42)" >/dev/null
assert_eq "$(od -An -tu1 -j18 -N2 "$T/foreign.db" | xargs)" "2 2" "the header of the foreign snapshot"
bucket_put "$T/foreign.db" "$SNAP"
mount_bh
assert_eq "$(sql 'SELECT i FROM t')" 42
usable
flush
assert_eq "$(od -An -tu1 -j18 -N2 "$(snap_file)" | xargs)" "1 1" "the header of the next snapshot"
integrity "$(snap_file)"
umount_bh
drop_state
mount_bh
assert_eq "$(sql 'SELECT count(*) FROM t')" 2
umount_bh
