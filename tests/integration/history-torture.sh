#!/usr/bin/env bash
# Random writes, flushes, forks, switches, restores, labels, losses of the machine, kill -9 (also in the middle of a flush) and
# a bucket that fails, with a model beside: after each step every snapshot of every branch is what it was when it was made,
# nothing that was committed is lost, no acknowledged flush either.
# level: full
# time: 900
# buckets: file ceph
# level@ceph: long
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

steps=${BH_STEPS:-${BHFS_LONG:+9000}}
export BH_KILLS=${BH_KILLS:-8} # some 120 kills of 250 steps
seed=${BH_SEED:-$(date +%s)}
echo "seed: $seed (BH_SEED=$seed repeats it)"
export BH_RULES=$T/rules
: >"$BH_RULES"
mkdir "$T/torture"
at_exit() {
    umount -l "$T/torture/mnt" 2>/dev/null || true
    kill -KILL "$(cat "$T/torture/pid")" 2>/dev/null || true
}
trap at_exit TERM
if ! python3 "$SRC/tests/helpers/historytorture.py" "$BHFS" "$URL" "$T/torture" "${steps:-250}" "$seed" -o bucket.fault="@$BH_RULES" \
    -o bucket.attempts=3 -o bucket.retry_base=5ms >"$T/out" 2>&1; then
    tail -40 "$T/torture/daemon.log" || true
    at_exit
    fail "$(tail -25 "$T/out")"
fi
tail -1 "$T/out"
