#!/usr/bin/env bash
# Every line of .ctl/status is explained in bhfs(1), and every key of the configuration in buckethead.ini(5) and in the sample.
# level: quick
# time: 30
. "${BASH_SOURCE%/*}/../lib.sh"

words() { tr -cs 'a-zA-Z0-9_' '\n' <"$1" | sort -u; }
missing() { comm -23 <(sort -u) <(words "$1") | xargs; }

mount_bh
echo x >"$MNT/files/x"
flush
mount_at "$T/follower" "$T/follower-state" "$URL" -o ro,follow
for mnt in "$MNT" "$T/follower"; do
    [ "$(wc -l <"$mnt/.ctl/status")" -gt 40 ] || fail "the status has hardly a line"
    assert_eq "$(sed 's/: .*//' "$mnt/.ctl/status" | missing "$SRC/fs/bhfs.1")" "" "lines that bhfs(1) does not know"
done
assert_eq "$(sed -n 's/^[a-z]*\.\([a-z_0-9]*\) = .*/\1/p' "$CTL/config" | missing "$SRC/core/config/buckethead.ini.5")" "" \
    "keys that buckethead.ini(5) does not know"
assert_eq "$(sed -n 's/^[a-z]*\.\([a-z_0-9]*\) = .*/\1/p' "$CTL/config" | missing "$SRC/buckethead.ini.sample")" "" \
    "keys that the sample does not know"
umount_bh "$T/follower"
umount_bh
