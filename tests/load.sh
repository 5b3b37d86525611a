# What the tests of load, kills, power cuts and faults share, beside lib.sh, which it reads in. Such a test mounts the
# daemon with the test door (bhfs-testd: the same daemon and command line) and uses the clients of tests/helpers.
# shellcheck shell=bash
. "${BASH_SOURCE%/*}/lib.sh"

HELPERS=$BHFS_BUILD/tests/helpers
BHFS=$BHFS_TESTD
CHECK_FLUSHES=1
export BHFS_TEST_SOCKET=$T/door
ACKS=$T/acks
declare -A started=() output=() # pid -> what runs there, and where its output is
outputs=0
SEED=${BH_SEED:-$(date +%s)}
RANDOM=$SEED

# door WORD...: one command to the daemon's test door, e.g. door query 'SELECT n FROM c'. Prints the answer.
door() {
    "$HELPERS/testd-say" "$BHFS_TEST_SOCKET" "$@"
}

# helper NAME ARGUMENT...: runs one of the clients.
helper() {
    local name=$1
    shift
    "$HELPERS/$name" "$@"
}

# start NAME ARGUMENT...: runs a client beside the test. Sets PID; its output is in ${output[$PID]}.
start() {
    local name=$1 file=$T/output.$((++outputs))
    shift
    "$HELPERS/$name" "$@" >"$file" 2>&1 &
    PID=$!
    started[$PID]="$name $*" output[$PID]=$file
}

# reap STATUS PID...: waits for those clients; each must end with that exit status, or one of several ("0|3").
reap() {
    local wanted=$1 pid status
    shift
    for pid in "$@"; do
        status=0
        wait "$pid" || status=$?
        [[ "|$wanted|" == *"|$status|"* ]] ||
            fail_at_caller "status $status, wanted $wanted, from: ${started[$pid]}: $(cat "${output[$pid]-/dev/null}")"
        unset "started[$pid]"
    done
}

# stop PID...: ends clients that go on until SIGTERM; they must have found nothing wrong.
stop() {
    kill -TERM "$@"
    reap "0|143" "$@" # 143: so early that it had not begun
}

# random VARIABLE LOW HIGH: sets it to a number from LOW to HIGH. The same seed gives the same numbers.
random() {
    printf -v "$1" '%d' $(($2 + (RANDOM * 32768 + RANDOM) % ($3 - $2 + 1)))
}

say_seed() {
    echo "seed: $SEED (BH_SEED=$SEED repeats it)"
}

sleep_ms() {
    sleep "$(printf '%d.%03d' $(($1 / 1000)) $(($1 % 1000)))"
}

