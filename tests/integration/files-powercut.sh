#!/usr/bin/env bash
# The power goes while files in files/ are written in place, replaced and published: of what the daemon wrote in its state
# directory only that is left that it had synced (and, at random, some of the rest). What was fsynced is there, as it was then or
# newer; a file that was durable is not cut and does not vanish because it is edited, replaced or becomes a blob.
# level: full
# time: 300
# buckets: file
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

rounds=${BH_ROUNDS:-${BHFS_LONG:+100}}
rounds=${rounds:-12}
RANDOM=$((SEED % 32768))
echo "seed: $SEED (BH_SEED=$SEED repeats it)"
mount_with_power() {
    files_mount -o live.powercut_dir="$T/shadow" -o live.powercut_seed=$((1 + RANDOM))
}

mount_with_power
for ((round = 1; round <= rounds; round++)); do
    python3 "$SRC/tests/helpers/filespower.py" work "$FILES/d" "$T/log" "$round" $((SEED + round)) 2>"$T/work" &
    worker=$!
    sleep "$(awk -v ms=$((200 + RANDOM % 3500)) 'BEGIN { print ms / 1000 }')"
    [ $((round % 4)) != 0 ] || flush
    kill -KILL "$DAEMON"
    wait_for 10 gone "$DAEMON"
    status=0
    wait "$worker" || status=$?
    [ "$status" = 3 ] || fail "round $round: the client ended with $status: $(tail -n 5 "$T/work") (seed $SEED)"
    kill_daemon
    rm -rf "$STATE"
    cp -a "$T/shadow" "$STATE"
    mount_with_power
    [ -s "$T/log" ] || continue
    python3 "$SRC/tests/helpers/filespower.py" check "$FILES/d" "$T/log" >"$T/check" 2>&1 ||
        fail "round $round: $(cat "$T/check") (seed $SEED)"
done
synced=$(wc -l <"$T/log")
[ "$synced" -ge $((rounds * 4)) ] || fail "hardly anything was synced: this shows nothing"
echo "$rounds rounds, $synced times synced, $(cat "$T/check") files"
files_umount
