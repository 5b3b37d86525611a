#!/usr/bin/env bash
# A flush to a bucket that does not move: everything else in the mount goes on, Ctrl-C ends the flush promptly, and so it
# does a second one that waits behind it; nothing is lost.
# level: quick
# time: 90
# buckets: file ceph
. "${BASH_SOURCE%/*}/../lib.sh"

rules=$T/rules
: >"$rules"
mount_bh -o bucket.fault="@$rules"
sql 'CREATE TABLE t(i); INSERT INTO t VALUES(1)'
flush
sql 'INSERT INTO t VALUES(2)'
echo 'put:delay=60s' >"$rules"

# In the background a shell ignores SIGINT, and so would touch.
env --default-signal=INT touch "$CTL/flush" &
first=$!
sleep 1
! gone "$first" || fail "the flush did not wait for the bucket"

# beside COMMAND...: quick, beside the flush
beside() {
    local start
    start=$(now_ms)
    timeout 10 "$@" >"$T/out" 2>&1 || fail "beside a flush: status $? from: $* $(cat "$T/out")"
    assert_between $(($(now_ms) - start)) 0 3000 "ms of '$*' beside a flush"
}
beside ls -la "$MNT"
beside ls -la "$CTL"
beside cat "$CTL/status"
beside cat "$CTL/flush"
beside cat "$CTL/metrics"
beside stat "$CTL/flush"
beside sqlite3 "$DB" 'SELECT count(*) FROM t'
beside sqlite3 "$DB" 'INSERT INTO t VALUES(3)'
beside df "$MNT"

env --default-signal=INT touch "$CTL/flush" &
second=$!
sleep 0.5
beside ls -la "$CTL"
for pid in "$first" "$second"; do
    ! gone "$pid" || fail "a flush ended before its time"
    state=$(ps -o stat= -p "$pid")
    [ "${state:0:1}" != D ] || fail "process $pid is in state $state"
done

# ends PID: within a few seconds of SIGINT, by it
ends() {
    local start status=0
    start=$(now_ms)
    kill -INT "$1"
    wait "$1" || status=$?
    assert_between $(($(now_ms) - start)) 0 4000 "ms from Ctrl-C to the end"
    [ "$status" -ne 0 ] || fail "an interrupted flush said that all is well"
}
ends "$second"
! gone "$first" || fail "the interruption of one flush ended another"
ends "$first"
beside ls -la "$CTL"
assert_eq "$(status_of unflushed)" yes "unflushed after the interruption"
assert_eq "$(snapshot_value 'SELECT max(i) FROM t')" 1 "what is in the bucket after the interruption"

# A write that is interrupted gives EINTR.
echo 'put:delay=60s' >"$rules"
got=$(timeout 20 python3 - "$CTL/flush" <<'END'
import errno, os, signal, sys
def alarm(*_):
    raise InterruptedError(errno.EINTR, "")
signal.signal(signal.SIGALRM, alarm)
signal.alarm(1)
try:
    os.write(os.open(sys.argv[1], os.O_WRONLY), b"x")
    print("ok")
except OSError as e:
    print(errno.errorcode[e.errno])
END
)
assert_eq "$got" EINTR "an interrupted write"

: >"$rules"
flush
assert_eq "$(snapshot_value 'SELECT max(i) FROM t')" 3 "what is in the bucket in the end"
integrity "$(snap_file)"
umount_bh
