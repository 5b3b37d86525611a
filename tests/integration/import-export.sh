#!/usr/bin/env bash
# import replaces the content of live.db as one transaction, while clients have it open, after a check; what is not a sound
# database, or a transaction that does not end, stops it with nothing changed. export gives a sound plain file under load.
# live.db keeps its own journal mode, whatever that of the imported file is (beside clients in WAL: wal-settings).
# level: quick
# time: 150
# buckets: file ceph
. "${BASH_SOURCE%/*}/../lib.sh"

live_journal delete
mount_bh -o live.busy_timeout=1s
sql "CREATE TABLE t(i INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, 'original')"
flush
sqlite3 "$T/new.db" "PRAGMA page_size=8192; CREATE TABLE t(i INTEGER PRIMARY KEY, v, w); CREATE TABLE u(x);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO t SELECT i, 'imported ' || i, 2 FROM n"
new=$(digest "$T/new.db")

# A client that has the old content open, in its cache and as prepared statements, sees the new one and writes into it.
cat >"$T/client.py" <<'END'
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)
def say(*x):
    print(*x, flush=True)
say(c.execute("SELECT v FROM t WHERE i = 1").fetchone()[0])
sys.stdin.readline()
say(c.execute("SELECT v FROM t WHERE i = 1").fetchone()[0])
say(c.execute("SELECT count(*) FROM t").fetchone()[0])
c.execute("UPDATE t SET v = 'by the client' WHERE i = 2")
say(c.execute("PRAGMA integrity_check").fetchone()[0])
END
coproc CLIENT { exec python3 "$T/client.py" "$DB"; }
read -r -t 20 line <&"${CLIENT[0]}"
assert_eq "$line" original "what the client saw before"
client_in=${CLIENT[1]} client_out=${CLIENT[0]}

"$BHFS" import "$T/new.db" "$MNT"
assert_eq "$(digest)" "$new" "the content after the import"
integrity
assert_eq "$(last_status)" ok
echo >&"$client_in"
for wanted in 'imported 1' 20000 ok; do
    read -r -t 20 line <&"$client_out"
    assert_eq "$line" "$wanted" "what the open client sees after the import"
done
wait "$CLIENT_PID"
assert_eq "$(sql 'SELECT v FROM t WHERE i = 2')" 'by the client'
integrity
now=$(digest)
flush
assert_eq "$(digest "$(snap_file)")" "$now" "the snapshot after the import"

# Not sound, not there, not a database, empty: refused, and nothing has changed.
cp "$T/new.db" "$T/damaged.db"
dd if=/dev/urandom of="$T/damaged.db" bs=8192 seek=3 count=2 conv=notrunc status=none
head -c 100000 "$T/new.db" >"$T/cut.db"
seq 1000 >"$T/text.db"
for file in damaged cut text absent; do
    must_fail "$BHFS" import "$T/$file.db" "$MNT"
    assert_match "$OUT" "$file\.db" "what bhfs import says"
    assert_eq "$(digest)" "$now" "the content after a refused import of $file.db"
done
must_fail "$BHFS" import "$T/new.db" "$T"
must_fail "$BHFS" import "$T/new.db"
cmp "$T/new.db" "$T/new.db"
assert_eq "$(digest "$T/new.db")" "$new" "the imported file itself"

# A client's transaction holds it up for a bounded time only; then EBUSY, naming who.
python3 - "$DB" "$T/held" <<'END' &
import os, sqlite3, sys, time
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("BEGIN IMMEDIATE")
open(sys.argv[2], "w").write(str(os.getpid()))
time.sleep(60)
END
holder=$!
wait_for 10 test -s "$T/held"
start=$(now_ms)
must_fail "$BHFS" import "$T/new.db" "$MNT"
assert_between $(($(now_ms) - start)) 900 6000 "ms that the import waited"
assert_match "$OUT" "(^|[^0-9])$(cat "$T/held")([^0-9]|\$)" "the sentence names the client"
assert_eq "$(digest)" "$now" "the content after an import that was held up"
kill "$holder"
wait "$holder" || true

