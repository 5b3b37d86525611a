#!/usr/bin/env bash
# mountscripts/quickstart in a fresh copy of the sources: builds, mounts, shows the tree and says what to type; it may be run
# again, mounted or not, and also when its daemon died; what it says to type works.
# level: full
# time: 400
# plain: it builds for itself
. "${BASH_SOURCE%/*}/../lib.sh"
need_fuse

# The state where this test can remove it; everything else as quickstart chooses, in this test's home.
printf '[live]\ndir = %s\n' "$STATE" >"$BUCKETHEAD_CONFIG"
mkdir "$T/clone"
tar -C "$SRC" --exclude='./build*' --exclude=./.git -cf - . | tar -C "$T/clone" -xf -
MNT=$XDG_DATA_HOME/bhfs/quickstart/mnt DB=$MNT/live.db CTL=$MNT/.ctl
BUCKET=$XDG_DATA_HOME/bhfs/quickstart/bucket

run() {
    attempt timeout 300 "$T/clone/mountscripts/quickstart" "$@"
    [ "$STATUS" -eq 0 ] || fail "quickstart: status $STATUS: $OUT"
}
run
daemons[$MNT]=$(status_of pid)
BHFS=$T/clone/build/fs/bhfs
assert_match "$OUT" "mounted: file://$BUCKET on $MNT"
assert_match "$OUT" 'live\.db' "the tree"
assert_match "$OUT" 'force_flush' "the control files"
assert_match "$OUT" 'state: ' "the status"
assert_eq "$(findmnt -n -o FSTYPE -M "$MNT")" fuse.bhfs

# What it says to type.
commands=$(sed -n 's/^  \([^ ]\)/\1/p' <<<"$OUT")
assert_eq "$(wc -l <<<"$commands")" 4 "commands to type"
bash -euc "$(head -n 3 <<<"$commands")" >"$T/typed" 2>&1 || fail "what quickstart says to type fails: $(cat "$T/typed")"
assert_eq "$(snapshot_value 'SELECT text FROM note')" hello "what was typed, in the bucket"

# A second run, mounted.
pid=$(status_of pid)
run
assert_match "$OUT" 'already mounted'
assert_eq "$(status_of pid)" "$pid" "the pid after a second run"

# After the daemon died, the mount point is dead; and after an unmount.
kill -KILL "$pid"
wait_for 10 gone "$pid"
run
daemons[$MNT]=$(status_of pid)
assert_eq "$(sql 'SELECT text FROM note')" hello
bash -euc "$(tail -n 1 <<<"$commands")" >"$T/typed" 2>&1 || fail "the command to unmount fails: $(cat "$T/typed")"
ended
run
daemons[$MNT]=$(status_of pid)
assert_eq "$(sql 'SELECT text FROM note')" hello
umount_bh

# With a mount point and a bucket of the user's own, with a blank in the name.
drop_state
MNT="$T/my mount" DB="$T/my mount/live.db" CTL="$T/my mount/.ctl" BUCKET="$T/my bucket"
run "$MNT" "file://$BUCKET"
daemons[$MNT]=$(status_of pid)
commands=$(sed -n 's/^  \([^ ]\)/\1/p' <<<"$OUT")
bash -euc "$commands" >"$T/typed" 2>&1 || fail "what quickstart says to type fails: $(cat "$T/typed")"
ended
assert_eq "$(snapshot_value 'SELECT text FROM note')" hello
