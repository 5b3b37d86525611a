#!/usr/bin/env bash
# A read-only mount with -o follow shows the newest snapshot of a branch that another mount writes: each step is one
# transaction for its readers, who go on with the handles they have; a reader keeps what it has begun to read; what is the
# same stays local; an idle follower makes one request an interval. The bucket away, a restore, a branch that is deleted,
# goes back or is yet to come, kill -9: it shows what it has, and says what is the matter.
# level: full
# time: 400
# buckets: file ceph
. "${BASH_SOURCE%/*}/../lib.sh"

W=$T/writer F=$T/follower
mkdir -p "$W" "$F"
rules=$T/rules
follow_with() { # [OPTION...]
    mount_at "$F" "$T/state-f" "$URL" -o ro,follow=200ms -o bucket.fault="@$rules" -o bucket.attempts=1 "$@"
}
client() { python3 "$SRC/tests/helpers/follow.py" "$@"; }
shown() { sql 'SELECT n FROM counter' "$F/live.db"; }
shows() { [ "$(shown)" = "$1" ]; }
status_is() { [[ "$(status_of "$1" "$F")" =~ $2 ]]; }
up_to_date() { [ "$(status_of snapshot "$F")" = "$(status_of snapshot "$W")" ]; }
set_n() { # N: the writer's counter, flushed
    sql "UPDATE counter SET n = $1" "$W/live.db"
    flush "$W"
}

# --- what cannot be followed ------------------------------------------------------------------------------------
refused() { # REGEX OPTION...
    local regex=$1
    shift
    must_fail timeout 60 "$BHFS" -o live.dir="$T/state-f" "$@" "$URL" "$F"
    assert_match "$OUT" "$regex" "the sentence"
    ! mounted "$F" || fail "mounted all the same"
}
refused 'add -o ro' -o follow
refused 'add -o ro' -o snapshot.follow=5s
refused 'at least 50 ms' -o ro,follow=1ms
refused 'snapshot\.history' -o ro,follow,snapshot.history=false
sqlite3 "$T/up.db" 'CREATE TABLE counter(n); INSERT INTO counter VALUES(7)'
bucket_put "$T/up.db" "$SNAP"
refused 'no history that could be followed' -o ro,follow
bucket_rm "$SNAP"
rm -rf "$T/state-f"

# --- a branch that is yet to come -------------------------------------------------------------------------------
follow_with
assert_eq "$(status_of following "$F") $(status_of snapshot "$F")" "yes none" "status of a follower of nothing"
wait_for 30 status_is follow_error 'no branch main yet'
mount_at "$W" "$T/state-w" "$URL" -o snapshot.interval=100ms
assert_eq "$(status_of following "$W") $(metric bhfs_following "$W") $(metric bhfs_following "$F")" "no 0 1"
client write "$W/live.db" "$T/stop-w" >"$T/out-w" &
writer=$!
wait_for 60 sql 'SELECT n FROM counter' "$F/live.db"
wait_for 30 status_is follow_error '^none$'

# --- readers, while the writer flushes every 100 ms -------------------------------------------------------------
readers=()
for how in stays fresh stays; do
    client read "$F/live.db" "$T/stop-r" $how >"$T/out-r${#readers[@]}" &
    readers+=($!)
done
sleep 12
for pid in $writer "${readers[@]}"; do
    ! gone "$pid" || fail "a client ended by itself"
done
touch "$T/stop-w"
wait $writer
end=$(cat "$T/out-w")
flush "$W"
wait_for 30 shows "$end" # while they go on reading
wait_for 30 status_is follow_lag_seconds '^0\.000$'
sleep 1
touch "$T/stop-r"
for i in 0 1 2; do
    wait "${readers[$i]}" || fail "reader $i: status $?"
    read -r reads states last <"$T/out-r$i"
    assert_eq "$last" "$end" "the last state that reader $i saw"
    assert_between "$reads" 10 100000 "reads of reader $i"
    assert_between "$states" 3 100000 "states that reader $i saw"
