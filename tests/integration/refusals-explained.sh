#!/usr/bin/env bash
# What the tree refuses has the right errno and a sentence in last_status that names the thing and says where it would go.
# level: quick
# time: 60
. "${BASH_SOURCE%/*}/../lib.sh"

mount_bh
sql 'CREATE TABLE t(i)'
echo content >"$MNT/files/a"
mkdir "$MNT/files/d"
flush
id=$(status_of snapshot)
key=$(sha256sum <"$MNT/files/a" | cut -d' ' -f1)

# refused ERRNO PYTHON REGEX
refused() {
    assert_errno "$1" "$2"
    assert_match "$(last_status)" "$3" "the sentence of $2"
}
for what in "os.mkdir(M + '/kv')" "os.open(M + '/kv', os.O_CREAT)" "os.symlink('a', M + '/kv')" "os.mkfifo(M + '/kv')" "os.link(M + '/live.db', M + '/kv')"; do
    refused EPERM "$what" "^kv: nothing is made.* in the root .*files/"
    refused EPERM "os.rmdir(M + '/files')" "^files: nothing"
done
refused EPERM "os.rename(M + '/snapshots', M + '/s')" "^snapshots: nothing"
refused EPERM "os.unlink(M + '/live.db')" "^live.db cannot be removed"
refused EPERM "os.rename(M + '/live.db', M + '/x')" "^live.db cannot be renamed"

refused EPERM "os.open(M + '/.ctl/fulsh', os.O_CREAT | os.O_WRONLY)" "no fulsh in .ctl; the commands are .*force_flush.*verify"
refused EPERM "os.unlink(M + '/.ctl/flush')" "^.ctl/flush cannot be"
refused EPERM "os.mkdir(M + '/.ctl/x')" "no x in .ctl"
refused EPERM "os.rename(M + '/.ctl/log', M + '/.ctl/x')" "^.ctl/log cannot be"

for dir in snapshots branches "snapshots/$id" "snapshots/$id/files" "snapshots/$id/blobs" blobs; do
    for what in "os.open(M + '/$dir/x', os.O_CREAT | os.O_WRONLY)" "os.symlink('a', M + '/$dir/x')" "os.mkfifo(M + '/$dir/x')"; do
        refused EROFS "$what" "^x in $dir: .*does not change.*mkdir, rmdir, mv.*files/"
    done
done
refused EROFS "os.unlink(M + '/snapshots/$id/files/a')" "^a in snapshots/$id/files:"
refused EROFS "os.unlink(M + '/blobs/$key')" "^$key in blobs:"
refused EROFS "os.link(M + '/files/a', M + '/blobs/x')" "^x in blobs:"
refused EROFS "os.rename(M + '/files/a', M + '/snapshots/$id/files/b')" "^b in snapshots/$id/files:"
assert_errno EXDEV "os.rename(M + '/files/a', M + '/x')"
assert_errno EXDEV "os.link(M + '/live.db', M + '/files/x')"

refused EPERM "os.setxattr(M + '/files/a', 'user.bh.key', b'x')" "user.bh.key cannot be set.*user.bh.meta.NAME"
refused EPERM "os.removexattr(M + '/files/a', 'user.bh.state')" "user.bh.state cannot be"
assert_errno EINVAL "os.setxattr(M + '/files/a', 'user.bh.meta.', b'x')"
assert_errno EINVAL "os.setxattr(M + '/files/a', 'user.', b'x')"
assert_errno ok "os.setxattr(M + '/files/a', 'user.bh.meta.x', b'x')"
assert_eq "$(find "$MNT/files" | wc -l) $(ls -I 'live.db-*' "$MNT" | xargs)" "3 blobs branches files live.db snapshots" "what is there"
umount_bh
