#!/usr/bin/env bash
# With its journal in memory, or with none, a client that dies in the middle of a transaction takes the old content
# with it: the database would be ruined. The daemon keeps it and puts it back, after its own death too.
# level: full
# time: 180
# buckets: file ceph
# level@ceph: long
. "$(dirname "${BASH_SOURCE[0]}")/../load.sh" || exit 1

live_journal delete
mount_bh -o snapshot.interval=0
helper counter -C "$DB"
helper midkill -C "$DB"
content=$(digest)
size=$(stat -c %s "$DB")

spill() { # OPTION...: sets PID
    start midkill "$@" "$DB"
    wait_for 20 grep -q spilled "${output[$PID]}"
}

same() { # WHAT
    assert_eq "$(sql 'PRAGMA integrity_check')" ok "$1: integrity_check"
    assert_eq "$(digest)" "$content" "$1: the content"
    assert_eq "$(stat -c %s "$DB")" "$size" "$1: the size"
    assert_eq "$(door query 'SELECT count(*) FROM big WHERE tag <> 0')" 0 "$1: what the daemon sees"
}

for mode in MEMORY OFF; do
    for grow in '' -g; do
        what="$mode${grow:+, growing}"
        undone=$(metric bhfs_undone_total)

        spill -j "$mode" ${grow:+"$grow"}
        kill -KILL "$PID"
        reap 137 "$PID"
        same "$what, client killed"
        [ "$(metric bhfs_undone_total)" -gt "$undone" ] || fail "$what: bhfs_undone_total did not rise"

        spill -j "$mode" ${grow:+"$grow"}
        kill -KILL "$PID"
        reap 137 "$PID"
        assert_eq "$(door query 'SELECT count(*) FROM big WHERE tag <> 0')" 0 "$what: the daemon looks first"
        same "$what, the daemon looks first"

        spill -j "$mode" ${grow:+"$grow"}
        kill -KILL "$PID"
        reap 137 "$PID"
        touch "$CTL/force_flush" || fail "$what: flush: $(last_status)"
        assert_eq "$(digest "$(snap_file)")" "$content" "$what: the snapshot"

        spill -j "$mode" ${grow:+"$grow"}
        kill -KILL "$PID"
        kill_daemon
        reap 137 "$PID"
        mount_bh -o snapshot.interval=0
        same "$what, client and daemon killed"

        spill -j "$mode" ${grow:+"$grow"}
        kill_daemon
        kill -KILL "$PID"
        reap 137 "$PID"
        mount_bh -o snapshot.interval=0
        same "$what, daemon killed under the client"

        # Those who wait for the one that dies go on from the old content.
        spill -j "$mode" ${grow:+"$grow"}
        victim=$PID
        before=$(snapshot_value 'SELECT n FROM c')
        start counter -n 10 -j "$mode" "$DB"
        waiting=$PID
        sleep 0.2
        kill -KILL "$victim"
        reap 137 "$victim"
        reap 0 "$waiting"
        assert_eq "$(sql 'SELECT n FROM c')" $((before + 10)) "$what: the count of the one that waited"
        sql "UPDATE c SET n = $before"
        same "$what, somebody waiting"
    done

    # What was committed stays, whatever becomes of its client afterwards.
    helper midkill -c -t 7 -j "$mode" "$DB" >/dev/null
    assert_eq "$(sql 'SELECT count(*) FROM big WHERE tag = 7')" 2000 "$mode: what was committed"
    kill_daemon
    mount_bh -o snapshot.interval=0
    assert_eq "$(sql 'SELECT count(*) FROM big WHERE tag = 7')" 2000 "$mode: what was committed, after kill -9 of the daemon"
    integrity
    sql 'UPDATE big SET tag = 0'
    sql 'VACUUM'
    content=$(digest)
    size=$(stat -c %s "$DB")
    flush
done
umount_bh
