#!/usr/bin/env bash
# What the store says of a file by its extended attributes: its key, its state (local, then stored by a flush), its mime type, a URL;
# and metadata that can be set. A user's own attributes stand beside them; programs that copy attributes are not disturbed.
# level: full
# time: 60
# buckets: file ceph
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1
mount_only

attribute() { # NAME FILE
    python3 -c 'import os, sys; sys.stdout.write(os.getxattr(sys.argv[1], "user.bh." + sys.argv[2]).decode())' "$2" "$1"
}

files_mount
echo '{"a": 1}' >"$FILES/x.json"
flush
assert_eq "$(attribute key "$FILES/x.json")" "$(sha256sum <"$FILES/x.json" | cut -d' ' -f1)" user.bh.key
assert_eq "$(attribute state "$FILES/x.json")" stored user.bh.state
assert_match "$(attribute mime "$FILES/x.json")" '^application/json' user.bh.mime

# Where the name says nothing the first bytes do, also where only the bucket has these.
mimes() { for f in picture script notes noise; do attribute mime "$FILES/$f" && echo; done; }
known=$(printf '%s\n' image/png text/x-sh text/plain application/octet-stream)
printf '\x89PNG\r\n\x1a\n0000' >"$FILES/picture"
printf '#!/bin/sh\nexit 0\n' >"$FILES/script"
echo 'nothing special' >"$FILES/notes"
printf '\001\002\003\000\004' >"$FILES/noise"
assert_eq "$(mimes)" "$known" "user.bh.mime of what was just written"
flush
assert_eq "$(mimes)" "$known" "user.bh.mime of what was flushed"
umount_bh
drop_state
files_mount
assert_eq "$(mimes)" "$known" "user.bh.mime of what is only in the bucket"
rm "$FILES/picture" "$FILES/script" "$FILES/notes" "$FILES/noise"
flush
if [ "$ON" = ceph ]; then
    assert_eq "$(curl -sS --noproxy '*' "$(attribute url "$FILES/x.json")")" '{"a": 1}' "what user.bh.url leads to"
    snapshot=$(ls "$MNT/snapshots" | tail -1)
    assert_eq "$(curl -sS --noproxy '*' "$(attribute url "$MNT/snapshots/$snapshot/files/x.json")")" '{"a": 1}' \
        "what user.bh.url leads to in a snapshot"
    assert_eq "$(curl -sS --noproxy '*' "$(attribute url "$MNT/blobs/$(attribute key "$FILES/x.json")")")" '{"a": 1}' \
        "what user.bh.url of a blob leads to"
else
    assert_errno ENODATA "os.getxattr(M + '/files/x.json', 'user.bh.url')"
fi
python3 -c "import os; os.setxattr('$FILES/x.json', 'user.mine', b'1'); os.setxattr('$FILES/x.json', 'user.bh.meta.author', b'somebody')"
assert_eq "$(attribute meta.author "$FILES/x.json")" somebody "metadata"
cp --preserve=all "$FILES/x.json" "$FILES/y.json"
cp --preserve=all "$FILES/x.json" "$T/out.json"
cmp "$FILES/y.json" "$T/out.json"
assert_eq "$(python3 -c "import os; print(os.getxattr('$FILES/y.json', 'user.mine').decode())")" 1 "a user's own attribute of the copy"
exec 9>>"$FILES/x.json"
echo changed >&9
assert_errno ENODATA "os.getxattr(M + '/files/x.json', 'user.bh.url')" # it is still being written
exec 9>&-
assert_match "$(attribute state "$FILES/x.json")" '^(local|uploading|stored)$'
flush
assert_eq "$(attribute key "$FILES/x.json")" "$(sha256sum <"$FILES/x.json" | cut -d' ' -f1)" "user.bh.key after a change"
assert_errno 'EPERM|EACCES|EOPNOTSUPP|EINVAL' "os.setxattr(M + '/files/x.json', 'user.bh.key', b'0')"
assert_errno ENODATA "os.getxattr(M + '/files/x.json', 'user.bh.nothing')"
umount_bh
drop_state
files_mount
assert_eq "$(attribute meta.author "$FILES/x.json")" somebody "metadata from the bucket alone"
assert_eq "$(attribute state "$FILES/x.json")" stored "state from the bucket alone"
umount_bh
