#!/usr/bin/env bash
# The bucket does not answer when the mount ends: that is said loudly, the changes stay in the state directory, and the next
# mount goes on with them and says so.
# level: quick
# time: 90
# buckets: file ceph swift
# level@ceph: quick
. "${BASH_SOURCE%/*}/../lib.sh"

rules=$T/rules
options=(-o bucket.fault="@$rules" -o bucket.attempts=2 -o bucket.retry_base=10ms -o snapshot.stop_timeout=3s)
: >"$rules"
mount_bh "${options[@]}"
sql 'CREATE TABLE t(i); INSERT INTO t VALUES(1)'
flush

# again N COMMAND...: writes N, has the command end the mount while the bucket fails, mounts anew
again() {
    local n=$1
    shift
    sql "INSERT INTO t VALUES($n)"
    echo '*:eio' >"$rules"
    "$@"
    ended
    grep -qi 'unflushed\|not .*in the bucket' "$T/daemon.log" || fail "$*: the log does not say that changes are unflushed"
    assert_eq "$(snapshot_value 'SELECT max(i) FROM t')" 1 "the snapshot after: $*"
    : >"$rules"
    mount_bh "${options[@]}"
    assert_eq "$(sql 'SELECT max(i) FROM t')" "$n" "what the next mount has after: $*"
    assert_match "$(status_of recovered)" 'unflushed changes' "recovered, in status, after: $*"
    log_has 'unflushed changes' || fail "the log of the next mount does not say what was found after: $*"
    assert_eq "$(status_of unflushed)" yes "unflushed, in status, after: $*"
    integrity
}
# bhfs umount does not leave what could still be mended; with --force it does, and says where the changes are.
said() {
    must_fail "$BHFS" umount "$MNT"
    assert_match "$OUT" 'bucketsqlite/snap\.db' "what bhfs umount says"
    assert_match "$OUT" 'stays mounted' "what bhfs umount says"
    mounted "$MNT" || fail "unmounted with unflushed changes, without --force"
    must_fail "$BHFS" umount --force "$MNT"
    assert_match "$OUT" "$STATE" "what bhfs umount --force says"
}
again 2 said
again 3 umount "$MNT"
again 4 kill -TERM "$DAEMON"

# A bucket that hangs rather than fails: the end is bounded by stop_timeout.
sql 'INSERT INTO t VALUES(5)'
echo 'put:delay=60s' >"$rules"
start=$(now_ms)
umount "$MNT"
ended
assert_between $(($(now_ms) - start)) 1000 15000 "ms that the unmount waited for a bucket that hangs"
: >"$rules"
mount_bh "${options[@]}"
assert_eq "$(sql 'SELECT max(i) FROM t')" 5
assert_match "$(status_of recovered)" 'unflushed changes'

# kill -9 of the daemon, with and without unflushed changes.
sql 'INSERT INTO t VALUES(6)'
kill_daemon
mount_bh "${options[@]}"
assert_eq "$(sql 'SELECT max(i) FROM t')" 6
assert_match "$(status_of recovered)" 'unflushed changes'
flush
assert_eq "$(snapshot_value 'SELECT max(i) FROM t')" 6
kill_daemon
mount_bh "${options[@]}"
assert_eq "$(status_of recovered)" none "recovered, in status, with nothing unflushed"
assert_eq "$(status_of unflushed)" no
umount_bh
integrity "$(snap_file)"
assert_eq "$(snapshot_value 'SELECT group_concat(i) FROM t')" 1,2,3,4,5,6 "the snapshot in the end"
