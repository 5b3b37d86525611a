#!/usr/bin/env bash
# The same as kill-daemon with the power gone: of what the daemon wrote in its state directory only that is left that it
# had synced (and, at random, some of the rest). Clients with synchronous=FULL have their acknowledged transactions, in
# rollback modes and in WAL, also where the power goes while they change between these.
# level: full
# time: 400
# buckets: file ceph
# level@ceph: long
. "$(dirname "${BASH_SOURCE[0]}")/../load.sh" || exit 1

rounds=${BH_ROUNDS:-${BHFS_LONG:+100}}
rounds=${rounds:-15}
say_seed

mount_with_power() {
    local seed
    random seed 1 1000000
    mount_bh -o snapshot.interval=0 -o live.powercut_dir="$T/shadow" -o live.powercut_seed="$seed"
}

live_journal delete
mount_with_power
make_counter
for ((round = 1; round <= rounds; round++)); do
    case $((round % 6)) in
    4 | 5) file_mode=wal ;;
    *) file_mode=delete ;;
    esac
    assert_eq "$(sql "PRAGMA journal_mode=$file_mode")" $file_mode "the change of mode with nobody else there"
    random ms 20 900
    case $((round % 6)) in
    0) storm "$ms" FULL DELETE DELETE DELETE ;;
    1) storm "$ms" FULL DELETE TRUNCATE PERSIST ;;
    2) storm "$ms" FULL TRUNCATE TRUNCATE TRUNCATE ;;
    3) storm "$ms" EXTRA PERSIST PERSIST DELETE ;;
    4) storm "$ms" FULL WAL WAL WAL ;;
    5) storm "$ms" EXTRA WAL,DELETE WAL,WAL,PERSIST WAL,TRUNCATE ;;
    esac
    rm -rf "$STATE"
    cp -a "$T/shadow" "$STATE"
    mount_with_power
    check_after_storm "$round"
done
echo "$rounds rounds, $(acked) acknowledged transactions, all there"
[ "$(acked)" -ge $((rounds * 20)) ] || fail "hardly anything was committed: this shows nothing"
check_at_last
