#!/usr/bin/env bash
# kill -9 of the daemon at random moments, while three clients and the daemon commit and flush follows flush; then a mount
# on what is left. No transaction that was acknowledged is ever missing, none is there by half. By turns the clients are
# in rollback modes, in WAL, and change between them. 20 rounds; 200 in --long.
# level: full
# time: 900
# buckets: file ceph
# level@ceph: long
. "$(dirname "${BASH_SOURCE[0]}")/../load.sh" || exit 1

rounds=${BH_ROUNDS:-${BHFS_LONG:+200}}
rounds=${rounds:-20}
syncs=(FULL NORMAL OFF) # what a client syncs is of no matter to kill -9
modes=(DELETE TRUNCATE PERSIST MEMORY OFF)
changing=WAL,WAL,DELETE,PERSIST,MEMORY
say_seed
live_journal delete
mount_bh -o snapshot.interval=0
make_counter
for ((round = 1; round <= rounds; round++)); do
    case $((round % 4)) in
    0 | 2) file_mode=delete each=("${modes[round % 5]}" "${modes[(round + 1) % 5]}" "${modes[(round + 2) % 5]}") ;;
    1) file_mode=wal each=(WAL WAL WAL) ;;
    3) file_mode=wal each=("$changing" "$changing" "$changing") ;;
    esac
    assert_eq "$(sql "PRAGMA journal_mode=$file_mode")" $file_mode "the change of mode with nobody else there"
    random ms 20 700
    storm "$ms" "${syncs[round % 3]}" "${each[@]}"
    mount_bh -o snapshot.interval=0
    check_after_storm "$round"
done
echo "$rounds rounds, $(acked) acknowledged transactions, all there"
[ "$(acked)" -ge $((rounds * 20)) ] || fail "hardly anything was committed: this shows nothing"
check_at_last
