#!/usr/bin/env bash
# Branches are directories: mkdir forks the current one, .ctl/branch switches, mv renames, rmdir deletes. Each goes its own
# way, and the others' content and history can be read meanwhile.
# level: full
# time: 120
# buckets: file ceph
. "${BASH_SOURCE%/*}/../lib.sh"

BRANCHES=$MNT/branches
switch() { echo "$1" >"$CTL/branch"; }
values() { sql 'SELECT group_concat(v) FROM (SELECT v FROM t ORDER BY i)' "${1:-$DB}"; }
info_of() { sed -n "s/^$2: //p" "$BRANCHES/$1/info"; }

mount_bh -o live.busy_timeout=1s
assert_eq "$(ls "$BRANCHES")" main "branches of a new database"
assert_eq "$(ls "$BRANCHES/main")" info "main before the first flush"
assert_match "$(cat "$BRANCHES/main/info")" 'branch: main.*history: none'
assert_errno ENOENT "os.mkdir(M + '/branches/early')"
assert_match "$(last_status)" 'no snapshot yet' "why nothing can be forked"

sql "CREATE TABLE t(i INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, 'one')"
flush

# A fork begins with the content as it is now, unflushed changes too, and costs no copy of it.
sql "INSERT INTO t VALUES(2, 'two')"
mkdir "$BRANCHES/work"
assert_eq "$(last_status)" ok
assert_eq "$(ls "$BRANCHES" | xargs)" "main work" "branches after the fork"
assert_eq "$(ls "$BRANCHES/work" | xargs)" "blobs files info live.db snapshots" "what is in a branch"
assert_eq "$(values "$BRANCHES/work/live.db")" one,two "the content of the fork"
assert_eq "$(info_of work snapshot)" "$(status_of snapshot)" "the snapshot of the fork"
assert_eq "$(info_of work 'forked from')" "main, snapshot $(status_of snapshot)" "where it comes from"
assert_eq "$(info_of work lease)" none "who has the fork"
assert_match "$(info_of main lease)" "^held by .*process $DAEMON, until 20..-" "who has main"
assert_eq "$(ls "$BRANCHES/work/snapshots")" "$(ls "$MNT/snapshots")" "the history of the fork"
assert_eq "$(cat "$CTL/branch")" main "the current branch"

# main goes on; the fork does not. Then the other way round, in a client that stays.
sql "INSERT INTO t VALUES(3, 'main')"
flush
main_history=$(ls "$MNT/snapshots")
assert_eq "$(values "$BRANCHES/work/live.db")" one,two "the fork after a change of main"
session stays
assert_eq "$(ask stays 'SELECT count(*) FROM t')" 3
sql "INSERT INTO t VALUES(4, 'unflushed')"
switch work
assert_eq "$(last_status)" ok
assert_eq "$(cat "$CTL/branch")" work "the current branch after the switch"
assert_eq "$(status_of branch)" work "branch in status"
assert_eq "$(values)" one,two "the content after the switch"
assert_eq "$(ask stays 'SELECT group_concat(v) FROM t')" one,two "what the client that stays sees"
assert_eq "$(values "$BRANCHES/main/live.db")" one,two,main,unflushed "main, flushed by the switch"
assert_eq "$(ask stays "INSERT INTO t VALUES(3, 'work')")" ""
flush
integrity
leave stays
assert_eq "$(values "$BRANCHES/work/live.db")" one,two,work "the branch's newest"
assert_eq "$(values "$BRANCHES/main/live.db")" one,two,main,unflushed "main after a change of the branch"
assert_eq "$(snapshot_value 'SELECT group_concat(v) FROM t')" one,two,main,unflushed "main as upstream sees it"
assert_eq "$(snapshot_value 'SELECT group_concat(v) FROM t' "$SNAP.branch.work")" one,two,work "work as upstream sees it"

# Histories are apart after the fork, and snapshots/ is that of the current branch.
ls "$MNT/snapshots" >"$T/work"
ls "$BRANCHES/main/snapshots" >"$T/main"
assert_eq "$(comm -12 "$T/work" "$T/main" | wc -l)" 2 "snapshots that both have"
assert_eq "$(wc -l <"$T/work") $(wc -l <"$T/main")" "3 4" "snapshots of each"
for id in $main_history; do
    grep -qx "$id" "$T/main" || fail "main has lost $id"
done
only_main=$(comm -13 "$T/work" "$T/main" | tail -n 1)
assert_errno ENOENT "os.stat(M + '/snapshots/$only_main')"
assert_eq "$(values "$BRANCHES/main/snapshots/$only_main/live.db")" one,two,main,unflushed "a snapshot of the other branch"
assert_eq "$(sed -n 's/^branch: //p' "$BRANCHES/main/snapshots/$only_main/info")" main

# Labels belong to the history that their snapshot is in; the name is taken everywhere.
mkdir "$MNT/snapshots/mine"
assert_eq "$(ls "$MNT/snapshots" | tail -n 1)" mine
assert_errno ENOENT "os.stat(M + '/branches/main/snapshots/mine')"
assert_errno EPERM\|EACCES "os.mkdir(M + '/branches/main/snapshots/new')"
assert_errno EPERM\|EACCES "os.rmdir(M + '/branches/main/snapshots/$only_main')"
assert_errno EPERM\|EACCES "os.mkdir(M + '/branches/main/new')"
assert_errno EROFS\|EACCES "os.open(M + '/branches/main/live.db', os.O_RDWR)"
switch main
assert_errno EEXIST "os.mkdir(M + '/snapshots/mine')"
assert_match "$(last_status)" mine
switch work

