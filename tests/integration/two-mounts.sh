#!/usr/bin/env bash
# Two machines mount one bucket: one of them writes a branch at a time. The second one is refused with who has it, or takes
# the branch (snapshot.steal): then the first one's flushes are refused (ESTALE) and overwrite nothing, its changes stay, can
# be saved as a branch while it is mounted, and are saved as one by its next mount, which loads the newer content and says so.
# level: quick
# waits
# time: 120
# buckets: file ceph swift
# level@ceph: quick
. "${BASH_SOURCE%/*}/../lib.sh"

A=$T/a B=$T/b
mkdir "$A" "$B"
mount_at "$A" "$T/state-a" "$URL"
sql 'CREATE TABLE t(i); INSERT INTO t VALUES(0)' "$A/live.db"
flush "$A"

# The second one: refused, unless it only reads, or works on another branch.
must_fail "$BHFS" -o live.dir="$T/state-b" "$URL" "$B"
assert_match "$OUT" "branch main is being written by $(hostname)" "who has it"
assert_match "$OUT" 'snapshot\.steal' "what to do"
mount_at "$B" "$T/state-ro" "$URL" -o ro
assert_eq "$(sql 'SELECT i FROM t' "$B/live.db")" 0 "what a read-only mount sees"
umount_bh "$B"

# Taken by force.
mount_at "$B" "$T/state-b" "$URL" -o snapshot.steal=true
assert_eq "$(sql 'SELECT i FROM t' "$B/live.db")" 0 "what the second mount sees"
sql 'INSERT INTO t VALUES(1)' "$B/live.db"
flush "$B"
newest=$(digest "$(snap_file)") stamp=$(bucket_stamp "$SNAP")
sql 'INSERT INTO t VALUES(2)' "$A/live.db"
assert_errno ESTALE "os.utime('$A/.ctl/flush')"
assert_match "$(last_status "$A")" 'branch main was taken over by another writer' "the sentence"
assert_errno ESTALE "os.open('$A/.ctl/force_flush', os.O_WRONLY | os.O_TRUNC)"
must_fail "$BHFS" flush "$A"
assert_eq "$(bucket_stamp "$SNAP")" "$stamp" "the snapshot after the refusals"
assert_eq "$(digest "$(snap_file)")" "$newest" "the content of the snapshot after the refusals"
assert_eq "$(status_of unflushed "$A")" yes
assert_match "$(status_of lease "$A")" fenced "lease, in status"
assert_eq "$(sql 'SELECT max(i) FROM t' "$A/live.db")" 2 "what the refused mount still has"
mkdir "$A/branches/saved" || fail "the changes cannot be saved: $(last_status "$A")"
assert_eq "$(sqlite3 "$B/branches/saved/live.db" 'SELECT group_concat(i) FROM t')" 0,2 "the saved branch, seen by the other"
# The other one goes on as if nothing had been.
sql 'INSERT INTO t VALUES(3)' "$B/live.db"
flush "$B"

# bhfs umount leaves it mounted, as that flush can still be mended; with --force it goes, and says what is left where.
must_fail "$BHFS" umount "$A"
mounted "$A" || fail "unmounted with unflushed changes, without --force"
must_fail "$BHFS" umount --force "$A"
assert_match "$OUT" "$T/state-a" "what bhfs umount --force says"
ended "$A"
assert_eq "$(snapshot_value 'SELECT group_concat(i) FROM t')" 0,1,3 "the snapshot after that unmount"

must_fail "$BHFS" -o live.dir="$T/state-a" "$URL" "$A"
umount_bh "$B"
mount_at "$A" "$T/state-a" "$URL"
assert_eq "$(sql 'SELECT group_concat(i) FROM t' "$A/live.db")" 0,1,3 "what the next mount shows"
assert_match "$(status_of recovered "$A")" 'rescue-' "recovered, in status"
grep -q 'rescue-' "$A/.ctl/log" || fail "the log says nothing of the rescue"
mapfile -t rescue < <(ls "$A/branches" | grep '^rescue-')
assert_eq "${#rescue[@]}" 1 "number of rescue branches: $(ls "$A/branches")"
assert_match "${rescue[0]}" '^rescue-[A-Za-z0-9_-]+-[A-Za-z0-9_-]+$' "name of the rescue branch"
assert_eq "$(sqlite3 "$A/branches/${rescue[0]}/live.db" 'SELECT group_concat(i) FROM t')" 0,2 "content of the rescue branch"

# It is a branch that can be mounted beside the other one.
mount_at "$T/c" "$T/state-c" "$URL" -o snapshot.branch="${rescue[0]}"
assert_eq "$(sql 'SELECT group_concat(i) FROM t' "$T/c/live.db")" 0,2 "the mounted rescue branch"
sql 'INSERT INTO t VALUES(9)' "$T/c/live.db"
umount_bh "$T/c"
assert_eq "$(snapshot_value 'SELECT group_concat(i) FROM t' "$SNAP.branch.${rescue[0]}")" 0,2,9 "its plain snapshot"

# A mount that has nothing of its own just takes what is newer, without a rescue.
sql 'INSERT INTO t VALUES(4)' "$A/live.db"
umount_bh "$A"
mount_at "$B" "$T/state-b" "$URL"
assert_eq "$(sql 'SELECT max(i) FROM t' "$B/live.db")" 4
assert_eq "$(status_of recovered "$B")" none "recovered, of a mount that had nothing of its own"
assert_eq "$(ls "$B/branches" | grep -c '^rescue-')" 1 "number of rescue branches in the end"

