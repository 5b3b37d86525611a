#!/usr/bin/env bash
# What df, mount and findmnt show; -V, -h, -f, -c, -o; and how a mount that cannot be is refused: a status, a sentence on
# the caller's terminal that names the thing, nothing mounted.
# level: quick
# time: 120
# buckets: file ceph
. "${BASH_SOURCE%/*}/../lib.sh"
need_fuse

assert_match "$("$BHFS" -V)" '[0-9]+\.[0-9]+\.[0-9]+' "bhfs -V"
assert_match "$("$BHFS" -h)" 'umount.*MOUNTPOINT|MOUNTPOINT' "bhfs -h"

case "$ON" in
file) shown=$URL ;;
*) shown="s3://$BUCKET/?endpoint=$SERVER" ;; # and no word of what is the default, nor of credentials
esac
mount_bh
assert_eq "$(findmnt -n -o FSTYPE,SOURCE -M "$MNT" | xargs)" "fuse.bhfs $shown" "findmnt"
assert_eq "$(df --output=source "$MNT" | tail -n 1)" "$shown" "df"
assert_eq "$(mount | grep -cF "$shown on $MNT type fuse.bhfs ")" 1 "lines of mount"
assert_eq "$(status_of mountpoint)" "$MNT" "mountpoint, in status"
assert_match "$(status_of bucket)" "$BUCKET" "bucket, in status"
assert_eq "$(status_of state_dir)" "$STATE" "state_dir, in status"
assert_eq "$(status_of branch)" main
assert_eq "$(status_of key)" bucketsqlite/snap.db
assert_match "$("$BHFS" status)" "$MNT" "bhfs status of all mounts"
assert_eq "$("$BHFS" status "$MNT" | sed -n 's/^pid: //p')" "$DAEMON" "pid, in bhfs status"
python3 -c 'import json, sys; j = json.load(open(sys.argv[1])); assert str(j["pid"]) == sys.argv[2], j' "$CTL/status.json" "$DAEMON"
assert_match "$(cat "$CTL/config")" "live\.dir = $STATE" ".ctl/config"

# The same state twice: refused, with the pid of the first, which goes on.
mkdir "$T/mnt2"
must_fail timeout 60 "$BHFS" -o live.dir="$STATE" "$URL" "$T/mnt2"
assert_match "$OUT" "(^|[^0-9])$DAEMON([^0-9]|\$)" "the refusal of a second daemon"
! mounted "$T/mnt2" || fail "a second daemon mounted on the same state"
sql 'CREATE TABLE t(i); INSERT INTO t VALUES(1)'
# On a mount point that is taken by itself: refused, the first one unharmed.
attempt timeout 60 "$BHFS" -o live.dir="$T/state2" "$URL" "$T/not-there"
[ "$STATUS" -ne 0 ] || fail "mounted on a directory that is not there"
assert_match "$OUT" "not-there" "the sentence for a missing mount point"
: >"$T/a-file"
must_fail timeout 60 "$BHFS" -o live.dir="$T/state2" "$URL" "$T/a-file"
assert_match "$OUT" "a-file" "the sentence for a mount point that is a file"
umount_bh
before=$(bucket_stamp "$SNAP")

# Read-only.
mount_bh -o ro
assert_eq "$(sql 'SELECT i FROM t')" 1 "reading a read-only mount"
must_fail sqlite3 -batch "$DB" 'INSERT INTO t VALUES(2)'
assert_match "$OUT" '[Rr]ead-?only' "what sqlite3 says of a write"
assert_errno EROFS "os.utime(M + '/.ctl/flush')"
assert_errno EROFS "os.open(M + '/.ctl/flush', os.O_WRONLY | os.O_TRUNC)"
assert_errno EROFS "os.open(M + '/live.db', os.O_RDWR)"
must_fail "$BHFS" flush "$MNT"
must_fail "$BHFS" import "$(snap_file)" "$MNT"
assert_eq "$(metric 'bhfs_bucket_requests_total{op="put"}')" 1 "puts of a read-only mount"
assert_eq "$(metric 'bhfs_bucket_requests_total{op="head"}')" 0 "looks of a read-only mount at the plain copy"
assert_eq "$(bucket_ls "$SNAP.bhfs/pins/" | wc -l)" 1 "pins beside a read-only mount: its only put"
assert_match "$(findmnt -n -o OPTIONS -M "$MNT")" '(^|,)ro(,|$)'
umount_bh
assert_eq "$(bucket_stamp "$SNAP")" "$before" "the snapshot after a read-only mount"
assert_eq "$(bucket_ls "$SNAP.bhfs/pins/" | wc -l)" 0 "pins after it"

