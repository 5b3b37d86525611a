#!/usr/bin/env bash
# The thread that answers the kernel has a CPU and a priority for that alone: the thread of a command, and those that it
# makes, do not share them, or a flush would stand still beside a busy client.
# level: quick
# time: 30
. "${BASH_SOURCE%/*}/../lib.sh"

[ "$(nproc)" -gt 1 ] || skip "needs two CPUs"
rules=$T/rules
: >"$rules"
mount_bh -o snapshot.interval=0 -o mount.cpu=0 -o bucket.fault="@$rules"
sql 'CREATE TABLE t(i); INSERT INTO t VALUES(1)'

# of THREAD FIELD: what /proc says of that thread of the daemon
of() {
    local task
    for task in "/proc/$DAEMON/task/"*; do
        [ "$(cat "$task/comm")" != "$1" ] || sed -n "s/^$2:[[:space:]]*//p" "$task/status"
    done
}
assert_eq "$(of bhfs-loop Cpus_allowed_list)" 0 'the CPU of the loop thread'
echo 'put:delay=2s' >"$rules"
touch "$CTL/flush" &
flush=$!
runs() { [ -n "$(of bhfs-command Name)" ]; }
wait_for 10 runs
sleep 0.2 # it may have just begun
assert_eq "$(of bhfs-command Cpus_allowed_list)" "$(of bhfs-publish Cpus_allowed_list)" 'the CPUs of a command'
wait "$flush"
umount_bh
