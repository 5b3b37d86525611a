#!/usr/bin/env bash
# Four client processes and the daemon each add 1 to one counter 350 times (2,000 in --long), in each journal mode and with the modes
# mixed; beside them a reader holds transactions open, and a process opens and closes the file without end. Nothing
# is lost, nothing is counted twice. MIXED: the rollback modes, one a client, which is no change of the database; WALMIX:
# each client changes the mode by chance whenever it opens, into WAL and out of it where it is alone.
# BH_INCREMENTS and BH_MODES make it shorter.
# level: full
# time: 600
# buckets: file ceph
# level@ceph: long
. "$(dirname "${BASH_SOURCE[0]}")/../load.sh" || exit 1

increments=${BH_INCREMENTS:-${BHFS_LONG:+2000}}
increments=${increments:-350}
read -r -a modes <<<"${BH_MODES:-DELETE TRUNCATE PERSIST MEMORY OFF MIXED WAL WALMIX}"
all=WAL,WAL,WAL,DELETE,TRUNCATE,PERSIST,MEMORY
say_seed

live_journal delete
mount_bh -o snapshot.interval=0
make_counter
total=0
switched=0

# count_in MODE [PAUSE]: the clients, the daemon and what is beside them, once. A client of WALMIX is closed for up to PAUSE ms
# after every third increment.
count_in() {
    local mode=$1 pause=${2:-} began each file_mode counters=() beside i
    began=$(now_ms)
    case "$mode" in
    MIXED) each=(DELETE TRUNCATE PERSIST MEMORY) ;;
    WALMIX) each=("$all" "$all" "$all" "$all") ;;
    *) each=("$mode" "$mode" "$mode" "$mode") ;;
    esac
    # Of several that would change the file's mode at once SQLite refuses some without waiting.
    if [[ "$mode" = WAL* ]]; then file_mode=wal; else file_mode=delete; fi
    assert_eq "$(sql "PRAGMA journal_mode=$file_mode")" $file_mode "the change of mode with nobody else there"
    if [ "$mode" = WALMIX ]; then
        start longreader -m 40 -p 150 -c "$DB"
        beside=("$PID")
        for i in 0 1 2 3; do
            start counter -n "$increments" -J "${each[i]}" -S $RANDOM -k 3 -W "$pause" -b 60000 "$DB"
            counters+=("$PID")
        done
    else
        start longreader -m 40 -p 150 "$DB"
        beside=("$PID")
        start counter -n "$increments" -j "${each[0]}" -b 60000 "$DB"
        counters+=("$PID")
        start counter -n "$increments" -j "${each[1]}" -k 10 -b 60000 "$DB"
        counters+=("$PID")
        start counter -n "$increments" -j "${each[2]}" -k 500 -b 60000 "$DB"
        counters+=("$PID")
        start counter -n "$increments" -j "${each[3]}" -s NORMAL -b 60000 "$DB"
        counters+=("$PID")
    fi
    start churn "$DB"
    beside+=("$PID")
    attempt door run "$increments" 'UPDATE c SET n = n + 1'
    [ "$STATUS" -eq 0 ] || fail "$mode: the daemon's increments: $OUT"
    reap 0 "${counters[@]}"
    stop "${beside[@]}"
    total=$((total + 5 * increments))
    assert_eq "$(door query 'SELECT n FROM c')" "$total" "$mode: the sum, as the daemon sees it (seed $SEED)"
    assert_eq "$(sql 'SELECT n FROM c')" "$total" "$mode: the sum, as a client sees it (seed $SEED)"
    assert_eq "$(door query 'PRAGMA integrity_check')" ok "$mode: integrity_check by the daemon (seed $SEED)"
    integrity
    [ "$mode" != WAL ] || assert_eq "$(sql 'PRAGMA journal_mode')" wal "the mode afterwards"
    if [ "$mode" = WALMIX ]; then
        switched=$((switched + $(for pid in "${counters[@]}"; do cat "${output[$pid]}"; done | sed -n 's/.* switched=\([0-9]*\).*/+\1/p' | tr -d '\n')))
        echo "WALMIX, closed for up to $pause ms: $switched times into WAL or out of it"
    fi
    echo "$mode: $((5 * increments)) increments in $(($(now_ms) - began)) ms"
}

for mode in "${modes[@]}"; do
    if [ "$mode" != WALMIX ]; then
        count_in "$mode"
        continue
    fi
    # Only who is alone can leave WAL, which hardly happens on a busy machine: then again, with longer pauses.
    for pause in 60 250 1000; do
        count_in WALMIX $pause
        [ "$switched" -lt $((1 + increments / 300)) ] || break
    done
    [ "$switched" -ge $((1 + increments / 300)) ] || fail "hardly any change of the mode: this shows nothing (seed $SEED)"
done
flush
assert_eq "$(version_bytes "$(snap_file)")" "1 1" "the header of the snapshot"
assert_eq "$(snapshot_value 'SELECT n FROM c')" "$total" "the sum in the bucket"
umount_bh
