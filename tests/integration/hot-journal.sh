#!/usr/bin/env bash
# A client killed in the middle of a transaction leaves changed pages in the database and a hot journal beside it. The
# daemon rolls it back before anybody else gets in: another client (also one with journal_mode=OFF, which does not look
# at journals), the daemon's own reads and writes, a flush, the next mount.
# level: full
# time: 240
# buckets: file ceph
# level@ceph: long
. "$(dirname "${BASH_SOURCE[0]}")/../load.sh" || exit 1

live_journal delete
mount_bh -o snapshot.interval=0
helper counter -C "$DB"
helper midkill -C "$DB"
content=$(digest)
size=$(stat -c %s "$DB")

# kill_client OPTION...: a client that has written pages is killed.
kill_client() {
    start midkill "$@" "$DB"
    wait_for 20 grep -q spilled "${output[$PID]}"
    kill -KILL "$PID"
    reap 137 "$PID"
}

# next_is OPENER: the first to look at the database after that.
next_is() {
    case "$1" in
    client) assert_eq "$(sql 'SELECT count(*) FROM big WHERE tag <> 0')" 0 "rows of the lost transaction" ;;
    daemon-reads) assert_eq "$(door query 'SELECT count(*) FROM big WHERE tag <> 0')" 0 "rows of the lost transaction" ;;
    daemon-writes) door run 1 'UPDATE big SET tag = 0 WHERE id = 1' >/dev/null ;;
    flush)
        touch "$CTL/force_flush" || fail "flush: $(last_status)"
        assert_eq "$(snapshot_value 'PRAGMA integrity_check')" ok "integrity_check of the snapshot"
        assert_eq "$(snapshot_value 'SELECT count(*) FROM big WHERE tag <> 0')" 0 "rows of the lost transaction in the bucket"
        assert_eq "$(digest "$(snap_file)")" "$content" "the content of the snapshot"
        ;;
    remount)
        kill_daemon
        mount_bh -o snapshot.interval=0
        ;;
    umount)
        umount_bh
        assert_eq "$(digest "$(snap_file)")" "$content" "the content of the last snapshot"
        mount_bh -o snapshot.interval=0
        ;;
    esac
}

for mode in DELETE TRUNCATE PERSIST; do
    for grow in '' -g; do
        for opener in client daemon-reads daemon-writes flush remount umount; do
            kill_client -j "$mode" ${grow:+"$grow"}
            next_is "$opener"
            assert_eq "$(sql 'SELECT count(*) FROM big WHERE tag <> 0')" 0 "$mode $grow $opener: rows of the lost transaction"
            assert_eq "$(digest)" "$content" "$mode $grow $opener: the content"
            assert_eq "$(door query 'SELECT count(*) FROM big')" 2000 "$mode $grow $opener: the daemon's count"
            assert_eq "$(stat -c %s "$DB")" "$size" "$mode $grow $opener: the size"
            integrity
        done
    done
done

rolled_back=$(grep -c 'died in mid-commit: its transaction was rolled back' "$T/daemon.log" || true)
echo "the daemon rolled back $rolled_back times"
[ "$rolled_back" -ge 20 ] || fail 'there were hardly any hot journals: this shows little'

# Others that wait for the lock of the one that dies go on, when its transaction is rolled back.
increments=0
for round in {1..6}; do
    start midkill -j PERSIST "$DB"
    victim=$PID
    wait_for 20 grep -q spilled "${output[$PID]}"
    counters=()
    for mode in DELETE PERSIST OFF OFF MEMORY; do
        start counter -n 20 -j $mode "$DB"
        counters+=("$PID")
    done
    increments=$((increments + 100))
    sleep 0.3
    kill -KILL "$victim"
    reap 137 "$victim"
    reap 0 "${counters[@]}"
    assert_eq "$(sql 'SELECT n FROM c')" $increments "round $round: the sum of those that waited"
    assert_eq "$(sql 'SELECT count(*) FROM big WHERE tag <> 0')" 0 "round $round: rows of the lost transaction"
    integrity
done
umount_bh
