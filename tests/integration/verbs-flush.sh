#!/usr/bin/env bash
# A fork, a label, a restore and a switch flush first, and that is a flush like any other: KEY.prev is the snapshot before,
# status counts it, the hooks run.
# level: full
# time: 90
# buckets: file ceph
. "${BASH_SOURCE%/*}/../lib.sh"

mount_bh -o hooks.on_flush_complete="echo x >>'$T/hooked'"
sql 'CREATE TABLE t(i); INSERT INTO t VALUES(0)'
flush
value=0
hooks_ran() { [ "$(wc -l <"$T/hooked")" -ge "$1" ]; }

# flushes WHAT COMMAND...: after a change
flushes() {
    local what=$1 before
    shift
    before=$(metric 'bhfs_flushes_total{result="uploaded"}')
    hooked=$(wc -l <"$T/hooked")
    value=$((value + 1))
    sql "UPDATE t SET i = $value"
    "$@" || fail "$what: $(last_status)"
    assert_between $(($(metric 'bhfs_flushes_total{result="uploaded"}') - before)) 1 2 "$what: flushes that status counts"
    wait_for 10 hooks_ran $((hooked + 1))
}
wait_for 10 hooks_ran 1

flushes fork mkdir "$MNT/branches/side"
assert_eq "$(snapshot_value 'SELECT i FROM t')" 1 "KEY after a fork"
assert_eq "$(snapshot_value 'SELECT i FROM t' "$SNAP.prev")" 0 "KEY.prev after a fork"
flushes label mkdir "$MNT/snapshots/two"
assert_eq "$(snapshot_value 'SELECT i FROM t')" 2 "KEY after a label"
assert_eq "$(snapshot_value 'SELECT i FROM t' "$SNAP.prev")" 1 "KEY.prev after a label"
flushes restore sh -c "echo two >'$CTL/restore'"
assert_eq "$(snapshot_value 'SELECT i FROM t')" 2 "KEY after a restore"
assert_eq "$(snapshot_value 'SELECT i FROM t' "$SNAP.prev")" 3 "KEY.prev after a restore"
flushes switch sh -c "echo side >'$CTL/branch'"
assert_eq "$(snapshot_value 'SELECT i FROM t')" 4 "KEY of the branch that was left"
assert_eq "$(snapshot_value 'SELECT i FROM t' "$SNAP.prev")" 2 "KEY.prev of the branch that was left"
assert_eq "$(sql 'SELECT i FROM t')" 1 "the branch that was switched to"
umount_bh
