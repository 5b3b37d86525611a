#!/usr/bin/env bash
# files/ in snapshots and branches is the tree of that moment: content, modes, owners, times, hard links, symbolic links, attributes;
# diff -r, find -newer, cp -a and rsync work on it, it never changes and nobody changes it. blobs/ has contents by their keys, there
# and for the live files.
# level: full
# time: 180
# buckets: file ceph
. "${BASH_SOURCE%/*}/../lib.sh"

F=$MNT/files S=$MNT/snapshots

# tree DIR: all of it, as find and sha256sum see it.
tree() {
    (cd "$1" && find . -printf '%P %y %m %U %G %s %n %T@ %C@ %l\n' | sort &&
        find . -type f -print0 | sort -z | xargs -0 -r sha256sum)
}
# attributes PATH: names and values; those of ours are not listed, and asked for by name.
attributes() {
    python3 -c '
import os, sys
for n in ["user.bh.key", "user.bh.mime", "user.bh.state"] + sorted(os.listxattr(sys.argv[1], follow_symlinks=False)):
    try:
        print(n, os.getxattr(sys.argv[1], n, follow_symlinks=False))
    except OSError: # a directory has none of ours
        pass' "$1"
}
is_stored() { attributes "$1" | grep -q "user.bh.state b'stored'"; }
key() { sha256sum <"$1" | cut -d' ' -f1; }

mount_bh
mkdir -p "$F/docs/deep/er" "$F/empty"
echo one >"$F/a"
echo "a report" >"$F/docs/report.txt"
: >"$F/docs/nothing"
head -c 3000000 /dev/urandom >"$F/docs/deep/big.bin"
printf '#!/bin/sh\necho it runs\n' >"$F/docs/run.sh"
ln "$F/a" "$F/docs/same"
ln -s ../a "$F/docs/link"
ln -s nowhere "$F/dangling"
mkfifo "$F/pipe"
mknod "$F/null" c 1 3
truncate -s 5000000 "$F/hole"
chmod 4750 "$F/docs/run.sh"
chmod 600 "$F/a"
chmod 1777 "$F/empty"
chown 1234:4321 "$F/docs/report.txt"
touch -d '1999-01-02 03:04:05.123456789' "$F/docs/report.txt"
touch -h -d '2001-01-01' "$F/docs/link"
python3 - "$F" <<'END'
import os, sys
os.setxattr(sys.argv[1] + "/a", "user.colour", b"blue")
os.setxattr(sys.argv[1] + "/docs", "user.kind", b"dir")
os.setxattr(sys.argv[1], "user.root", b"yes")
END
tree "$F" >"$T/first"
flush
first=$(status_of snapshot)
assert_eq "$(stat -c %a "$F/a")" 600

# As it is in the tree, and as it is in the snapshot: the same, by every way.
assert_eq "$(ls -A "$S/$first" | sort | xargs)" "blobs files info live.db" "what is in a snapshot"
diff <(tree "$S/$first/files") "$T/first"
diff -r "$F" "$S/$first/files" 2>&1 | grep -v -e 'is a fifo' -e 'is a character special' -e dangling && fail "diff -r"
diff <(attributes "$F/a") <(attributes "$S/$first/files/a")
assert_match "$(attributes "$S/$first/files/a")" "user.bh.key b'$(key "$F/a")'.*user.bh.state b'stored'.*user.colour b'blue'" attributes
assert_match "$(attributes "$S/$first/files/docs/report.txt")" "user.bh.mime b'text/plain'" "its type"
assert_eq "$(attributes "$S/$first/files/docs")" "user.kind b'dir'"
assert_eq "$(attributes "$S/$first/files")" "user.root b'yes'"
assert_eq "$("$S/$first/files/docs/run.sh")" "it runs"
assert_eq "$(readlink "$S/$first/files/docs/link")" ../a
assert_eq "$(cat "$S/$first/files/docs/link")" one
assert_eq "$(stat -c '%t,%T' "$S/$first/files/null")" 1,3
[ "$S/$first/files/a" -ef "$S/$first/files/docs/same" ] || fail "a hard link is another file"
[ "$S/$first/files/a" -ef "$F/a" ] && fail "the snapshot's file is the live one"
assert_eq "$(find "$S/$first/files" -samefile "$S/$first/files/a" | wc -l)" 2 "names of one inode"
# The numbers that a listing tells are those of stat; no two are the same.
python3 - "$S/$first" <<'END'
import os, sys
seen = {}
for d, dirs, files in os.walk(sys.argv[1]):
    for e in os.scandir(d):
        st = e.stat(follow_symlinks=False)
        assert e.inode() == st.st_ino, (e.path, e.inode(), st.st_ino)
        if st.st_nlink == 1 or e.is_dir(follow_symlinks=False):
            assert st.st_ino not in seen, (e.path, seen[st.st_ino])
        seen[st.st_ino] = e.path
