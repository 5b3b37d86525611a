#!/usr/bin/env bash
# In write-ahead mode a client dies between its commit frame and SQLite's index, and a flush has taken what it wrote: to the
# other clients that transaction never was. Whatever comes after it, the next snapshot has the database as the clients see
# it, and not pages of that one: also if the daemon is killed between, or the pages were only in the bucket.
# level: quick
. "$(dirname "${BASH_SOURCE[0]}")/../load.sh" || exit 1

live_journal wal
mount_bh -o snapshot.interval=0
sql 'PRAGMA journal_mode=WAL' >/dev/null

# half_commit SQL: and a flush while its frames are there.
half_commit() {
    start halfcommit "$DB" "$1"
    wait_for 10 grep -q written "${output[$PID]}"
    touch "$CTL/force_flush"
    kill -KILL "$PID"
    reap 137 "$PID"
}

# must_be_in_bucket DIGEST WHAT: what a new machine finds is what the clients saw.
must_be_in_bucket() {
    umount_bh
    drop_state
    mount_bh -o snapshot.interval=0
    integrity
    assert_eq "$(digest)" "$1" "$2: the content in the bucket"
}

sql "CREATE TABLE t(n INTEGER PRIMARY KEY, x);
     WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 400)
     INSERT INTO t SELECT n, hex(randomblob(800)) FROM i;
     CREATE TABLE other(x)"
touch "$CTL/flush"

for how in write checkpoint kill kill-write absent; do
    if [ $how = absent ]; then # nothing of the database is here but what is read
        umount_bh
        drop_state
        mount_bh -o snapshot.interval=0
    fi
    session holder # the index is in use all the time, and no checkpoint is made that nobody asks for
    ask holder 'PRAGMA wal_autocheckpoint=0; SELECT 1 FROM t LIMIT 1' >/dev/null
    half_commit "UPDATE t SET x = 'half $how' WHERE n % 7 = 0; DELETE FROM t WHERE n > 390;
                 INSERT OR REPLACE INTO t SELECT n + 1000, hex(randomblob(900)) FROM t WHERE n < 100"
    case $how in
    kill*)
        # The index goes with the daemon: by SQLite's rules the transaction is committed now.
        kill_daemon
        kill_session holder
        mount_bh -o snapshot.interval=0
        [ $how = kill ] || sql "INSERT INTO other VALUES('$how')"
        ;;
    *)
        assert_eq "$(sql "SELECT count(*) FROM t WHERE x = 'half $how'")" 0 "$how: rows that were never committed"
        sql "INSERT INTO other VALUES('$how')"
        [ $how != checkpoint ] || sql 'PRAGMA wal_checkpoint(TRUNCATE)' >/dev/null
        touch "$CTL/flush"
        leave holder
        ;;
    esac
    must_be_in_bucket "$(digest)" $how
done
umount_bh
