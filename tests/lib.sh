# What the integration tests share. A script begins with
#
#   # level: quick|full|long      (see tests/run)
#   # time: SECONDS
#   . "${BASH_SOURCE%/*}/../lib.sh"
#
# and is then in an empty directory $T of its own, with a fresh bucket whose URL is $URL, a mount point $MNT and the name
# of a state directory $STATE, nothing mounted yet; `mount_bh` mounts one on the other and sets $DAEMON, its pid.
# $DB is $MNT/live.db, $CTL is $MNT/.ctl, $SNAP is the key of the newest snapshot in the bucket; what is in the bucket is
# looked at with bucket_has and the like. The bucket is of the kind $ON (`# buckets:` in the head): file, the directory
# $BUCKET; or ceph, swift: a bucket on that server. Any command that fails ends the test (set -e). At the end, however it
# comes, everything is unmounted and every process of the test has ended. A script runs by itself too, with servers of its
# own if it needs any:
#   bash tests/integration/first-session.sh     (with BHFS_BUILD=DIR if the build is not in build-test/)
#   BHFS_ON=ceph bash tests/integration/first-session.sh
# shellcheck shell=bash
set -Eeuo pipefail

SRC=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
SCRIPT=$(realpath "${BASH_SOURCE[-1]}")
BHFS_BUILD=${BHFS_BUILD:-$SRC/build-test}
BHFS_SANITIZE=${BHFS_SANITIZE:-}
BHFS_LONG=${BHFS_LONG:-}
BHFS=$BHFS_BUILD/fs/bhfs
BHFS_TESTD=$BHFS_BUILD/tests/helpers/bhfs-testd

remove_t=
if [ -z "${BHFS_TEST_DIR-}" ]; then
    BHFS_TEST_DIR=$(mktemp -d "${TMPDIR:-/tmp}/bhfs-test.XXXXXX")
    remove_t=1
fi
export BHFS_TEST_DIR BHFS_BUILD
T=$BHFS_TEST_DIR
MNT=$T/mnt STATE=$T/state
DB=$MNT/live.db CTL=$MNT/.ctl
CHECK_FLUSHES=${BH_CHECK_FLUSHES-}
SNAP=bucketsqlite/snap.db
ON=${BHFS_ON:-file}
mkdir -p "$MNT" "$T/home"
# Tests look at KEY, whatever the size of the database.
export BUCKETHEAD_SNAPSHOT__PLAIN=always
# No configuration of the machine, and no state in the user's home.
export HOME=$T/home XDG_STATE_HOME=$T/home/.local/state XDG_CONFIG_HOME=$T/home/.config XDG_DATA_HOME=$T/home/.local/share
export BUCKETHEAD_CONFIG=$T/buckethead.ini LC_ALL=C.UTF-8 TZ=UTC
printf '[snapshot]\ninterval = 0\n' >"$BUCKETHEAD_CONFIG" # flushes only when asked, so that they can be counted
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH # the distribution's python3 and sqlite3, not somebody's wrappers
cd "$T"
DAEMON=
declare -A daemons=() # mount point -> pid of its daemon, for the clean-up
buckets=()            # that were made on a server
servers=()            # that were started for this script alone

# --- verdicts --------------------------------------------------------------------------------------------------

# fail TEXT...: the test ends here.
fail() {
    echo "FAILED at ${BASH_SOURCE[1]##*/}:${BASH_LINENO[0]}: $*" >&2
    exit 1
}

# skip REASON...: this machine cannot run the test.
skip() {
    echo "$*"
    exit 77
}

# assert_eq GOT WANTED [WHAT]
assert_eq() {
    [ "$1" = "$2" ] || fail_at_caller "${3:-value}: got '$1', wanted '$2'"
}

# assert_match TEXT REGEX [WHAT]
assert_match() {
    [[ "$1" =~ $2 ]] || fail_at_caller "${3:-text}: '$1' does not match '$2'"
}

# assert_between GOT LOW HIGH [WHAT]: numbers, fractions too
assert_between() {
    awk -v x="$1" -v a="$2" -v b="$3" 'BEGIN { exit !(x >= a && x <= b) }' ||
        fail_at_caller "${4:-value}: $1 is not within $2 and $3"
}

fail_at_caller() {
    echo "FAILED at ${BASH_SOURCE[2]##*/}:${BASH_LINENO[1]}: $*" >&2
    exit 1
}

