#!/usr/bin/env bash
# Four client processes and the daemon each add 1 to one counter 2,000 times, in each journal mode and with the modes
# mixed; beside them a reader holds transactions open, and a process opens and closes the file without end. Nothing
# is lost, nothing is counted twice. BH_INCREMENTS and BH_MODES make it shorter.
# level: full
# time: 600
# buckets: file ceph
. "$(dirname "${BASH_SOURCE[0]}")/../load.sh" || exit 1

increments=${BH_INCREMENTS:-2000}
read -r -a modes <<<"${BH_MODES:-DELETE TRUNCATE PERSIST MEMORY OFF MIXED}"

mount_bh -o snapshot.interval=0
make_counter
total=0
for mode in "${modes[@]}"; do
    began=$(now_ms)
    if [ "$mode" = MIXED ]; then each=(DELETE TRUNCATE PERSIST MEMORY); else each=("$mode" "$mode" "$mode" "$mode"); fi
    start longreader -m 40 -p 150 "$DB"
    beside=("$PID")
    start churn "$DB"
    beside+=("$PID")
    start counter -n "$increments" -j "${each[0]}" "$DB"
    counters=("$PID")
    start counter -n "$increments" -j "${each[1]}" -k 10 "$DB"
    counters+=("$PID")
    start counter -n "$increments" -j "${each[2]}" -k 500 -b 60000 "$DB"
    counters+=("$PID")
    start counter -n "$increments" -j "${each[3]}" -s NORMAL "$DB"
    counters+=("$PID")
    attempt door run "$increments" 'UPDATE c SET n = n + 1'
    [ "$STATUS" -eq 0 ] || fail "$mode: the daemon's increments: $OUT"
    reap 0 "${counters[@]}"
    stop "${beside[@]}"
    total=$((total + 5 * increments))
    assert_eq "$(door query 'SELECT n FROM c')" "$total" "$mode: the sum, as the daemon sees it"
    assert_eq "$(sql 'SELECT n FROM c')" "$total" "$mode: the sum, as a client sees it"
    assert_eq "$(door query 'PRAGMA integrity_check')" ok "$mode: integrity_check by the daemon"
    integrity
    echo "$mode: $((5 * increments)) increments in $(($(now_ms) - began)) ms"
done
flush
assert_eq "$(snapshot_value 'SELECT n FROM c')" "$total" "the sum in the bucket"
umount_bh
