#!/usr/bin/env bash
# files/ travels in time with the database: snapshots/X/files and branches/B/files are read-only and as they were, with contents,
# times, modes; a restore and a switch change the tree; content that the bucket has is not uploaded again; each content is stored once,
# under its SHA-256, with its filestore row.
# level: quick
# time: 90
# buckets: file ceph
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1
mount_only

restore() { echo "$1" >"$CTL/restore" || fail "restore $1: $(last_status)"; }
switch_to() { echo "$1" >"$CTL/branch" || fail "switch to $1: $(last_status)"; }
keep() { rm -rf "${T:?}/$1" && cp -a "$FILES" "$T/$1"; } # NAME: what the tree is now, on the local disk
sha() { sha256sum <"$1" | cut -d' ' -f1; }

files_mount
# --- two moments
python3 "$SRC/tests/helpers/maketree.py" "$FILES/tree" 60 3
echo 'the first' >"$FILES/a"
echo 'goes away' >"$FILES/b"
echo 'to be renamed' >"$FILES/c"
mkdir "$FILES/dir"
echo inner >"$FILES/dir/inner"
chmod 640 "$FILES/a"
chown 65501:65502 "$FILES/a"
touch -d '2001-02-03 04:05:06.123456789Z' "$FILES/a"
setfattr -n user.note -v 'of the first' "$FILES/a" 2>/dev/null || python3 -c "import os; os.setxattr('$FILES/a', 'user.note', b'of the first')"
sql "CREATE TABLE t(v); INSERT INTO t VALUES('first')"
keep one
mkdir "$MNT/snapshots/one" || fail "$(last_status)"

echo 'the second' >"$FILES/a"
chmod 600 "$FILES/a"
rm "$FILES/b"
mv "$FILES/c" "$FILES/dir/renamed"
echo 'new' >"$FILES/d"
ln "$FILES/d" "$FILES/d2"
python3 "$SRC/tests/helpers/maketree.py" --change "$FILES/tree" 5
sql "UPDATE t SET v = 'second'"
keep two
mkdir "$MNT/snapshots/two" || fail "$(last_status)"

look() { # what is now, and in both snapshots
    same_tree "$MNT/snapshots/one/files" "$T/one" "snapshots/one/files, $1"
    same_tree "$MNT/snapshots/two/files" "$T/two" "snapshots/two/files, $1"
    assert_eq "$(python3 -c "import os; print(os.getxattr('$MNT/snapshots/one/files/a', 'user.note').decode())")" 'of the first' "an attribute in a snapshot, $1"
}
look "at once"
same_tree "$FILES" "$T/two" "files/"
assert_errno EROFS "open(M + '/snapshots/one/files/a', 'w')"
assert_errno EROFS "os.unlink(M + '/snapshots/one/files/a')"
assert_errno EROFS "os.mkdir(M + '/snapshots/one/files/new')"
assert_errno EROFS "os.utime(M + '/branches/main/files/a')"
assert_eq "$(stat -c '%a %u:%g %y' "$MNT/snapshots/one/files/a")" "640 65501:65502 2001-02-03 04:05:06.123456789 +0000" "mode, owner, time in a snapshot"
[ "$MNT/snapshots/two/files/a" -nt "$MNT/snapshots/one/files/a" ] || fail "the newer one is not newer"

# --- what is in the bucket: each content once, named by what it is, with a row
check_blobs() {
    local key
    bucket_ls files/ | sed -n 's/^files\///p' >"$T/keys"
    while read -r key; do
        assert_match "$key" '^[0-9a-f]{64}$' "a key below files/"
        bucket_get "files/$key" "$T/blob"
        assert_eq "$(sha "$T/blob")" "$key" "the content of blob $key"
    done <"$T/keys"
    (cd "$1" && find . -type f -size +0 -print0 | xargs -0 -r sha256sum) | cut -d' ' -f1 | sort -u >"$T/wanted"
    assert_eq "$(comm -23 "$T/wanted" <(sort "$T/keys"))" "" "contents of $1 that the bucket has not"
}
check_blobs "$T/one"
check_blobs "$T/two"
find "$T/one" "$T/two" -type f -size +0 -print0 | xargs -0 sha256sum | cut -d' ' -f1 | sort -u >"$T/all"
assert_eq "$(blobs)" "$(wc -l <"$T/all")" "objects in the bucket and different contents"
assert_eq "$(sql "SELECT bh_key || ' ' || object_key || ' ' || size || ' ' || filename FROM filestore WHERE bh_key = '$(sha "$FILES/a")'")" \
    "$(sha "$FILES/a") files/$(sha "$FILES/a") 11 a" "the row of files/a"