# By the control file, an absolute path; a relative one by the command, which makes it absolute; a WAL database; one with
# the smallest pages; an empty one.
echo "$T/new.db" >"$CTL/import"
assert_eq "$(digest)" "$new" "the content after an import by .ctl/import"
assert_match "$(cat "$CTL/import")" "new\.db" "the report in .ctl/import"
sqlite3 "$T/wal.db" "PRAGMA page_size=512; PRAGMA journal_mode=WAL; CREATE TABLE w(x); INSERT INTO w VALUES('wal')" >/dev/null
assert_eq "$(version_bytes "$T/wal.db")" "2 2" "the header of wal.db"
(cd "$T" && "$BHFS" import wal.db "$MNT")
assert_eq "$(sql 'SELECT x FROM w')" wal
assert_eq "$(version_bytes "$DB")" "1 1" "the header of live.db after the import of a WAL database"
integrity
sql "INSERT INTO w VALUES('more')"
"$BHFS" import "$T/new.db" "$MNT"
assert_eq "$(digest)" "$new"

# The same into a database in WAL mode, which stays in it.
assert_eq "$(sql 'PRAGMA journal_mode=WAL')" wal
(cd "$T" && "$BHFS" import wal.db "$MNT")
assert_eq "$(sql 'SELECT x FROM w; PRAGMA journal_mode' | xargs)" 'wal wal'
integrity
"$BHFS" import "$T/new.db" "$MNT"
assert_eq "$(digest)" "$new"
assert_eq "$(version_bytes "$DB")" "2 2" "the header of live.db after the import of a database in a rollback mode"
assert_eq "$(version_bytes "$T/new.db")" "1 1" "the header of the imported file itself"

# Out, under load.
for mode in wal delete; do
    rm -f "$T"/out* "$T/last.db"
    assert_eq "$(sql "PRAGMA journal_mode=$mode")" $mode
    python3 - "$DB" <<'END' &
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
for i in range(100000):
    c.execute("BEGIN")
    c.execute("UPDATE t SET w = w + 1 WHERE i = 1")
    c.execute("UPDATE t SET w = w - 1 WHERE i = 20000")
    c.execute("COMMIT")
END
    writer=$!
    for i in 1 2 3 4 5; do
        "$BHFS" export "$MNT" "$T/out$i.db"
        integrity "$T/out$i.db"
        assert_eq "$(sqlite3 "$T/out$i.db" 'SELECT sum(w), count(*) FROM t')" "40000|20000" "$mode: an export is of one moment"
    done
    ! gone "$writer" || fail "$mode: the writer failed beside the exports"
    kill "$writer"
    wait "$writer" || true
    "$BHFS" export "$MNT" "$T/last.db"
    assert_eq "$(digest "$T/last.db")" "$(digest)" "$mode: an export at rest"
    assert_eq "$(version_bytes "$T/last.db")" "1 1" "$mode: the header of an export"
    assert_eq "$(ls "$T" | grep -c 'last\.db')" 1 "$mode: files that the export left"
done
must_fail "$BHFS" export "$MNT" "$T/no/such/directory/x.db"
assert_match "$OUT" 'no/such/directory'

# Of what is in files/ the imported database knows nothing: the rows that upstream reads are there again with the next flush.
echo content >"$MNT/files/kept"
flush
assert_eq "$(sql 'SELECT filename FROM filestore')" kept
"$BHFS" import "$T/new.db" "$MNT"
flush
assert_eq "$(sqlite3 "$(snap_file)" 'SELECT filename FROM filestore')" kept "the row of a file after an import"
assert_eq "$(cat "$MNT/files/kept")" content

now=$(digest)
umount_bh
drop_state
mount_bh
assert_eq "$(digest)" "$now" "the content after imports, flush, loss and restore"
umount_bh
