#!/usr/bin/env bash
# live.cache_max: of a database several times as large, read and written by several clients in rollback mode and in WAL with
# flushes beside them, no more stays here than that and what is not flushed; through kill -9 and new mounts no content is
# wrong and no commit is lost. What cannot be done is said.
# level: full
# time: 240
# buckets: file ceph
# level@ceph: long
. "${BASH_SOURCE%/*}/../lib.sh"

load() { python3 "$SRC/tests/helpers/cache-load.py" "$@"; }
MAX=$((8 << 20))
# Content that is under way, what the next step of the thread takes, and what became clean by a flush a moment ago.
SLACK=$((12 << 20))
options=(-o snapshot.interval=0 -o snapshot.plain=never -o live.cache_max=8MiB)

mount_bh -o snapshot.interval=0 -o snapshot.plain=never
load make "$T/made.db" 20000
"$BHFS" import "$T/made.db" "$MNT"
rm "$T/made.db"
flush
umount_bh
drop_state

small() { [ "$(metric bhfs_cache_bytes)" -le $MAX ]; }
fits() { [ "$(used)" -le $((MAX + $(metric bhfs_dirty_bytes) + (1 << 20))) ]; }
used() { du -k "$STATE"/db.* | awk '{ n += $1 } END { print n * 1024 }'; }

# round JOURNAL-MODE SECONDS: clients, flushes, and a look at the disk now and then, then kill -9 in the middle of it.
round() {
    local mode=$1 end most=0 dirty before now id clients=()
    mount_bh "${options[@]}"
    assert_eq "$(sql "PRAGMA journal_mode=$mode")" "$mode"
    for id in 0 1 2 3; do
        local pragmas=(cache_size=-500)
        [ $id -ne 2 ] || pragmas+=(mmap_size=100000000)
        [ $id -ne 3 ] || pragmas+=(wal_autocheckpoint=50)
        load run "$DB" $id 4 "$T/log.$id" "${pragmas[@]}" 2>>"$T/errors.$id" &
        clients+=($!)
    done
    end=$(($(now_ms) + $2 * 1000))
    while [ "$(now_ms)" -lt $end ]; do
        before=$(metric bhfs_dirty_bytes)
        flush
        for _ in 1 2 3 4; do
            sleep 0.2
            dirty=$(metric bhfs_dirty_bytes)
            now=$(($(used) - (dirty > before ? dirty : before)))
            most=$((now > most ? now : most))
            before=$dirty
        done
    done
    assert_between "$(metric bhfs_evicted_bytes_total)" $((8 << 20)) $((100 << 30)) "bytes that were evicted in $mode"
    assert_between $most 1 $((MAX + SLACK)) "bytes on the disk beyond what was dirty, in $mode"
    echo "$mode: $(metric bhfs_evicted_bytes_total) bytes evicted, at most $most on the disk beyond what was dirty"
    kill_daemon
    for id in 0 1 2 3; do
        local status=0
        wait "${clients[id]}" || status=$?
        [ $status = 4 ] || [ "$mode$status" = wal135 ] || # SIGBUS: its page of the mapped -shm was not in memory
            fail "client $id ended with $status, not as its daemon was gone: $(tail -n 1 "$T/errors.$id")"
    done
    mount_bh "${options[@]}"
    load check "$DB" "$T"/log.?
    integrity
    wait_for 20 small
    wait_for 5 fits
    flush
    umount_bh
}
round wal 12
round delete 12

# What it says of itself, and what does not fit.
mount_bh "${options[@]}"
assert_eq "$(status_of cache_max) $(metric bhfs_cache_max_bytes)" "$MAX $MAX" "the bound"
assert_between "$(status_of cache_bytes)" 1 $MAX "bytes that are here, in status"
must_fail touch "$CTL/hydrate"
assert_match "$(last_status)" "live.cache_max is $MAX bytes" "why not all can be fetched"

# Raised while mounted, the same is possible.
printf '[snapshot]\ninterval = 0\n[live]\ncache_max = 0\n' >"$BUCKETHEAD_CONFIG"
umount_bh
mount_bh -o snapshot.plain=never
touch "$CTL/hydrate"
assert_eq "$(metric bhfs_absent_bytes)" 0 "bytes that are not here after hydrate"
assert_between "$(used)" $((55 << 20)) $((200 << 20)) "bytes on the disk after hydrate"
printf '[snapshot]\ninterval = 0\n[live]\ncache_max = 8MiB\n' >"$BUCKETHEAD_CONFIG"
kill -HUP "$DAEMON"
wait_for 20 small
wait_for 5 fits
load check "$DB" "$T"/log.?
integrity
umount_bh
drop_state

# A file system whose files cannot have holes made in them: said once, and all is as without a bound.
if mkdir "$T/ramfs" && mount -t ramfs ramfs "$T/ramfs" 2>/dev/null; then
    mount_at "$MNT" "$T/ramfs/state" "$URL" "${options[@]}"
    load check "$DB" "$T"/log.?
    assert_eq "$(grep -c 'live.cache_max is not kept' "$T/daemon.log")" 1 "how often the log says that there is no bound"
    assert_eq "$(metric bhfs_evicted_bytes_total) $(metric bhfs_absent_bytes)" "0 0" "bytes evicted, and absent"
    umount_bh
    umount "$T/ramfs"
fi

# From the bucket alone.
mount_bh "${options[@]}"
load check "$DB" "$T"/log.?
integrity
umount_bh
