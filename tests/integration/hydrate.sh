#!/usr/bin/env bash
# live.hydrate: a mount that has nothing of its database fetches everything in the background, after a switch and a restore,
# too; it goes on where a bucket was away, keeps nobody from reading, writing and flushing, and nothing from ending.
# level: full
# time: 120
# buckets: file ceph
. "${BASH_SOURCE%/*}/../lib.sh"

options=(-o live.hydrate=true -o snapshot.interval=0)
local_by_itself() { [ "$(status_of absent_bytes)" = 0 ]; }

mount_bh "${options[@]}"
sql "CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB);
     WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 5000) INSERT INTO t SELECT i, randomblob(900) FROM s"
flush
mkdir "$MNT/branches/side"
sql 'UPDATE t SET x = randomblob(900)'
content=$(sql 'SELECT * FROM t' | cksum)
flush
umount_bh
drop_state

mount_bh "${options[@]}"
wait_for 30 local_by_itself
wait_for 5 grep -q 'all of the live database is local' "$CTL/log"
assert_eq "$(sql 'SELECT * FROM t' | cksum)" "$content" "the content"
echo side >"$CTL/branch"
wait_for 30 local_by_itself
[ "$(sql 'SELECT * FROM t' | cksum)" != "$content" ] || fail "the other branch has this one's content"
integrity
umount_bh
drop_state

# A bucket that does not answer in between: that is said, and it is tried again.
rules=$T/rules
: >"$rules"
mount_bh "${options[@]}" -o bucket.fault="@$rules" -o bucket.attempts=1
echo '*:etimedout' >"$rules"
wait_for 20 grep -q 'the rest of the live database is fetched later: ' "$CTL/log"
: >"$rules"
wait_for 40 local_by_itself
assert_eq "$(sql 'SELECT * FROM t' | cksum)" "$content" "the content after the bucket was away"
umount_bh
drop_state

# One that is unmounted at once, while everything is still to come.
mount_bh "${options[@]}"
began=$SECONDS
umount_bh
assert_between $((SECONDS - began)) 0 10 "seconds of an unmount while it hydrates"
mount_bh "${options[@]}"
sql "INSERT INTO t VALUES(100001, 'new')"
flush
wait_for 30 local_by_itself
assert_eq "$(sql "SELECT x FROM t WHERE id = 100001")" new
assert_eq "$(sql 'SELECT * FROM t WHERE id <= 5000' | cksum)" "$content" "the content in the end"
umount_bh
