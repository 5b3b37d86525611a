#!/usr/bin/env bash
# What a client has written to a file that it has still open when the mount ends is in the last flush, also where a flush before
# that met the file in the middle of being written and nothing was changed since.
# level: quick
# time: 30
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1
mount_only

files_mount -o snapshot.interval=0
python3 - "$FILES/open" "$T/written" <<'EOF' &
import os, sys, time
f = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
os.write(f, b"written\n")
open(sys.argv[2], "w").close()
time.sleep(600)
EOF
client=$!
wait_for 10 test -e "$T/written"
echo other >"$FILES/other"
flush
flush
assert_eq "$(cat "$MNT/snapshots/$(ls "$MNT/snapshots" | tail -1)/files/open")" '' 'a file in the middle of being written, in a snapshot'
kill -TERM "$DAEMON"
wait_for 20 gone "$DAEMON"
drop_state
files_mount -o snapshot.interval=0
assert_eq "$(cat "$FILES/open")" written 'what was open at the end'
assert_eq "$(cat "$FILES/other")" other
kill "$client"
umount_bh
