#!/usr/bin/env bash
# Small files that are only in the bucket, read one after the other: files that were made at about the same time are fetched
# together, in whatever order they are read, so that most reads find them here. One file alone brings no other.
# level: full
# time: 180
. "${BASH_SOURCE%/*}/../files.sh"

rules=$T/rules
: >"$rules"
files_mount() { mount_bh -o bucket.fault="@$rules" "$@"; FILES=$MNT/files; }
fetched() { sed -n 's/^bhfs_files_fetched_bytes_total //p' "$CTL/metrics"; }
gets() { sed -n 's/^bhfs_bucket_requests_total{[^}]*"get"[^}]*} //p' "$CTL/metrics"; }
count=400 size=5000
files_mount
mkdir "$FILES/a" "$FILES/b"
for n in $(seq $count); do head -c $size /dev/urandom >"$FILES/a/f$n"; done
for n in 1 2 3 4; do head -c 1000000 /dev/urandom >"$FILES/b/large$n"; done
for n in 1 2 3; do echo "small $n" >"$FILES/b/small$n"; done
(cd "$FILES" && find . -type f -print0 | xargs -0 sha256sum) >"$T/sums"
flush
umount_bh

# cold COMMAND...: with nothing here but the bucket, where each GET takes 100 ms. Sets MS.
cold() {
    drop_state
    : >"$rules"
    files_mount
    ls -lR "$FILES" >/dev/null
    echo 'get:delay=100ms:key=files/*' >"$rules"
    local began
    began=$(now_ms)
    "$@"
    MS=$(($(now_ms) - began))
    : >"$rules"
}
cold sh -c "cat '$FILES'/a/f7 >/dev/null"
sleep 0.5
assert_eq "$(fetched)" $size "bytes that were fetched for one file"
umount_bh

cold sh -c "cat '$FILES'/a/f* | wc -c >'$T/count'"
assert_eq "$(cat "$T/count")" $((count * size)) "bytes of all files"
[ "$MS" -lt $((count * 100 / 5)) ] || fail "$count files by name, 100 ms each: $MS ms"
echo "by name: $MS ms instead of $((count * 100))"
umount_bh

cold sh -c "ls -f '$FILES'/a/f* | shuf | xargs cat | wc -c >'$T/count'"
assert_eq "$(cat "$T/count")" $((count * size)) "bytes of all files"
[ "$MS" -lt $((count * 100 / 5)) ] || fail "$count files in any order, 100 ms each: $MS ms"
echo "in any order: $MS ms instead of $((count * 100))"
umount_bh

# What is large is not fetched for its neighbours' sake.
cold sh -c "cat '$FILES'/b/small* >'$T/out'"
sleep 0.5
assert_eq "$(wc -l <"$T/out")" 3 "lines of the small ones"
[ "$(fetched)" -lt 1000000 ] || fail "large files were fetched with small ones: $(fetched) bytes"
(cd "$FILES" && sha256sum --quiet -c "$T/sums") || fail "contents"
umount_bh
