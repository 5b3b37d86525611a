#!/usr/bin/env bash
# Clients are killed with kill -9 at random moments, in every journal mode, and started again, while other clients and the
# daemon commit and flush follows flush. Each death is a hot journal for the next one, or (MEMORY, OFF) old contents for
# the daemon to put back, or (WAL) frames without a commit and locks on -shm. No acknowledged transaction is lost, none is
# there by half, nobody is locked out for good. First in rollback modes, then in WAL, then with modes that change, then a
# client that is alone. BH_ROUNDS scales how many deaths there are, BH_PARTS chooses among the parts.
# level: full
# time: 900
# buckets: file ceph
# level@ceph: long
. "$(dirname "${BASH_SOURCE[0]}")/../load.sh" || exit 1

deaths=${BH_ROUNDS:-${BHFS_LONG:+1000}}
deaths=${deaths:-150}
parts=${BH_PARTS:-rollback wal changing alone}
modes=(DELETE TRUNCATE PERSIST MEMORY OFF)
changing=WAL,WAL,DELETE,TRUNCATE,PERSIST,MEMORY,OFF
say_seed
live_journal delete
mount_bh -o snapshot.interval=0
make_counter

seq=1
victims=()
start_client() { # ID MODE OPTION...: sets PID; a MODE of several with commas changes by chance
    local id=$1 mode=(-j "$2" -k 23)
    [[ "$2" != *,* ]] || mode=(-J "$2" -S $RANDOM -k 3 -W 40)
    shift 2
    start counter -n 1000000 -i "$id" -q $seq "${mode[@]}" -a "$ACKS" "$@" "$DB"
    seq=$((seq + 100000))
}

victim() { # NUMBER MODE...: starts the client that holds this place, in one of these modes
    local place=$1 sync=FULL
    shift
    [ $((RANDOM % 2)) = 0 ] || sync=NORMAL
    start_client $((place + 1)) "${@:1 + RANDOM % $#:1}" -p $((RANDOM % 60000)) -s $sync
    victims[$place]=$PID
}

more_than() {
    [ "$(acked)" -gt "$1" ]
}

# kill_many DEATHS SURVIVOR MODE...: that many deaths of clients in these modes, beside one that nobody kills.
kill_many() {
    local count=$1 i ms place before survivor
    start_client 8 "$2"
    survivor=$PID
    shift 2
    for place in 0 1 2; do victim $place "$@"; done
    for ((i = 0; i < count; i++)); do
        random ms 1 120
        sleep_ms "$ms"
        place=$((RANDOM % 3))
        kill -KILL "${victims[$place]}" ||
            fail "a client ended by itself: $(cat "${output[${victims[$place]}]}") (seed $SEED)"
        reap 137 "${victims[$place]}"
        victim $place "$@"
    done
    kill -KILL "${victims[@]}"
    reap 137 "${victims[@]}"
    before=$(acked)
    wait_for 10 more_than "$before"
    stop "$survivor"
    echo "$*: $count deaths, $(acked) acknowledged transactions so far, $(metric bhfs_undone_total) undone"
    check_acks
    check_both_sides "$*"
}

# check_both_sides WHAT: the daemon, which does not read through the kernel's cache, finds the database whole, and so is
# what a mount would read of the bucket.
check_both_sides() {
    assert_eq "$(door query 'PRAGMA integrity_check')" ok "$1: integrity_check by the daemon (seed $SEED)"
    touch "$CTL/flush" || fail "$1: flush: $(last_status)"
    touch "$CTL/verify" || fail "$1: what is in the bucket is damaged (seed $SEED): $(last_status)"
}

# lone_deaths: alone with the database a client is in mid-commit more often than not.
lone_deaths() {
    local i ms undone
    undone=$(metric bhfs_undone_total)
    for ((i = 0; i < deaths / 4; i++)); do
        start counter -n 1000000 -i 1 -q $seq -j "${modes[3 + i % 2]}" -p 40000 -a "$ACKS" "$DB"
        seq=$((seq + 100000))
        random ms 10 60
        sleep_ms "$ms"
        kill -KILL "$PID"
        reap 137 "$PID"
    done
    check_both_sides 'a lone client'
    undone=$(($(metric bhfs_undone_total) - undone))
    echo "$((deaths / 4)) deaths of a lone client without a journal, $undone transactions undone"
    [ "$undone" -gt 0 ] || [ "$deaths" -lt 100 ] || fail 'no client died in mid-commit: this shows little'
}

daemon_load 1
flush_load
for part in $parts; do
    if [[ $part = wal || $part = changing ]]; then mode=wal; else mode=delete; fi
    assert_eq "$(sql "PRAGMA journal_mode=$mode")" $mode "the change of mode beside the daemon alone"
    case $part in
    rollback) kill_many $((deaths * 2 / 3)) DELETE "${modes[@]}" ;;
    wal) kill_many $((deaths / 2)) WAL WAL ;;
    changing) kill_many $((deaths / 3)) "$changing" "$changing" ;;
    alone) lone_deaths ;;
    *) fail "BH_PARTS: there is no part $part" ;;
    esac
done
check_acks
kill_daemon # ends the daemon's own load, too
mount_bh -o snapshot.interval=0
check_acks
check_at_last