END
# Pieces at any place, by read and by mmap; where the data is.
python3 - "$F/docs/deep/big.bin" "$S/$first/files/docs/deep/big.bin" <<'END'
import mmap, os, random, sys
a, b = (os.open(p, os.O_RDONLY) for p in sys.argv[1:])
size = os.fstat(a).st_size
m = mmap.mmap(b, 0, prot=mmap.PROT_READ)
random.seed(3)
for _ in range(300):
    at, n = random.randrange(size + 1000), random.choice((1, 511, 4096, 100000, 700000))
    want = os.pread(a, n, at)
    assert os.pread(b, n, at) == want and m[at:at + n] == want, (at, n)
assert os.lseek(b, 7, os.SEEK_DATA) == 7 and os.lseek(b, 7, os.SEEK_HOLE) == size
END

# It stays as it was, whatever happens to the files: also for who is in it.
exec 7<"$S/$first/files/docs/report.txt"
cd "$S/$first/files/docs"
echo changed >"$F/a"
echo more >>"$F/docs/report.txt"
rm -r "$F/docs/deep" "$F/dangling"
mv "$F/docs/run.sh" "$F/moved.sh"
touch "$F/new"
flush
second=$(status_of snapshot)
tree "$F" >"$T/second"
diff <(tree "$S/$first/files") "$T/first"
diff <(tree "$S/$second/files") "$T/second"
assert_eq "$(cat <&7)" "a report" "what an open file reads"
assert_eq "$(cat report.txt)" "a report" "what is in the current directory"
cd "$T"
exec 7<&-
attempt diff -rq --no-dereference "$S/$first/files" "$S/$second/files"
assert_eq "$(grep -v -e special -e fifo <<<"$OUT" | wc -l)" 8 "what diff -rq says of two: $OUT"
assert_eq "$(find "$S/$second/files" -newer "$S/$first" -type f -printf '%P\n' | sort | xargs)" "a docs/report.txt docs/same new" \
    "files that are newer than the first snapshot"
assert_eq "$(ls -t "$S/$second/files" | head -n 1)" new

# Nothing changes there.
for in in "$first" "$second"; do
    V="M + '/snapshots/$in/files'"
    assert_errno EROFS "os.open($V + '/a', os.O_WRONLY)"
    assert_errno EROFS "os.open($V + '/a', os.O_RDONLY | os.O_TRUNC)"
    assert_errno EROFS "os.open($V + '/x', os.O_WRONLY | os.O_CREAT)"
    assert_errno EROFS "os.mkdir($V + '/x')"
    assert_errno EROFS "os.mkfifo($V + '/x')"
    assert_errno EROFS "os.symlink('a', $V + '/x')"
    assert_errno EROFS "os.link($V + '/a', $V + '/x')"
    assert_errno EROFS "os.rename($V + '/a', $V + '/x')"
    assert_errno EROFS "os.rename($V + '/a', M + '/files/x')"
    assert_errno EROFS "os.rename(M + '/files/new', $V + '/x')"
    assert_errno EROFS "os.unlink($V + '/a')"
    assert_errno EROFS "os.rmdir($V + '/empty')"
    assert_errno EROFS "os.chmod($V + '/a', 0o600)"
    assert_errno EROFS "os.utime($V + '/a')"
    assert_errno EROFS "os.truncate($V + '/a', 0)"
    assert_errno EROFS "os.setxattr($V + '/a', 'user.x', b'1')"
    assert_errno EROFS "os.removexattr($V + '/a', 'user.colour')"
    assert_errno EROFS "os.unlink(M + '/snapshots/$in/blobs/$(key "$F/moved.sh")')"
    assert_errno ENOENT "os.stat($V + '/nowhere')"
    assert_errno ENOTDIR "os.stat($V + '/a/b')"
    assert_errno EISDIR "os.open($V, os.O_WRONLY)"
    assert_errno ENODATA "os.getxattr($V + '/a', 'user.none')"
    assert_errno EINVAL "os.readlink($V + '/a')"
