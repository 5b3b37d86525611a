#!/usr/bin/env bash
# An idle mount keeps its branch: it renews its lease in time whether the flush loop wakes more often than that or never, and
# another writer is refused long after the first lease would have ended.
# level: full
# waits
# time: 90
# buckets: file ceph
. "${BASH_SOURCE%/*}/../lib.sh"

mkdir "$T/other"
for interval in 1s 0; do
    mount_bh -o snapshot.lease=6s -o snapshot.interval="$interval"
    sql 'CREATE TABLE IF NOT EXISTS t(i)'
    flush
    sleep 10
    must_fail "$BHFS" -o live.dir="$T/other-state" "$URL" "$T/other"
    assert_match "$OUT" 'branch main is being written by' "a second writer after 10 s, with an interval of $interval"
    assert_match "$(status_of lease)" '^held until' "lease, in status"
    umount_bh
done
