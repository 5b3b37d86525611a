#!/usr/bin/env bash
# 100,000 transactions in WAL, by six client processes and the daemon, with a reader, one who opens and closes, and flushes
# beside them: none is lost, none is counted twice.
# level: long
# time: 1800
# buckets: file ceph
# level@ceph: long
. "$(dirname "${BASH_SOURCE[0]}")/../load.sh" || exit 1

total=${BH_INCREMENTS:-100000}
[ -z "$BHFS_SANITIZE" ] || total=$((total / 10))
each=$((total / 7))
rest=$((total - 6 * each))

live_journal wal
mount_bh -o snapshot.interval=0
make_counter
assert_eq "$(sql 'PRAGMA journal_mode=WAL')" wal
began=$(now_ms)
start longreader -m 100 -p 50 "$DB"
beside=("$PID")
start churn "$DB"
beside+=("$PID")
counters=()
for id in 1 2 3 4 5 6; do
    options=()
    case $id in
    2) options=(-k 50) ;;
    3) options=(-s NORMAL) ;;
    4) options=(-s NORMAL -x 'PRAGMA wal_autocheckpoint=0') ;;
    5) options=(-x 'PRAGMA mmap_size=268435456') ;;
    6) options=(-s OFF -k 1000 -x 'PRAGMA wal_autocheckpoint=10') ;;
    esac
    start counter -n $each -i $id -j WAL -b 60000 "${options[@]}" "$DB"
    counters+=("$PID")
done
(
    trap - ERR EXIT
    while [ ! -e "$T/enough" ]; do
        touch "$CTL/force_flush" || exit 1
        sleep 1
    done
) &
flusher=$!
attempt door run $rest "INSERT INTO log SELECT 9, (SELECT count(*) + 1 FROM log WHERE client = 9), n + 1, NULL FROM c"
[ "$STATUS" -eq 0 ] || fail "the daemon's transactions: $OUT"
reap 0 "${counters[@]}"
touch "$T/enough"
wait $flusher || fail "a flush: $(last_status)"
stop "${beside[@]}"
echo "$total transactions in $(($(now_ms) - began)) ms"
assert_eq "$(sql 'SELECT n FROM c')" $total "the sum, as a client sees it"
assert_eq "$(door query 'SELECT n FROM c')" $total "the sum, as the daemon sees it"
assert_eq "$(sql 'SELECT count(*), count(DISTINCT n), min(n), max(n) FROM log')" "$total|$total|1|$total" "the numbers that they got"
assert_eq "$(sql 'SELECT client, count(*), max(seq) FROM log GROUP BY 1' | xargs)" \
    "$(for id in 1 2 3 4 5 6; do echo "$id|$each|$each"; done | xargs) 9|$rest|$rest" "transactions of each"
assert_eq "$(door query 'PRAGMA integrity_check')" ok "integrity_check by the daemon"
integrity
umount_bh
assert_eq "$(snapshot_value 'SELECT n FROM c')" $total "the sum in the bucket"
assert_eq "$(snapshot_value 'PRAGMA integrity_check')" ok "integrity_check of the snapshot"