# check_acks [DATABASE]: every transaction that was acknowledged to a client ($ACKS, written by counter -a) is in the
# database, with the number it got; c.n is the number of log's rows, so no transaction is there by half.
check_acks() {
    local db=${1:-$DB} lost
    integrity "$db"
    [ -e "$ACKS" ] || : >"$ACKS"
    # A line that its writer had no time to end was not acknowledged to anybody.
    sed -n '/^[0-9]* [0-9]* [0-9]*$/p' "$ACKS" >"$T/acks.whole"
    rm -f "$T/acks.db"
    sqlite3 -batch -bail "$T/acks.db" 'CREATE TABLE acks(client INTEGER, seq INTEGER, n INTEGER)' \
        '.separator " "' ".import '$T/acks.whole' acks"
    lost=$(sqlite3 -batch -bail -cmd '.timeout 10000' "$db" "ATTACH '$T/acks.db' AS a" "
        SELECT count(*), min(a.acks.client || '/' || a.acks.seq || '=' || a.acks.n)
        FROM a.acks LEFT JOIN main.log ON log.client = acks.client AND log.seq = acks.seq
        WHERE log.n IS NOT acks.n HAVING count(*) > 0")
    [ -z "$lost" ] || fail_at_caller "acknowledged transactions are missing (count|first): $lost; seed $SEED"
    assert_eq "$(sql 'SELECT n - (SELECT count(*) FROM log) FROM c' "$db")" 0 \
        "c.n minus the number of rows in log (seed $SEED)"
}

# acked: how many transactions were acknowledged so far.
acked() {
    if [ -e "$ACKS" ]; then wc -l <"$ACKS"; else echo 0; fi
}

# make_counter: the tables of counter, and a trigger by which one INSERT of client 9 is a whole increment: a single
# statement, as the test door takes it.
make_counter() {
    helper counter -C "$DB"
    sql 'CREATE TRIGGER IF NOT EXISTS daemon_increments AFTER INSERT ON log WHEN new.client = 9
         BEGIN UPDATE c SET n = n + 1; END'
}

# daemon_load SEQ: the daemon itself commits (as client 9), one transaction after the other, until it is gone; each is
# recorded in $ACKS like a client's. Runs beside the test; sets PID.
daemon_load() {
    (
        trap - ERR EXIT
        seq=$1
        while door run 1 "INSERT INTO log VALUES(9, $seq, $seq, NULL)" >/dev/null 2>&1; do
            echo "9 $seq $seq" >>"$ACKS"
            seq=$((seq + 1))
        done
    ) &
    PID=$!
    started[$PID]="daemon_load $*"
}

# flush_load: flushes on and on until the daemon is gone. Runs beside the test; sets PID.
flush_load() {
    (
        trap - ERR EXIT
        while [ -e "$CTL/flush" ]; do
            touch "$CTL/force_flush" 2>/dev/null || true
            sleep 0.02
        done
    ) &
    PID=$!
    started[$PID]=flush_load
}

# storm MS SYNC MODE...: kill -9 of the daemon after MS ms, while one client a MODE commits and records what was
# acknowledged, the daemon commits too, and flush follows flush. A MODE may be several with commas: the client changes
# between them. Afterwards all of them have ended and nothing is mounted.
storm_seq=1
storm() {
    local ms=$1 sync=$2 mode id=0 clients=() beside=() index how pid
    shift 2
    for mode in "$@"; do
        id=$((id + 1))
        how=(-j "$mode" -k 29)
        [[ "$mode" != *,* ]] || how=(-J "$mode" -S $RANDOM -k 3 -W 30)
        start counter -n 1000000 -i $id -q $storm_seq -p 300 -s "$sync" "${how[@]}" -a "$ACKS" "$DB"
        clients+=("$PID")
    done
    daemon_load $storm_seq
    beside+=("$PID")
    flush_load
    beside+=("$PID")
    sleep_ms "$ms"
    index=$(index_of "${daemons[$MNT]}")
    kill -KILL "${daemons[$MNT]}"
    for pid in "${daemons[$MNT]}" $index; do
        wait_for 10 gone "$pid"
    done
    if [[ " $*" == *WAL* ]]; then
        # To SQLite every lock on -shm that fails is one that others hold: it would try for ten seconds and more.
        sleep 0.3
        kill -KILL "${clients[@]}" 2>/dev/null || true
        reap "3|137" "${clients[@]}"
    else
        reap 3 "${clients[@]}" # an I/O error; "malformed" or "locked" would have another status
    fi
    reap 0 "${beside[@]}"
    unmount_dead "$MNT"
    unset "daemons[$MNT]"
    storm_seq=$((storm_seq + 1000000))
}

# check_after_storm ROUND: what a mount finds is everything that was acknowledged; the one who looks first is the daemon
# or a client by turns. What is in the bucket is whole, and if it is behind, the mount has said that it went on with
# unflushed changes.
check_after_storm() {
    local here there
    if [ $(($1 % 2)) = 0 ]; then
        door query 'SELECT n FROM c' >/dev/null || fail_at_caller "round $1: the daemon cannot read (seed $SEED)"
    fi
    check_acks
    here=$(sql 'SELECT n FROM c')
    assert_eq "$(door query 'SELECT n FROM c')" "$here" "round $1: the daemon's view of c.n (seed $SEED)"
    bucket_has "$SNAP" || return 0
    assert_eq "$(snapshot_value 'PRAGMA integrity_check')" ok "round $1: the snapshot (seed $SEED)"
    there=$(snapshot_value 'SELECT n FROM c')
    assert_eq "$(snapshot_value 'SELECT count(*) FROM log')" "$there" "round $1: rows in the snapshot (seed $SEED)"
    [ "$there" -le "$here" ] || fail_at_caller "round $1: the bucket has $there, the database $here (seed $SEED)"
    if [ "$there" -lt "$here" ]; then
        assert_match "$(status_of recovered)" unflushed "round $1: status after a mount (seed $SEED)"
    fi
}

# check_at_last: an orderly end, then the machine is lost: everything is in the bucket.
check_at_last() {
    umount_bh
    bucket_get "$SNAP" "$T/last.db"
    check_acks "$T/last.db"
    drop_state
    mount_bh -o snapshot.interval=0
    check_acks
    umount_bh
}
