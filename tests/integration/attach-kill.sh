#!/usr/bin/env bash
# A transaction over two databases, live.db and one elsewhere, is in both or in neither, at whatever point its client is
# killed: before the first change to the disk, before the second, and so on until it commits. Recovery is, by turns,
# the daemon's, a client's, and the next daemon's after kill -9 of the one before (super-journals).
# level: full
# time: 420
# buckets: file ceph
# level@ceph: long
. "$(dirname "${BASH_SOURCE[0]}")/../load.sh" || exit 1

OTHER=$T/other.db
read -r -a modes <<<"${BH_MODES:-DELETE PERSIST${BHFS_LONG:+ TRUNCATE}}"
live_journal delete
mount_bh -o snapshot.interval=0
helper attachkill -C "$DB"
helper attachkill -C "$OTHER"

live_by_client() { sql 'SELECT n FROM pair'; }
live_by_daemon() { door query 'SELECT n FROM pair'; }
other() { sql 'SELECT n FROM pair' "$OTHER"; }

# recover NUMBER: whoever's turn it is looks at both databases; sets live and elsewhere.
recover() {
    case $(($1 % 6)) in
    0 | 3) live=$(live_by_client) elsewhere=$(other) ;;
    1 | 4) live=$(live_by_daemon) elsewhere=$(other) ;;
    2) elsewhere=$(other) live=$(live_by_daemon) ;;
    5)
        kill_daemon
        mount_bh -o snapshot.interval=0
        live=$(live_by_daemon) elsewhere=$(other)
        ;;
    esac
}

rounds=0
for mode in "${modes[@]}"; do
    for first in live other; do
        if [ "$first" = live ]; then pair=("$DB" "$OTHER"); else pair=("$OTHER" "$DB"); fi
        for ((point = 1; point < 200; point++)); do
            before=$(other)
            options=(-k "$point" -j "$mode")
            [ $((point % 2)) = 0 ] || options+=(-h)
            attempt helper attachkill "${options[@]}" "${pair[@]}"
            case "$STATUS" in
            0) break ;;
            137) ;;
            *) fail "$mode, main is $first, point $point: status $STATUS: $OUT" ;;
            esac
            recover "$rounds"
            [ "$live" = "$elsewhere" ] ||
                fail "$mode, main is $first, $OUT: live.db has $live, the other $elsewhere; turn $((rounds % 6))"
            [ "$live" = "$before" ] || [ "$live" = $((before + 1)) ] || fail "$mode, $OUT: $live after $before"
            assert_eq "$(live_by_client)" "$live" "$mode, main is $first, $OUT: a client's view"
            assert_eq "$(live_by_daemon)" "$live" "$mode, main is $first, $OUT: the daemon's view"
            rounds=$((rounds + 1))
        done
        assert_between "$point" 15 199 "$mode: number of points"
        integrity
        integrity "$OTHER"
        echo "$mode, main is $first: killed at $((point - 1)) points"
    done
done

# The transaction that gets through is in both.
before=$(other)
helper attachkill "$DB" "$OTHER" >/dev/null
assert_eq "$(live_by_daemon) $(other)" "$((before + 1)) $((before + 1))" 'both databases after a commit'
umount_bh
assert_eq "$(snapshot_value 'SELECT n FROM pair')" $((before + 1)) 'the snapshot'
