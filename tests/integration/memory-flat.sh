#!/usr/bin/env bash
# The daemon's memory does not grow with the database (10 MB against 1 GB, written, scanned, flushed, restored) nor over
# many flushes (300; 10,000 in --long).
# level: full
# time: 900
# buckets: file ceph
# level@ceph: long
# serial
# plain: a sanitizer's own memory is all one would see
. "$(dirname "${BASH_SOURCE[0]}")/../load.sh" || exit 1

flushes=${BH_FLUSHES:-${BHFS_LONG:+10000}}
flushes=${flushes:-300}
small=10 large=${BH_MEGABYTES:-${BHFS_LONG:+1024}}
large=${large:-400}
bound=8192 # KiB
free=$(($(stat -f -c '%a * %S' "$T") / 1048576))
[ "$free" -gt $((large * 6)) ] || skip "needs $((large * 6)) MB of disk below $T, has $free"

# resident: KiB of the daemon's own memory and of what it maps.
resident() {
    sed -n 's/^VmRSS:[[:space:]]*\([0-9]*\) kB/\1/p' "/proc/$DAEMON/status"
}

# use MEGABYTES: fill, scan, change, flush, and what a fresh mount does with it. Sets used and restored.
use() {
    mount_bh -o snapshot.interval=0
    helper txnbench -C -m "$1" "$DB"
    flush
    helper txnbench -t scan -n 2 -r 1 -w 0 "mount=$DB"
    helper txnbench -t DELETE -n 200 -r 1 "mount=$DB"
    sql 'UPDATE big SET x = zeroblob(990) WHERE id % 5 = 0'
    flush
    used=$(resident)
    umount_bh
    drop_state
    mount_bh -o snapshot.interval=0
    helper txnbench -t scan -n 1 -r 1 -w 0 "mount=$DB"
    restored=$(resident)
    umount_bh
    drop_state
    bucket_empty
}

live_journal delete
use $small
small_used=$used small_restored=$restored
use "$large"
echo "resident KiB: $small MB: $small_used, restored $small_restored; $large MB: $used, restored $restored"
[ "$used" -le $((small_used + bound)) ] || fail "grows with the database: $small_used KiB, then $used KiB"
[ "$restored" -le $((small_restored + bound)) ] ||
    fail "grows with the database: after a restore $small_restored KiB, then $restored KiB"

mount_bh -o snapshot.interval=0
helper counter -C "$DB"
many_flushes() {
    local i
    for ((i = 0; i < $1; i++)); do
        door run 1 'UPDATE c SET n = n + 1' >/dev/null
        : >"$CTL/force_flush" || fail "flush $i: $(last_status)"
    done
}
many_flushes 400 # whatever is made once is there by now, and the cache of the history's nodes is full
warm=$(resident) log=$(stat -c %s "$CTL/log")
uploaded=$(metric 'bhfs_flushes_total{result="uploaded"}')
many_flushes "$flushes"
# The log's copy in memory is bounded (1 MiB), not full yet, and no part of this.
late=$(($(resident) - ($(stat -c %s "$CTL/log") - log) / 1024))
echo "resident KiB: after 400 flushes $warm, after $flushes more $late (without the log)"
assert_eq $(($(metric 'bhfs_flushes_total{result="uploaded"}') - uploaded)) "$flushes" 'flushes that uploaded'
[ "$late" -le $((warm + 1536)) ] || fail "grows over $flushes flushes: $warm KiB, then $late KiB"
umount_bh
