#!/usr/bin/env bash
# The secret key, the session token, a proxy's password and what requests are signed with are in no log (debug level), status,
# metrics, configuration, error, profile file, state directory, process list or hook; a daemon of an S3 bucket leaves no core
# file, and its memory and environment are closed to other processes of its user.
# level: quick
# time: 60
# server: ceph
# plain: the user could not write a sanitizer's report
[ "$(id -u)" = 0 ] || { echo "needs root, to make a user's surroundings"; exit 77; }
[ -e /dev/fuse ] || { echo "/dev/fuse is absent"; exit 77; }
# In a mount namespace of its own: /dev/fuse may be closed to users on this machine, and is opened in here only.
[ -n "${IN_NAMESPACE-}" ] || IN_NAMESPACE=1 exec unshare -m --propagation private bash "${BASH_SOURCE[0]}"
. "${BASH_SOURCE%/*}/../lib.sh"

secret=$AWS_SECRET_ACCESS_KEY key=$AWS_ACCESS_KEY_ID
token='hush-token/with+signs=' password='hush-password'
name=$(s3_bucket secrets)
buckets+=("$name")
U="s3://$name/p?endpoint=$SERVER"
s3() { # whatever is in the environment later
    BHFS_S3="$SERVER $key $secret" python3 "$SRC/tests/servers/s3.py" "$@"
}

# All that bhfs says goes into this directory, and is searched at the end.
S=$T/said
mkdir "$S"
encoded() {
    python3 -c 'import sys, urllib.parse; print(urllib.parse.quote(sys.argv[1], safe=""))' "$1"
}
hush() { # what must not be found, a line each
    printf '%s\n' "$secret" "$token" "$password" hush-wrong "$(encoded "$secret")" "$(encoded "$token")"
}
# search DIR...: fails if one of these is in a file there, or the header that carries a signature
search() {
    local found
    found=$(hush | grep -rIFl -f - -- "$@"; grep -rIilE 'AWS4-HMAC-SHA256|x-amz-security-token|[?&]X-Amz-Signature' -- "$@") || true
    [ -z "$found" ] || fail_at_caller "secrets in: $found"
}
hush | while read -r planted; do
    echo "x${planted}y" >"$S/planted"
    (search "$S") 2>/dev/null && fail "the search does not find $planted"
    rm "$S/planted"
done
# processes: the arguments of every bhfs that runs now
processes() {
    ps -C bhfs -o args= >>"$S/processes" || true
}
# note NAME COMMAND...: what it says, and the process list while it runs
note() {
    local file=$S/$1
    shift
    "$@" >"$file" 2>&1 </dev/null &
    local pid=$!
    processes
    wait "$pid" || true
}

# --- the secrets in a configuration file, everything that is written -------------------------------------------

cat >"$T/secret.ini" <<END
[bucket]
url = $U
access_key_id = $key
secret_access_key = $secret
session_token = $token
attempts = 2
retry_base = 10ms
[snapshot]
interval = 0
[log]
level = debug
file = $S/log
[profiling]
enabled = true
dir = $S/profile
[hooks]
on_flush_start = env >>$S/hooks
on_flush_complete = env >>$S/hooks
on_flush_error = env >>$S/hooks
END
chmod 600 "$T/secret.ini"
unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY "${!BHFS_CEPH@}" "${!BHFS_SWIFT@}"
export BUCKETHEAD_BUCKET__PROXY=none

"$BHFS" -d -c "$T/secret.ini" -o live.dir="$STATE" "$MNT" >"$S/foreground" 2>&1 </dev/null &
DAEMON=$!
daemons[$MNT]=$DAEMON
wait_for 10 mounted "$MNT"
processes
grep -qF "$T/secret.ini" "$S/processes" || fail 'the list of processes does not show the daemon'
sql 'CREATE TABLE t(x); INSERT INTO t VALUES(1)'
note flush "$BHFS" flush "$MNT"
sql 'INSERT INTO t VALUES(2)'
touch "$CTL/flush"
note probe "$BHFS" status --probe -c "$T/secret.ini"
grep -q '^can_write: yes' "$S/probe" || fail "the probe: $(cat "$S/probe")"
sed -i 's/^interval = 0/interval = 1h/' "$T/secret.ini"
kill -HUP "$DAEMON"
wait_for 10 grep -q 're-read' "$S/log"
mkdir "$S/ctl"
for file in status status.json last_status metrics config log flush; do
    cat "$CTL/$file" >"$S/ctl/$file"
