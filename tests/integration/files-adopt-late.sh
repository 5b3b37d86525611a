#!/usr/bin/env bash
# Rows of table filestore beside a flush that looks for them late, or cannot: rows of ours that are written meanwhile are no rows
# that upstream put, and what is removed does not come back; those of a client get their names without anybody asking again, and
# their objects are kept from gc.
# level: full
# waits
# time: 120
# serial
. "${BASH_SOURCE%/*}/../files.sh"
mount_only

sha() { sha256sum | cut -d' ' -f1; }
row() { # TEXT FILENAME: the object, and its row as upstream inserts one
    local hash
    hash=$(printf '%s' "$1" | sha)
    printf '%s' "$1" >"$T/blob"
    bucket_put "$T/blob" "files/$hash"
    sql "INSERT INTO filestore(bh_key, object_key, size, mime, filename, metadata, created_at)
         VALUES('$hash', 'files/$hash', ${#1}, 'text/plain', '$2', '{}', 1000000000)"
}
rows() { sql 'SELECT filename FROM filestore ORDER BY 1' | xargs; }
# slow_flush: one that waits for a client to look for rows, finds none, and leaves the next ones without a look.
slow_flush() {
    session slow "$DB"
    echo x >>"$FILES/log"
    flush
    ask slow 'BEGIN EXCLUSIVE;' >"$T/answer"
    mkdir "$FILES/dir.$RANDOM$RANDOM"
    flush &
    local flushing=$!
    sleep 0.4
    ask slow 'COMMIT;' >"$T/answer"
    leave slow
    wait $flushing || fail_at_caller "a flush beside a client's transaction: $(last_status)"
}

options=(-o live.journal=delete -o live.busy_timeout=500ms -o snapshot.interval=0 -o retention.grace=6s -o snapshot.lease=5s)
files_mount "${options[@]}"
echo one >"$FILES/one"
flush
assert_eq "$(rows)" one "rows at first"
mkdir "$MNT/branches/other"

# --- a row of a client and one of ours, in a flush that does not look
slow_flush
row 'of a client' theirs
echo two >"$FILES/two"
flush
assert_eq "$(rows)" "log one theirs two" "rows after a flush right after one that took long"
rm "$FILES/two"
sleep 2.5
flush
flush
[ ! -e "$FILES/two" ] || fail "a file that was removed came back, as if upstream had put its row"
assert_eq "$(cat "$FILES/theirs")" 'of a client' "a row of a client"
assert_eq "$(rows)" "log one theirs" "rows after a removal"

# --- a look that fails, of a flush that has nothing to write but a name
session busy "$DB"
ask busy 'BEGIN EXCLUSIVE;' >"$T/answer"
printf 'in between' >"$T/blob"
HASH=$(sha <"$T/blob")
bucket_put "$T/blob" "files/$HASH"
ask busy "INSERT INTO filestore(bh_key, object_key, size, filename, metadata, created_at)
    VALUES('$HASH', 'files/$HASH', 10, 'between', '{}', 1000000000);" >"$T/answer"
mkdir "$FILES/another"
touch "$CTL/flush" 2>"$T/err" || true # it may fail as well
log_has 'rows of table filestore have no name in files/ yet' || fail "the look did not fail"
ask busy 'COMMIT;' >"$T/answer"
leave busy
wait_for 20 [ -e "$FILES/between" ]
assert_eq "$(cat "$FILES/between")" 'in between' "a row that a failed look has not seen"

# --- what has got a name like that is in no snapshot yet: gc on another branch leaves its object, also after a kill
for when in first killed; do
    [ $when = first ] || { kill_daemon && files_mount "${options[@]}"; }
    mount_at "$T/mnt2" "$T/state2" "$URL" -o snapshot.interval=0 -o snapshot.branch=other -o retention.grace=6s
    for i in 1 2 3; do
        sleep 7
        touch "$T/mnt2/.ctl/gc" || fail "gc: $(last_status "$T/mnt2")"
    done
    umount_bh "$T/mnt2"
    bucket_has "files/$HASH" || fail "$when: gc has deleted what a client's row names that is not flushed yet"
done
assert_eq "$(cat "$FILES/between")" 'in between' "its content"
files_umount
