#!/usr/bin/env bash
# A C program in whose process the mount lives has connections of its own (bh_connect), each in a thread, beside the clients
# of the mount and the daemon's own transactions: all of them increment one counter, in a rollback mode and in WAL, and
# nothing is lost. With no client they are as good.
# level: full
# time: 200
. "$(dirname "${BASH_SOURCE[0]}")/../load.sh" || exit 1

increments=${BH_INCREMENTS:-300}
live_journal delete
mount_bh -o snapshot.interval=0
make_counter
total=0

# own_load THREADS: as many connections, each with its increments and reads.
own_load() {
    local i
    for ((i = 0; i < $1; i++)); do
        door own "$increments" 'BEGIN IMMEDIATE; UPDATE c SET n = n + 1; COMMIT' >"$T/own.$i" 2>&1 &
        threads+=($!)
        door own "$increments" 'BEGIN; SELECT n FROM c; SELECT count(*) FROM log; COMMIT' >"$T/own-reads.$i" 2>&1 &
        threads+=($!)
    done
    total=$((total + $1 * increments))
}

finished() {
    local pid
    for pid in "${threads[@]}"; do
        wait "$pid" || fail "$mode: a connection of its own: $(cat "$T"/own*)"
    done
    assert_eq "$(sql 'SELECT n FROM c')" $total "$mode, $1: the sum, as a client sees it"
    assert_eq "$(door query 'SELECT n FROM c')" $total "$mode, $1: the sum, as the daemon sees it"
    assert_eq "$(door own 1 'SELECT n FROM c')" $total "$mode, $1: the sum, as a connection of its own sees it"
    integrity
}

for mode in DELETE WAL; do
    assert_eq "$(sql "PRAGMA journal_mode=$mode")" "${mode,,}"
    threads=()
    own_load 3
    finished 'no client'

    threads=() counters=()
    start longreader -m 40 -p 60 "$DB"
    beside=("$PID")
    start churn "$DB"
    beside+=("$PID")
    for options in "-k 1000" "-k 10" "-s NORMAL"; do
        # shellcheck disable=SC2086
        start counter -n "$increments" -j $mode -b 60000 $options "$DB"
        counters+=("$PID")
    done
    own_load 2
    door run "$increments" 'UPDATE c SET n = n + 1' >/dev/null
    total=$((total + 4 * increments))
    reap 0 "${counters[@]}"
    stop "${beside[@]}"
    finished 'beside clients'
    [ $mode = DELETE ] || door own 1 'PRAGMA wal_checkpoint(TRUNCATE)' >/dev/null
    flush
    assert_eq "$(snapshot_value 'SELECT n FROM c')" $total "$mode: the sum in the bucket"
done
umount_bh
