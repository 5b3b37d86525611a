#!/usr/bin/env bash
# In WAL the daemon maps live.db-shm through its own mount, which must not keep the mount busy: a plain umount(8) straight
# after the last client's exit, a normal one or kill -9 by turns, succeeds; whatever it finds busy is free within 10 ms.
# The daemon ends, with the process that had the mapping, and its last flush is complete. 40 rounds; 200 in --long.
# level: full
# time: 900
# buckets: file ceph
# level@ceph: long
# serial
. "$(dirname "${BASH_SOURCE[0]}")/../load.sh" || exit 1

rounds=${BH_ROUNDS:-${BHFS_LONG:+200}}
rounds=${rounds:-40}
allowed=10000 # us
[ -z "$BHFS_SANITIZE" ] || allowed=100000

# now_us: sets us, without a process of its own
now_us() {
    us=${EPOCHREALTIME/./}
}

# maps_shm PID: whether that process has live.db-shm mapped.
maps_shm() {
    grep -q "$DB-shm" "/proc/$1/maps" 2>/dev/null
}

# plain_umount: as soon as the last client is gone. A umount that began when the time was over must succeed.
plain_umount() {
    local began
    now_us
    began=$us
    while ! umount "$MNT" 2>"$T/umount.err"; do
        busy=$((busy + 1))
        [ $((us - began)) -le $allowed ] || fail "round $round: busy $((us - began)) us after the last client: $(cat "$T/umount.err")"
        now_us
    done
    [ $((us - began)) -le $longest ] || longest=$((us - began))
}

live_journal wal
mount_bh -o snapshot.interval=0
make_counter
assert_eq "$(sql 'PRAGMA journal_mode=WAL')" wal
seq=1 busy=0 longest=0 mapped=0
for ((round = 1; round <= rounds; round++)); do
    clients=()
    for id in 1 2; do
        start counter -n 1000000 -i $id -q $seq -p 100 -j WAL -a "$ACKS" "$DB"
        clients+=("$PID")
    done
    seq=$((seq + 100000))
    before=$(acked)
    door run 30 'INSERT INTO log SELECT 9, (SELECT count(*) + 1 FROM log WHERE client = 9), n + 1, NULL FROM c' >/dev/null
    wait_for 10 awk -v n="$before" 'END { exit NR <= n }' "$ACKS"
    index=$(index_of "$DAEMON")
    for pid in $index; do
        ! maps_shm "$pid" || mapped=$((mapped + 1))
    done
    if [ $((round % 2)) = 0 ]; then
        stop "${clients[@]}"
    else
        kill -KILL "${clients[@]}"
        for pid in "${clients[@]}"; do
            { wait "$pid" || true; } 2>/dev/null
        done
    fi
    plain_umount
    ended
    for pid in $index; do
        wait_for 5 gone "$pid"
    done
    there=$(snapshot_value 'SELECT n FROM c')
    mount_bh -o snapshot.interval=0
    assert_eq "$there" "$(sql 'SELECT n FROM c')" "round $round: the counter in the bucket, and in the next mount"
    assert_eq "$(status_of recovered)" none "round $round: recovered, in status: something was not flushed"
    if [ $((round % 10)) = 0 ] || [ "$round" = "$rounds" ]; then
        check_acks
        assert_eq "$(snapshot_value 'PRAGMA integrity_check')" ok "round $round: integrity_check of the snapshot"
    fi
done
echo "$rounds rounds, $(acked) acknowledged transactions; the longest umount began $longest us after the last client's exit; $busy were busy"
[ $mapped -gt 0 ] || fail "live.db-shm was never seen mapped by the daemon: this shows nothing"
check_at_last