assert_eq "$(sql "SELECT count(*) FROM filestore WHERE mime IS NULL OR mime = ''")" 0 "rows without a mime type"
find "$FILES" -type f -size +0 -print0 | xargs -0 sha256sum | cut -d' ' -f1 | sort -u >"$T/live"
assert_eq "$(sql "SELECT bh_key FROM filestore WHERE size > 0" | sort)" "$(cat "$T/live")" "bh_keys and the contents of files/"
echo '<!DOCTYPE html><p>x' >"$FILES/page.html"
printf '\x89PNG\r\n\x1a\n0000' >"$FILES/picture"
flush
assert_match "$(sql "SELECT mime FROM filestore WHERE filename = 'page.html'")" '^text/html' "the mime type by name"
assert_match "$(sql "SELECT mime FROM filestore WHERE filename = 'picture'")" '^image/png$' "the mime type by content"
rm "$FILES/page.html" "$FILES/picture"
flush
assert_eq "$(sql "SELECT count(*) FROM filestore WHERE filename IN ('page.html', 'picture')")" 0 "rows of contents whose last name has gone"

# --- nothing is uploaded twice
had=$(blobs)
cp "$MNT/snapshots/one/files/a" "$FILES/a-again"
cp -a "$MNT/snapshots/one/files/tree" "$FILES/tree-again"
cp "$FILES/dir/inner" "$FILES/dir/same"
for i in 1 2 3; do echo 'one and the same' >"$FILES/equal$i"; done
puts=$(metric 'bhfs_bucket_requests_total{op="put"}')
flush
assert_eq "$(($(blobs) - had))" 1 "new objects: that of the three equal ones"
assert_between $(($(metric 'bhfs_bucket_requests_total{op="put"}') - puts)) 1 8 "PUTs of that flush"
same_tree "$FILES/tree-again" "$T/one/tree" "the copy"
assert_eq "$(sql "SELECT count(*) FROM filestore WHERE bh_key = '$(sha "$FILES/equal1")'")" 1 "rows of a content with three names"
rm -rf "$FILES/tree-again" "$FILES"/a-again "$FILES"/equal? "$FILES/dir/same"

# --- restore
exec {handle}<"$FILES/a"
restore one
same_tree "$FILES" "$T/one" "files/ after restore one"
assert_eq "$(sql 'SELECT v FROM t')" first "the database after it"
assert_eq "$(cat <&"$handle")" 'the second' "what was open before"
exec {handle}<&-
echo 'after the restore' >"$FILES/e"
restore two
same_tree "$FILES" "$T/two" "files/ after restore two"
restore prev
assert_eq "$(cat "$FILES/e")" 'after the restore' "what was made between, by restore prev"
restore two
assert_errno ESTALE "f = os.open(M + '/files/a', os.O_WRONLY); open(M + '/.ctl/restore', 'w').write('one'); os.write(f, b'x'); os.fsync(f)"
restore two
assert_eq "$(cat "$FILES/a")" 'the second' "the file whose handle was of the time before"
look "after restores"

# --- branches
mkdir "$MNT/branches/side" || fail "$(last_status)"
same_tree "$MNT/branches/side/files" "$T/two" "branches/side/files"
echo 'of main' >"$FILES/a"
rm -r "$FILES/dir"
flush
same_tree "$MNT/branches/side/files" "$T/two" "branches/side/files after changes in main"
keep main
switch_to side
same_tree "$FILES" "$T/two" "files/ on side"
same_tree "$MNT/branches/main/files" "$T/main" "branches/main/files"
echo 'of side' >"$FILES/side-only"
keep side
switch_to main
same_tree "$FILES" "$T/main" "files/ on main again"
same_tree "$MNT/branches/side/files" "$T/side" "branches/side/files with what was written there"
cp "$MNT/branches/side/files/side-only" "$FILES/"
assert_eq "$(cat "$FILES/side-only")" 'of side'
keep main

# --- the same from the bucket alone
umount_bh
drop_state
files_mount
look "from the bucket alone"
same_tree "$FILES" "$T/main" "files/ from the bucket alone"
same_tree "$MNT/branches/side/files" "$T/side" "branches/side/files from the bucket alone"
check_blobs "$FILES"
restore one
same_tree "$FILES" "$T/one" "files/ restored from the bucket alone"
umount_bh
