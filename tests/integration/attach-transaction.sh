#!/usr/bin/env bash
# Transactions over the mounted database and an ATTACHed one: they commit in both orders, SQLite's super-journal
# (live.db-mjXXXXXXXXX) has its place in the root, and a hot journal that names one is rolled back or not by whether that
# super-journal exists, by a client and by the daemon alike.
# level: quick
# time: 120
# buckets: file ceph
# level@ceph: long
. "${BASH_SOURCE%/*}/../lib.sh"

live_journal delete
mount_bh
sql 'CREATE TABLE t(i INTEGER PRIMARY KEY, v INTEGER)'
sqlite3 "$T/other.db" 'CREATE TABLE o(i INTEGER PRIMARY KEY, v INTEGER)'

for journal in DELETE TRUNCATE PERSIST; do
    sql "PRAGMA journal_mode=$journal; ATTACH '$T/other.db' AS other; BEGIN; INSERT INTO t(v) VALUES(1); INSERT INTO o(v) VALUES(1); COMMIT" >/dev/null
    sql "PRAGMA journal_mode=$journal; ATTACH '$DB' AS live; BEGIN; INSERT INTO o(v) VALUES(2); INSERT INTO t(v) VALUES(2); COMMIT" "$T/other.db" >/dev/null
done
sql "ATTACH '$T/other.db' AS other; BEGIN; INSERT INTO t(v) VALUES(3); INSERT INTO o(v) VALUES(3); ROLLBACK"
assert_eq "$(sql 'SELECT count(*), sum(v) FROM t')" "6|9" "the mounted one"
assert_eq "$(sql 'SELECT count(*), sum(v) FROM o' "$T/other.db")" "6|9" "the other one"
assert_eq "$(ls -A "$MNT" | grep -vxE 'live\.db|files|blobs|branches|snapshots|\.ctl|live\.db-journal' || true)" "" "what such transactions left in the root"
sql 'PRAGMA journal_mode=DELETE' >/dev/null
integrity

# The super-journal's file: created, written, synced, found, kept over a restart, removed.
name=live.db-mj12AB34F9C
assert_errno ok "
fd = os.open(M + '/$name', os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
os.write(fd, b'$DB-journal\\0')
os.fsync(fd)
os.close(fd)
os.fsync(os.open(M, os.O_RDONLY))"
assert_eq "$(stat -c %s "$MNT/$name")" $((${#DB} + 9))
umount_bh
mount_bh
assert_eq "$(tr -d '\0' <"$MNT/$name")" "$DB-journal" "the super-journal after a restart"
rm "$MNT/$name"
umount_bh
mount_bh
[ ! -e "$MNT/$name" ] || fail "a removed super-journal is back after a restart"

# A client that dies after it wrote pages of the database and named a super-journal at the end of its journal.
sql "DELETE FROM t; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO t SELECT i, 7 FROM n"
cat >"$T/die.py" <<'END'
import os, signal, sqlite3, struct, sys
db, super_journal = sys.argv[1:]
c = sqlite3.connect(db, timeout=10, isolation_level=None)
c.execute("PRAGMA cache_size=2")
page = c.execute("PRAGMA page_size").fetchone()[0]
c.execute("BEGIN")
c.execute("UPDATE t SET v = 8")
fd = os.open(db + "-journal", os.O_RDWR)
name = super_journal.encode()
end = (os.fstat(fd).st_size + 511) // 512 * 512
os.pwrite(fd, struct.pack(">I", 0x40000000 // page + 1) + name +
          struct.pack(">II", len(name), sum(name)) + bytes.fromhex("d9d505f920a163d7"), end)
os.fsync(fd)
os.kill(os.getpid(), signal.SIGKILL)
END

# case_of WHO SUPER EXISTS WANTED: who looks next, after the daemon has rolled back what it could (client, daemon, next: the next daemon after a kill -9), the name of the
# super-journal, whether it exists, and what becomes of the transaction.
case_of() {
    local who=$1 super=$2 exists=$3 wanted=$4 changed what="$*"
    sql 'UPDATE t SET v = 7'
    flush
    [ "$exists" = no ] || printf '%s\0' "$DB-journal" >"$super"
    attempt python3 "$T/die.py" "$DB" "$super"
    assert_eq "$STATUS" 137 "the status of the dying client ($OUT)"
    case "$who" in
    client) changed=$(sql 'SELECT sum(v) FROM t') ;;
    daemon)
        flush
        changed=$(snapshot_value 'SELECT sum(v) FROM t')
        ;;
    next)
        kill_daemon
        mount_bh
        flush
        changed=$(snapshot_value 'SELECT sum(v) FROM t')
        integrity "$(snap_file)"
        ;;
    esac
    if [ "$wanted" = rolled-back ]; then
        assert_eq "$changed" 140000 "$what: the sum after the rollback"
    else
        assert_between "$changed" 140001 160000 "$what: the sum without a rollback"
    fi
    assert_eq "$(sql 'SELECT sum(v) FROM t')" "$changed" "$what: what a client sees"
    assert_eq "$(sql 'SELECT count(*) FROM t')" 20000
    integrity
    [ ! -s "$DB-journal" ] || fail "$what: the journal is still there"
    case "$who:$super" in
    *:"$MNT"/*) [ ! -e "$super" ] || fail "$what: the super-journal is still there" ;;
    *) rm -f "$super" ;; # outside the mount it is not the daemon's to remove
    esac
}
for who in client daemon next; do
    case_of $who "$DB-mj0A1B2C9D0" yes rolled-back
    case_of $who "$DB-mj0A1B2C9D1" no committed
    case_of $who "$T/other.db-mj0A1B2C9D2" yes rolled-back
    case_of $who "$T/other.db-mj0A1B2C9D3" no committed
done
umount_bh
