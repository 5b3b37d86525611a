#!/usr/bin/env bash
# kill -9 of the daemon at random moments, while three clients and the daemon commit and flush follows flush; then a mount
# on what is left. No transaction that was acknowledged is ever missing, none is there by half. 20 rounds; 200 in --long.
# level: full
# time: 300
# buckets: file ceph
. "$(dirname "${BASH_SOURCE[0]}")/../load.sh" || exit 1

rounds=${BH_ROUNDS:-${BHFS_LONG:+200}}
rounds=${rounds:-20}
syncs=(FULL NORMAL OFF) # what a client syncs is of no matter to kill -9
modes=(DELETE TRUNCATE PERSIST MEMORY OFF)
say_seed
mount_bh -o snapshot.interval=0
make_counter
for ((round = 1; round <= rounds; round++)); do
    random ms 20 700
    storm "$ms" "${syncs[round % 3]}" "${modes[round % 5]}" "${modes[(round + 1) % 5]}" "${modes[(round + 2) % 5]}"
    mount_bh -o snapshot.interval=0
    check_after_storm "$round"
done
echo "$rounds rounds, $(acked) acknowledged transactions, all there"
[ "$(acked)" -ge $((rounds * 20)) ] || fail "hardly anything was committed: this shows nothing"
check_at_last