# The one that has the branch flushes once more just before it is taken: the other one shows that, and saves what it had.
if [ "$ON" != swift ]; then # which has no conditional writes: the later head is the one that counts there
    kill -KILL "${daemons[$B]}"
    wait_for 10 gone "${daemons[$B]}"
    unmount_dead "$B"
    mount_at "$B" "$T/state-b" "$URL"
    sql 'INSERT INTO t VALUES(5)' "$B/live.db"
    kill -KILL "${daemons[$B]}"
    wait_for 10 gone "${daemons[$B]}"
    unmount_dead "$B"
    mount_at "$A" "$T/state-a" "$URL" -o snapshot.steal=true
    sql 'INSERT INTO t VALUES(6)' "$A/live.db"
    "$BHFS" -o live.dir="$T/state-b" -o log.file="$T/daemon.log" -o snapshot.steal=true -o bucket.fault='put:delay=3s:key=*/branches/main' \
        "$URL" "$B" &
    taker=$!
    sleep 1.5
    flush "$A"
    wait $taker || fail "it cannot be taken while the other one flushes"
    daemons[$B]=$(status_of pid "$B")
    assert_eq "$(sql 'SELECT group_concat(i) FROM (SELECT i FROM t ORDER BY i)' "$B/live.db")" 0,1,3,4,6 "what was flushed while it was taken"
    mapfile -t rescue < <(ls -t "$B/branches" | grep '^rescue-')
    assert_eq "${#rescue[@]}" 2 "number of rescue branches"
    assert_match "$(sqlite3 "$B/branches/${rescue[0]}/live.db" 'SELECT group_concat(i) FROM t') $(sqlite3 "$B/branches/${rescue[1]}/live.db" \
        'SELECT group_concat(i) FROM t')" '0,1,3,4,5' "what it had itself"
    sql 'INSERT INTO t VALUES(7)' "$A/live.db"
    assert_errno ESTALE "os.utime('$A/.ctl/flush')"
    must_fail "$BHFS" umount --force "$A"
    ended "$A"
    rm -rf "$T/state-a"

    # Taken by force once is not for ever: one that was mounted with snapshot.steal does not take it back by itself, also if it has
    # to look at the head again because a write of it failed.
    : >"$T/rules"
    mount_at "$A" "$T/state-a" "$URL" -o snapshot.steal=true -o bucket.attempts=1 -o bucket.fault="@$T/rules"
    sql 'INSERT INTO t VALUES(8)' "$A/live.db"
    echo 'put:enospc:key=*/branches/main' >"$T/rules"
    assert_errno ENOSPC "os.utime('$A/.ctl/flush')"
    : >"$T/rules"
    umount_bh "$B" # it has nothing that is not flushed
    rm -rf "$T/state-b"
    mount_at "$B" "$T/state-b" "$URL" -o snapshot.steal=true
    assert_errno ESTALE "os.utime('$A/.ctl/flush')"
    assert_match "$(status_of lease "$A")" fenced "lease of the one that it was taken from"
    mkdir "$A/branches/saved-too" || fail "the changes cannot be saved: $(last_status "$A")"
    must_fail "$BHFS" umount --force "$A"
    ended "$A"
    rm -rf "$T/state-a"
    sql 'DELETE FROM t WHERE i = 6' "$B/live.db"
    flush "$B"

    # Nor does one that was killed, and could not renew the lease that it still had when it came back.
    kill -KILL "${daemons[$B]}"
    wait_for 10 gone "${daemons[$B]}"
    unmount_dead "$B"
    echo 'put:eio:key=*/branches/main' >"$T/rules"
    mount_at "$B" "$T/state-b" "$URL" -o snapshot.steal=true -o bucket.attempts=1 -o bucket.fault="@$T/rules"
    : >"$T/rules"
    sql 'INSERT INTO t VALUES(10)' "$B/live.db"
    mount_at "$A" "$T/state-a" "$URL" -o snapshot.steal=true
    assert_errno ESTALE "os.utime('$B/.ctl/flush')"
    must_fail "$BHFS" umount --force "$B"
    ended "$B"
    sql 'CREATE TABLE u(i)' "$A/live.db" # B's insertion becomes a rescue branch
    umount_bh "$A"
    mount_at "$B" "$T/state-b" "$URL"
fi

# After kill -9 the same state directory takes the branch back at once; another one waits for the lease to end.
kill -KILL "${daemons[$B]}"
wait_for 10 gone "${daemons[$B]}"
unmount_dead "$B"
unset "daemons[$B]"
must_fail "$BHFS" -o live.dir="$T/state-a" "$URL" "$A"
mount_at "$B" "$T/state-b" "$URL"
assert_eq "$(sql 'SELECT max(i) FROM t' "$B/live.db")" 4 "what the mount after kill -9 shows"
umount_bh "$B"
mount_at "$A" "$T/state-a" "$URL" -o snapshot.lease=5s
kill -KILL "${daemons[$A]}"
wait_for 10 gone "${daemons[$A]}"
unmount_dead "$A"
unset "daemons[$A]"
must_fail "$BHFS" -o live.dir="$T/state-b" "$URL" "$B"
sleep 7 # a lease ends by the store's clock, which a mount knows to a second (the Date header)
mount_at "$B" "$T/state-b" "$URL"
umount_bh "$B"