done
assert_match "$(last_status)" 'for reading' "last_status of a refusal"

# Out of it: cp -a, tar and rsync make the same again; into files/ without an upload.
cp -a "$S/$first/files" "$T/copy"
diff <(tree "$T/copy" | sed 's/ [0-9.]* \([^ ]*\)$/ \1/; s/^\( d [0-7]* [0-9]* [0-9]*\) [0-9]*/\1/' | awk '$2 != "d"') \
    <(sed 's/ [0-9.]* \([^ ]*\)$/ \1/; s/^\( d [0-7]* [0-9]* [0-9]*\) [0-9]*/\1/' "$T/first" | awk '$2 != "d"')
diff <(attributes "$T/copy/docs") <(attributes "$S/$first/files/docs")
mkdir "$T/untarred"
tar -C "$S/$first/files" -cf - . | tar -C "$T/untarred" -xf -
diff -rq --no-dereference "$T/copy" "$T/untarred" | grep -v -e special -e fifo && fail "what tar made differs"
puts=$(metric 'bhfs_bucket_requests_total{op="put"}')
cp -a "$S/$first/files/docs/deep" "$F/back"
wait_for 20 is_stored "$F/back/big.bin"
cmp "$F/back/big.bin" "$S/$first/files/docs/deep/big.bin"
flush
assert_between $(($(metric 'bhfs_bucket_requests_total{op="put"}') - puts)) 1 4 "PUTs of a copy of three megabytes that are there"

# Branches, labels, a restore: each shows its own.
mkdir "$MNT/branches/side"
mv "$S/$first" "$S/early"
diff <(tree "$S/early/files") "$T/first"
[ "$(stat -c %i "$S/early/files/a")" != "$(stat -c %i "$S/$first/files/a")" ] || fail "label and id share an inode number"
tree "$F" >"$T/third"
diff <(tree "$MNT/branches/main/files") "$T/third"
diff <(tree "$MNT/branches/side/files") "$T/third"
cd "$MNT/branches/main/files"
echo later >"$F/later"
flush
assert_eq "$(cat "$MNT/branches/main/files/later")" later "what a branch has after its next flush"
assert_errno ENOENT "os.stat(M + '/branches/side/files/later')"
assert_errno ENOENT "os.stat('later')" # the directory is that of the snapshot
cd "$T"
diff <(tree "$MNT/branches/side/snapshots/$first/files") "$T/first"
diff <(tree "$MNT/branches/main/snapshots/early/files") "$T/first"
echo early >"$CTL/restore"
diff <(tree "$F") "$T/first"
diff <(tree "$MNT/branches/main/files") "$T/first"
diff <(tree "$S/$second/files") "$T/second"
rmdir "$S/early"
assert_errno ENOENT "os.stat(M + '/snapshots/early/files')"

# Of many files a listing costs few requests; find and ls -l ask for nothing twice.
mkdir "$F/many"
python3 - "$F/many" <<'END'
import os, sys
for n in range(1000):
    with open(f"{sys.argv[1]}/a rather long name of a file, number {n}", "w") as f:
        f.write(f"{n}\n")
