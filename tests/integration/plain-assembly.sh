#!/usr/bin/env bash
# The plain snapshot of a database of which a few rows have changed is assembled in the bucket where the store can copy parts on
# condition that the source is unchanged: only the changed parts are sent, and a mount that has hardly anything fetches only
# what it needs for those. Where the store cannot, the whole is sent. Either way KEY is what any SQLite opens, KEY.prev the one
# before, and both are what the history has.
# level: full
# time: 240
# time@swift: 400
# buckets: file ceph swift
. "${BASH_SOURCE%/*}/../lib.sh"

MB=1048576
rows=15000 # of about 4 KB: 60 MB
bytes() { metric "bhfs_bucket_bytes_total{direction=\"$1\"}"; }
copies() { metric 'bhfs_bucket_requests_total{op="copy"}'; }

# key_is_right: KEY opens, is whole, and is byte for byte the newest snapshot of the history
key_is_right() {
    local file
    file=$(snap_file)
    assert_eq "$(sqlite3 -batch "file:$file?immutable=1" 'PRAGMA integrity_check')" ok 'integrity_check of KEY'
    rm -f "$T/exported.db"
    "$BHFS" export "$URL" "$(status_of snapshot)" "$T/exported.db" >/dev/null
    cmp "$file" "$T/exported.db" || fail 'KEY is not what the history has'
}

# change ID: ten rows that are side by side, and a flush; sets UP, DOWN and COPIES, what that cost
change() {
    local before
    sql "UPDATE t SET n = n + 1 WHERE id BETWEEN $1 AND $1 + 9"
    before="$(bytes up) $(bytes down) $(copies)"
    flush
    read -r UP DOWN COPIES <<<"$before"
    UP=$(($(bytes up) - UP)) DOWN=$(($(bytes down) - DOWN)) COPIES=$(($(copies) - COPIES))
    echo "$ON, $size bytes: $UP bytes sent, $DOWN fetched, $COPIES copies"
}

# all_of_it LOCAL LAZY: whether the store is to assemble for a mount that has all, and for one that has next to nothing
all_of_it() {
    local size before
    mount_bh
    sql "CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER DEFAULT 0, x BLOB);
         WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < $rows) INSERT INTO t(x) SELECT randomblob(3900) FROM s;
         PRAGMA wal_checkpoint(TRUNCATE)" >/dev/null
    flush
    key_is_right
    size=$(stat -c %s "$(snap_file)")
    assert_between "$size" $((58 * MB)) $((64 * MB)) 'bytes of KEY'
    cp "$(snap_file)" "$T/first.db"

    change $((rows / 2))
    if [ "$1" = yes ]; then
        assert_between "$UP" $((10 * MB)) $((16 * MB)) 'bytes sent' # the first part, and one or two with the rows
        [ "$ON" = file ] || assert_between "$COPIES" 10 12 'parts copied, and KEY.prev'
    else
        assert_between "$UP" "$size" $((size + MB)) 'bytes sent'
        [ "$ON" = file ] || assert_between "$COPIES" 1 1 copies
    fi
    key_is_right
    cmp "$(snap_file "$SNAP.prev")" "$T/first.db" || fail 'KEY.prev is not the one before'
    umount_bh
    drop_state

    mount_bh
    change 10
    if [ "$2" = yes ]; then
        assert_between "$UP" $((5 * MB)) $((11 * MB)) 'bytes that a lazy mount sent'
        assert_between "$DOWN" $((4 * MB)) $((12 * MB)) 'bytes that it fetched'
    else
        assert_between "$UP" "$size" $((size + MB)) 'bytes that a lazy mount sent'
        assert_between "$DOWN" "$size" $((3 * size)) 'bytes that it fetched'
    fi
    key_is_right
    assert_eq "$(snapshot_value "SELECT sum(n), count(*), sum(length(x)) FROM t")" "20|$rows|$((rows * 3900))" 'the content of KEY'
    assert_eq "$(snapshot_value "SELECT sum(n) FROM t" "$SNAP.prev")" 10 'the content of KEY.prev'
    echo full >"$CTL/verify" || fail "verify: $(last_status)"
    # With every policy: here the whole is written when the mount ends.
    umount_bh
    mount_bh -o snapshot.plain=on_stop
    sql "UPDATE t SET n = n + 1 WHERE id = $rows"
    flush
    assert_eq "$(snapshot_value "SELECT sum(n) FROM t")" 20 'KEY before the end'
    umount_bh
    assert_eq "$(snapshot_value "SELECT sum(n) FROM t")" 21 'KEY after the end'
    integrity "$(snap_file)"
}

case "$ON" in
file) all_of_it no yes ;; # parts would be written twice in a directory: only worth it instead of fetching
*) all_of_it no no ;;
esac
[ "$ON" = file ] || exit 0

# --- a store that can all of it --------------------------------------------------------------------------------

bad_server
drop_state
all_of_it yes yes
