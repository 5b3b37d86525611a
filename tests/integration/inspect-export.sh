#!/usr/bin/env bash
# bhfs inspect: tables, columns and row counts of the newest or any snapshot; bhfs export URL SNAPSHOT FILE: that snapshot as
# a database file; both without a mount and without writing to the bucket. A bucket of upstream's, without a history, works.
# level: quick
# time: 120
# buckets: file ceph
. "${BASH_SOURCE%/*}/../lib.sh"

HISTORY=$SNAP.bhfs/
must_fail "$BHFS" inspect "$URL"
assert_match "$OUT" "no snapshot in this bucket: $SNAP does not exist"

# Upstream's: a plain object only, in WAL mode even.
sqlite3 "$T/plain.db" "PRAGMA journal_mode=WAL; CREATE TABLE filestore(bh_key TEXT PRIMARY KEY, size INTEGER, \"odd \"\"name\" BLOB);
    INSERT INTO filestore VALUES('a', 1, x'00'), ('b', 2, x'01'); CREATE VIEW w AS SELECT 1" >/dev/null
bucket_put "$T/plain.db" "$SNAP"
before=$(bucket_ls)
out=$("$BHFS" inspect "$URL")
assert_match "$out" '^snapshot: of another program'$'\n''branch: main'$'\n'
assert_match "$out" 'table filestore \(bh_key TEXT, size INTEGER, odd "name BLOB\): 2 rows$'
"$BHFS" export "$URL" "$T/exported.db"
assert_eq "$(digest "$T/exported.db")" "$(digest "$T/plain.db")" "the export of a plain object"
must_fail "$BHFS" export "$URL" some-label "$T/exported2.db"
assert_match "$OUT" 'which has no history'
assert_eq "$(bucket_ls)" "$before" "what is in the bucket"
bucket_rm "$SNAP"

mount_bh -o snapshot.block_size=4096 -o snapshot.plain=never
sql "CREATE TABLE t(i INTEGER PRIMARY KEY, v TEXT); CREATE TABLE \"a b\"(x); CREATE INDEX k ON t(v);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO t SELECT i, hex(randomblob(20)) FROM n"
flush
first=$(status_of snapshot) first_digest=$(digest)
mkdir "$MNT/snapshots/keep"
sql "DELETE FROM t WHERE i > 100; INSERT INTO \"a b\" VALUES(1)"
flush
second=$(status_of snapshot) second_digest=$(digest)
mkdir "$MNT/branches/dev"
before=$(bucket_ls)

# While it is mounted, and after.
for when in mounted unmounted; do
    out=$("$BHFS" inspect "$URL")
    assert_match "$out" "snapshot: $second"
    assert_match "$out" 'table a b \(x\): 1 rows'$'\n''table t \(i INTEGER, v TEXT\): 100 rows$'
    assert_match "$("$BHFS" inspect "$URL" "$first")" "snapshot: $first.*table t .*: 20000 rows"
    assert_match "$("$BHFS" inspect "$URL" keep)" "snapshot: $first.*table t .*: 20000 rows"
    assert_match "$("$BHFS" inspect "$URL" prev)" "snapshot: $first"
    assert_match "$("$BHFS" inspect --branch dev "$URL")" "snapshot: $second"$'\n''branch: dev'
    assert_match "$(BUCKETHEAD_BUCKET__URL=$URL "$BHFS" inspect keep)" "snapshot: $first"
    "$BHFS" inspect --json "$URL" keep | python3 -c "
import json, sys
j = json.load(sys.stdin)
assert j['snapshot'] == '$first' and j['branch'] == 'main' and j['page_size'] * j['pages'] == j['bytes'], j
assert [(t['name'], t['rows'], [c['name'] for c in t['columns']]) for t in j['tables']] == [('a b', 0, ['x']), ('t', 20000, ['i', 'v'])], j"
    rm -f "$T"/out*
    "$BHFS" export "$URL" "$first" "$T/out1.db"
    assert_eq "$(digest "$T/out1.db")" "$first_digest"
    integrity "$T/out1.db"
    "$BHFS" export --no-check "$URL" keep "$T/out2.db"
    cmp "$T/out1.db" "$T/out2.db"
    "$BHFS" export --branch dev "$URL" "$T/out3.db"
    assert_eq "$(digest "$T/out3.db")" "$second_digest"
    [ $when = unmounted ] || "$BHFS" export "$MNT" "$T/out4.db"
    [ $when = unmounted ] || assert_eq "$(digest "$T/out4.db")" "$second_digest" "the export of a mount"
    [ $when = unmounted ] || umount_bh
done

# An existing file is kept, or replaced as a whole; nothing else is left behind.
echo precious >"$T/out1.db"
must_fail "$BHFS" export "$URL" "$first" "$T/out1.db"
assert_match "$OUT" 'out1.db exists already; --force'
assert_eq "$(cat "$T/out1.db")" precious
"$BHFS" export --force "$URL" "$first" "$T/out1.db"
assert_eq "$(digest "$T/out1.db")" "$first_digest"
assert_eq "$(stat -c %a "$T/out1.db")" "$(printf '%o' $((0666 & ~$(umask))))" "the mode"
must_fail "$BHFS" export "$URL" keep "$T/no/such/out.db"
must_fail "$BHFS" export --force "$URL" keep "$T"
must_fail "$BHFS" export "$URL" 20200101T000000.000Z-00000000 "$T/out5.db"
assert_match "$OUT" 'there is no snapshot 20200101T000000.000Z-00000000'
must_fail "$BHFS" export "$URL" nothing "$T/out5.db"
assert_match "$OUT" 'no label nothing'
must_fail "$BHFS" inspect --branch nobody "$URL"
assert_match "$OUT" 'no branch nobody'
assert_eq "$(ls "$T" | grep -c '^out')" 3 "files that are left: $(ls "$T")"
assert_eq "$(bucket_ls)" "$before" "what is in the bucket"

# What may be a mount point or a label is asked about.
mkdir "$T/keep"
must_fail env BUCKETHEAD_BUCKET__URL="$URL" "$BHFS" export keep "$T/out5.db"
assert_match "$OUT" 'write \./keep for the one'
must_fail "$BHFS" export ./keep "$T/out5.db"
assert_match "$OUT" '\./keep is not a mounted bhfs'
rmdir "$T/keep"
BUCKETHEAD_BUCKET__URL=$URL "$BHFS" export keep "$T/out5.db"
cmp "$T/out5.db" "$T/out2.db"
must_fail "$BHFS" export
must_fail "$BHFS" inspect "$URL" a b
assert_eq "$STATUS" 2

# Damage: where it is not needed inspect does not mind; export refuses, and leaves nothing. A head that is gone hides no id.
bucket_get "${HISTORY}branches/main" "$T/head"
bucket_rm "${HISTORY}branches/main"
"$BHFS" export --force "$URL" "$first" "$T/out1.db"
assert_eq "$(digest "$T/out1.db")" "$first_digest"
bucket_put "$T/head" "${HISTORY}branches/main"
for key in $(bucket_ls "${HISTORY}packs/"); do
    bucket_rm "$key"
done
must_fail "$BHFS" inspect "$URL"
assert_match "$OUT" 'is not in the bucket'
must_fail "$BHFS" export "$URL" "$first" "$T/out6.db"
assert_match "$OUT" 'is not in the bucket'
assert_eq "$(ls "$T" | grep '^out6' || true)" "" "left of an export that failed"
