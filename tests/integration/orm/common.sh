# What the tests with other people's database libraries share, beside lib.sh, which it reads in. The clients are programs of
# this folder; nothing in them knows of bhfs. CLIENTS of them at once write to one database while flush follows flush, with
# the libraries' own settings: a busy timeout of 5 s above all. Then the sums must be exact.
# shellcheck shell=bash
. "${BASH_SOURCE%/*}/../../lib.sh"

ORM=$SRC/tests/integration/orm
CLIENTS=4
export PYTHONDONTWRITEBYTECODE=1
declare -A running=() # pid -> what runs there
declare -A output=()  # pid -> where its output is
watchers=()           # those that end when they are told to
live_journal delete   # a new database begins with a rollback journal

# pace MODE: sets COUNT, the transactions of each client, and PAUSE, the milliseconds between two of them at most. A commit
# in a rollback mode waits for every reader and writer to leave, and SQLite, which only looks now and then, is unfair to
# those that wait: with clients that leave no time between transactions one would fail after 5 s on a native file, too.
pace() {
    COUNT=${BH_INCREMENTS:-200} PAUSE=40
    if [ "$1" != wal ]; then
        COUNT=$((COUNT / 2)) PAUSE=160
    fi
}

# python_has MODULE...: or the test is skipped.
python_has() {
    local module
    for module; do
        python3 -c "import $module" 2>/dev/null || skip "python3 has no $module here"
    done
}

# must COMMAND...: runs it, and shows what it printed only when it fails.
must() {
    attempt "$@"
    [ "$STATUS" -eq 0 ] || fail_at_caller "status $STATUS from: $*: $OUT"
}

# beside COMMAND...: runs it beside the test until `together`.
beside() {
    local file=$T/output.$((${#output[@]} + 1))
    "$@" >"$file" 2>&1 </dev/null &
    running[$!]=$* output[$!]=$file
}

# watching COMMAND...: the same for what goes on until the file $T/enough is there.
watching() {
    rm -f "$T/enough"
    beside "$@"
    watchers+=($!)
}

# together: waits for all that runs beside, the watchers last; all must have ended well. Shows what they printed.
together() {
    local pid
    for pid in "${!running[@]}"; do
        [[ " ${watchers[*]} " == *" $pid "* ]] || reap "$pid"
    done
    touch "$T/enough"
    for pid in "${watchers[@]}"; do
        reap "$pid"
    done
    watchers=()
}

reap() {
    local status=0
    wait "$1" || status=$?
    [ $status -eq 0 ] || fail "status $status from: ${running[$1]}: $(tail -n 20 "${output[$1]}")"
    sed 's/^/    /' "${output[$1]}"
    unset "running[$1]"
}

# flushing SQL: flush follows flush until $T/enough is there; in every snapshot the query must say 0.
flushing() {
    local got count=0
    trap - ERR EXIT
    while [ ! -e "$T/enough" ]; do
        touch "$CTL/force_flush" || { last_status; exit 1; }
        got=$(snapshot_value "SELECT integrity_check FROM pragma_integrity_check; $1") || exit 1
        [ "$got" = $'ok\n0' ] || { echo "the snapshot of a flush: $got"; exit 1; }
        count=$((count + 1))
        sleep 0.2
    done
    echo "$count flushes, every snapshot whole"
}

# mode_is MODE: that live.db is in, as a client sees it that did not ask for any.
mode_is() {
    assert_eq "$(sql 'PRAGMA journal_mode')" "$1" 'the journal mode of live.db'
}

# same_elsewhere MODE SQL: the database is sound; a flush brings what the query says, and all the rest, into the bucket, as a
# plain file that is not in WAL mode, and leaves live.db in its mode; the machine is lost, and another one finds it.
# Afterwards nothing is mounted, and the bucket is empty.
same_elsewhere() {
    local here content
    integrity
    mode_is "$1"
    here=$(sql "$2") content=$(digest)
    [ -n "$here" ] || fail "nothing from: $2"
    flush
    mode_is "$1"
    assert_eq "$(snapshot_value 'PRAGMA integrity_check')" ok 'the snapshot'
    assert_eq "$(snapshot_value "$2")" "$here" "in the snapshot: $2"
    assert_eq "$(version_bytes "$(snap_file)")" "1 1" "the header of the snapshot"
    assert_eq "$(digest "$(snap_file)")" "$content" 'the content of the snapshot'
    umount_bh
    drop_state
    mount_bh
    assert_eq "$(sql "$2")" "$here" "on the next machine: $2"
    assert_eq "$(digest)" "$content" 'the content on the next machine'
    umount_bh
    drop_state
    bucket_empty
}