# must_fail COMMAND...: the command must end with a status other than 0 (and below 126: not by a signal, and it exists).
# Its output, both streams, is in $OUT, its status in $STATUS.
must_fail() {
    attempt "$@"
    if [ "$STATUS" -eq 0 ] || [ "$STATUS" -ge 126 ]; then
        fail_at_caller "status $STATUS from: $* -> $OUT"
    fi
}

# attempt COMMAND...: runs it; output in $OUT, status in $STATUS.
attempt() {
    STATUS=0
    OUT=$("$@" 2>&1 </dev/null) || STATUS=$?
}

# assert_errno WANTED PYTHON: the name of the errno (EPERM, or EPERM|EACCES) that the Python statements end with, or ok.
# The modules os, fcntl, stat and errno are there, M is the mount point.
assert_errno() {
    local got
    got=$(M=$MNT python3 -c "
import os, sys, errno, fcntl, stat
M = os.environ['M']
try:
    exec(sys.argv[1])
    print('ok')
except OSError as e:
    print(errno.errorcode.get(e.errno, e.errno))
" "$2")
    [[ "$got" =~ ^($1)$ ]] || fail_at_caller "got $got, wanted $1 from: $2"
}

# --- waiting ---------------------------------------------------------------------------------------------------

# wait_for SECONDS COMMAND...: until the command succeeds; the test fails when it does not in time.
wait_for() {
    local seconds=$1 end
    shift
    end=$(($(now_ms) + seconds * 1000))
    while ! "$@" >/dev/null 2>&1; do
        [ "$(now_ms)" -lt "$end" ] || fail_at_caller "not within $seconds s: $*"
        sleep 0.05
    done
}

now_ms() {
    echo $((${EPOCHREALTIME/./} / 1000))
}

# gone PID: no such process, or only its zombie.
gone() {
    local state
    { read -r state </proc/"$1"/stat; } 2>/dev/null || return 0
    state=${state##*) }
    [ "${state%% *}" = Z ]
}

# --- servers ---------------------------------------------------------------------------------------------------

# use_server NAME: what follows is on this server: sets SERVER (its URL) and the credentials in the environment. Starts it
# if tests/run did not.
use_server() {
    local variable=BHFS_${1^^}
    if [ -z "${!variable-}" ]; then
        servers+=("$1")
        "$SRC/tests/servers/$1" start "$T/server-$1" >"$T/server-$1.line"
        export "$variable=$(cat "$T/server-$1.line")"
    fi
    read -r SERVER AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY <<<"${!variable}"
    export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
}

# s3 WORD...: the plain client of tests/servers, on the server in use.
s3() {
    BHFS_S3="$SERVER $AWS_ACCESS_KEY_ID $AWS_SECRET_ACCESS_KEY" python3 "$SRC/tests/servers/s3.py" "$@"
}

# s3_bucket [NAME]: makes a bucket there and prints its name: NAME, if given, and something that no other test has.
s3_bucket() {
    local name=${1:-test}-$$-$RANDOM$RANDOM
    s3 mb "$name" && echo "$name"
}

# s3_url BUCKET [PREFIX]: how bhfs is told of it.
s3_url() {
    echo "s3://$1${2:+/$2}?endpoint=$SERVER&region=us-east-1"
}

# bad_server: what follows is on the misbehaving server (tests/helpers/badserver.py), which does no wrong until it is told
# to: sets SERVER, the credentials, BUCKET and URL.
bad_server() {
    local port
    export no_proxy='*'
    python3 -B "$SRC/tests/helpers/badserver.py" --port-file "$T/ports" 2>"$T/badserver.err" &
    wait_for 20 test -s "$T/ports"
    read -r port _ <"$T/ports"
    SERVER=http://127.0.0.1:$port ON=bad BUCKET=b
    export AWS_ACCESS_KEY_ID=AKIDTEST AWS_SECRET_ACCESS_KEY=secret/of+the=test
    URL=$(s3_url b)
}

# s3_curl BUCKET/KEY OPTION...: one request by curl, ten times as quick as s3; for keys of plain characters.
s3_curl() {
    local path=$1 user=${AWS_ACCESS_KEY_ID//:/%3A} secret=${AWS_SECRET_ACCESS_KEY//\//%2F}
    shift
    curl -sS --fail --noproxy '*' --max-time 300 --aws-sigv4 aws:amz:us-east-1:s3 -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' \
        "$@" "${SERVER/:\/\//:\/\/$user:${secret//+/%2B}@}/$path"
}

# --- the bucket ------------------------------------------------------------------------------------------------
# What somebody else, without bhfs, sees in the test's bucket and does to it.

new_bucket() {
    case "$ON" in
    file)
        BUCKET=$T/bucket URL=file://$T/bucket
        mkdir -p "$BUCKET"
        ;;
    *)
        use_server "$ON"
        BUCKET=$(s3_bucket)
        buckets+=("$BUCKET")
        URL=$(s3_url "$BUCKET")
        ;;
    esac
}

# bucket_get KEY FILE: fails if there is no such object.
bucket_get() {
    case "$ON" in
    file) cp "$BUCKET/$1" "$2" ;;
    *) s3_curl "$BUCKET/$1" -o "$2" ;;
    esac
}