END
flush
many=$(status_of snapshot)
umount_bh
drop_state
mount_bh -o ro
gets() { metric 'bhfs_bucket_requests_total{op="get"}'; }
requests=$(gets)
assert_eq "$(ls -l "$S/$many/files/many" | grep -c 'number')" 1000 "files in a listing"
assert_between $(($(gets) - requests)) 1 12 "GETs of a listing of 1,000 files"
requests=$(gets)
asked=$(metric 'bhfs_requests_total{op="lookup"}')
assert_eq "$(find "$S/$many/files" -printf '%s\n' | wc -l)" "$(($(grep -c '^[^ ]* \?.* [dfpcl] [0-7]* ' "$T/first") + 1001))" "all in it"
assert_eq "$(ls -lR "$S/$many/files" | grep -c number)" 1000
assert_between $(($(gets) - requests)) 0 8 "GETs of looking at all of it"
assert_between $(($(metric 'bhfs_requests_total{op="lookup"}') - asked)) 0 60 "lookups of 1,000 files that a listing told of"
# From the bucket alone, read-only: as it was.
diff <(tree "$S/$first/files") "$T/first"
diff <(tree "$S/$second/files") "$T/second"
assert_eq "$(ls "$MNT/blobs")" "$(ls "$S/$many/blobs")" "blobs of a read-only mount"
assert_eq "$(cat "$MNT/blobs/$(key "$F/a")")" one
umount_bh

# blobs/: the keys of all contents, each once.
mount_bh
rm -r "$F/many"
flush
last=$(status_of snapshot)
find "$F" -type f ! -size 0 -print0 | xargs -0 sha256sum | cut -d' ' -f1 | sort -u >"$T/keys"
for blobs in "$MNT/blobs" "$S/$last/blobs" "$MNT/branches/main/blobs"; do
    diff <(find "$blobs" -type f ! -size 0 -printf '%f\n' | sort) "$T/keys"
    (cd "$blobs" && find . -type f ! -size 0 -printf '%f  %f\n' | sha256sum -c --quiet)
    assert_eq "$(stat -c '%a %F' "$blobs" "$blobs/$(key "$F/a")" | xargs)" "500 directory 444 regular file"
    assert_eq "$(stat -c %s "$blobs/$(key "$F/docs/deep/big.bin")")" 3000000
    assert_match "$(attributes "$blobs/$(key "$F/a")")" "user.bh.key b'$(key "$F/a")'.*user.bh.state b'stored'" "attributes of a blob"
done
assert_eq "$(ls "$S/$many/blobs" | wc -l)" "$(($(wc -l <"$T/keys") + 1000))" "contents of 1,000 files more"
assert_errno ENOENT "os.stat(M + '/blobs/$(sha256sum </dev/null | tr 0-9 1-90 | cut -d' ' -f1)')"
assert_errno ENOENT "os.stat(M + '/blobs/$(key "$F/a" | tr a-f A-F)')"
assert_errno ENOENT "os.stat(M + '/blobs/a')"
assert_errno EROFS "os.open(M + '/blobs/x', os.O_WRONLY | os.O_CREAT)"
assert_errno EROFS "os.unlink(M + '/blobs/$(key "$F/a")')"
assert_errno EROFS "os.mkdir(M + '/blobs/x')"
assert_eq "$(ls -d "$MNT"/*/ | xargs -n1 basename | xargs)" "blobs branches files snapshots" "the root"
# The live ones follow the files.
echo brand-new >"$F/brand-new"
new=$(key "$F/brand-new")
wait_for 20 test -e "$MNT/blobs/$new"
assert_eq "$(cat "$MNT/blobs/$new")" brand-new
ls "$MNT/blobs" | grep -q "$new"
rm "$F/brand-new"
flush
assert_errno ENOENT "os.stat(M + '/blobs/$new')"
ls "$MNT/blobs" | grep "$new" && fail "a blob of a file that was removed is listed"
# One that another program put, without a name, under a key of its own.
printf 'from upstream\n' >"$T/blob"
other=$(key "$T/blob")
bucket_put "$T/blob" files/elsewhere
sql "INSERT INTO filestore(bh_key, object_key, size, mime, filename) VALUES('$other', 'files/elsewhere', 14, 'text/x-other', 'blob')"
assert_eq "$(cat "$MNT/blobs/$other")" "from upstream"
ls "$MNT/blobs" | grep -q "$other"
assert_match "$(attributes "$MNT/blobs/$other")" "user.bh.mime b'text/x-other'"
assert_errno ENOENT "os.stat(M + '/snapshots/$last/blobs/$other')"
umount_bh

# Without a history there is neither; hidden, files/ and blobs/ are there.
drop_state
mount_bh -o snapshot.history=false
assert_eq "$(ls "$MNT")" live.db "the tree without a history"
assert_errno ENOENT "os.stat(M + '/blobs')"
umount_bh
