#!/usr/bin/env bash
# A thread that cannot be started, each in turn that a mount begins with: the mount works without it, or it fails with a
# sentence and leaves nothing mounted.
# level: full
# time: 60
# plain: sanitizers want to be loaded first
. "${BASH_SOURCE%/*}/../lib.sh"
need_fuse

without() { # N: a mount without its Nth thread
    attempt env LD_PRELOAD="$BHFS_BUILD/tests/helpers/nothread.so" NO_THREAD="$1" timeout 60 \
        "$BHFS" -o live.dir="$STATE" -o log.file="$T/daemon.log" "$URL" "$MNT"
}

refused=0
for ((n = 1; n <= 200; n++)); do
    without "$n"
    if [ "$STATUS" = 0 ]; then
        "$BHFS" umount "$MNT" || fail "the mount without thread $n does not end"
        continue
    fi
    refused=$((refused + 1))
    assert_eq "$STATUS" 1 "status without thread $n ($OUT)"
    assert_match "$OUT" 'thread|cannot be started' "what is said without thread $n"
    ! mounted "$MNT" || fail "without thread $n ($OUT) something is mounted"
    [[ $OUT != *'request loop'* ]] || break # the last one that it needs
done
[ "$n" -lt 200 ] || fail "the request loop never failed"
assert_between "$refused" 5 50 "threads that a mount needs"

mount_bh
umount_bh
