#!/usr/bin/env bash
# When nothing was written since the last flush, a flush asks the bucket nothing at all; when the same content was written
# again, it is not uploaded again.
# level: quick
# time: 60
# buckets: file ceph
. "${BASH_SOURCE%/*}/../lib.sh"

# quiet COMMAND...: makes no request to the bucket
quiet() {
    local before
    before=$(metric bhfs_bucket_requests_total)
    "$@"
    assert_eq "$(metric bhfs_bucket_requests_total)" "$before" "bucket requests after: $*"
}

mount_bh
sql 'CREATE TABLE t(i PRIMARY KEY, v); INSERT INTO t VALUES(1, 1)'
flush
unchanged=$(metric 'bhfs_flushes_total{result="unchanged"}')
stamp=$(bucket_stamp "$SNAP")
quiet flush
quiet flush
quiet sh -c "echo >'$CTL/force_flush'"
quiet "$BHFS" flush "$MNT"
assert_eq "$(($(metric 'bhfs_flushes_total{result="unchanged"}') - unchanged))" 4 "flushes with nothing to do"
assert_eq "$(last_status)" ok

# Reading, and transactions that come to nothing, are no writes.
sql 'SELECT count(*) FROM t' >/dev/null
sql 'BEGIN IMMEDIATE; ROLLBACK'
sql "BEGIN; UPDATE t SET v = 2; ROLLBACK"
cat "$DB" >/dev/null
quiet flush

# Content that is what it was: SQLite counts the transaction in the header, no more; no second upload of that.
sql 'UPDATE t SET v = 1 WHERE i = 1'
flush
assert_eq "$(snapshot_value 'SELECT v FROM t')" 1
quiet flush
assert_eq "$(metric 'bhfs_flushes_total{result="failed"}')" 0 "failed flushes"

# The debounce: with min_interval a second flush right after the first waits for its turn; force_flush does not.
stamp=$(bucket_stamp "$SNAP")
umount_bh
assert_eq "$(bucket_stamp "$SNAP")" "$stamp" "the snapshot after an unmount with nothing to flush"
mount_bh -o snapshot.min_interval=1h
sql 'INSERT INTO t VALUES(2, 2)'
flush
sql 'INSERT INTO t VALUES(3, 3)'
quiet flush
assert_eq "$(metric 'bhfs_flushes_total{result="debounced"}')" 1 "debounced flushes"
assert_eq "$(snapshot_value 'SELECT count(*) FROM t')" 2 "rows in the bucket after a debounced flush"
assert_eq "$(status_of unflushed)" yes
touch "$CTL/force_flush"
assert_eq "$(snapshot_value 'SELECT count(*) FROM t')" 3 "rows in the bucket after force_flush"
umount_bh
