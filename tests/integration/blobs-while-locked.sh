#!/usr/bin/env bash
# What blobs/ tells of a content without asking live.db, a client's transaction does not hold up; what is asked of it (the type) is
# EBUSY with a sentence that names the client.
# level: full
# time: 60
. "${BASH_SOURCE%/*}/../lib.sh"

live_journal delete
mount_bh -o live.busy_timeout=1s
echo content >"$MNT/files/a"
flush
attribute() { python3 -c 'import os, sys; print(os.getxattr(sys.argv[2], "user.bh." + sys.argv[1]).decode())' "$@"; }
key=$(attribute key "$MNT/files/a")
session c
assert_eq "$(ask c 'BEGIN EXCLUSIVE')$(ask c 'CREATE TABLE t(i)')" ""
began=$(now_ms)
assert_eq "$(attribute key "$MNT/blobs/$key") $(attribute state "$MNT/blobs/$key")" "$key stored"
assert_between $(($(now_ms) - began)) 0 900 "milliseconds of two attributes"
must_fail attribute mime "$MNT/blobs/$key"
assert_match "$OUT" "Errno 16" "the type meanwhile"
assert_match "$(last_status)" "process ${session_pid[c]} .*live.db" "the sentence"
assert_eq "$(ask c COMMIT)" ""
leave c
assert_eq "$(attribute mime "$MNT/blobs/$key")" text/plain
umount_bh