# bucket_put FILE KEY
bucket_put() {
    case "$ON" in
    file)
        mkdir -p "$(dirname "$BUCKET/$2")"
        cp "$1" "$T/put" && mv "$T/put" "$BUCKET/$2"
        ;;
    *) s3 put "$1" "$BUCKET/$2" ;;
    esac
}

# bucket_copy KEY KEY
bucket_copy() {
    case "$ON" in
    file) bucket_put "$BUCKET/$1" "$2" ;;
    *) s3 copy "$BUCKET/$1" "$BUCKET/$2" ;;
    esac
}

bucket_has() {
    case "$ON" in
    file) [ -f "$BUCKET/$1" ] ;;
    *) s3_curl "$BUCKET/$1" -I -o /dev/null 2>/dev/null ;;
    esac
}

# bucket_rm KEY...
bucket_rm() {
    case "$ON" in
    file) (cd "$BUCKET" && rm -- "$@") ;;
    *) s3 rm "${@/#/$BUCKET/}" ;;
    esac
}

# bucket_ls [PREFIX]: the keys that begin so, a line each, in order.
bucket_ls() {
    case "$ON" in
    file) (cd "$BUCKET" && find . -name .bhfs-meta -prune -o -type f -printf '%P\n') | awk -v p="${1-}" 'index($0, p) == 1' ;;
    *) s3 ls "$BUCKET/${1-}" ;;
    esac | sort
}

# bucket_stamp KEY: another text after every upload (on a server only if a second has passed, or the content is another).
bucket_stamp() {
    case "$ON" in
    file) stat -c '%i %s %y' "$BUCKET/$1" ;;
    *) s3_curl "$BUCKET/$1" -I | tr -d '\r' | grep -iE '^(etag|last-modified|content-length):' ;;
    esac
}

# bucket_empty: as if it were new. Nothing may be mounted.
bucket_empty() {
    case "$ON" in
    file) rm -rf "$BUCKET" && mkdir "$BUCKET" ;;
    *) s3 rb "$BUCKET" && s3 mb "$BUCKET" ;;
    esac
}