done
grep -q '^bucket.secret_access_key = \*\*\*' "$S/ctl/config" || fail 'the configuration does not show that there is a secret'
grep -q '^bucket.session_token = \*\*\*' "$S/ctl/config" || fail 'the configuration does not show that there is a token'
grep -q ' debug: PUT ' "$S/log" || fail 'no requests in the log: it is not at debug level'
cat /proc/self/mountinfo >"$S/mountinfo"
umount_bh
grep -q BHFS_SECONDS "$S/hooks" || fail 'the hooks did not run'
cp -r "$STATE" "$S/state"

# --- errors ----------------------------------------------------------------------------------------------------

printf '[bucket]\nattempts = 2\nretry_base = 10ms\n[log]\nlevel = debug\nfile = %s\n' "$S/log2" >"$T/plain.ini"
# wrong NAME WORD...: a mount that must fail
wrong() {
    local file=$1
    shift
    note "$file" "$BHFS" -c "${INI:-$T/plain.ini}" -o live.dir="$T/state-$file" "$@" "$MNT"
    ! mounted "$MNT" || fail_at_caller mounted
    assert_match "$(tail -n 1 "$S/$file")" '^bhfs: .' "the error of $file"
}
export AWS_ACCESS_KEY_ID=AKIDWRONG AWS_SECRET_ACCESS_KEY=hush-wrong AWS_SESSION_TOKEN=$token
wrong wrong-key "$U"
AWS_ACCESS_KEY_ID=$key
wrong wrong-secret "$U"
grep -q SignatureDoesNotMatch "$S/wrong-secret" || fail "the wrong secret: $(cat "$S/wrong-secret")"
AWS_SECRET_ACCESS_KEY=$secret
wrong nobody "s3://$name?endpoint=http://127.0.0.1:1"
wrong no-bucket "s3://no-such-bucket-here?endpoint=$SERVER"
wrong no-key -o bucket.no_such_key=1 "$U"
mv "$S/processes" "$T/processes" # what somebody writes there against all advice is refused, but it was there
wrong in-options -o bucket.session_token="$token" "$U"
wrong in-url "s3://AKID:hush-wrong@$name?endpoint=$SERVER"
mv "$T/processes" "$S/processes"
BUCKETHEAD_BUCKET__PROXY=http://someone:$password@127.0.0.1:1 wrong proxy "$U"
grep -q 'through the proxy' "$S/proxy" || fail "the proxy: $(cat "$S/proxy")"
BUCKETHEAD_BUCKET__PROXY=http://someone:$password@:x/y wrong bad-proxy "$U"
files=0
for line in "secret_access_key = $secret"$'\n'"secret_access_key = $token" "secret_access_key = $secret "$'\001' \
    "secret_acess_key = $secret" "secret_access_key $secret" "session_token = $token"; do
    printf '[bucket]\n%s\n' "$line" >"$T/bad.ini"
    chmod 600 "$T/bad.ini"
    INI=$T/bad.ini wrong bad-file-$((++files)) "$U"
done
search "$S"

# --- dumps -----------------------------------------------------------------------------------------------------

