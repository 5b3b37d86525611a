#!/usr/bin/env bash
# What the history asks of the bucket does not depend on the database's size: a flush of one changed row is three PUTs of a few
# blocks and nothing else, an idle one is nothing, a fork, a restore and a switch a handful; a fresh mount fetches a block or
# two, a query what it reads.
# level: quick
# time: 120
# buckets: file ceph
. "${BASH_SOURCE%/*}/../lib.sh"

all() { awk '/^bhfs_bucket_requests_total/ { n += $2 } END { print n }' "$CTL/metrics"; }
of() { metric "bhfs_bucket_requests_total{op=\"$1\"}"; }
bytes() { metric "bhfs_bucket_bytes_total{direction=\"$1\"}"; }
options=(-o snapshot.interval=0 -o snapshot.plain=never)

mount_bh "${options[@]}"
sql "CREATE TABLE big(id INTEGER PRIMARY KEY, n INTEGER, x BLOB);
     WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 20000) INSERT INTO big SELECT i, 0, randomblob(950) FROM s"
flush
assert_between "$(stat -c %s "$DB")" 19000000 40000000 "bytes of the database"

sql 'PRAGMA wal_checkpoint(TRUNCATE)' >/dev/null
for i in 1 2 3; do
    sql "UPDATE big SET n = n + 1 WHERE id = $((i * 5000))"
    puts=$(of put) requests=$(all) up=$(bytes up)
    flush
    assert_eq "$(($(of put) - puts)) $(($(all) - requests))" '3 3' "PUTs and requests of a flush of one row"
    assert_between $(($(bytes up) - up)) 1000 100000 "bytes of a flush of one row"
done
requests=$(all)
flush
touch "$CTL/force_flush"
assert_eq "$(all)" "$requests" "requests after idle flushes"

requests=$(all)
mkdir "$MNT/branches/side"
assert_between $(($(all) - requests)) 1 8 "requests of a fork" # two, and those of the kernel looking the name up
requests=$(all) up=$(bytes up)
echo prev >"$CTL/restore"
assert_between $(($(all) - requests)) 1 11 "requests of a restore" # three for its pin
assert_between $(($(bytes up) - up)) 100 20000 "bytes of a restore"
requests=$(all)
echo side >"$CTL/branch"
assert_between $(($(all) - requests)) 1 12 "requests of a switch"
newest=$(status_of snapshot)
flush
assert_eq "$(status_of snapshot)" "$newest" "the newest snapshot after a switch and a flush"
assert_eq "$(sql 'SELECT sum(n) FROM big')" 3 "the other branch"
umount_bh
drop_state

mount_bh "${options[@]}"
assert_between "$(bytes down)" 1000 150000 "bytes that a fresh mount fetches"
down=$(bytes down)
assert_eq "$(sql 'SELECT n FROM big WHERE id = 5000')" 1
# Four pages are needed: the schema's, the table's root, one in the middle, and the row's.
assert_between $(($(bytes down) - down)) 1000 65536 "bytes that the first query fetches"
assert_between "$(metric bhfs_absent_bytes)" 15000000 40000000 "bytes that are not here yet"
touch "$CTL/hydrate"
assert_eq "$(metric bhfs_absent_bytes)" 0 "bytes that are not here after hydrate"
integrity
umount_bh
drop_state

# A snapshot's database is read by the same rule.
mount_bh "${options[@]}"
id=$(basename "$(dirname "$(ls -d "$MNT"/snapshots/2*/live.db | head -n 1)")")
listed=$(bytes down)
assert_eq "$(sqlite3 "$MNT/snapshots/$id/live.db" 'SELECT n FROM big WHERE id = 9000')" 0
assert_between $(($(bytes down) - listed)) 1000 65536 "bytes that a query in a snapshot fetches"
umount_bh
drop_state

# What is read in sequence, past the kernel's cache or through it, is whole, although a guess of the kernel's may be declined.
mount_bh "${options[@]}"
direct=$(dd if="$DB" iflag=direct bs=64k status=none | cksum)
assert_eq "$(dd if="$MNT/snapshots/$id/live.db" iflag=direct bs=64k status=none | wc -c)" "$(stat -c %s "$MNT/snapshots/$id/live.db")" \
    "bytes of a snapshot's database, read directly"
umount_bh
drop_state
mount_bh "${options[@]}"
assert_eq "$(cat "$DB" | cksum)" "$direct" "the database, read through the cache"
umount_bh
