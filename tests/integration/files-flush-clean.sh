#!/usr/bin/env bash
# After a flush nothing is left to flush: status says so at once, however short before it files were made, edited, removed or given
# attributes, and the next flush makes no snapshot.
# level: quick
# time: 30
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

files_mount -o snapshot.interval=0

# clean WHAT: after a flush.
clean() {
    local before state
    flush
    state="$(status_of unflushed) $(status_of files_unpublished)"
    if [ "$state" = 'yes 0' ]; then # on a slow machine it did not look for rows of others: the next one does
        sleep 2.5
        flush
        state="$(status_of unflushed) $(status_of files_unpublished)"
    fi
    assert_eq "$state" 'no 0' "unflushed, files_unpublished after $1"
    before=$(ls "$MNT/snapshots")
    flush
    assert_eq "$(ls "$MNT/snapshots")" "$before" "the snapshots after another flush, $1"
}
# unclean WHAT: before it.
unclean() { assert_eq "$(status_of unflushed)" yes "unflushed after $1"; }

clean 'nothing'
echo one >"$FILES/a"
unclean 'a file'
clean 'a file'
echo two >"$FILES/a"
unclean 'an edit'
clean 'an edit'
cp "$FILES/a" "$FILES/b"
echo three >"$FILES/a"
clean 'a copy and an edit'
exec 3>>"$FILES/a"
echo four >&3
unclean 'a write to an open file'
flush
echo five >&3
exec 3>&-
unclean 'the close'
clean 'the close'
python3 -c 'import os, sys; os.setxattr(sys.argv[1], "user.bh.meta.colour", b"red")' "$FILES/a"
unclean 'an attribute'
clean 'an attribute'
rm "$FILES/a" "$FILES/b"
unclean 'a removal'
clean 'a removal'
for i in $(seq 300); do echo "$i" >"$FILES/$i"; done
clean '300 files'

# A row of a client's, which gets a name.
printf upstream >"$T/blob"
hash=$(sha256sum <"$T/blob" | cut -d' ' -f1)
bucket_put "$T/blob" "files/$hash"
sql "INSERT INTO filestore VALUES('$hash', 'files/$hash', 8, 'text/plain', 'theirs', '{}', 1000000000.25)"
clean 'a row'
assert_eq "$(cat "$FILES/theirs")" upstream
umount_bh
