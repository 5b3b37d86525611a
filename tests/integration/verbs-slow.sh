#!/usr/bin/env bash
# mkdir, rmdir and mv in snapshots/ and branches/ answer within mount.dir_timeout, however slow the bucket is: then they go on, and
# last_status says how they ended. The kernel locks a directory meanwhile; nothing else waits, and an unmount does not either.
# level: full
# time: 120
. "${BASH_SOURCE%/*}/../lib.sh"

rules=$T/rules
: >"$rules"
mount_bh -o snapshot.interval=0 -o snapshot.plain=never -o mount.dir_timeout=2s -o bucket.fault="@$rules"
sql 'CREATE TABLE t(i); INSERT INTO t VALUES(1)'
flush
sql 'INSERT INTO t VALUES(2)'

echo 'put:delay=1500ms' >"$rules"
began=${EPOCHREALTIME/./}
mkdir "$MNT/snapshots/slow" 2>"$T/err" &
maker=$!
sleep 0.5
SECONDS=0
assert_eq "$(sql 'SELECT count(*) FROM t')" 2 "a query meanwhile"
ls "$MNT" >/dev/null
status_of state >/dev/null
assert_between $SECONDS 0 1 "seconds of others meanwhile"
wait "$maker" && fail "mkdir had nothing to wait for"
assert_match "$(cat "$T/err")" 'timed out' "what mkdir says"
assert_between $(((${EPOCHREALTIME/./} - began) / 1000)) 1900 4000 "milliseconds until mkdir answered"
assert_match "$(last_status)" 'slow.*goes on' "last_status"
labelled() { [ -d "$MNT/snapshots/slow" ] && [ "$(last_status)" = ok ]; }
wait_for 20 labelled
: >"$rules"
assert_eq "$(sqlite3 "$MNT/snapshots/slow/live.db" 'SELECT count(*) FROM t')" 2 "what the label has"

# One that fails in the end says so there, too.
echo 'put:delay=3s;put:eacces' >"$rules"
must_fail mkdir "$MNT/branches/side"
assert_match "$OUT" 'timed out'
refused() { last_status | grep -q 'branches/side: .*Permission denied'; }
wait_for 20 refused
: >"$rules"
assert_eq "$(ls "$MNT/branches" | xargs)" main "branches after one that failed"

# Who ends the daemon does not wait for it, and nothing is lost.
sql 'INSERT INTO t VALUES(3)'
echo 'put:delay=60s:key=*/labels/*' >"$rules"
must_fail mkdir "$MNT/snapshots/never"
: >"$rules"
SECONDS=0
kill -TERM "${daemons[$MNT]}"
ended "$MNT"
assert_between $SECONDS 0 15 "seconds until the daemon had ended"
mount_bh -o snapshot.interval=0
assert_eq "$(sql 'SELECT count(*) FROM t')" 3
umount_bh