# Renaming, deleting; what is refused changes nothing and says why.
assert_errno EEXIST "os.mkdir(M + '/branches/main')"
assert_errno EEXIST "os.mkdir(M + '/branches/work')"
assert_errno EINVAL "os.mkdir(M + '/branches/no.branch')"
assert_match "$(last_status)" 'no\.branch'
assert_errno EPERM "os.rmdir(M + '/branches/main')"
assert_errno EBUSY "os.rmdir(M + '/branches/work')"
assert_match "$(last_status)" '\.ctl/branch' "what to do about it"
assert_errno EPERM "os.rename(M + '/branches/main', M + '/branches/other')"
assert_errno ENOENT "os.rmdir(M + '/branches/absent')"
assert_errno ENOENT "open(M + '/.ctl/branch', 'wb', 0).write(b'absent')"
assert_match "$(last_status)" 'no branch absent'
assert_errno EINVAL "open(M + '/.ctl/branch', 'wb', 0).write(b'no.branch')"
assert_errno EINVAL "open(M + '/.ctl/branch', 'wb', 0).write(b'\n')"
assert_eq "$(cat "$CTL/branch")" work "the current branch after refused switches"
assert_eq "$(values)" one,two,work "the content after refused switches"
mkdir "$BRANCHES/spare"
assert_errno EEXIST "os.rename(M + '/branches/spare', M + '/branches/main')"
must_fail mv "$BRANCHES/spare" "$BRANCHES/main"
assert_match "$(last_status)" 'branches/main exists'
mv "$BRANCHES/spare" "$BRANCHES/kept"
assert_eq "$(ls "$BRANCHES" | xargs)" "kept main work" "branches after the renaming"
assert_eq "$(values "$BRANCHES/kept/live.db")" one,two,work "the content of the renamed branch"
assert_eq "$(info_of kept branch)" kept
rmdir "$BRANCHES/kept"
assert_eq "$(ls "$BRANCHES" | xargs)" "main work" "branches after the deletion"
assert_errno ENOENT "os.stat(M + '/branches/kept')"
mkdir "$BRANCHES/kept"
assert_eq "$(values "$BRANCHES/kept/live.db")" one,two,work "a branch whose name a deleted one had"

# A client's transaction that does not end stops a switch, with nothing changed.
session busy
assert_eq "$(ask busy 'BEGIN IMMEDIATE')" ""
assert_errno EBUSY "open(M + '/.ctl/branch', 'wb', 0).write(b'main')"
assert_match "$(last_status)" "(^|[^0-9])${session_pid[busy]}([^0-9]|\$)" "the sentence names the client"
assert_eq "$(cat "$CTL/branch")" work "the current branch after a switch that was held up"
assert_eq "$(info_of main lease)" none "who has main after a switch that was held up"
assert_eq "$(ask busy COMMIT)" ""
leave busy
assert_eq "$(values)" one,two,work

# Another mount has the branch: nobody else writes or deletes it, everybody reads it.
mkdir -p "$T/mnt2"
mount_at "$T/mnt2" "$T/state2" "$URL" -o snapshot.branch=kept
assert_eq "$(values "$T/mnt2/live.db")" one,two,work "the branch in another mount"
sql "INSERT INTO t VALUES(9, 'elsewhere')" "$T/mnt2/live.db"
flush "$T/mnt2"
wait_for 5 test "$(values "$BRANCHES/kept/live.db")" = one,two,work,elsewhere
assert_errno EBUSY "os.rmdir(M + '/branches/kept')"
assert_errno EBUSY "os.rename(M + '/branches/kept', M + '/branches/taken')"
assert_errno EBUSY "open(M + '/.ctl/branch', 'wb', 0).write(b'kept')"
assert_match "$(last_status)" "process ${daemons[$T/mnt2]}" "the sentence names the other mount"
assert_eq "$(values)" one,two,work "the content after the refusals"
umount_bh "$T/mnt2"
switch kept
assert_eq "$(values)" one,two,work,elsewhere "the branch, after the other mount let go of it"
switch work

# A branch of upstream's, a plain object only: empty until somebody switches to it.
sqlite3 "$T/up.db" "CREATE TABLE t(i INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, 'upstream')"
bucket_put "$T/up.db" "$SNAP.branch.up"
wait_for 5 test -d "$BRANCHES/up"
assert_eq "$(ls "$BRANCHES/up")" info "what is in a branch without a history"
assert_match "$(cat "$BRANCHES/up/info")" 'history: none'
assert_errno EEXIST "os.mkdir(M + '/branches/up')"
switch up
assert_eq "$(values)" upstream "the content of upstream's branch"
assert_eq "$(values "$BRANCHES/up/live.db")" upstream
assert_eq "$(ls "$BRANCHES" | xargs)" "kept main up work" "branches after the switch to upstream's"

# The machine is lost on it: the next mount begins with the branch it is told, and all are there.
sql "INSERT INTO t VALUES(2, 'more')"
umount_bh
drop_state
mount_bh
assert_eq "$(values)" one,two,main,unflushed "main on a new machine"
assert_eq "$(values "$BRANCHES/up/live.db")" upstream,more "upstream's branch on a new machine"
assert_eq "$(values "$BRANCHES/work/live.db")" one,two,work "work on a new machine"
assert_eq "$(snapshot_value 'SELECT group_concat(v) FROM t' "$SNAP.branch.up")" upstream,more "what upstream gets"
umount_bh