done
echo "$end transactions, $(status_of follow_steps "$F") steps; reader 0: $(cat "$T/out-r0")"
assert_between "$(metric bhfs_follow_steps_total "$F")" 5 1000 "steps"
integrity "$F/live.db"
assert_eq "$(digest "$F/live.db")" "$(digest "$W/live.db")" "the content, follower against writer"
assert_errno EROFS "open('$F/live.db', 'r+b')"
assert_errno EROFS "os.utime('$F/.ctl/flush')"

# --- snapshots/ and branches/ show the newest, too --------------------------------------------------------------
newest=$(status_of snapshot "$W")
wait_for 30 up_to_date
assert_eq "$(ls "$F/snapshots" | tail -n 1)" "$newest" "the newest in snapshots/"
assert_eq "$(sql 'SELECT n FROM counter' "$F/snapshots/$newest/live.db")" "$end"
assert_eq "$(sql 'SELECT n FROM counter' "$F/branches/main/live.db")" "$end" "the head of the branch"

# --- what is the same stays local; idle, a request an interval --------------------------------------------------
umount_bh "$W"
mount_at "$W" "$T/state-w" "$URL"
sql "WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 500) INSERT INTO filler SELECT randomblob(3000) FROM i" "$W/live.db"
flush "$W"
wait_for 30 up_to_date
cat "$F/live.db" >/dev/null # fetches what is not local
assert_eq "$(status_of absent_bytes "$F")" 0 "absent after all of it was read"
assert_between "$(status_of live_bytes "$F")" 1000000 100000000 "bytes of live.db"
set_n 100001
wait_for 30 up_to_date
assert_between "$(status_of absent_bytes "$F")" 0 65536 "bytes that became absent by a change of one page"
assert_eq "$(shown)" 100001
cat "$F/live.db" >/dev/null # fetches what is not local
requests=$(metric bhfs_bucket_requests_total "$F") start=$(now_ms)
sleep 3
requests=$(($(metric bhfs_bucket_requests_total "$F") - requests)) intervals=$((($(now_ms) - start) / 200))
assert_between "$requests" $((intervals / 4)) $((intervals + 2)) "requests of an idle follower in $intervals intervals"
echo "idle: $requests requests in $intervals intervals"

# --- a long reader keeps its snapshot ---------------------------------------------------------------------------
session long "file:$F/live.db?mode=ro"
assert_eq "$(ask long BEGIN)" ""
assert_eq "$(ask long 'SELECT n FROM counter')" 100001
set_n 100002
wait_for 30 status_is follow_error "process ${session_pid[long]} "
sleep 1.5
assert_eq "$(shown)" 100001 "what others read meanwhile"
assert_eq "$(ask long 'SELECT n FROM counter')" 100001 "what the long reader reads"
assert_between "$(status_of follow_lag_seconds "$F")" 1 60 "lag, in seconds"
assert_between "$(status_of follow_poll_age_seconds "$F")" 0 10 "the age of the last look"
set_n 100003
assert_eq "$(ask long 'SELECT n FROM counter')" 100001 "what the long reader reads at last"
assert_eq "$(ask long COMMIT)" ""
wait_for 30 shows 100003
assert_eq "$(ask long 'SELECT n FROM counter')" 100003 "what it reads after its transaction"
wait_for 30 status_is follow_error '^none$'
assert_eq "$(status_of follow_lag_seconds "$F")" 0.000

# --- the bucket away, and back ----------------------------------------------------------------------------------
cat "$F/live.db" >/dev/null # fetches what is not local
echo '*:etimedout' >"$rules"
set_n 100004
wait_for 30 status_is follow_error 'injected fault'
sleep 1.5
assert_eq "$(shown)" 100003 "what is shown while the bucket is away"
assert_eq "$(ask long 'SELECT n FROM counter')" 100003
assert_between "$(status_of follow_poll_age_seconds "$F")" 1 60 "the age of the last look while the bucket is away"
python3 - "$F/.ctl/status.json" <<'END'
import json, sys
s = json.load(open(sys.argv[1]))
assert s["following"] == "yes" and "injected" in s["follow_error"], s
assert s["follow_poll_age_seconds"] >= 1 and s["follow_lag_seconds"] >= 0, s
END
: >"$rules"
wait_for 60 shows 100004
assert_eq "$(ask long 'SELECT n FROM counter')" 100004 "after the bucket was back"
assert_eq "$(status_of follow_error "$F")" none

