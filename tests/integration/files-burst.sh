#!/usr/bin/env bash
# Many small files made one after the other: each has its own content and nobody else's, at once and after a kill -9 in the
# middle; what was made ready for files that never came is gone from the state directory afterwards.
# level: quick
# buckets: file
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

# burst FIRST LAST: files of 1 to some 20,000 bytes, one in ten of them empty at first and written by a second open.
burst() {
    python3 - "$FILES" "$@" <<'EOF'
import os, sys
where, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for i in range(first, last):
    path, data = f"{where}/{i}", (b"%d," % i) * (1 + i * 7 % 3000)
    if i % 10 == 0:
        open(path, "wb").close()
    with open(path, "r+b" if i % 10 == 0 else "xb") as f:
        f.write(data)
    if i % 100 == 99:
        print(i + 1, flush=True)
EOF
}
# check COUNT: that many, and all whole.
check() {
    python3 - "$FILES" "$1" <<'EOF'
import os, sys
where, count = sys.argv[1], int(sys.argv[2])
for i in range(count):
    with open(f"{where}/{i}", "rb") as f:
        assert f.read() == (b"%d," % i) * (1 + i * 7 % 3000), f"{i} is not what was written"
EOF
}
data_files() { find "$STATE" -name 'd-????????????????' | wc -l; }
published() { [ "$(data_files)" = 0 ]; }

files_mount
assert_eq "$(data_files)" 0 "data files of a new mount"
burst 0 1500 >"$T/done"
check 1500
wait_for 20 published

# A file that is alone makes no others.
for name in one two; do
    echo "$name" >"$FILES/$name"
    sleep 0.3
    [ "$(data_files)" -le 1 ] || fail "a file alone: $(data_files) data files"
    wait_for 20 published
done
rm "$FILES/one" "$FILES/two"

# Killed while it goes on: what was closed is there, and every file has what was written to it, or a part of that.
burst 1500 20000 >"$T/done" 2>"$T/err" &
maker=$!
wait_for 30 test -s "$T/done"
kill -KILL "$DAEMON"
wait "$maker" && fail "the client did not notice that its daemon was killed"
closed=$(tail -n 1 "$T/done")
kill_daemon
[ "$(data_files)" -gt 0 ] || fail "nothing was under way: the kill shows nothing"
files_mount
check "$closed"
python3 - "$FILES" "$closed" <<'EOF' || fail "after the kill"
import os, sys
where, closed = sys.argv[1], int(sys.argv[2])
for name in os.listdir(where):
    i = int(name)
    with open(f"{where}/{name}", "rb") as f:
        data = f.read()
    assert ((b"%d," % i) * (1 + i * 7 % 3000)).startswith(data), f"{i} has foreign bytes"
EOF
flush
wait_for 20 published
burst 30000 30300 >/dev/null
umount_bh
assert_eq "$(data_files)" 0 "data files after an orderly end"
