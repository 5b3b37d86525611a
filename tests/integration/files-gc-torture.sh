#!/usr/bin/env bash
# Files of few contents are written, removed and written again by two mounts on two branches, with gc beside, snapshots that are
# dropped, labelled and put back, losses of the machine and kill -9: what a snapshot names is in the bucket at any time, and at
# the end nothing else is.
# level: full
# time: 600
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

steps=${BH_STEPS:-${BHFS_LONG:+2000}}
seed=${BH_SEED:-$(date +%s)}
echo "seed: $seed (BH_SEED=$seed repeats it)"
mkdir "$T/torture"
at_exit() {
    for branch in main two; do
        umount -l "$T/torture/$branch" 2>/dev/null || true
        kill -KILL "$(cat "$T/torture/$branch.pid")" 2>/dev/null || true
    done
}
trap at_exit TERM
if ! python3 "$SRC/tests/helpers/filesgctorture.py" "$BHFS" "$BUCKET" "$T/torture" "${steps:-250}" "$seed" 4 >"$T/out" 2>&1; then
    tail -n 20 "$T"/torture/*.log || true
    at_exit
    fail "$(tail -25 "$T/out")"
fi
tail -1 "$T/out"
