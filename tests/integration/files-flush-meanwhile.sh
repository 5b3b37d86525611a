#!/usr/bin/env bash
# A file that is written again and again while a flush is under way: what the snapshot has of it is no older than what was closed
# or synced before the flush began, whether the file is opened anew each time or stays open.
# level: quick
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1
mount_only

cat >"$T/write.py" <<'PY'
"""Writes a number over the beginning of a file and then to another place, without end: the second one is what was closed (or
synced, if the file stays open) last."""
import os, sys
path, note, stays = sys.argv[1], sys.argv[2], sys.argv[3] == "stays"
f = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
n = 0
while True:
    n += 1
    if not stays:
        f = os.open(path, os.O_RDWR)
    os.pwrite(f, b"%020d" % n, 0)
    os.fsync(f) if stays else os.close(f)
    with open(note + ".new", "w") as o:
        o.write(str(n))
    os.rename(note + ".new", note)
PY
files_mount -o snapshot.interval=0
for how in reopened stays; do
    head -c 200000 /dev/zero >"$FILES/$how"
    flush
    python3 "$T/write.py" "$FILES/$how" "$T/$how" $how &
    writer=$!
    wait_for 10 test -s "$T/$how"
    for round in 1 2 3 4 5; do
        sleep 0.3
        least=$(cat "$T/$how")
        flush
        got=$(head -c 20 "$MNT/snapshots/$(status_of snapshot)/files/$how" | tr '\0' 0)
        most=$(($(cat "$T/$how") + 1))
        assert_between $((10#$got)) "$least" "$most" "$how, round $round: what the snapshot has"
        assert_eq "$(stat -c %s "$MNT/snapshots/$(status_of snapshot)/files/$how")" 200000 "$how, round $round: its size"
    done
    kill "$writer"
    { wait "$writer" || true; } 2>/dev/null
    last=$(head -c 20 "$FILES/$how")
    flush
    assert_eq "$(head -c 20 "$MNT/snapshots/$(status_of snapshot)/files/$how")" "$last" "$how, at the end"
done
files_umount
