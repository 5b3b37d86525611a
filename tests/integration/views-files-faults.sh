#!/usr/bin/env bash
# files/ of a snapshot where the bucket has lost or damaged what it needs, or does not answer: EIO or ETIMEDOUT with a sentence that
# names the snapshot and the cause, while everything else goes on; and it is well again when the bucket is.
# level: full
# waits
# time: 120
. "${BASH_SOURCE%/*}/../lib.sh"

F=$MNT/files S=$MNT/snapshots
rules=$T/rules
: >"$rules"
mount_here() { mount_bh -o files.timeout=4s -o bucket.fault="@$rules" "$@"; }
pack_of() { ls -t "$BUCKET/bucketsqlite/snap.db.bhfs/packs" | head -n 1; }

mount_here
mkdir "$F/d"
for n in 1 2 3 4; do echo "content of $n" >"$F/d/$n"; done
head -c 300000 /dev/urandom >"$F/large"
flush
old=$(status_of snapshot) pack=$BUCKET/bucketsqlite/snap.db.bhfs/packs/$(pack_of)
echo more >"$F/more"
flush
new=$(status_of snapshot)
one=$(sha256sum <"$F/d/1" | cut -d' ' -f1) large=$(sha256sum <"$F/large" | cut -d' ' -f1)
umount_bh
drop_state

# A blob that is gone, and one with another content: only these cannot be read.
mount_here
mv "$BUCKET/files/$one" "$T/one"
mv "$BUCKET/files/$large" "$T/large"
tac "$T/large" >"$BUCKET/files/$large"
for path in "snapshots/$old/files/d/1" "branches/main/files/d/1" "snapshots/$old/blobs/$one" "blobs/$one"; do
    assert_errno EIO "os.read(os.open(M + '/$path', os.O_RDONLY), 100)"
    assert_match "$(last_status)" "${path%%/*}.*$one" "the sentence for $path"
done
assert_errno EIO "os.read(os.open(M + '/snapshots/$old/files/large', os.O_RDONLY), 300000)"
assert_match "$(last_status)" "large in snapshots/$old/files: .*$large" "the sentence for another content"
assert_eq "$(cat "$S/$old/files/d/2")" "content of 2"
assert_eq "$(stat -c %s "$S/$old/files/d/1")" 13
mv "$T/one" "$BUCKET/files/$one"
cp "$T/large" "$BUCKET/files/$large"
assert_eq "$(cat "$S/$old/files/d/1")" "content of 1"
assert_eq "$(cat "$MNT/blobs/$one")" "content of 1"
assert_eq "$(sha256sum <"$S/$old/files/large" | cut -d' ' -f1)" "$large"
umount_bh
drop_state

# A bucket that does not answer: who asked has ETIMEDOUT in time, or goes when he wants to; nobody else waits.
mount_here
ls -l "$S" >/dev/null
sql 'CREATE TABLE t(i); INSERT INTO t VALUES(1)'
ls -R "$S/$new/files" >/dev/null
echo 'get:delay=12s' >"$rules"
SECONDS=0
assert_errno ETIMEDOUT "os.stat(M + '/snapshots/$old/files')"
assert_match "$(last_status)" "$old" "the sentence"
assert_errno ETIMEDOUT "os.listdir(M + '/snapshots/$old/blobs')"
assert_errno ETIMEDOUT "os.read(os.open(M + '/snapshots/$new/files/large', os.O_RDONLY), 100)"
assert_match "$(last_status)" "large in snapshots/$new/files" "the sentence"
assert_between $SECONDS 11 25 "seconds of three requests that may take four each"
pids=()
for path in "$new/files/d/1" "$new/files/d/2" "$new/files/d/3" "$new/blobs/$one" "$old/files/d" "$old/blobs/$one"; do
    cat "$S/$path" >/dev/null 2>&1 &
    pids+=($!)
done
sleep 0.3
began=${EPOCHREALTIME/./}
assert_eq "$(sql 'SELECT count(*) FROM t')" 1 "a query meanwhile"
sql 'INSERT INTO t VALUES(2)'
echo x >"$F/meanwhile"
assert_eq "$(ls "$F" | xargs)" "d large meanwhile more" "files/ meanwhile"
assert_eq "$(ls "$S/$new/files" | xargs)" "d large more" "what is known of a snapshot meanwhile"
assert_eq "$(stat -c %s "$MNT/blobs/$one")" 13 "a live blob meanwhile"
status_of state >/dev/null
assert_between $(((${EPOCHREALTIME/./} - began) / 1000)) 0 3500 "milliseconds of others meanwhile"
for pid in "${pids[@]}"; do wait "$pid" && fail "a read ended well, without a bucket"; done
# Interrupted: at once, and nothing is said of it.
began=${EPOCHREALTIME/./}
said=$(last_status)
attempt timeout -s INT 0.3 cat "$S/$new/files/d/4"
assert_eq "$OUT" "" "what it read"
assert_between $(((${EPOCHREALTIME/./} - began) / 1000)) 300 3000 "milliseconds of one that was interrupted"
assert_eq "$(last_status)" "$said"
: >"$rules"
well() { [ "$(diff -r "$S/$old/files" "$S/$new/files" 2>&1)" = "Only in $S/$new/files: more" ]; }
wait_for 60 well # when the requests that hang have ended
assert_eq "$(sha256sum <"$S/$new/files/large" | cut -d' ' -f1)" "$large"
umount_bh

# A mount ends while somebody waits.
drop_state
mount_here -o files.timeout=60s
ls -l "$S" >/dev/null
echo 'get:delay=60s' >"$rules"
stat "$S/$old/files" >/dev/null 2>&1 &
waiter=$!
sleep 0.3
SECONDS=0
kill -TERM "${daemons[$MNT]}"
ended "$MNT"
assert_between $SECONDS 0 15 "seconds until the daemon had ended"
wait "$waiter" && fail "stat ended well, without a bucket"
: >"$rules"

# names.db of the old snapshot is damaged: its files cannot be seen; the new one has blocks of its own.
drop_state
mount_here
ls -l "$S" >/dev/null
cp "$pack" "$T/pack"
python3 - "$pack" <<'END'
import os, sys
with open(sys.argv[1], "r+b") as f: # all but its head and its tail
    size = os.fstat(f.fileno()).st_size
    f.seek(64)
    f.write(b"\x5a" * (size - 64 - 200))
END
for what in "os.stat(M + '/snapshots/$old/files')" "os.listdir(M + '/snapshots/$old/files')" "os.listdir(M + '/snapshots/$old/blobs')"; do
    assert_errno EIO "$what"
    assert_match "$(last_status)" "snapshot $old: .*(damaged|pack)" "the sentence for $what"
done
assert_eq "$(cat "$F/d/2")" "content of 2"
cp "$T/pack" "$pack"
assert_eq "$(cat "$S/$old/files/d/2")" "content of 2" "after the pack is whole again"
umount_bh
