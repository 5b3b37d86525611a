#!/usr/bin/env bash
# The promise of live.db: where only the daemon is in the way, a client waits and never sees "database is locked". A
# client without a busy timeout makes 400 transactions (2,000 at the long level), and as many reads, while the daemon commits all the time. In WAL
# that also holds beside another client that reads for long: what it sees does not change, and it holds nobody up.
# level: full
# time: 900
# buckets: file ceph
# level@ceph: long
. "$(dirname "${BASH_SOURCE[0]}")/../load.sh" || exit 1

tries=${BH_TRIES:-${BHFS_LONG:+2000}}
tries=${tries:-400}
live_journal delete
mount_bh -o snapshot.interval=0
make_counter

# commit_always: the daemon commits until the file $T/enough is there.
commit_always() {
    trap - ERR EXIT
    while [ ! -e "$T/enough" ]; do
        door run 200 'UPDATE c SET n = n + 1' || return 1
    done >"$T/daemon.out" 2>&1
}

# beside_the_daemon WHAT COMMAND...: the command must see no lock, and the daemon must have committed meanwhile.
beside_the_daemon() {
    local what=$1 before after pid status=0 began
    shift
    rm -f "$T/enough"
    commit_always &
    pid=$!
    sleep 0.2
    before=$(door query 'SELECT n FROM c')
    began=$(now_ms)
    attempt "$@"
    began=$(($(now_ms) - began))
    after=$(door query 'SELECT n FROM c')
    touch "$T/enough"
    wait "$pid" || status=$?
    [ "$STATUS" -eq 0 ] || fail "$what: status $STATUS: $OUT"
    [ "$status" -eq 0 ] || fail "$what: the daemon's own transactions failed: $(cat "$T/daemon.out")"
    echo "$what: $OUT, in $began ms; the daemon made $((after - before - ${own:-0})) transactions meanwhile"
    [ $((after - before - ${own:-0})) -ge 50 ] || fail "$what: the daemon hardly committed: this shows nothing"
}

# without_journal_modes WHAT: what is the same in all modes.
without_journal_modes() {
    own=$tries beside_the_daemon "$1: writes, opened anew each time" helper counter -n "$tries" -b 0 -k 1 "$DB"
    beside_the_daemon "$1: reads" helper longreader -n $((tries * 5)) -b 0 -m 0 -p 0 "$DB"
    beside_the_daemon "$1: reads, held for 30 ms" helper longreader -n 50 -b 0 -m 30 -p 5 "$DB"
    beside_the_daemon "$1: reads, opened anew each time" helper longreader -n $((tries / 4)) -b 0 -m 0 -p 0 -c "$DB"
    beside_the_daemon "$1: opening and closing" helper churn -n "$tries" -b 0 "$DB"
}

for mode in DELETE TRUNCATE PERSIST MEMORY OFF; do
    own=$tries beside_the_daemon "writes, $mode" helper counter -n "$tries" -b 0 -j "$mode" "$DB"
done
without_journal_modes DELETE

own=$tries beside_the_daemon 'writes, WAL' helper counter -n "$tries" -b 0 -j WAL "$DB"
own=$tries beside_the_daemon 'writes, WAL, a checkpoint after each' \
    helper counter -n "$tries" -b 0 -x 'PRAGMA wal_autocheckpoint=1' "$DB"
without_journal_modes WAL

start longreader -m 700 -p 30 -b 0 "$DB"
reader=$PID
own=$tries beside_the_daemon 'writes, WAL, beside a long reader' helper counter -n "$tries" -b 0 -w 1 -j WAL "$DB"
beside_the_daemon 'reads, WAL, beside a long reader' helper longreader -n "$tries" -b 0 -m 1 -p 0 "$DB"
beside_the_daemon 'opening and closing, WAL, beside a long reader' helper churn -n "$tries" -b 0 "$DB"
stop "$reader"

# Nobody but the daemon can refuse these changes of the mode.
own=$((tries / 4)) beside_the_daemon 'the mode changed at each opening' \
    helper counter -n $((tries / 4)) -b 0 -k 1 -J WAL,DELETE,WAL,PERSIST "$DB"
assert_match "$OUT" ' refused=0$' "changes that were refused"
[[ ! "$OUT" =~ switched=0 ]] || fail "the mode was never changed: this shows nothing"
assert_eq "$(door query 'PRAGMA integrity_check')" ok "integrity_check by the daemon"
integrity
umount_bh
