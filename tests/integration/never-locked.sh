#!/usr/bin/env bash
# The promise of live.db: where only the daemon is in the way, a client waits and never sees "database is locked". A
# client without a busy timeout makes 2,000 transactions, and as many reads, while the daemon commits all the time.
# level: full
# time: 300
# buckets: file ceph
. "$(dirname "${BASH_SOURCE[0]}")/../load.sh" || exit 1

tries=${BH_TRIES:-2000}
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

for mode in DELETE TRUNCATE PERSIST MEMORY OFF; do
    own=$tries beside_the_daemon "writes, $mode" helper counter -n "$tries" -b 0 -j "$mode" "$DB"
done
own=$tries beside_the_daemon 'writes, opened anew each time' helper counter -n "$tries" -b 0 -k 1 "$DB"
beside_the_daemon 'reads' helper longreader -n "$tries" -b 0 -m 0 -p 0 "$DB"
beside_the_daemon 'reads, held for 30 ms' helper longreader -n 50 -b 0 -m 30 -p 5 "$DB"
beside_the_daemon 'opening and closing' helper churn -n "$tries" -b 0 "$DB"
integrity
umount_bh
