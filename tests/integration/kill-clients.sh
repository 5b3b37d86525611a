#!/usr/bin/env bash
# Clients are killed with kill -9 at random moments, in every journal mode, and started again, while other clients and the
# daemon commit and flush follows flush. Each death is a hot journal for the next one, or (MEMORY, OFF) old contents for
# the daemon to put back. No acknowledged transaction is lost, none is there by half, nobody is locked out for good.
# level: full
# time: 200
# buckets: file ceph
. "$(dirname "${BASH_SOURCE[0]}")/../load.sh" || exit 1

deaths=${BH_ROUNDS:-${BHFS_LONG:+1000}}
deaths=${deaths:-150}
modes=(DELETE TRUNCATE PERSIST MEMORY OFF)
say_seed
mount_bh -o snapshot.interval=0
make_counter

seq=1
victims=()
victim() { # NUMBER: starts the client that holds this place
    local sync=FULL
    [ $((RANDOM % 2)) = 0 ] || sync=NORMAL
    start counter -n 1000000 -i $(($1 + 1)) -q $seq -p $((RANDOM % 60000)) -j "${modes[RANDOM % 5]}" -s $sync -k 23 -a "$ACKS" "$DB"
    victims[$1]=$PID
    seq=$((seq + 100000))
}

more_than() {
    [ "$(acked)" -gt "$1" ]
}

start counter -n 1000000 -i 8 -q 1 -j DELETE -a "$ACKS" "$DB" # one that nobody kills
survivor=$PID
daemon_load 1
flush_load
for place in 0 1 2; do victim $place; done
for ((i = 0; i < deaths; i++)); do
    random ms 1 120
    sleep_ms "$ms"
    place=$((RANDOM % 3))
    kill -KILL "${victims[$place]}" || fail "a client ended by itself: $(cat "${output[${victims[$place]}]}") (seed $SEED)"
    reap 137 "${victims[$place]}"
    victim $place
done
kill -KILL "${victims[@]}"
reap 137 "${victims[@]}"
before=$(acked)
wait_for 10 more_than "$before"
stop "$survivor"
echo "$deaths deaths, $(acked) acknowledged transactions, $(metric bhfs_undone_total) transactions undone"
check_acks
assert_eq "$(door query 'PRAGMA integrity_check')" ok "integrity_check by the daemon (seed $SEED)"

# Alone with the database a client is in mid-commit more often than not.
undone=$(metric bhfs_undone_total)
for ((i = 0; i < deaths / 4; i++)); do
    start counter -n 1000000 -i 1 -q $seq -j "${modes[3 + i % 2]}" -p 40000 -a "$ACKS" "$DB"
    seq=$((seq + 100000))
    random ms 10 60
    sleep_ms "$ms"
    kill -KILL "$PID"
    reap 137 "$PID"
done
undone=$(($(metric bhfs_undone_total) - undone))
echo "$((deaths / 4)) deaths of a lone client without a journal, $undone transactions undone"
[ "$undone" -gt 0 ] || [ "$deaths" -lt 100 ] || fail 'no client died in mid-commit: this shows little'
check_acks
kill_daemon # ends the daemon's own load, too
mount_bh -o snapshot.interval=0
check_acks
check_at_last
