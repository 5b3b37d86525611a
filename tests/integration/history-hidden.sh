#!/usr/bin/env bash
# mount.history=hidden: what walks through the mount (ls, find, tar) meets neither snapshots/ nor branches/; who names them
# enters them, and their verbs work. Without it they are listed.
# level: full
# time: 60
. "${BASH_SOURCE%/*}/../lib.sh"

values() { sql 'SELECT group_concat(v) FROM t' "$1"; }

mount_bh
sql "CREATE TABLE t(v); INSERT INTO t VALUES('one')"
flush
id=$(status_of snapshot)
assert_match "$(ls "$MNT" | xargs)" '^blobs branches files live\.db.* snapshots$' "a listing by default"
assert_eq "$(stat -c %h "$MNT")" 7 "links of the root by default"
umount_bh

must_fail "$BHFS" -o live.dir="$STATE" -o mount.history=secret "$URL" "$MNT"
assert_match "$OUT" 'mount\.history.*(shown.*hidden|hidden.*shown)' "the sentence about a value that is none"

mount_bh -o mount.history=hidden
[[ "$(ls -A "$MNT" | xargs)" =~ ^\.ctl\ files\ live\.db(\ live\.db-[a-z]+)*$ ]] || fail "ls shows: $(ls -A "$MNT" | xargs)"
assert_eq "$(stat -c %h "$MNT")" 4 "links of the root, by which find knows how many directories to expect"
assert_eq "$(find "$MNT" -name '*snapshots*' -o -name '*branches*' -o -name "$id")" "" "what find meets"
assert_eq "$(find "$MNT" -type f -name live.db)" "$DB" "databases that find meets"
tar -C "$MNT" -cf "$T/all.tar" --exclude=./.ctl --exclude='./live.db-*' .
assert_eq "$(tar -tf "$T/all.tar" | sort | xargs)" "./ ./files/ ./live.db" "what tar took"
mkdir "$T/out"
tar -C "$T/out" -xf "$T/all.tar"
assert_eq "$(values "$T/out/live.db")" one "what is in the archive"

# By name everything is there, and stays out of the listing.
assert_eq "$(ls "$MNT/snapshots")" "$id" "snapshots/, by name"
assert_eq "$(values "$MNT/snapshots/$id/live.db")" one "a snapshot"
mkdir "$MNT/branches/work"
mkdir "$MNT/snapshots/kept"
assert_eq "$(ls "$MNT/branches" | xargs)" "main work" "branches/, by name"
assert_eq "$(values "$MNT/branches/work/live.db")" one "a branch"
assert_eq "$(cd "$MNT/branches/work/.." && pwd -P)" "$MNT/branches" "the way back"
[[ ! "$(ls -A "$MNT" | xargs)" =~ snapshots|branches ]] || fail "listed after they were entered: $(ls -A "$MNT" | xargs)"
assert_match "$(cat "$CTL/config")" 'mount\.history = hidden'
umount_bh
