#!/usr/bin/env bash
# Directories that are not in memory, listed by several at once just after a mount from the bucket alone: workers read them while
# clients close them.
# level: full
# time: 120
. "${BASH_SOURCE%/*}/../lib.sh"

mount_bh
python3 - "$MNT/files" <<'END'
import os, sys
for d in range(100):
    os.mkdir(f"{sys.argv[1]}/d{d}")
    for n in range(30):
        open(f"{sys.argv[1]}/d{d}/file {n}", "w").close()
END
flush
id=$(status_of snapshot)
umount_bh
for round in 1 2 3; do
    drop_state
    mount_bh -o ro
    for n in 1 2 3 4; do
        find "$MNT/files" "$MNT/snapshots/$id/files" -ls 2>&1 | wc -l >"$T/count$n" &
    done
    wait
    assert_eq "$(cat "$T"/count? | xargs)" "6202 6202 6202 6202" "what find saw in round $round"
    assert_match "$(status_of state)" "read-only"
    umount_bh
done
