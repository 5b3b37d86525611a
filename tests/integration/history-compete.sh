#!/usr/bin/env bash
# Two machines that compete for one branch: leases of seconds, branches taken by force and while the other one is flushing, kill -9 of
# either, one that sleeps longer than its lease, a bucket that fails. Acknowledged flushes stay in the branch, who was pushed out
# gets nothing in and loses nothing, and every snapshot stays what it was, byte for byte.
# level: full
# time: 1200
# buckets: file ceph
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

steps=${BH_STEPS:-${BHFS_LONG:+600}}
[ "$ON" = file ] || steps=${steps:-40} # a server is slow
seed=${BH_SEED:-$(date +%s)}
echo "seed: $seed (BH_SEED=$seed repeats it)"
need_fuse
mkdir "$T/compete"
at_exit() {
    local mnt pid
    for mnt in a b eye; do
        umount -l "$T/compete/$mnt" 2>/dev/null || true
    done
    for pid in $(pgrep -x bhfs); do
        ! tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | grep -Fxq "BHFS_TEST_DIR=$T" || kill -KILL "$pid" || true
    done
}
trap 'at_exit; exit 143' TERM
if ! python3 "$SRC/tests/helpers/historycompete.py" "$BHFS" "$URL" "$T/compete" "${steps:-120}" "$seed" \
    -o snapshot.plain=never -o bucket.attempts=3 -o bucket.retry_base=5ms >"$T/out" 2>&1; then
    for mnt in a b; do
        echo "--- $mnt"
        [ ! -e "$T/compete/daemon-$mnt.log" ] || tail -25 "$T/compete/daemon-$mnt.log"
    done
    at_exit
    fail "$(tail -25 "$T/out")"
fi
tail -1 "$T/out"
