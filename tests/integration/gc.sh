#!/usr/bin/env bash
# .ctl/gc drops what retention does not keep and reclaims what no snapshot needs any more, a grace after it has found it;
# everything that is kept is whole on a machine that has nothing but the bucket.
# level: full
# time: 120
# buckets: file ceph
. "${BASH_SOURCE%/*}/../lib.sh"

SNAPSHOTS=$MNT/snapshots
gc() { touch "$CTL/gc"; }
objects() { bucket_ls "$SNAP.bhfs/" | wc -l; }
packs() { bucket_ls "$SNAP.bhfs/packs/" | wc -l; }
records() { bucket_ls "$SNAP.bhfs/snapshots/" | wc -l; }
values() { sql 'SELECT count(*) || "/" || sum(v) || "/" || sum(length(pad)) FROM t' "$1"; }
report() { sed -n "s/^$1: //p" "$CTL/gc"; }
keep=(-o retention.keep_last=3 -o retention.grace=1s -o snapshot.plain=never)

mount_bh "${keep[@]}"
assert_eq "$(cat "$CTL/gc")" never "the report before the first gc"
gc
assert_match "$(cat "$CTL/gc")" 'no history in this bucket yet'

# Every flush rewrites the whole table, so that no pack is needed by the next snapshot.
sql 'CREATE TABLE t(i INTEGER PRIMARY KEY, v, pad)'
declare -A WANT=()
for n in $(seq 12); do
    sql "DELETE FROM t; WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 200)
         INSERT INTO t SELECT i, $n, hex(randomblob(300)) FROM s"
    flush
    id=$(status_of snapshot)
    WANT[$id]=$(values "$DB")
    if [ "$n" = 2 ]; then
        mkdir "$SNAPSHOTS/second" # a label
        labelled=$id
    fi
done
assert_eq "$(ls "$SNAPSHOTS" | grep -c T)" 12 "snapshots before gc"
before=$(objects)

# A dry run tells what there is to do, and does nothing.
stamps=$(bucket_ls "$SNAP.bhfs/")
sleep 2 # all of it is older than the grace now; a server's clock has seconds
echo dry-run >"$CTL/gc"
assert_eq "$(last_status)" ok
assert_eq "$(report retention)" "would drop 8 of 12 snapshots of branch main"
assert_match "$(report 'condemned now')" '^[1-9][0-9]* packs, 8 records, '
assert_eq "$(bucket_ls "$SNAP.bhfs/")" "$stamps" "objects after a dry run"
must_fail sh -c "echo nonsense >'$CTL/gc'"
assert_match "$(last_status)" 'gc takes nothing .*or dry-run'

# The first run drops and condemns, the second deletes.
gc
assert_eq "$(last_status)" ok
assert_eq "$(report retention)" "dropped 8 of 12 snapshots of branch main"
assert_eq "$(report deleted)" "0 objects"
assert_eq "$(ls "$SNAPSHOTS" | grep -c T)" 4 "snapshots that are left"
assert_eq "$(records)" 12 "records after the first run"
sleep 2
echo >"$CTL/gc"
assert_eq "$(last_status)" ok
assert_match "$(report due)" '^[1-9][0-9]* packs, 8 records, '
assert_eq "$(records)" 4 "records after the second run"
after=$(objects)
[ "$after" -le $((before - 10)) ] || fail "objects: $before before, $after after"
kept=$(ls "$SNAPSHOTS" | grep T)

# What is kept is whole: on another machine, read-only and read-write.
check_kept() {
    local id
    assert_eq "$(ls "$SNAPSHOTS" | grep T)" "$kept" "snapshots"
    for id in $kept; do
        assert_eq "$(values "$SNAPSHOTS/$id/live.db")" "${WANT[$id]}" "content of $id"
        assert_eq "$(sql 'PRAGMA integrity_check' "$SNAPSHOTS/$id/live.db")" ok
    done
    assert_eq "$(values "$SNAPSHOTS/second/live.db")" "${WANT[$labelled]}" "content of the label"
    assert_eq "$(values "$DB")" "${WANT[$(tail -n 1 <<<"$kept")]}" "content of live.db"
}
umount_bh
drop_state
mount_bh "${keep[@]}" -o ro
check_kept
assert_errno EROFS "os.utime(M + '/.ctl/gc')"
umount_bh
drop_state
mount_bh "${keep[@]}"
check_kept
if [ -f "$CTL/verify" ]; then
    touch "$CTL/verify"
    assert_eq "$(last_status)" ok
fi

# It goes on from there: what is flushed now builds on what was kept.
sql 'UPDATE t SET v = 100 WHERE i = 1'
flush
id=$(status_of snapshot)
WANT[$id]=$(values "$DB")
gc
sleep 2
gc
kept=$(ls "$SNAPSHOTS" | grep T)
assert_eq "$(wc -l <<<"$kept")" 4 "snapshots after another flush"
check_kept

# Without the label nothing keeps its snapshot any more; a deleted branch goes, too.
rmdir "$SNAPSHOTS/second"
mkdir "$MNT/branches/side"
rmdir "$MNT/branches/side"
sleep 2
gc
sleep 2
gc
assert_match "$(report roots)" '^1 branches, 0 deleted branches, 0 labels, 0 pins'
assert_eq "$(records)" 3 "records at last"
assert_eq "$(bucket_ls "$SNAP.bhfs/branches/")" "$SNAP.bhfs/branches/main" "heads at last"
integrity
umount_bh
drop_state

# Damage: nothing is deleted, and it is said.
bucket_get "$SNAP.bhfs/branches/main" "$T/head"
head -c 200 "$T/head" >"$T/cut"
mount_bh "${keep[@]}"
bucket_put "$T/cut" "$SNAP.bhfs/branches/main"
stamps=$(bucket_ls "$SNAP.bhfs/")
must_fail touch "$CTL/gc"
assert_match "$(last_status)" 'branches/main'
assert_match "$(report wrong)" 'branches/main'
assert_eq "$(bucket_ls "$SNAP.bhfs/")" "$stamps" "objects after a gc that met damage"
bucket_put "$T/head" "$SNAP.bhfs/branches/main"
