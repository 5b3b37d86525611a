#!/usr/bin/env bash
# Where there is no history beside it, a damaged plain snapshot is never mounted: the mount refuses, says so and names .prev
# as the way out, and snapshot.recover=prev takes that; what is good in the bucket stays there meanwhile. With a history a
# mount goes on from that, and leaves the damaged one alone.
# level: quick
# time: 90
# buckets: file ceph swift
# level@ceph: quick
. "${BASH_SOURCE%/*}/../lib.sh"

export BUCKETHEAD_SNAPSHOT__HISTORY=false

mount_bh
sql 'CREATE TABLE t(i INTEGER PRIMARY KEY, v TEXT)'
sql "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) INSERT INTO t SELECT i, 'first ' || i FROM n"
flush
first=$(digest)
sql "UPDATE t SET v = 'second ' || i"
flush
second=$(digest)
umount_bh
bucket_get "$SNAP" "$T/good.db"
assert_eq "$(digest "$(snap_file "$SNAP.prev")")" "$first" "the snapshot before the last"

# damage KEY COMMAND...: puts the good snapshot there, after the command has damaged it in the file $bad.
bad=$T/bad.db
damage() {
    local key=$1
    shift
    cp "$T/good.db" "$bad"
    "$@"
    bucket_put "$bad" "$key"
}

refuses() {
    drop_state
    mount_fails
    assert_match "$OUT" 'bucketsqlite/snap\.db' "the sentence"
    assert_match "$OUT" '\.prev' "the way out in the sentence"
    assert_match "$OUT" 'snapshot\.recover=prev' "the way out in the sentence"
    assert_eq "$(digest "$(snap_file "$SNAP.prev")")" "$first" "the snapshot before the last, after a refusal"
    mount_fails # the refusal left no state behind that would be taken for good
}

# Pages overwritten in the middle, at the start; a file cut off, inside a page and at its end; no database at all.
damage "$SNAP" dd if=/dev/urandom bs=4096 seek=5 count=3 conv=notrunc status=none of="$bad"
refuses
damage "$SNAP" dd if=/dev/zero bs=100 count=1 conv=notrunc status=none of="$bad"
refuses
damage "$SNAP" truncate -s -20000 "$bad"
refuses
damage "$SNAP" truncate -s 4096 "$bad"
refuses
seq 10000 >"$T/text"
bucket_put "$T/text" "$SNAP"
refuses

# The good one again: nothing remembers the bad ones.
bucket_put "$T/good.db" "$SNAP"
mount_bh
assert_eq "$(digest)" "$second" "the content of the good snapshot"
umount_bh
drop_state

# The way out.
damage "$SNAP" truncate -s -20000 "$bad"
mount_bh -o snapshot.recover=prev
integrity
assert_eq "$(digest)" "$first" "the content with snapshot.recover=prev"
log_has '\.prev' || fail "the log does not say that .prev was taken"
assert_match "$(status_of recovered)" '\.prev' "recovered, in status"
# Flushing must not put the damaged one in the place of the only good one.
sql "INSERT INTO t VALUES(-1, 'third')"
flush
third=$(digest)
assert_eq "$(digest "$(snap_file)")" "$third" "the snapshot after the recovery"
integrity "$(snap_file "$SNAP.prev")"
umount_bh
drop_state
mount_bh
assert_eq "$(digest)" "$third" "the content after the recovery and a remount"
umount_bh

# Both damaged: no way out, nothing mounted.
drop_state
damage "$SNAP" truncate -s -5000 "$bad"
damage "$SNAP.prev" truncate -s -5000 "$bad"
mount_fails -o snapshot.recover=prev
assert_match "$OUT" '\.prev' "the sentence when both are damaged"
# No .prev at all: asking for it is refused too, unless the snapshot is good.
bucket_rm "$SNAP.prev"
mount_fails -o snapshot.recover=prev
bucket_put "$T/good.db" "$SNAP"
mount_bh -o snapshot.recover=prev
assert_eq "$(digest)" "$second" "a good snapshot with snapshot.recover=prev"
umount_bh

# With a history.
drop_state
unset BUCKETHEAD_SNAPSHOT__HISTORY
mount_bh
sql "INSERT INTO t VALUES(-2, 'in the history')"
flush
kept=$(digest)
umount_bh
drop_state
damage "$SNAP" truncate -s -20000 "$bad"
stamp=$(bucket_stamp "$SNAP")
mount_bh
assert_eq "$(digest)" "$kept" "the content beside a damaged plain snapshot"
log_has 'goes on from the history' || fail "the log says nothing of the damage"
sql "INSERT INTO t VALUES(-3, 'after it')"
flush
assert_eq "$(bucket_stamp "$SNAP")" "$stamp" "the damaged plain snapshot after a flush"
log_has 'repair or delete it' || fail "the log does not say what to do about the damage"
bucket_rm "$SNAP"
sql "INSERT INTO t VALUES(-4, 'and again')"
flush
assert_eq "$(digest "$(snap_file)")" "$(digest)" "the plain snapshot after the damaged one was deleted"
umount_bh
