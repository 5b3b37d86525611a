#!/usr/bin/env bash
# A signal that is not meant to end it ends no request: a flush and a read of what is in the bucket alone go on while a child of
# the client ends, its window changes, or Go's runtime sends SIGURG; Ctrl-C ends them all the same, also after such a signal.
# level: quick
# time: 60
. "${BASH_SOURCE%/*}/../lib.sh"

rules=$T/rules
: >"$rules"
mount_bh -o snapshot.interval=0 -o bucket.fault="@$rules"
head -c 3000000 /dev/urandom >"$T/large"
cp "$T/large" "$MNT/files/large"
sql 'CREATE TABLE t(i)'
flush
umount_bh
drop_state
mount_bh -o snapshot.interval=0 -o bucket.fault="@$rules"

cat >"$T/client.py" <<'END'
"""client.py WHAT PATH: does it with the system's own calls, as Python's begin again after EINTR; has a handler for each signal.
Prints the errno, and what was read."""
import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
for s in signal.SIGCHLD, signal.SIGWINCH, signal.SIGURG, signal.SIGCONT, signal.SIGPROF, signal.SIGUSR1:
    signal.signal(s, lambda *_: None)
signal.signal(signal.SIGINT, lambda *_: None)
what, path = sys.argv[1:]
f = os.open(path, os.O_RDONLY if what == "read" else os.O_WRONLY)
buffer = ctypes.create_string_buffer(1 << 20)
print("ready", flush=True)
n = libc.read(f, buffer, 4096) if what == "read" else libc.write(f, b"x\n", 2)
print(n if n >= 0 else "errno %d" % ctypes.get_errno(), flush=True)
os._exit(0)
END
# begin WHAT PATH: a client that waits for the bucket in a moment. Sets PID.
begin() {
    rm -f "$T/said"
    python3 "$T/client.py" "$@" >"$T/said" &
    PID=$!
    wait_for 10 grep -q ready "$T/said"
    sleep 0.3
    ! gone "$PID" || fail "it did not wait: $(cat "$T/said")"
}
said() { tail -1 "$T/said"; }

for signal in CHLD WINCH URG CONT PROF; do
    echo 'put:delay=1s;get:delay=1s' >"$rules"
    sql "INSERT INTO t VALUES('$signal')"
    begin write "$CTL/flush"
    kill -"$signal" "$PID"
    wait "$PID"
    assert_eq "$(said)" 2 "a flush beside SIG$signal"
    assert_eq "$(snapshot_value 'SELECT i FROM t ORDER BY rowid DESC LIMIT 1')" "$signal"
done
begin read "$MNT/files/large"
kill -CHLD "$PID"
wait "$PID"
assert_eq "$(said)" 4096 'a read beside SIGCHLD'

# A shell with a job that ends.
sql "INSERT INTO t VALUES('job')"
(
    sleep 0.3 &
    echo now >"$CTL/force_flush"
)
assert_eq "$(snapshot_value 'SELECT i FROM t ORDER BY rowid DESC LIMIT 1')" job

# Those that mean it.
# ends WHAT PATH: within a moment of any of these (a read of what the kernel caches ends with its program alone)
ends() {
    local signals signal start
    for signals in INT USR1 'CHLD INT' 'WINCH CHLD USR1'; do
        begin "$@"
        for signal in $signals; do
            kill -"$signal" "$PID"
            sleep 0.2
        done
        start=$(now_ms)
        wait "$PID"
        assert_between $(($(now_ms) - start)) 0 3000 "ms until $1 ended after $signals"
        assert_eq "$(said)" 'errno 4' "$1, $signals"
    done
}
sql "INSERT INTO t VALUES('last')"
echo 'put:delay=60s' >"$rules"
ends write "$CTL/flush"
: >"$rules"
umount_bh
