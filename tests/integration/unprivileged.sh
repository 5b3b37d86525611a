#!/usr/bin/env bash
# A user without rights mounts, writes, flushes and unmounts; nobody else sees the tree, and with allow_other others may look
# but neither write nor command. Clients in WAL mode are as good there, with the daemon writing beside them.
# level: quick
# time: 60
# plain: the user could not write a sanitizer's report
[ "$(id -u)" = 0 ] || { echo "needs root, to make a user's surroundings"; exit 77; }
[ -e /dev/fuse ] || { echo "/dev/fuse is absent"; exit 77; }
# In a mount namespace of its own: /dev/fuse may be closed to users on this machine, and is opened in here only.
[ -n "${IN_NAMESPACE-}" ] || IN_NAMESPACE=1 exec unshare -m --propagation private bash "${BASH_SOURCE[0]}"
. "${BASH_SOURCE%/*}/../lib.sh"

mount -t tmpfs -o mode=755 none /mnt
mknod -m 666 /mnt/fuse c 10 229
mount --bind /mnt/fuse /dev/fuse
cp "$BHFS" /mnt/bhfs
cp "$SRC/tests/helpers/session.py" /mnt/session.py
BHFS=/mnt/bhfs BUCKET=/mnt/bucket URL=file:///mnt/bucket MNT=/mnt/mnt DB=/mnt/mnt/live.db CTL=/mnt/mnt/.ctl
export HOME=/mnt/home XDG_STATE_HOME=/mnt/home/state XDG_CONFIG_HOME=/mnt/home/config BUCKETHEAD_CONFIG=/mnt/home/bh.ini
mkdir "$BUCKET" "$MNT" /mnt/home
printf '[snapshot]\ninterval = 0\n[live]\njournal = delete\n' >/mnt/home/bh.ini
chown -R 65534:65534 "$BUCKET" "$MNT" /mnt/home
cd /mnt

# as UID COMMAND...: as a user without any rights
as() {
    local uid=$1
    shift
    setpriv --reuid="$uid" --regid="$uid" --clear-groups "$@"
}
user=65534 other=65533

as $user "$BHFS" "$URL" "$MNT" || fail "a user cannot mount"
DAEMON=$(as $user sed -n 's/^pid: //p' "$CTL/status")
daemons[$MNT]=$DAEMON
assert_eq "$(ps -o uid= -p "$DAEMON" | xargs)" $user "the daemon's user"
assert_match "$(as $user sed -n 's/^state_dir: //p' "$CTL/status")" '^/mnt/home/state/bhfs/[0-9a-f]{16}$' "the state directory"
assert_eq "$(stat -c %a "$(as $user sed -n 's/^state_dir: //p' "$CTL/status")")" 700 "the mode of the state directory"
assert_eq "$(as $user stat -c %u "$MNT" "$DB" "$CTL/flush" | sort -u)" $user "owner of the tree"
as $user sqlite3 -batch "$DB" 'CREATE TABLE t(i); INSERT INTO t VALUES(1)'
as $user touch "$CTL/flush"
as $user cat "$CTL/config" >/dev/null
assert_eq "$(snapshot_value 'SELECT i FROM t')" 1

# Nobody else, root included.
must_fail ls "$MNT"
must_fail as $other ls "$MNT"
must_fail as $other cat "$DB"
as $user "$BHFS" status "$MNT" >/dev/null
as $user sqlite3 -batch "$DB" 'INSERT INTO t VALUES(2)'