# snap_file [KEY]: prints the name of a local copy of the newest snapshot, or of that object.
snap_file() {
    local key=${1:-$SNAP} file
    file=$T/copies/${key//\//_}
    mkdir -p "$T/copies"
    rm -f "$file"*
    bucket_get "$key" "$file" || file=$T/no-such-object/$key
    echo "$file"
}

# snapshot_value SQL [KEY]: what the newest snapshot, or that one, says, read by SQLite as it lies in the bucket.
snapshot_value() {
    sqlite3 -batch -bail "file:$(snap_file "${2:-$SNAP}")?immutable=1" "$1"
}

# --- mounting --------------------------------------------------------------------------------------------------

# mount_bh [OPTION...]: mounts $URL on $MNT with state in $STATE. Sets DAEMON.
mount_bh() {
    mount_at "$MNT" "$STATE" "$URL" "$@"
}

# live_journal MODE: the journal mode of databases that mounts make from now on.
live_journal() {
    printf '[snapshot]\ninterval = 0\n[live]\njournal = %s\n' "$1" >"$BUCKETHEAD_CONFIG"
}

# mount_at MOUNTPOINT STATE URL [OPTION...]: with CHECK_FLUSHES=1 every flush is compared with all that is in the database.
mount_at() {
    local mnt=$1 state=$2 url=$3
    shift 3
    need_fuse
    mkdir -p "$mnt"
    [ -z "$CHECK_FLUSHES" ] || set -- -o snapshot.check=true "$@"
    "$BHFS" -o live.dir="$state" -o log.file="$T/daemon.log" "$@" "$url" "$mnt" ||
        fail_at_caller "the mount failed with status $?: $*"
    DAEMON=$(status_of pid "$mnt")
    daemons[$mnt]=$DAEMON
}

# mount_fails [OPTION...]: mount_bh must be refused with nothing mounted; the sentence is in $OUT.
mount_fails() {
    need_fuse
    must_fail timeout 60 "$BHFS" -o live.dir="$STATE" -o log.file="$T/daemon.log" "$@" "$URL" "$MNT"
    [ -n "$OUT" ] || fail_at_caller "the mount was refused without a sentence"
    ! mounted "$MNT" || fail_at_caller "mounted all the same"
}

need_fuse() {
    [ -e /dev/fuse ] || skip "/dev/fuse is absent"
    [ -x "$BHFS" ] || fail "there is no $BHFS"
}

mounted() {
    findmnt -n -M "$1" >/dev/null
}

# umount_bh [MOUNTPOINT]: as a user does it, everything flushed, the daemon ended.
umount_bh() {
    local mnt=${1:-$MNT}
    "$BHFS" umount "$mnt" || fail_at_caller "bhfs umount $mnt: status $?"
    ! mounted "$mnt" || fail_at_caller "still mounted: $mnt"
    gone "${daemons[$mnt]}" || fail_at_caller "the daemon ${daemons[$mnt]} of $mnt still runs"
    unset "daemons[$mnt]"
}

# kill_daemon [MOUNTPOINT]: kill -9, and the dead mount taken away.
kill_daemon() {
    local mnt=${1:-$MNT} pid index
    index=$(index_of "${daemons[$mnt]}")
    kill -KILL "${daemons[$mnt]}"
    for pid in "${daemons[$mnt]}" $index; do
        wait_for 10 gone "$pid"
    done
    unmount_dead "$mnt"
    unset "daemons[$mnt]"
}

# index_of PID: the process in which that daemon maps live.db-shm through its own mount, if it runs.
index_of() {
    pgrep -P "$1" -x bhfs-index || true
}

# ended [MOUNTPOINT [SECONDS]]: waits until the daemon, asked to end by some other way, is gone with its mount.
ended() {
    local mnt=${1:-$MNT}
    wait_for "${2:-30}" gone "${daemons[$mnt]}"
    ! mounted "$mnt" || fail_at_caller "the daemon is gone, the mount is not: $mnt"
    unset "daemons[$mnt]"
}

unmount_dead() {
    ! mounted "$1" || umount -f -l "$1" 2>/dev/null || fusermount3 -uz "$1"
}

# drop_state: the machine is lost; only the bucket remains.
drop_state() {
    rm -rf "$STATE"
}

# --- asking the daemon -----------------------------------------------------------------------------------------

# status_of KEY [MOUNTPOINT]: the value in .ctl/status; nothing if there is no such key.
status_of() {
    sed -n "s/^$1: *//p" "${2:-$MNT}/.ctl/status"
}

# metric NAME [MOUNTPOINT]: the sum over all samples of that name, or the one sample if NAME has labels.
metric() {
    awk -v name="$1" '/^#/ { next } { key = $1; if (index(name, "{") == 0) sub(/\{.*/, "", key) }
        key == name { sum += $2 } END { printf "%.0f\n", sum }' "${2:-$MNT}/.ctl/metrics"
}

last_status() {
    cat "${1:-$MNT}/.ctl/last_status"
}

log_has() {
    grep -qE -- "$1" "$CTL/log"
}

# flush [MOUNTPOINT]: must succeed.
flush() {
    touch "${1:-$MNT}/.ctl/flush" || fail_at_caller "flush: $(last_status "$@")"
}

# --- the database ----------------------------------------------------------------------------------------------

# sql STATEMENTS [DATABASE]: by the sqlite3 shell, stopping at the first error.
sql() {
    sqlite3 -batch -bail -cmd '.timeout 10000' "${2:-$DB}" "$1"
}

# integrity [DATABASE]: must be ok.
integrity() {
    [ -e "${1:-$DB}" ] || fail_at_caller "there is no $1"
    assert_eq "$(sql 'PRAGMA integrity_check' "${1:-$DB}")" ok "integrity_check of ${1:-$DB}"
}

# digest [DATABASE]: SHA-256 of its logical content.
digest() {
    [ -e "${1:-$DB}" ] || fail_at_caller "there is no $1"
    sqlite3 -batch -bail "${1:-$DB}" .dump | sha256sum | cut -d' ' -f1
}

# version_bytes FILE: what the database's header says of its journal: "1 1" a rollback mode, "2 2" WAL.
version_bytes() {
    od -An -tu1 -j18 -N2 "$1" | xargs
}

# --- clients that stay -----------------------------------------------------------------------------------------

declare -A session_pid=() session_in=() session_out=()

# session NAME [DATABASE [TIMEOUT_MS]]: a client that stays connected and is given one statement after the other. DATABASE
# may be a URI. Its busy timeout is 10 s if not said.
session() {
    local name=$1 in out
    mkfifo "$T/$name.in" "$T/$name.out"
    python3 "${SESSION:-$SRC/tests/helpers/session.py}" "${2:-$DB}" "${3:-10000}" <"$T/$name.in" >"$T/$name.out" 2>"$T/$name.err" &
    session_pid[$name]=$!
    exec {in}>"$T/$name.in" {out}<"$T/$name.out"
    rm "$T/$name.in" "$T/$name.out"
    session_in[$name]=$in session_out[$name]=$out
}

# ask NAME SQL: prints the answer in one line: columns joined with |, rows with a comma; or "error: TEXT".
ask() {
    tell "$@"
    answer "$1"
}

# tell NAME SQL: the statement alone; the answer is to be fetched with answer NAME.
tell() {
    printf '%s\n' "${2//$'\n'/ }" >&"${session_in[$1]}"
}

answer() {
    local line
    read -r -t 120 line <&"${session_out[$1]}" || fail_at_caller "no answer from client $1: $(cat "$T/$1.err")"
    printf '%s\n' "$line"
}

# leave NAME...: these close the database and end.
leave() {
    local name
    for name in "$@"; do
        tell "$name" .quit
        wait "${session_pid[$name]}" || fail_at_caller "client $name: status $?: $(cat "$T/$name.err")"
        forget_session "$name"
    done
}

# kill_session NAME...: kill -9, and gone with all their locks when it returns.
kill_session() {
    local name
    for name in "$@"; do
        kill -KILL "${session_pid[$name]}"
    done
    for name in "$@"; do
        { wait "${session_pid[$name]}" || true; } 2>/dev/null # bash would report it
        forget_session "$name"
    done
}

forget_session() {
    local in=${session_in[$1]} out=${session_out[$1]}
    exec {in}>&- {out}<&-
    unset "session_pid[$1]" "session_in[$1]" "session_out[$1]"
}

# --- the end ---------------------------------------------------------------------------------------------------

clean_up() {
    local status=$? mnt pid name
    trap - EXIT ERR
    trap '' INT TERM
    set +e
    if [ "$status" -eq 0 ] && grep -q 'a bug in bhfs' "$T/daemon.log" 2>/dev/null; then
        echo 'a daemon has found a bug in itself'
        status=1
    fi >&2
    if [ "$status" -ne 0 ] && [ "$status" -ne 77 ] && [ -s "$T/daemon.log" ]; then
        echo "--- the end of the daemon's log"
        tail -n 15 "$T/daemon.log" | cut -c1-300
    fi >&2
    cd /
    for mnt in "${!daemons[@]}"; do
        unmount_dead "$mnt"
        pid=${daemons[$mnt]}
        gone "$pid" || { kill -TERM "$pid"; timeout 5 tail -s 0.1 --pid="$pid" -f /dev/null; }
        gone "$pid" || kill -KILL "$pid"
    done 2>/dev/null
    for pid in $(jobs -p); do
        kill -TERM "$pid" 2>/dev/null
    done
    for name in "${buckets[@]}"; do
        [ ${#servers[@]} -gt 0 ] || s3 rb "$name" # a server of tests/run is others' too
    done
    for name in "${servers[@]}"; do
        "$SRC/tests/servers/$name" stop "$T/server-$name"
    done
    [ -z "$remove_t" ] || rm -rf --one-file-system "$T"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
trap 'echo "FAILED at ${BASH_SOURCE[0]##*/}:$LINENO: status $? from: $BASH_COMMAND" >&2' ERR

# The servers that the script needs beside that of its bucket, and the bucket.
for name in $(sed -n '1,/^[^#]/s/^# server: *//p' "$SCRIPT"); do
    use_server "$name"
done
new_bucket