# --- a restore: the content goes back, the head does not --------------------------------------------------------
echo prev >"$W/.ctl/restore"
wait_for 30 shows 100003
assert_eq "$(ask long 'SELECT n FROM counter')" 100003 "after a restore"
echo prev >"$W/.ctl/restore"
wait_for 30 shows 100004
sql 'DELETE FROM filler; VACUUM' "$W/live.db"
flush "$W"
wait_for 30 up_to_date
assert_eq "$(digest "$F/live.db")" "$(digest "$W/live.db")" "after a VACUUM"
assert_eq "$(stat -c %s "$F/live.db")" "$(stat -c %s "$W/live.db")" "the size after a VACUUM"

# --- a mount while the bucket is away ---------------------------------------------------------------------------
leave long
set_n 100005
wait_for 30 shows 100005
cat "$F/live.db" >/dev/null
umount_bh "$F"
echo '*:etimedout' >"$rules"
set_n 100006
follow_with
assert_eq "$(shown)" 100005 "what is shown by a mount while the bucket is away"
: >"$rules"
wait_for 60 shows 100006
integrity "$F/live.db"

# --- kill -9 of the follower ------------------------------------------------------------------------------------
# What it leaves is a whole state, by itself: the next mount cannot read the head, but what the state names.
rounds=${BH_ROUNDS:-${BHFS_LONG:+40}}
sql 'UPDATE counter SET n = (SELECT count(*) FROM journal)' "$W/live.db"
flush "$W"
umount_bh "$W"
mount_at "$W" "$T/state-w" "$URL" -o snapshot.interval=50ms
rm "$T/stop-w"
client write "$W/live.db" "$T/stop-w" >"$T/out-w" &
writer=$!
for ((i = 0; i < ${rounds:-6}; i++)); do
    wait_for 60 client read "$F/live.db" / once
    sleep "0.$((RANDOM % 9))"
    kill_daemon "$F"
    echo '*:etimedout:key=*branches/*' >"$rules"
    follow_with
    client read "$F/live.db" / once >/dev/null || fail "round $i: what kill -9 left"
    : >"$rules"
    status=$(status_of snapshot "$F")
    wait_for 60 eval '[ "$(status_of snapshot "$F")" != "$status" ]'
done
touch "$T/stop-w"
wait $writer
flush "$W"
wait_for 30 shows "$(cat "$T/out-w")"
integrity "$F/live.db"
assert_eq "$(digest "$F/live.db")" "$(digest "$W/live.db")" "the content after kill -9"
umount_bh "$F"

# A mount that writes goes on with that directory, and a follower with unflushed changes is refused.
umount_bh "$W"
mount_at "$F" "$T/state-f" "$URL"
integrity "$F/live.db"
sql 'UPDATE counter SET n = 100008' "$F/live.db"
kill_daemon "$F"
refused 'changes that are not flushed' -o ro,follow
mount_at "$F" "$T/state-f" "$URL"
umount_bh "$F"

# --- a branch that is deleted, and one whose head goes back -----------------------------------------------------
mount_at "$W" "$T/state-w" "$URL"
assert_eq "$(sql 'SELECT n FROM counter' "$W/live.db")" 100008
mkdir "$W/branches/work"
rm -rf "$T/state-f"
follow_with -o snapshot.branch=work
assert_eq "$(shown)" 100008
assert_eq "$(cat "$F/.ctl/branch")" work
rmdir "$W/branches/work"
wait_for 30 status_is follow_error 'branch work was deleted'
assert_eq "$(shown)" 100008 "what is shown of a deleted branch"
umount_bh "$F"
rm -rf "$T/state-f"
follow_with
bucket_copy "$SNAP.bhfs/branches/main" "$SNAP.bhfs/kept"
set_n 100009
wait_for 30 shows 100009
umount_bh "$W"
bucket_copy "$SNAP.bhfs/kept" "$SNAP.bhfs/branches/main"
wait_for 30 status_is follow_error 'branch main went back.*mount again'
assert_eq "$(shown)" 100009 "what is shown after the head went back"
integrity "$F/live.db"
umount_bh "$F"
