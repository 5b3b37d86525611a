#!/usr/bin/env bash
# A client killed in the middle of a transaction leaves changed pages in the database and a hot journal beside it.
# Whoever comes next rolls it back: another client, the daemon's reads and writes, a flush, the next mount.
# level: full
# time: 240
# buckets: file ceph
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
            [ -s "$DB-journal" ] || fail "$mode: there is no hot journal: this shows nothing"
            next_is "$opener"
            assert_eq "$(sql 'SELECT count(*) FROM big WHERE tag <> 0')" 0 "$mode $grow $opener: rows of the lost transaction"
            assert_eq "$(digest)" "$content" "$mode $grow $opener: the content"
            assert_eq "$(door query 'SELECT count(*) FROM big')" 2000 "$mode $grow $opener: the daemon's count"
            assert_eq "$(stat -c %s "$DB")" "$size" "$mode $grow $opener: the size"
            integrity
        done
    done
done

# Others that wait for the lock of the one that dies go on, over its hot journal.
start midkill "$DB"
victim=$PID
wait_for 20 grep -q spilled "${output[$PID]}"
start counter -n 20 "$DB"
counters=("$PID")
start counter -n 20 -j PERSIST "$DB"
counters+=("$PID")
sleep 0.3
kill -KILL "$victim"
reap 137 "$victim"
reap 0 "${counters[@]}"
assert_eq "$(sql 'SELECT n FROM c')" 40 'the sum of those that waited'
assert_eq "$(sql 'SELECT count(*) FROM big WHERE tag <> 0')" 0 'rows of the lost transaction'
integrity
umount_bh
