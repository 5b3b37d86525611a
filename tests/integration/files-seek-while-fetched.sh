#!/usr/bin/env bash
# lseek(SEEK_DATA) on a file of files/ that somebody else's write has to fetch first, from a bucket that does not answer: nobody
# waits but who writes.
# level: full
# time: 60
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1
mount_only

rules=$T/rules
: >"$rules"
files_mount -o bucket.fault="@$rules"
head -c 24000000 /dev/urandom >"$FILES/large"
echo other >"$FILES/other"
flush
files_umount
drop_state

files_mount -o bucket.fault="@$rules"
cat "$FILES/other" >/dev/null
# A write through a mapping, and its writing back begun: no lock of the kernel's is held while the daemon gets the rest of the file.
cat >"$T/writer.py" <<'END'
import ctypes, mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
m = mmap.mmap(fd, 4096)
m[0:1] = b"x"
open(sys.argv[2], "w").write("get:delay=8s\n")
ctypes.CDLL(None).sync_file_range(ctypes.c_int(fd), ctypes.c_int64(0), ctypes.c_int64(0), ctypes.c_uint(2))
print("written back", flush=True)
sys.stdin.read()
END
cat >"$T/seeker.py" <<'END'
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
print("open", flush=True)
sys.stdin.readline()
print(os.lseek(fd, 5, os.SEEK_DATA), os.lseek(fd, 5, os.SEEK_HOLE), flush=True)
END
mkfifo "$T/go" "$T/stop"
python3 "$T/seeker.py" "$FILES/large" <"$T/go" >"$T/seeker.out" &
seeker=$!
exec 7>"$T/go"
wait_for 10 grep -q open "$T/seeker.out"
python3 "$T/writer.py" "$FILES/large" "$rules" <"$T/stop" >"$T/writer.out" &
writer=$!
exec 8>"$T/stop"
wait_for 10 grep -q back "$T/writer.out"
sleep 0.3
echo >&7
sleep 0.3
began=$(now_ms)
assert_eq "$(cat "$FILES/other")" other
echo more >"$FILES/more"
status_of state >/dev/null
assert_between $(($(now_ms) - began)) 0 3000 "milliseconds of others meanwhile"
wait_for 5 grep -q '^5' "$T/seeker.out"
: >"$rules" # its close waits for the page that is being written back: that is the kernel's
wait "$seeker" || fail "the one who asked: status $?"
assert_eq "$(tail -n 1 "$T/seeker.out")" "5 24000000" "data and hole"
exec 7>&- 8>&-
wait "$writer"
files_umount