# In the foreground.
"$BHFS" -f -o live.dir="$STATE" "$URL" "$MNT" >"$T/foreground" 2>&1 &
pid=$!
wait_for 20 test -e "$DB"
daemons[$MNT]=$pid
assert_eq "$(status_of pid)" "$pid" "the pid in the foreground"
assert_eq "$(sql 'SELECT i FROM t')" 1
sql 'INSERT INTO t VALUES(2)'
kill -TERM "$pid"
wait "$pid" || fail "the foreground daemon ended with status $? on SIGTERM: $(cat "$T/foreground")"
ended
assert_eq "$(snapshot_value 'SELECT count(*) FROM t')" 2 "the snapshot after SIGTERM in the foreground"

# The mount options that mount(8), fstab and mount.fuse add are understood.
mount_bh -o rw,nosuid,nodev,noatime,default_permissions,allow_other
umount_bh
mount_bh -o fsname=mine
assert_eq "$(findmnt -n -o SOURCE -M "$MNT")" mine "fsname"
umount_bh

# The environment's bucket, without one on the command line; the state directory made from it.
BUCKETHEAD_BUCKET__URL=$URL "$BHFS" -o live.dir="$STATE" "$MNT"
daemons[$MNT]=$(status_of pid)
assert_eq "$(sql 'SELECT count(*) FROM t')" 2 "the bucket of the environment"
umount_bh

# refused REGEX OPTION...: the mount is refused with such a sentence.
refused() {
    local regex=$1
    shift
    mount_fails "$@"
    assert_match "$OUT" "$regex" "the sentence for $*"
}
refused 'snapshot\.intervall' -o snapshot.intervall=5s
refused 'snapshot\.interval' -o snapshot.interval=soon
refused 'nonsense' -o nonsense
refused 'snapshot\.branch' -o snapshot.branch=a/b
refused 'no-such\.ini' -c "$T/no-such.ini"
cat >"$T/bad.ini" <<END
[snapshot]
interval = 5s

intervall = 5s
END
refused 'bad\.ini:4' -c "$T/bad.ini"
printf '[snapshots]\n' >"$T/bad.ini"
refused 'bad\.ini:1' -c "$T/bad.ini"
printf '[snapshot]\nkey = %0300d\n' 0 >"$T/bad.ini"
refused 'bad\.ini:2' -c "$T/bad.ini"
printf '[bucket]\nsecret_access_key = QUITESECRET\n' >"$T/bad.ini"
chmod 644 "$T/bad.ini"
refused 'chmod 600' -c "$T/bad.ini"
[[ "$OUT" != *QUITESECRET* ]] || fail "the secret is in the sentence"

must_fail timeout 60 "$BHFS" -o live.dir="$STATE" "file://$T/no-bucket" "$MNT"
assert_match "$OUT" 'no-bucket' "the sentence for a missing bucket directory"
if [ "$ON" != file ]; then
    must_fail timeout 60 "$BHFS" -o live.dir="$STATE" "$(s3_url no-such-bucket)" "$MNT"
    assert_match "$OUT" 'no-such-bucket' "the sentence for a missing bucket"
    AWS_SECRET_ACCESS_KEY=QUITESECRET must_fail timeout 60 "$BHFS" -o live.dir="$STATE" "$URL" "$MNT"
    assert_match "$OUT" "secret" "the sentence for a wrong key"
    [[ "$OUT" != *QUITESECRET* ]] || fail "the secret is in the sentence"
fi
must_fail timeout 60 "$BHFS" -o live.dir="$STATE" "gopher://x" "$MNT"
assert_match "$OUT" 'gopher' "the sentence for an unknown kind of bucket"
must_fail timeout 60 "$BHFS"
must_fail timeout 60 "$BHFS" "$MNT"
must_fail timeout 60 "$BHFS" "$URL" "$MNT" "$MNT"
must_fail timeout 60 "$BHFS" --no-such-option "$URL" "$MNT"
must_fail timeout 60 "$BHFS" umount "$MNT"
must_fail timeout 60 "$BHFS" umount "$T/not-there"
must_fail timeout 60 "$BHFS" flush "$MNT"
must_fail timeout 60 "$BHFS" status "$MNT"
! mounted "$MNT" || fail "something is mounted"
rm -f "$T/bad.ini"
mount_bh
assert_eq "$(sql 'SELECT count(*) FROM t')" 2 "the content after all refusals"
umount_bh
