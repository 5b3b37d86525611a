#!/usr/bin/env bash
# A person's evening: a large CSV file imported through the mount, indexed, queried, flushed; the machine is lost; another
# one mounts the bucket and finds it byte for byte. 60 MB of text; 600 MB in --long.
# level: full
# time: 300
# buckets: file ceph
. "$(dirname "${BASH_SOURCE[0]}")/../load.sh" || exit 1

megabytes=${BH_MEGABYTES:-${BHFS_LONG:+600}}
megabytes=${megabytes:-60}
free=$(($(stat -f -c '%a * %S' "$T") / 1048576))
[ "$free" -gt $((megabytes * 8)) ] || skip "needs $((megabytes * 8)) MB of disk below $T, has $free"

helper textgen $((megabytes * 1000000)) 42 >"$T/text.csv"
lines=$(wc -l <"$T/text.csv")
mount_bh -o snapshot.interval=0
began=$(now_ms)
sqlite3 -batch -bail -cmd '.timeout 10000' "$DB" \
    'CREATE TABLE texts(id INTEGER PRIMARY KEY, day INTEGER, author TEXT, title TEXT, body TEXT)' \
    '.mode csv' ".import '$T/text.csv' texts"
sql 'CREATE INDEX by_author ON texts(author, day)'
echo "imported and indexed $megabytes MB in $(($(now_ms) - began)) ms"
rm -f "$T/text.csv"

aggregates() {
    sql "SELECT count(*), sum(id), sum(day), sum(length(body)), min(title), max(author) FROM texts;
         SELECT day, count(*) FROM texts GROUP BY day ORDER BY 2 DESC, 1 LIMIT 3;
         SELECT count(*) FROM texts WHERE author = 'the of';
         SELECT count(*) FROM texts WHERE body LIKE '%whale%lantern%'" "$1"
}

before=$(aggregates "$DB")
content=$(digest)
assert_eq "${before%%|*}" "$lines" 'rows'
# A client changes some of it by hand.
sql "DELETE FROM texts WHERE id % 97 = 0; UPDATE texts SET title = upper(title) WHERE day = 19100"
changed=$(digest)
[ "$changed" != "$content" ] || fail 'the changes changed nothing'
before=$(aggregates "$DB")
began=$(now_ms)
flush
echo "flushed in $(($(now_ms) - began)) ms"
assert_eq "$(digest "$(snap_file)")" "$changed" 'the content of the snapshot'
umount_bh

drop_state
began=$(now_ms)
mount_bh -o snapshot.interval=0
echo "mounted elsewhere in $(($(now_ms) - began)) ms"
assert_eq "$(aggregates "$DB")" "$before" 'the answers after the restore'
assert_eq "$(digest)" "$changed" 'the content after the restore'
integrity
umount_bh