# WAL: two clients; a flush beside them; an import, which is the daemon's own transaction; and the end after kill -9.
sqlite3 /mnt/new.db 'CREATE TABLE t(i); INSERT INTO t VALUES(10), (11)'
chmod 644 /mnt/new.db
coproc A { exec setpriv --reuid=$user --regid=$user --clear-groups python3 /mnt/session.py "$DB" 10000; }
a_in=${A[1]} a_out=${A[0]} a_pid=$A_PID
ask_a() {
    local line
    echo "$1" >&"$a_in"
    read -r -t 20 line <&"$a_out" || fail "no answer to: $1"
    echo "$line"
}
assert_eq "$(ask_a 'PRAGMA journal_mode=WAL')" wal
assert_eq "$(ask_a 'INSERT INTO t VALUES(3)')" ''
assert_eq "$(as $user ls "$MNT" | xargs)" 'blobs branches files live.db live.db-shm live.db-wal snapshots'
assert_eq "$(as $user stat -c %u "$DB-wal" "$DB-shm" | sort -u)" $user "owner of WAL's files"
as $user sqlite3 -batch "$DB" 'INSERT INTO t VALUES(4)'
assert_eq "$(ask_a 'SELECT count(*) FROM t')" 4
as $user touch "$CTL/flush"
assert_eq "$(snapshot_value 'SELECT count(*) FROM t')" 4 "rows in the bucket, flushed beside a client in WAL"
assert_eq "$(version_bytes "$(snap_file)")" '1 1'
as $user "$BHFS" import /mnt/new.db "$MNT"
assert_eq "$(ask_a 'SELECT group_concat(i) FROM t')" 10,11 "what the client sees after the import"
assert_eq "$(ask_a 'INSERT INTO t VALUES(12)')" ''
assert_eq "$(ask_a 'PRAGMA integrity_check')" ok
assert_eq "$(ask_a 'PRAGMA wal_checkpoint(TRUNCATE)')" '0|0|0'
assert_eq "$(ask_a 'INSERT INTO t VALUES(13)')" ''
assert_eq "$(as $user sqlite3 -batch "$DB" 'SELECT group_concat(i) FROM t; PRAGMA journal_mode' | xargs)" '10,11,12,13 wal'
kill -KILL "$a_pid"
{ wait "$a_pid" || true; } 2>/dev/null
wait_for 1 as $user fusermount3 -u "$MNT"
ended
assert_eq "$(snapshot_value 'SELECT group_concat(i) FROM t')" 10,11,12,13
as $user "$BHFS" "$URL" "$MNT"
daemons[$MNT]=$(as $user sed -n 's/^pid: //p' "$CTL/status")
as $user sqlite3 -batch "$DB" 'DELETE FROM t WHERE i > 11; UPDATE t SET i = i - 9'
as $user "$BHFS" umount "$MNT"
ended
assert_eq "$(snapshot_value 'SELECT group_concat(i) FROM t')" 1,2

# allow_other: not without the administrator's word, and then for looking only.
: >/mnt/fuse.conf
[ -e /etc/fuse.conf ] || skip "there is no /etc/fuse.conf"
mount --bind /mnt/fuse.conf /etc/fuse.conf
must_fail as $user "$BHFS" -o allow_other "$URL" "$MNT"
assert_match "$OUT" 'allow_other' "the sentence"
! mounted "$MNT" || fail "mounted without user_allow_other"
echo user_allow_other >/mnt/fuse.conf
as $user "$BHFS" -o allow_other "$URL" "$MNT"
daemons[$MNT]=$(as $user sed -n 's/^pid: //p' "$CTL/status")
as $other ls -la "$MNT" >/dev/null
as $other cat "$CTL/status" >/dev/null
must_fail as $other touch "$CTL/flush"
must_fail as $other sh -c "echo >'$CTL/flush'"
must_fail as $other sh -c "echo /etc/passwd >'$CTL/import'"
must_fail as $other "$BHFS" flush "$MNT"
assert_match "$OUT" "Permission denied: its commands are for the user who mounted it" "what bhfs flush says to another user"
must_fail as $other cat "$CTL/config"
must_fail as $other touch "$DB"
must_fail as $other sqlite3 -batch "$DB" 'INSERT INTO t VALUES(3)'
must_fail as $other touch "$DB-journal"
must_fail as $other touch "$DB-wal"
must_fail as $other touch "$DB-shm"
must_fail as $other rm -f "$DB"
ls "$MNT" >/dev/null # root
as $user sqlite3 -batch "$DB" 'INSERT INTO t VALUES(4)'
as $user fusermount3 -u "$MNT"
ended
assert_eq "$(snapshot_value 'SELECT group_concat(i) FROM t')" 1,2,4
