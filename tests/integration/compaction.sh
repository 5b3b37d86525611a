#!/usr/bin/env bash
# gc rewrites packs of which little is needed: what is kept reads as before, on the mount that was there all the time, on
# another machine, by verify, export and inspect; and flushes go on from what was moved.
# level: full
# time: 300
# buckets: file ceph
# level@ceph: long
. "${BASH_SOURCE%/*}/../lib.sh"

SNAPSHOTS=$MNT/snapshots
MOVED=$SNAP.bhfs/moved/
PACKS=$SNAP.bhfs/packs/
keep=(-o retention.keep_last=3 -o retention.grace=1s -o snapshot.plain=never -o snapshot.block_size=4096)
report() { sed -n "s/^$1: //p" "$CTL/gc"; }
values() { sql 'SELECT count(*) || "/" || sum(v) || "/" || sum(length(pad)) || "/" || max(pad) FROM t' "$1"; }
gc() { sleep 2 && touch "$CTL/gc" && assert_eq "$(last_status)" ok; }

# The ids of packs that are gone, and have a moved record.
moved() {
    comm -23 <(bucket_ls "$MOVED" | sed 's,.*/,,' | sort) <(bucket_ls "$PACKS" | sed 's,.*/,,' | sort)
}

declare -A WANT=()
# change FROM: another value in 30 rows, that is in some of the blocks
change() {
    sql "UPDATE t SET v = v + 1, pad = hex(randomblob(300)) WHERE i BETWEEN $1 AND $1 + 29"
    flush
    id=$(status_of snapshot)
    WANT[$id]=$(values "$DB")
}

check_kept() {
    local id kept
    kept=$(ls "$SNAPSHOTS" | grep T)
    assert_eq "$(wc -l <<<"$kept")" "$1" "snapshots that are kept"
    for id in $kept; do
        assert_eq "$(values "$SNAPSHOTS/$id/live.db")" "${WANT[$id]}" "content of $id"
        assert_eq "$(sql 'PRAGMA integrity_check' "$SNAPSHOTS/$id/live.db")" ok
    done
    assert_eq "$(values "$DB")" "${WANT[$(tail -n 1 <<<"$kept")]}" "content of live.db"
}

verify_ok() {
    touch "$CTL/verify"
    assert_match "$(cat "$CTL/verify")" 'result: everything is whole'
    echo full >"$CTL/verify"
    assert_match "$(cat "$CTL/verify")" 'result: everything is whole'
}

mount_bh "${keep[@]}"
sql "CREATE TABLE t(i INTEGER PRIMARY KEY, v, pad); WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s
     WHERE i < 600) INSERT INTO t SELECT i, 0, hex(randomblob(300)) FROM s"
flush
for n in $(seq 0 14); do
    change $((n * 30))
done
gc
assert_match "$(report compaction)" '^rewrote [1-9]'
assert_match "$(report needed)" ' of the '
[ -n "$(bucket_ls "$MOVED")" ] || fail "no moved records after: $(cat "$CTL/gc")"
verify_ok # while both are there
gc
[ -n "$(moved)" ] || fail "no pack that was rewritten is gone: $(cat "$CTL/gc")"
check_kept 3
verify_ok
assert_match "$(cat "$CTL/verify")" 'unreferenced: [0-9]* packs'

# It goes on from there; what was moved is moved again.
for n in $(seq 15 19) $(seq 0 9); do
    change $((n * 30))
    [ $((n % 5)) -ne 4 ] || gc
done
gc
gc
check_kept 3
verify_ok
integrity
umount_bh

# Another machine, that has nothing but the bucket; and no mount at all.
drop_state
id=$(printf '%s\n' "${!WANT[@]}" | sort | tail -n 1)
"$BHFS" export "$URL" "$id" "$T/export.db"
assert_eq "$(values "$T/export.db")" "${WANT[$id]}" "the export"
assert_match "$("$BHFS" inspect "$URL" "$id")" "table t .*: 600 rows"
mount_bh "${keep[@]}" -o ro
check_kept 3
umount_bh
drop_state
mount_bh "${keep[@]}"
check_kept 3
change 590
gc
gc
check_kept 3
verify_ok

# A moved record that is gone is missed: of a pack that snapshots name themselves, as no other has moved there.
for id in $(moved); do
    bucket_get "$MOVED$id" "$T/moved.$id"
done
id=$(moved | python3 -c 'import struct, sys
ids = sys.stdin.read().split()
targets = set()
for i in ids:
    data = open(sys.argv[1] + "." + i, "rb").read()
    targets |= {"%016x" % struct.unpack_from("<Q", data, at + 8)[0] for at in range(16, len(data) - 16, 16)}
print([i for i in ids if i not in targets][0])' "$T/moved")
bucket_get "$MOVED$id" "$T/record"
bucket_rm "$MOVED$id"
must_fail touch "$CTL/verify"
assert_match "$(cat "$CTL/verify")" "damaged: .*packs/$id"
must_fail touch "$CTL/gc"
assert_match "$(report wrong)" "$id"
bucket_put "$T/record" "$MOVED$id"
verify_ok
gc
