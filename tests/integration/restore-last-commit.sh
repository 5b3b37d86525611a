#!/usr/bin/env bash
# What a client commits while a restore or a switch is flushing what was there before is flushed as well, to the branch that it is of; if
# that cannot be done nothing is replaced, and the client goes on.
# level: full
# time: 120
# buckets: file ceph
# level@ceph: long
. "${BASH_SOURCE%/*}/../lib.sh"

rules=$T/rules
: >"$rules"
values() { sqlite3 -batch -bail "$1" 'SELECT group_concat(v) FROM t'; }
newest() { echo "$MNT/branches/$1/live.db"; }
# during VERB ARGUMENT VALUE: a client commits VALUE while the verb's flush is on its way. The verb's status is in $STATUS.
during() {
    local verb
    STATUS=0
    (trap - ERR && echo "$2" >"$CTL/$1") 2>/dev/null &
    verb=$!
    sleep 1
    sql "INSERT INTO t VALUES('$3')"
    wait $verb || STATUS=$?
    : >"$rules"
}

for mode in delete wal; do
    live_journal $mode
    mount_bh -o bucket.fault="@$rules" -o bucket.attempts=1 -o snapshot.plain=never
    sql "CREATE TABLE t(v); INSERT INTO t VALUES('first')"
    flush
    first=$(status_of snapshot)
    mkdir "$MNT/branches/work"

    sql "INSERT INTO t VALUES('before')"
    echo 'put:delay=3s:key=*/branches/main:first=1' >"$rules"
    during restore "$first" meanwhile
    assert_eq "$STATUS" 0 "$mode: the restore"
    assert_eq "$(values "$DB")" first "$mode: what was put back"
    snapshots=("$MNT"/snapshots/*T*)
    assert_eq "${#snapshots[@]}" 4 "$mode: snapshots: the first, the flushed one, what came during that, what was put back"
    assert_eq "$(values "${snapshots[1]}/live.db")" first,before "$mode: the flush before"
    assert_eq "$(values "${snapshots[2]}/live.db")" first,before,meanwhile "$mode: what was committed during it"

    # The second flush fails: nothing has happened.
    sql "INSERT INTO t VALUES('third')"
    printf '%s\n' 'put:delay=3s:key=*/branches/main:first=1' 'put:enospc:key=*/packs/*:after=1' >"$rules"
    during restore "$first" late
    assert_eq "$STATUS" 1 "$mode: a restore whose last flush fails"
    assert_match "$(last_status)" 'nothing was replaced' "$mode: the sentence"
    assert_eq "$(values "$DB")" first,third,late "$mode: what is there after that"
    sql "INSERT INTO t VALUES('on')"
    flush
    assert_eq "$(values "$(newest main)")" first,third,late,on "$mode: main after the next flush"

    # A switch: it is of the branch that is left.
    sql "INSERT INTO t VALUES('fourth')"
    echo 'put:delay=3s:key=*/branches/main:first=1' >"$rules"
    during branch work last
    assert_eq "$STATUS" 0 "$mode: the switch"
    assert_eq "$(values "$DB") $(cat "$CTL/branch")" "first work" "$mode: what was switched to"
    assert_eq "$(values "$(newest main)")" first,third,late,on,fourth,last "$mode: main, as it was left"
    assert_eq "$(values "$(newest work)")" first "$mode: the newest of the branch"

    # One that fails: the branch that it would have gone to is free again.
    sql "INSERT INTO t VALUES('work')"
    printf '%s\n' 'put:delay=3s:key=*/branches/work:first=1' 'put:enospc:key=*/packs/*:after=1' >"$rules"
    during branch main late
    assert_eq "$STATUS" 1 "$mode: a switch whose last flush fails"
    assert_match "$(last_status)" 'nothing was replaced' "$mode: the sentence"
    assert_eq "$(values "$DB") $(cat "$CTL/branch")" "first,work,late work" "$mode: what is there after that"
    flush
    wait_for 5 test "$(values "$(newest work)")" = first,work,late
    wait_for 5 grep -q '^lease: none' "$MNT/branches/main/info"
    echo main >"$CTL/branch"
    assert_eq "$(values "$DB")" first,third,late,on,fourth,last "$mode: main"
    integrity
    umount_bh
    drop_state
    bucket_empty
done
