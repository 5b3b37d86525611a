#!/usr/bin/env bash
# Mount points, state directories and buckets in places that cannot work: refused with a sentence, nothing is mounted and
# nothing hangs. And what can: a root directory opened to others by chmod.
# level: quick
# time: 60
. "${BASH_SOURCE%/*}/../lib.sh"
need_fuse

refused() { # WHAT ARGUMENTS...: bhfs refuses and says WHAT
    local what=$1
    shift
    attempt timeout 20 "$BHFS" "$@"
    [ "$STATUS" != 0 ] || fail "bhfs $* was accepted"
    [ "$STATUS" != 124 ] || fail "bhfs $* hangs"
    assert_match "$OUT" "$what" "what bhfs $* says"
}

# The state directory or the bucket inside the mount point would lead through the mount itself.
chmod 700 "$MNT"
refused 'lies in the mount point' -o live.dir="$MNT" "$URL" "$MNT"
refused 'lies in the mount point' -o live.dir="$MNT/state" "$URL" "$MNT"
rm -rf "$MNT/state"
mkdir "$MNT/bucket"
refused 'lies in the mount point' -o live.dir="$STATE" "file://$MNT/bucket" "$MNT"
rm -rf "$MNT/bucket"
! mounted "$MNT" || fail "something is mounted"
refused 'no mount point' "$URL" ''
refused 'no mount point was given, only a bucket' "$URL"
refused 'does not exist: make it' "$URL" "$T/no/such"

# A mount over a mount would hide one that goes on.
mount_bh -o live.journal=delete
refused 'mounted bhfs already' -o live.dir="$T/other" "$URL" "$MNT"
refused 'mounted bhfs already' -o live.dir="$T/other" "$URL" "$MNT/.ctl"
refused 'not a bucket URL' nosuchcommand "$MNT"
refused 'nosuchcommand is neither a command nor a directory' nosuchcommand
attempt "$BHFS" export "$MNT" "$T/nothing.db"
assert_eq "$STATUS" 1 "exporting an empty database"
assert_match "$OUT" 'empty' "what exporting an empty database says"
sql 'CREATE TABLE t(i)'
refused 'no/such/file.db cannot be made: No such file or directory' export "$MNT" "$T/no/such/file.db"
"$BHFS" export "$MNT" "$T/made.db"
refused 'made.db exists already' export "$MNT" "$T/made.db"
assert_eq "$(sqlite3 "$T/made.db" .tables)" t

# The root's mode and owner decide who may make journals beside live.db.
assert_eq "$(stat -c %a "$MNT")" 755
chmod 1777 "$MNT"
assert_eq "$(stat -c %a "$MNT")" 1777 "the root's mode after chmod"
[ "$(id -u)" != 0 ] || { chown 12:34 "$MNT" && assert_eq "$(stat -c %u:%g "$MNT")" 12:34 "the root's owner"; }

# A dead mount is noticed although the kernel remembers its root.
ls "$MNT" >/dev/null
kill -KILL "$(status_of pid)"
sleep 0.3
refused 'daemon died' -o live.dir="$T/other" "$URL" "$MNT"
attempt "$BHFS" export "$MNT" "$T/dead.db"
assert_match "$OUT" 'died' "what exporting from a dead mount says"
unmount_dead "$MNT"
unset "daemons[$MNT]"
