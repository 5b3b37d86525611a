#!/usr/bin/env bash
# What happens can be followed: tail -f .ctl/log shows a new line within seconds, and poll() on status and log wakes up when
# they change, and not before.
# level: quick
# time: 60
# buckets: file ceph
# level@ceph: long
# serial
. "${BASH_SOURCE%/*}/../lib.sh"

mount_bh
sql 'CREATE TABLE t(i)'
tail -n 0 -f "$CTL/log" >"$T/followed" &
tail=$!
sleep 1
sql 'INSERT INTO t VALUES(1)'
flush
wait_for 3 test -s "$T/followed"
assert_match "$(head -n 1 "$T/followed")" '^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z [a-z]+: .' "the form of a line"
lines=$(wc -l <"$T/followed")
sql 'INSERT INTO t VALUES(2)'
flush
more() { [ "$(wc -l <"$T/followed")" -gt "$lines" ]; }
wait_for 3 more
kill "$tail"
wait "$tail" || true
# What was followed is what is there.
assert_eq "$(tail -n "$(wc -l <"$T/followed")" "$CTL/log")" "$(cat "$T/followed")" "the followed lines"

cat >"$T/poll.py" <<'END'
import os, select, sys, time
path, ready = sys.argv[1:]
fd = os.open(path, os.O_RDONLY)
while os.read(fd, 1 << 16):
    pass
p = select.poll()
p.register(fd, select.POLLIN | select.POLLPRI)
early = p.poll(700)
if early:
    sys.exit("awake without a change: %r" % early)
open(ready, "w").write("x")
start = time.monotonic()
events = p.poll(15000)
took = time.monotonic() - start
if not events:
    sys.exit("not woken")
if os.path.basename(path) == "status":
    text = os.pread(fd, 1 << 16, 0).decode()
    if "last_flush: " not in text:
        sys.exit("woken, but status reads: " + text)
else:
    if not os.read(fd, 1 << 16):
        sys.exit("woken, but there is no new line")
print("woken after %.2f s" % took)
END
for file in status log; do
    rm -f "$T/ready"
    python3 "$T/poll.py" "$CTL/$file" "$T/ready" >"$T/polled" 2>&1 &
    poller=$!
    wait_for 10 test -e "$T/ready"
    sql 'INSERT INTO t VALUES(3)'
    flush
    start=$(now_ms)
    wait "$poller" || fail "poll on $file: $(cat "$T/polled")"
    assert_between $(($(now_ms) - start)) 0 3000 "ms from a flush to the end of a poll on $file"
done

# Many at once, and none that keeps the mount busy for ever.
for i in 1 2 3 4 5; do
    rm -f "$T/ready$i"
    python3 "$T/poll.py" "$CTL/status" "$T/ready$i" >"$T/polled$i" 2>&1 &
    pollers[i]=$!
done
for i in 1 2 3 4 5; do
    wait_for 10 test -e "$T/ready$i"
done
sql 'INSERT INTO t VALUES(4)'
flush
for i in 1 2 3 4 5; do
    wait "${pollers[i]}" || fail "poller $i: $(cat "$T/polled$i")"
done
umount_bh
