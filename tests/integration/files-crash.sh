#!/usr/bin/env bash
# kill -9 of the daemon at random moments, while three clients make, write, close, fsync, rename, exchange, link and remove files
# in files/ and flush follows flush; then a mount on what is left. What was closed or fsynced is there, names are as after the last
# call that returned (or the one under way), no file has a foreign byte. In every fifth round also what the bucket alone says: all
# that was there when a flush was acknowledged. 20 rounds; 200 in --long. With BH_DIR only the clients are killed.
# level: full
# time: 600
# buckets: file ceph
# level@ceph: long
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

rounds=${BH_ROUNDS:-${BHFS_LONG:+200}}
rounds=${rounds:-20}
RANDOM=$((SEED % 32768))
echo "seed: $SEED (BH_SEED=$SEED repeats it)"
crash() { python3 "$SRC/tests/helpers/filescrash.py" "$@"; }
pause() { sleep "$(awk -v ms="$1" 'BEGIN { print ms / 1000 }')"; }
flushing() {
    trap - ERR EXIT
    while touch "$CTL/force_flush"; do sleep 0.0$((RANDOM % 10)); done 2>/dev/null
}

files_mount
steps=0
for ((round = 1; round <= rounds; round++)); do
    pids=() flusher='' limits=()
    for who in 1 2 3; do
        python3 "$SRC/tests/helpers/filescrash.py" work "$FILES/r$round-$who" "$T/log-$round-$who" $((SEED + round * 10 + who)) 2>"$T/work-$who" &
        pids+=($!)
    done
    for who in 1 2 3; do wait_for 20 test -s "$T/log-$round-$who"; done
    if [ -z "$OTHER" ]; then
        if [ $((round % 5)) != 0 ]; then
            flushing &
            flusher=$!
        else
            pause $((200 + RANDOM % 500))
            for who in 1 2 3; do limits+=("$(wc -l <"$T/log-$round-$who")"); done
            flush
            flushed=$(status_of snapshot)
        fi
    fi
    pause $((150 + RANDOM % 900))
    if [ -n "$OTHER" ]; then
        kill -KILL "${pids[@]}"
        for pid in "${pids[@]}"; do { wait "$pid" || true; } 2>/dev/null; done
    else
        kill -KILL "$DAEMON"
        wait_for 10 gone "$DAEMON"
        for who in 1 2 3; do
            status=0
            wait "${pids[who - 1]}" || status=$?
            [ "$status" = 3 ] || fail "round $round: client $who ended with $status: $(tail -n 5 "$T/work-$who") (seed $SEED)"
        done
        [ -z "$flusher" ] || wait "$flusher" || true # it fails when the daemon is gone: that ends it
        kill_daemon
        if [ ${#limits[@]} -gt 0 ]; then
            # Somebody else sees the bucket, and no more.
            mount_at "$T/other" "$T/other-state" "$URL" -o ro
            [ "$(status_of snapshot "$T/other")" = "$flushed" ] || fail "round $round: the bucket has another snapshot"
            for who in 1 2 3; do
                crash check "$T/other/files/r$round-$who" "$T/log-$round-$who" "${limits[who - 1]}" >"$T/check" ||
                    fail "round $round, client $who, from the bucket alone: $(cat "$T/check") (seed $SEED)"
            done
            umount_bh "$T/other"
            rm -rf "$T/other-state"
        fi
        files_mount
    fi
    for who in 1 2 3; do
        crash check "$FILES/r$round-$who" "$T/log-$round-$who" >"$T/check" ||
            fail "round $round, client $who: $(cat "$T/check") (seed $SEED)"
        steps=$((steps + $(tail -n 1 "$T/check")))
    done
    # What a round left is still there in the next one, and goes then.
    if [ $round -gt 1 ]; then
        for who in 1 2 3; do
            crash check "$FILES/r$((round - 1))-$who" "$T/log-$((round - 1))-$who" >"$T/check" ||
                fail "round $round: what was right after round $((round - 1)) is not any more: $(cat "$T/check") (seed $SEED)"
        done
        rm -rf "$FILES/r$((round - 1))"-* "$T/log-$((round - 1))"-*
    fi
done
[ $steps -ge $((rounds * 30)) ] || fail "hardly anything was done: this shows nothing"
echo "$rounds rounds, $steps calls"

# At last: everything is flushed, the machine is lost.
files_flush
listing "$FILES" >"$T/before"
sums "$FILES" >"$T/before.sums"
[ -s "$T/before.sums" ] || fail "there is nothing"
if [ -z "$OTHER" ]; then
    kill_daemon
    drop_state
    files_mount -o snapshot.steal=true
fi
listing "$FILES" >"$T/after"
sums "$FILES" >"$T/after.sums"
diff "$T/before" "$T/after" >"$T/diff" || fail "names from the bucket alone: $(head -n 5 "$T/diff") (seed $SEED)"
diff "$T/before.sums" "$T/after.sums" >"$T/diff" || fail "contents from the bucket alone: $(head -n 5 "$T/diff") (seed $SEED)"
files_umount
