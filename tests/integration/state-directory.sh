#!/usr/bin/env bash
# Where the live database is: by default in a directory named after bucket, key and branch (/var/lib/bhfs for root), closed to
# others; with live.dir=memory on tmpfs, which survives a kill -9 and says that it would not survive a power cut.
# level: quick
# time: 60
[ "$(id -u)" = 0 ] || { echo "needs root, to make surroundings of its own"; exit 77; }
[ -e /dev/fuse ] || { echo "/dev/fuse is absent"; exit 77; }
# In a mount namespace with empty /var/lib and /dev/shm, so that the machine's stay as they are.
[ -n "${IN_NAMESPACE-}" ] || IN_NAMESPACE=1 exec unshare -m --propagation private bash "${BASH_SOURCE[0]}"
. "${BASH_SOURCE%/*}/../lib.sh"
unset XDG_STATE_HOME
mount -t tmpfs none /var/lib
mount -t tmpfs none /dev/shm

# mount_default [OPTION...] URL: without live.dir; the state directory is in $DIR
mount_default() {
    "$BHFS" -o log.file="$T/daemon.log" "$@" "$MNT"
    daemons[$MNT]=$(status_of pid)
    DIR=$(status_of state_dir)
}
mount_default "$URL"
main=$DIR
assert_match "$main" '^/var/lib/bhfs/[0-9a-f]{16}$' "root's state directory"
assert_eq "$(stat -c '%a %u' "$main")" "700 0" "its mode and owner"
sql 'CREATE TABLE t(i); INSERT INTO t VALUES(1)'
kill_daemon
mount_default "$URL"
assert_eq "$DIR" "$main" "the state directory of the same bucket"
assert_eq "$(sql 'SELECT i FROM t')" 1 "what was not flushed"
umount_bh

# The same bucket in another spelling is the same state; another key, branch or bucket is another one.
mount_default "file://$T/../${T##*/}//bucket/"
assert_eq "$DIR" "$main" "the state directory of the same bucket, spelt otherwise"
umount_bh
mount_default -o snapshot.branch=other "$URL"
branch=$DIR
umount_bh
mount_default -o snapshot.key=elsewhere/x.db "$URL"
key=$DIR
umount_bh
mkdir "$T/bucket2"
mount_default "file://$T/bucket2"
bucket=$DIR
umount_bh
assert_eq "$(printf '%s\n' "$main" "$branch" "$key" "$bucket" | sort -u | wc -l)" 4 "different state directories"

# A state directory that belongs to another bucket is not used for this one.
must_fail "$BHFS" -o live.dir="$main" "file://$T/bucket2" "$MNT"
! mounted "$MNT" || fail "mounted with another bucket's state"
# Nor one that others may write to.
mkdir -m 777 "$T/open"
must_fail "$BHFS" -o live.dir="$T/open" "$URL" "$MNT"
! mounted "$MNT" || fail "mounted with a state directory that others may write to"

# On tmpfs.
mount_default -o live.dir=memory "$URL"
assert_match "$DIR" '^/dev/shm/' "the state directory in memory"
assert_match "$(cat "$CTL/status")" '[Pp]ower' "status says what memory does not survive"
sql 'INSERT INTO t VALUES(2)'
kill_daemon
mount_default -o live.dir=memory "$URL"
assert_eq "$(sql 'SELECT max(i) FROM t')" 2 "what was not flushed, after a kill -9, in memory"
umount_bh
assert_eq "$(snapshot_value 'SELECT max(i) FROM t')" 2
