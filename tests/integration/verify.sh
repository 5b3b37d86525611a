#!/usr/bin/env bash
# .ctl/verify: touch says whether everything in the bucket is there, `full` reads every byte; damage is EIO with a sentence,
# the report names the object and the snapshots that it hits; with the object put back all is whole again. It goes beside
# flushes.
# level: quick
# time: 120
# buckets: file ceph
. "${BASH_SOURCE%/*}/../lib.sh"

HISTORY=$SNAP.bhfs/
mount_bh -o snapshot.block_size=4096
assert_eq "$(cat "$CTL/verify")" never "the report before the first"
touch "$CTL/verify"
assert_match "$(cat "$CTL/verify")" 'result: everything is whole' "of an empty bucket"

sql "CREATE TABLE t(i INTEGER PRIMARY KEY, v); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
    INSERT INTO t SELECT i, hex(randomblob(50)) FROM n"
flush
ids=("$(status_of snapshot)")
packs=("$(bucket_ls "${HISTORY}packs/")")
for i in 1 2; do
    sql "UPDATE t SET v = 'changed $i' WHERE i = $((i * 200))"
    flush
    ids+=("$(status_of snapshot)")
    bucket_ls "${HISTORY}packs/" >"$T/packs"
    packs+=("$(grep -vxF -e "$(printf '%s\n' "${packs[@]}")" "$T/packs")")
done
assert_eq "$(wc -l <"$T/packs")" 3 "packs of three flushes"

verify_ok() {
    touch "$CTL/verify"
    assert_match "$(cat "$CTL/verify")" 'verify: quick.*result: everything is whole'
    echo full >"$CTL/verify"
    assert_match "$(cat "$CTL/verify")" 'verify: full.*result: everything is whole.*whole: 3 of 3 snapshots'
    assert_eq "$(last_status)" ok
}

# hit: the ids below "hit:" in the report
hit() {
    awk '/^hit:/ { on = 1; next } /^[^ ]/ { on = 0 } on { print $1 }' "$CTL/verify" | xargs
}

verify_ok
: >"$CTL/verify" # truncating alone says nothing to it
must_fail bash -c "echo fast >'$CTL/verify'"
assert_match "$(last_status)" 'echo full'

# A pack that is gone: the middle one, of which the newest has all but what it changed.
bucket_get "${packs[1]}" "$T/pack"
bucket_rm "${packs[1]}"
assert_errno EIO "os.utime(M + '/.ctl/verify')"
must_fail touch "$CTL/verify"
assert_match "$OUT" 'Input/output error'
assert_match "$(last_status)" "^1 object is damaged: ${packs[1]}: it is missing"
report=$(cat "$CTL/verify")
assert_match "$report" "damaged: ${packs[1]}"
assert_eq "$(hit)" "${ids[1]} ${ids[2]}" "who is hit"
assert_match "$report" "whole: 1 of 3 snapshots"$'\n'"  ${ids[0]} branch main"
# The reason is what the handle of the command reads.
python3 - "$CTL/verify" "${packs[1]}" <<'END'
import errno, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
try:
    os.write(fd, b"full\n")
    sys.exit("it did not fail")
except OSError as e:
    assert e.errno == errno.EIO, e
assert sys.argv[2] in os.pread(fd, 4096, 0).decode()
END
bucket_put "$T/pack" "${packs[1]}"
verify_ok

# A pack with one other byte, where only reading finds it.
python3 - "$T/pack" "$T/bad" <<'END'
import sys
data = bytearray(open(sys.argv[1], "rb").read())
data[40] ^= 1
open(sys.argv[2], "wb").write(data)
END
bucket_put "$T/bad" "${packs[1]}"
must_fail bash -c "echo full >'$CTL/verify'"
assert_match "$(cat "$CTL/verify")" "damaged: ${packs[1]}"
bucket_put "$T/pack" "${packs[1]}"
verify_ok

# The other kinds, each gone or spoilt.
touch "$T/empty"
for key in "${HISTORY}format" "${HISTORY}snapshots/${ids[1]}" "${HISTORY}branches/main"; do
    bucket_get "$key" "$T/good"
    bucket_put "$T/empty" "$key"
    must_fail touch "$CTL/verify"
    assert_match "$(last_status)" "1 object is damaged: $key"
    bucket_rm "$key"
    must_fail touch "$CTL/verify"
    assert_match "$(last_status)" "1 object is damaged: $key: it is missing"
    bucket_put "$T/good" "$key"
done
verify_ok

# Beside flushes. The head is another object now, which the mount notices.
sql "UPDATE t SET v = 'again' WHERE i = 1"
attempt touch "$CTL/flush"
flush
for i in $(seq 20); do
    sql "UPDATE t SET v = 'beside $i' WHERE i = $i"
    touch "$CTL/flush"
done &
flushes=$!
while ! gone "$flushes"; do
    touch "$CTL/verify" || fail "beside flushes: $(last_status)"
done
wait "$flushes"
echo full >"$CTL/verify"
assert_match "$(cat "$CTL/verify")" 'result: everything is whole'
umount_bh

# A branch is deleted and reclaimed, step by step: nothing of that is damage.
mount_bh -o retention.grace=1s
mkdir "$MNT/branches/dev"
echo dev >"$CTL/branch"
for i in 1 2 3; do
    sql "UPDATE t SET v = 'dev $i' WHERE i = $i"
    flush
done
echo main >"$CTL/branch"
rmdir "$MNT/branches/dev"
for i in 1 2 3 4; do
    touch "$CTL/verify" || fail "after $((i - 1)) runs of gc: $(last_status)"
    sleep 1.2
    touch "$CTL/gc" || fail "gc: $(last_status)"
done
! bucket_has "${HISTORY}branches/dev" || fail "gc left the tombstone"
echo full >"$CTL/verify"
assert_match "$(cat "$CTL/verify")" 'result: everything is whole'
umount_bh
mount_bh -o snapshot.history=false
must_fail touch "$CTL/verify"
assert_match "$(last_status)" 'snapshot.history is off'
umount_bh
