#!/usr/bin/env bash
# Random reads, writes, truncates, mappings, holes, range copies, renames and reopens of files in files/ against a model in
# memory: 100,000 operations (ten times as many in --long) on two files at once, while flush follows flush; unmounted, killed, or
# mounted from the bucket alone between the parts.
# level: full
# time: 400
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

operations=${BH_OPERATIONS:-${BHFS_LONG:+1000000}}
operations=${operations:-100000}
parts=${BH_PARTS:-8}
each=$((operations / parts / 2))
echo "seed: $SEED (BH_SEED=$SEED repeats it)"

flushing() { # until it is told to end
    trap - ERR EXIT
    while [ ! -e "$T/enough" ]; do
        touch "$CTL/force_flush" || exit 1
        sleep 0.3
    done
}

files_mount
for ((part = 1; part <= parts; part++)); do
    if [ -z "$OTHER" ]; then
        flushing &
        flusher=$!
    fi
    pids=()
    for which in small large; do
        size=60000
        [ $which = small ] || size=1000000
        "$BHFS_BUILD/tests/helpers/fsx" -n $each -s $((SEED + part)) -l $size -m "$T/model.$which" "$FILES/$which" >"$T/fsx.$which" 2>&1 &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do
        wait "$pid" || fail "part $part, seed $((SEED + part)): $(cat "$T"/fsx.*)"
    done
    if [ -z "$OTHER" ]; then
        touch "$T/enough"
        wait "$flusher" || fail "part $part: a flush failed: $(last_status)"
        rm "$T/enough"
        case $((part % 3)) in
        0) # the machine is lost
            umount_bh
            drop_state
            ;;
        1) umount_bh ;;
        2) kill_daemon ;;
        esac
        files_mount
    fi
done
cat "$T"/fsx.*
for which in small large; do
    "$BHFS_BUILD/tests/helpers/fsx" -n 0 -l 1000000 -m "$T/model.$which" "$FILES/$which" || fail "at the end: $which"
done
files_umount
