#!/usr/bin/env bash
# Two machines mount one bucket. Who flushes over the other's newer snapshot is refused (ESTALE) and overwrites nothing; the
# refused one's changes are kept as a branch of their own at its next mount, which loads the newer content and says so.
# level: quick
# time: 90
# buckets: file ceph swift
# level@ceph: quick
. "${BASH_SOURCE%/*}/../lib.sh"

A=$T/a B=$T/b
mount_at "$A" "$T/state-a" "$URL"
sql 'CREATE TABLE t(i); INSERT INTO t VALUES(0)' "$A/live.db"
flush "$A"
mount_at "$B" "$T/state-b" "$URL"
assert_eq "$(sql 'SELECT i FROM t' "$B/live.db")" 0 "what the second mount sees"

sql 'INSERT INTO t VALUES(1)' "$A/live.db"
flush "$A"
newest=$(digest "$(snap_file)") stamp=$(bucket_stamp "$SNAP")
sql 'INSERT INTO t VALUES(2)' "$B/live.db"
assert_errno ESTALE "os.utime('$B/.ctl/flush')"
assert_match "$(last_status "$B")" 'bucketsqlite/snap\.db' "the sentence"
assert_errno ESTALE "os.open('$B/.ctl/force_flush', os.O_WRONLY | os.O_TRUNC)"
must_fail "$BHFS" flush "$B"
assert_eq "$(bucket_stamp "$SNAP")" "$stamp" "the snapshot after the refusals"
assert_eq "$(digest "$(snap_file)")" "$newest" "the content of the snapshot after the refusals"
assert_eq "$(status_of unflushed "$B")" yes
assert_eq "$(sql 'SELECT max(i) FROM t' "$B/live.db")" 2 "what the refused mount still has"
# The other one goes on as if nothing had been.
sql 'INSERT INTO t VALUES(3)' "$A/live.db"
flush "$A"

# bhfs umount leaves it mounted, as that flush can still be mended; with --force it goes, and says what is left where.
must_fail "$BHFS" umount "$B"
mounted "$B" || fail "unmounted with unflushed changes, without --force"
must_fail "$BHFS" umount --force "$B"
assert_match "$OUT" "$T/state-b" "what bhfs umount --force says"
ended "$B"
assert_eq "$(snapshot_value 'SELECT group_concat(i) FROM t')" 0,1,3 "the snapshot after that unmount"

mount_at "$B" "$T/state-b" "$URL"
assert_eq "$(sql 'SELECT group_concat(i) FROM t' "$B/live.db")" 0,1,3 "what the next mount shows"
assert_match "$(status_of recovered "$B")" 'rescue-' "recovered, in status"
grep -q 'rescue-' "$B/.ctl/log" || fail "the log says nothing of the rescue"
mapfile -t rescue < <(bucket_ls "$SNAP.branch.rescue-")
assert_eq "${#rescue[@]}" 1 "number of rescue branches: $(bucket_ls)"
assert_match "${rescue[0]#"$SNAP".branch.}" '^rescue-[A-Za-z0-9_-]+-[A-Za-z0-9_-]+$' "name of the rescue branch"
assert_eq "$(snapshot_value 'SELECT group_concat(i) FROM t' "${rescue[0]}")" 0,2 "content of the rescue branch"
integrity "$(snap_file "${rescue[0]}")"

# It is a branch that can be mounted.
branch=${rescue[0]#"$SNAP".branch.}
mount_at "$T/c" "$T/state-c" "$URL" -o snapshot.branch="$branch"
assert_eq "$(sql 'SELECT group_concat(i) FROM t' "$T/c/live.db")" 0,2 "the mounted rescue branch"
umount_bh "$T/c"

# Now the second one is up to date and the first one is behind.
sql 'INSERT INTO t VALUES(4)' "$B/live.db"
flush "$B"
flush "$A" # nothing to flush: no reason to complain
sql 'INSERT INTO t VALUES(5)' "$A/live.db"
assert_errno ESTALE "os.utime('$A/.ctl/flush')"
assert_eq "$(snapshot_value 'SELECT max(i) FROM t')" 4
umount_bh "$B"

# A mount that has nothing of its own just takes what is newer, without a rescue.
mount_at "$B" "$T/state-b" "$URL"
sql 'INSERT INTO t VALUES(6)' "$B/live.db"
umount_bh "$B"
umount "$A" # nobody is told now; the next mount says it
ended "$A"
mount_at "$A" "$T/state-a" "$URL"
assert_eq "$(sql 'SELECT max(i) FROM t' "$A/live.db")" 6
mapfile -t rescue < <(bucket_ls "$SNAP.branch.rescue-")
assert_eq "$(printf '%s\n' "${rescue[@]}" | grep -vc prev)" 2 "number of rescue branches in the end"
mount_at "$B" "$T/state-b" "$URL"
sql 'INSERT INTO t VALUES(7)' "$A/live.db"
umount_bh "$A"
umount_bh "$B"
mount_at "$B" "$T/state-b" "$URL"
assert_eq "$(sql 'SELECT max(i) FROM t' "$B/live.db")" 7
assert_eq "$(status_of recovered "$B")" none "recovered, of a mount that had nothing of its own"
umount_bh "$B"