# A user's daemon, with credentials of a profile: the configuration does not hold them.
mount -t tmpfs -o mode=755 none /mnt
mknod -m 666 /mnt/fuse c 10 229
mount --bind /mnt/fuse /dev/fuse
cp "$BHFS" /mnt/bhfs
mkdir -p /mnt/home/.aws /mnt/mnt /mnt/cores /mnt/bucket
printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$key" "$secret" >/mnt/home/.aws/credentials
printf '[snapshot]\ninterval = 0\n' >/mnt/home/bh.ini
chmod 600 /mnt/home/.aws/credentials
user=65534
chown -R $user:$user /mnt/home /mnt/mnt /mnt/cores /mnt/bucket
unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN BUCKETHEAD_BUCKET__PROXY
export HOME=/mnt/home XDG_STATE_HOME=/mnt/home/state XDG_CONFIG_HOME=/mnt/home/config BUCKETHEAD_CONFIG=/mnt/home/bh.ini
as_user() {
    setpriv --reuid=$user --regid=$user --clear-groups "$@"
}
# dumping COMMAND...: becomes it, as the user, with core files allowed, in /mnt/cores
dumping() {
    ulimit -c unlimited
    cd /mnt/cores || exit
    exec setpriv --reuid=$user --regid=$user --clear-groups "$@"
}
# aborted PID: ends it as a crash would
aborted() {
    local status=0
    kill -ABRT "$1"
    wait "$1" 2>/dev/null || status=$?
    assert_eq "$status" 134 'the status of what was aborted'
}
# as_daemon URL: in the foreground. Sets DAEMON.
as_daemon() {
    dumping env BHFS_HUSH=hush-environment /mnt/bhfs -f "$1" /mnt/mnt >"$S/daemon" 2>&1 </dev/null &
    DAEMON=$!
    daemons[/mnt/mnt]=$DAEMON
    wait_for 10 mounted /mnt/mnt
    wait_for 10 as_user stat /mnt/mnt/.ctl
}

# Does this machine make core files at all, where they can be found, and may a user look at the own processes?
cores=
dumping sleep 100 &
pid=$!
wait_for 5 grep -qx sleep "/proc/$pid/comm"
as_user cat "/proc/$pid/environ" >/dev/null || fail 'a user cannot look at the own process: this test shows nothing'
aborted $pid
[ -z "$(ls /mnt/cores)" ] || [ "$(cat /proc/sys/fs/suid_dumpable)" = 1 ] || cores=1
[ -n "$cores" ] || echo "only /proc is looked at: core files go to $(cat /proc/sys/kernel/core_pattern)"
rm -f /mnt/cores/*

as_daemon "$U"
as_user sqlite3 -batch /mnt/mnt/live.db 'CREATE TABLE IF NOT EXISTS t(x); INSERT INTO t VALUES(7)'
as_user touch /mnt/mnt/.ctl/flush
assert_eq "$(ps -o uid= -p "$DAEMON" | xargs)" $user "the daemon's user"
assert_match "$(as_user sed -n 's/^bucket_credentials: //p' /mnt/mnt/.ctl/status)" 'profile default' 'the credentials'
grep -qzFx BHFS_HUSH=hush-environment "/proc/$DAEMON/environ" || fail 'even root does not find the environment'
assert_eq "$(stat -c %u "/proc/$DAEMON/environ")" 0 'the owner of what /proc shows of it'
for file in environ mem maps; do
    must_fail as_user cat "/proc/$DAEMON/$file"
    assert_match "$OUT" 'Permission denied' "$file"
done
aborted "$DAEMON"
unmount_dead /mnt/mnt
[ -z "$cores" ] || assert_eq "$(ls /mnt/cores)" '' 'core files'

# The same for the command that asks a bucket: of somebody who does not answer.
mkdir "$T/quiet"
python3 -c '
import socket, sys, time
s = socket.create_server(("127.0.0.1", 0))
open(sys.argv[1], "w").write(str(s.getsockname()[1]))
time.sleep(60)' "$T/quiet/port" &
wait_for 10 test -s "$T/quiet/port"
dumping /mnt/bhfs status --probe "s3://some-bucket?endpoint=http://127.0.0.1:$(<"$T/quiet/port")" >"$S/probe-quiet" 2>&1 &
pid=$!
wait_for 5 grep -qx bhfs "/proc/$pid/comm"
wait_for 5 test -O "/proc/$pid/environ"
aborted $pid
[ -z "$cores" ] || assert_eq "$(ls /mnt/cores)" '' 'core files of the command'

# A daemon without any secret can be debugged by its user.
as_daemon file:///mnt/bucket
assert_eq "$(stat -c %u "/proc/$DAEMON/environ")" $user 'the owner of what /proc shows of the daemon of a directory'
as_user fusermount3 -u /mnt/mnt
ended /mnt/mnt
search "$S"
