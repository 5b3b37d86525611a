#!/usr/bin/env bash
# Files whose content is only in the bucket, written while that does not answer: who writes waits, or goes when he wants to; everybody
# else goes on, a flush, too. Nothing of a write that was given up is seen afterwards.
# level: full
# time: 120
. "${BASH_SOURCE%/*}/../files.sh"

rules=$T/rules count=20
: >"$rules"
files_mount() { mount_bh -o files.timeout=60s -o bucket.fault="@$rules" "$@"; FILES=$MNT/files; }
quickly() { # COMMAND...: within 3 s
    timeout 3 "$@" || fail "not done within 3 s: $*"
}
files_mount
for n in $(seq $count); do head -c 300000 /dev/urandom >"$FILES/cold$n"; done
(cd "$FILES" && sha256sum cold?*) >"$T/sums"
cp "$FILES/cold1" "$FILES/cold"
flush
umount_bh
drop_state
files_mount
ls -l "$FILES" >/dev/null
echo 'get:delay=100s:key=files/*' >"$rules"

pids=()
for n in $(seq $count); do
    case $((n % 4)) in
    0) truncate -s 1000 "$FILES/cold$n" ;;
    1) fallocate -l 400000 "$FILES/cold$n" ;;
    2) dd if=/dev/zero of="$FILES/cold$n" bs=10 seek=5 count=1 conv=notrunc status=none ;;
    3) echo appended >>"$FILES/cold$n" ;;
    esac 2>/dev/null &
    pids+=($!)
done
cat "$FILES/cold3" >/dev/null & # and a reader of what somebody else wants to write
pids+=($!)
sleep 1

SECONDS=0
quickly sh -c "echo new >'$FILES/new'"
quickly mkdir "$FILES/d"
quickly mv "$FILES/new" "$FILES/d/renamed"
quickly truncate -s 2 "$FILES/d/renamed"
quickly ln "$FILES/d/renamed" "$FILES/link"
quickly chmod 600 "$FILES/cold" # not one that is written: its writer has the kernel's lock of it
assert_eq "$(quickly stat -c %s "$FILES/cold1" "$FILES/cold2" | xargs)" "300000 300000"
assert_eq "$(quickly cat "$FILES/link")" ne
sql 'CREATE TABLE t(i); INSERT INTO t VALUES(1)'
flush
assert_between $SECONDS 0 20 "seconds of what needs no content from the bucket"
alive=0
for pid in "${pids[@]}"; do if kill -0 "$pid" 2>/dev/null; then alive=$((alive + 1)); fi; done
assert_eq $alive $((count + 1)) "of those who wait for the bucket, so many still do"

SECONDS=0
for pid in "${pids[@]}"; do pkill -INT -P "$pid" || true; kill -TERM "$pid" 2>/dev/null || true; done
pkill -TERM -f "$FILES/cold" || true
for pid in "${pids[@]}"; do wait "$pid" || true; done
assert_between $SECONDS 0 5 "seconds until all who were told to go had gone"

: >"$rules"
umount_bh
files_mount
(cd "$FILES" && sha256sum cold?*) >"$T/now"
assert_eq "$(diff "$T/sums" "$T/now")" "" "contents after the writes were given up"
echo appended >>"$FILES/cold3"
truncate -s 1000 "$FILES/cold4"
assert_eq "$(stat -c %s "$FILES/cold3" "$FILES/cold4" | xargs)" "300009 1000"
assert_eq "$(head -c 300000 "$FILES/cold3" | sha256sum | cut -c1-64)" "$(grep 'cold3$' "$T/sums" | cut -c1-64)"
umount_bh
