#!/usr/bin/env bash
# However a mount is ended, the last flush comes first: SIGTERM, SIGINT, umount, fusermount3 -u, bhfs umount. SIGHUP re-opens
# the log and re-reads what can change.
# level: quick
# time: 120
# buckets: file ceph
. "${BASH_SOURCE%/*}/../lib.sh"

n=0
# ends NAME COMMAND...: a change, then the command ends the mount; the change is in the bucket
ends() {
    local name=$1
    shift
    mount_bh
    n=$((n + 1))
    sql "CREATE TABLE IF NOT EXISTS t(i); INSERT INTO t VALUES($n)"
    "$@" || fail "$name: status $?"
    ended
    assert_eq "$(snapshot_value 'SELECT max(i) FROM t')" "$n" "$name: the snapshot"
    integrity "$(snap_file)"
}
terminate() { kill -TERM "$DAEMON"; }
interrupt() { kill -INT "$DAEMON"; }
insistent() { kill -TERM "$DAEMON"; kill -TERM "$DAEMON"; kill -INT "$DAEMON"; }
for round in 1 2; do
    ends SIGTERM terminate
    ends SIGINT interrupt
    ends "several signals" insistent
    ends umount umount "$MNT"
    ends "fusermount3 -u" fusermount3 -u "$MNT"
    ends "bhfs umount" "$BHFS" umount "$MNT"
    drop_state
done

# While a client is in the middle of a transaction: what it did not commit is not in the bucket, and a flush that waits for
# it does not keep the daemon alive for long.
mount_bh -o live.busy_timeout=500ms -o snapshot.stop_timeout=5s
sql 'INSERT INTO t VALUES(1000)'
flush
python3 - "$DB" "$T/held" <<'END' &
import sqlite3, sys, time
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("BEGIN IMMEDIATE")
c.execute("INSERT INTO t VALUES(2000)")
open(sys.argv[2], "w").write("held")
time.sleep(60)
END
client=$!
wait_for 10 test -s "$T/held"
kill -TERM "$DAEMON"
wait_for 20 gone "$DAEMON"
kill -KILL "$client"
wait "$client" 2>/dev/null || true
unmount_dead "$MNT"
unset "daemons[$MNT]"
assert_eq "$(snapshot_value 'SELECT max(i) FROM t')" 1000 "the snapshot beside an open transaction"
mount_bh
assert_eq "$(sql 'SELECT max(i) FROM t')" 1000 "after the end of the client and of the daemon"
integrity
umount_bh

# A umount while a file is open is refused by the kernel, and nothing has happened.
mount_bh
exec 9<"$DB"
must_fail umount "$MNT"
must_fail "$BHFS" umount "$MNT"
exec 9<&-
sql 'INSERT INTO t VALUES(3000)'
assert_eq "$(status_of pid)" "$DAEMON"
umount_bh
assert_eq "$(snapshot_value 'SELECT max(i) FROM t')" 3000

# SIGHUP.
mount_bh
mv "$T/daemon.log" "$T/daemon.log.1"
kill -HUP "$DAEMON"
wait_for 10 test -e "$T/daemon.log"
assert_match "$(cat "$CTL/config")" 'snapshot\.interval = 0' "the configuration before"
cat >"$BUCKETHEAD_CONFIG" <<END
[snapshot]
interval = 1s
END
kill -HUP "$DAEMON"
wait_for 10 grep -qE 'snapshot\.interval = 1(s|000)' "$CTL/config"
log_has 'snapshot\.interval' || fail "the log does not say what has changed"
sql 'INSERT INTO t VALUES(4000)'
in_bucket() { [ "$(snapshot_value 'SELECT max(i) FROM t')" = 4000 ]; }
wait_for 10 in_bucket
# A file with a mistake changes nothing and is said.
echo 'intervall = 5s' >>"$BUCKETHEAD_CONFIG"
kill -HUP "$DAEMON"
wait_for 10 log_has 'buckethead\.ini:3'
assert_match "$(cat "$CTL/config")" 'snapshot\.interval = 1(s|000)' "the configuration after a mistake"
[ -s "$T/daemon.log" ] || fail "the log was not opened anew"
printf '[snapshot]\ninterval = 0\n' >"$BUCKETHEAD_CONFIG"
umount_bh
