#!/usr/bin/env bash
# .ctl/gc deletes the blobs of files/ that no kept snapshot of any branch names, nor the live tree, nor a row, nor a plain object
# of somebody else, a grace after it has found them, and nothing but these; what is written again meanwhile stays. It names
# what is missing. A kill in the middle does no harm; beside another database nothing is deleted.
# level: full
# waits
# time: 400
# buckets: file ceph
# level@ceph: long
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1
mount_only

gc() { touch "$CTL/gc" || fail_at_caller "gc: $(last_status)"; }
report() { sed -n "s/^$1: //p" "$CTL/gc"; }
sha() { sha256sum | cut -d' ' -f1; }
blobs() { bucket_ls files/ | grep -cE '^files/[0-9a-f]{64}$' || true; }
orphan() { # TEXT: an object that nobody names
    printf '%s' "$1" >"$T/orphan"
    bucket_put "$T/orphan" "files/$(sha <"$T/orphan")"
}
row() { # TEXT FILENAME: as upstream inserts one
    local hash
    hash=$(printf '%s' "$1" | sha)
    sql "INSERT INTO filestore(bh_key, object_key, size, mime, filename, metadata, created_at)
         VALUES('$hash', 'files/$hash', ${#1}, 'text/plain', '$2', '{}', 0)"
}
declare -A HASH=()
make() { # NAME: a file with content of its own
    echo "the content of $1" >"$FILES/$1"
    HASH[$1]=$(sha <"$FILES/$1")
}
must_have() {
    local name
    for name; do
        bucket_has "files/${HASH[$name]}" || fail_at_caller "the blob of $name is gone"
    done
}
must_lack() {
    local name
    for name; do
        ! bucket_has "files/${HASH[$name]}" || fail_at_caller "the blob of $name is there still"
    done
}
keep=(-o retention.keep_last=2 -o retention.grace=2s -o snapshot.plain=never -o snapshot.interval=0)
settle() { sleep 3; } # what is there is older than the grace; a server's clock has seconds

files_mount "${keep[@]}"
# --- who names what
for name in stays labelled sided shared; do make "$name"; done
cp "$FILES/shared" "$FILES/shared2"
mkdir "$FILES/dir" && echo deep >"$FILES/dir/deep"
HASH[deep]=$(sha <"$FILES/dir/deep")
flush
mkdir "$MNT/snapshots/first"
mkdir "$MNT/branches/side"
rm "$FILES/sided"
rm "$FILES/shared"
for name in second gone again; do make "$name"; done
flush
rmdir "$MNT/snapshots/first"
rm "$FILES/second" "$FILES/gone" "$FILES/again"
flush
mkdir "$MNT/snapshots/kept"
rm "$FILES/labelled"
flush
printf 'of a row only' >"$T/row"
HASH[row]=$(sha <"$T/row")
bucket_put "$T/row" "files/${HASH[row]}"
row 'of a row only' row.txt
printf 'of upstream' >"$T/up"
HASH[up]=$(sha <"$T/up")
bucket_put "$T/up" "files/${HASH[up]}"
sqlite3 "$T/up.db" "CREATE TABLE filestore(bh_key TEXT PRIMARY KEY, object_key TEXT, size INT, mime TEXT, filename TEXT, metadata TEXT,
    created_at REAL); INSERT INTO filestore VALUES('${HASH[up]}', 'files/${HASH[up]}', 11, '', 'up', '{}', 0)"
bucket_put "$T/up.db" "$SNAP.branch.upstream"
orphan 'nobody'
HASH[nobody]=$(printf nobody | sha)
echo 'a person put it here' >"$T/note"
bucket_put "$T/note" files/README
sql "CREATE TABLE IF NOT EXISTS t(v)"
for i in 1 2 3; do
    sql "INSERT INTO t VALUES($i)"
    flush
done
before=$(bucket_ls files/)

# --- a dry run, the first run, the second
settle
echo dry-run >"$CTL/gc"
assert_match "$(report 'blobs condemned now')" '^[1-9][0-9]*, '
assert_eq "$(bucket_ls files/)" "$before" "blobs after a dry run"
bucket_ls "$SNAP.bhfs/" | grep -q gc-blobs && fail "a dry run has written the list"
gc
assert_eq "$(report 'blobs deleted')" "0, 0 B"
assert_eq "$(bucket_ls files/)" "$before" "blobs after the first run"
assert_eq "$(report 'dangling references')" 0
# Written again while it is condemned: the object is there already, and must stay.
make again
flush
settle
gc
must_have stays labelled sided shared deep again row up
must_lack gone second nobody
assert_eq "$(report 'blobs deleted')" "3, 48 B" "$(cat "$CTL/gc")"
assert_eq "$(blobs)" 8 "blobs after the second run"
bucket_has files/README || fail "what is no blob was deleted"
settle
gc
settle
gc
assert_eq "$(blobs)" 8 "blobs after more runs"

# --- all of it is whole on a machine that has the bucket only
check() {
    assert_eq "$(cat "$FILES/stays")" 'the content of stays'
    assert_eq "$(cat "$FILES/again")" 'the content of again'
    assert_eq "$(cat "$FILES/shared2")" 'the content of shared'
    assert_eq "$(cat "$FILES/dir/deep")" deep
    assert_eq "$(cat "$MNT/snapshots/kept/files/labelled")" 'the content of labelled'
    assert_eq "$(cat "$MNT/branches/side/files/sided")" 'the content of sided'
}
files_umount
drop_state
files_mount "${keep[@]}"
check
touch "$CTL/verify" || fail "$(last_status)"
assert_match "$(cat "$CTL/verify")" 'blobs: 7 named, .* 0 missing, 0 damaged'
echo full >"$CTL/verify" || fail "$(last_status)"

# --- without the label and the branch
rmdir "$MNT/snapshots/kept" "$MNT/branches/side"
for i in 4 5 6; do
    sql "INSERT INTO t VALUES($i)"
    flush
done
settle
gc
settle
gc
settle
gc
must_lack labelled sided
must_have stays shared deep again row up
assert_eq "$(blobs)" 6

# --- what is missing is named, and nothing is deleted for it
bucket_get "files/${HASH[deep]}" "$T/deep"
bucket_rm "files/${HASH[deep]}"
row 'never uploaded' lost.txt
flush
gc
assert_match "$(cat "$CTL/gc")" "dangling: files/${HASH[deep]} is missing: files/dir/deep of snapshot "
assert_match "$(cat "$CTL/gc")" "dangling: files/$(printf 'never uploaded' | sha) is missing: files/lost.txt of snapshot "
assert_eq "$(report 'dangling references')" 2
assert_eq "$(sql "SELECT count(*) FROM filestore WHERE filename = 'lost.txt'")" 1
must_fail touch "$CTL/verify"
assert_match "$(cat "$CTL/verify")" "damaged: files/${HASH[deep]}"
assert_match "$(cat "$CTL/verify")" 'it is missing, and is needed by files/dir/deep of snapshot'
rm "$FILES/lost.txt" # the row had got a name
printf 'DEEP\n' >"$T/bad" # as large, and not what it was
bucket_put "$T/bad" "files/${HASH[deep]}"
for i in 7 8; do
    sql "INSERT INTO t VALUES($i)"
    flush
done
settle
gc
touch "$CTL/verify" || fail "quick: $(last_status)"
must_fail sh -c "echo full >'$CTL/verify'"
assert_match "$(cat "$CTL/verify")" 'its content is not what its name says, and is needed by files/dir/deep of snapshot'
bucket_put "$T/deep" "files/${HASH[deep]}"

# --- beside another database, and one that cannot be read, nothing is deleted
orphan 'beside'
settle
for key in other.db "$SNAP.branch.bad"; do
    if [ "$key" = other.db ]; then cp "$T/up.db" "$T/file"; else head -c 4096 /dev/urandom >"$T/file"; fi
    bucket_put "$T/file" "$key"
    gc
    assert_match "$(report 'blobs not reclaimed')" "$key"
    settle
    gc
    bucket_has "files/$(printf beside | sha)" || fail "$key: a blob was deleted"
    bucket_rm "$key"
done

# --- another writer's fresh uploads: on another branch, not flushed yet
mkdir "$MNT/branches/other"
mount_at "$T/mnt2" "$T/state2" "$URL" "${keep[@]}" -o snapshot.branch=other -o retention.grace=1h
echo 'of another writer' >"$T/mnt2/files/fresh"
HASH[fresh]=$(sha <"$T/mnt2/files/fresh")
wait_for 20 bucket_has "files/${HASH[fresh]}"
files_umount
files_mount "${keep[@]}" -o retention.grace=1h
gc
gc
must_have fresh
# However long it is not flushed.
umount_bh "$T/mnt2"
mount_at "$T/mnt2" "$T/state2" "$URL" "${keep[@]}" -o snapshot.branch=other -o retention.grace=6s -o snapshot.lease=5s
echo 'not flushed for long' >"$T/mnt2/files/late"
HASH[late]=$(sha <"$T/mnt2/files/late")
wait_for 20 bucket_has "files/${HASH[late]}"
files_remount "${keep[@]}" -o retention.grace=6s
for i in 1 2 3 4; do
    sleep 7
    gc
done
must_have fresh late
flush "$T/mnt2"
umount_bh "$T/mnt2"
files_remount "${keep[@]}"
settle
gc
settle
gc
must_have fresh stays
must_lack labelled
! bucket_has "files/$(printf beside | sha)" || fail "an orphan is there still"

# --- a flush that names what gc is about to delete waits for it, and writes it anew
condemn() { # HASH DOOMED: a list that another gc might have written
    python3 - "$1" "$2" >"$T/list" <<'PY'
import hashlib, sys, time
now = int(time.time() * 1000)
text = f"bhfs: condemned blobs\nrun: 1\n{sys.argv[1]} {now - 5000} {now if sys.argv[2] == 'yes' else 0}\n"
sys.stdout.write(text + "checksum: " + hashlib.sha256(text.encode()).hexdigest() + "\n")
PY
    bucket_put "$T/list" "$SNAP.bhfs/gc-blobs"
}
for doomed in no yes; do
    make "guarded-$doomed"
    hash=${HASH[guarded-$doomed]}
    wait_for 20 bucket_has "files/$hash"
    sleep 1.1
    stamp=$(bucket_stamp "files/$hash")
    condemn "$hash" $doomed
    start=$(now_ms)
    if [ $doomed = yes ]; then
        (sleep 4 && bucket_rm "$SNAP.bhfs/gc-blobs") &
    fi
    flush
    took=$(($(now_ms) - start))
    wait
    [ "$(bucket_stamp "files/$hash")" != "$stamp" ] || fail "doomed: $doomed: a condemned blob was named as it was"
    if [ $doomed = yes ]; then
        assert_between $took 3500 60000 "ms that a flush took whose blob was about to be deleted"
    fi
done
rm "$FILES"/guarded-*
for i in 9 10; do
    sql "INSERT INTO t VALUES($i)"
    flush
done

# --- killed in the middle, again and again
for round in 1 2 3; do
    for i in $(seq 60); do orphan "round $round, $i"; done
    settle
    gc
    settle
    (touch "$CTL/gc" 2>/dev/null || true) &
    sleep "0.$((round * 7))"
    kill_daemon
    wait $! || true
    files_mount "${keep[@]}"
    assert_eq "$(cat "$FILES/again")" 'the content of again' "after a kill"
done
make last
flush
settle
gc
settle
gc
must_have stays shared deep again row up fresh late last
assert_eq "$(blobs)" 9 "blobs at last"
files_umount
drop_state
files_mount "${keep[@]}"
assert_eq "$(cat "$FILES/last" "$FILES/stays" "$FILES/dir/deep")" $'the content of last\nthe content of stays\ndeep'
touch "$CTL/verify" || fail "$(last_status)"
files_umount
