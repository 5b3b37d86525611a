#!/usr/bin/env bash
# The root of the mount holds live.db and what SQLite puts beside it; every other creation, and every removal or renaming of
# live.db, is EPERM and harms nothing.
# level: quick
# time: 60
# buckets: file ceph
# level@ceph: long
. "${BASH_SOURCE%/*}/../lib.sh"

mount_bh
sql 'CREATE TABLE t(i); INSERT INTO t VALUES(1)'
before=$(digest)
echo outside >"$T/outside"

assert_errno EPERM "os.mkdir(M + '/d')"
assert_errno EPERM "os.open(M + '/x', os.O_CREAT | os.O_WRONLY)"
assert_errno EPERM "os.open(M + '/live.db-x', os.O_CREAT | os.O_WRONLY)"
assert_errno EPERM "os.open(M + '/live.db2', os.O_CREAT | os.O_WRONLY)"
assert_errno EPERM "os.open(M + '/.hidden', os.O_CREAT | os.O_WRONLY)"
assert_errno EPERM "os.mkfifo(M + '/fifo')"
assert_errno EPERM "os.mknod(M + '/node', 0o600 | stat.S_IFREG)"
assert_errno EPERM "os.symlink('live.db', M + '/link')"
assert_errno EPERM "os.link(M + '/live.db', M + '/hard')"
assert_errno EPERM "os.mkdir(M + '/live.db-journal')"
assert_errno EPERM "os.symlink('/etc/passwd', M + '/live.db-journal')"
assert_errno EPERM "os.link(M + '/live.db', M + '/live.db-journal')"
assert_errno EPERM "os.mkfifo(M + '/live.db-journal')"
assert_errno EPERM "os.mkdir(M + '/live.db-wal')"
assert_errno EPERM "os.symlink('/etc/passwd', M + '/live.db-wal')"
assert_errno EPERM "os.symlink('/etc/passwd', M + '/live.db-shm')"
assert_errno EPERM "os.mkfifo(M + '/live.db-shm')"

assert_errno EPERM "os.unlink(M + '/live.db')"
assert_errno EPERM "os.rename(M + '/live.db', M + '/x')"
assert_errno EPERM "os.rename(M + '/live.db', M + '/live.db-journal')"
assert_errno 'EPERM|EXDEV' "os.rename('$T/outside', M + '/live.db')"
assert_errno 'EPERM|EXDEV' "os.rename(M + '/live.db', '$T/taken')"
assert_errno 'EPERM|ENOTDIR' "os.rmdir(M + '/live.db')"
assert_errno 'EPERM|EBUSY|ENOTEMPTY' "os.rmdir(M + '/.ctl')"
assert_errno 'EPERM' "os.rename(M + '/.ctl', M + '/ctl')"

# What is not there is not there.
assert_errno ENOENT "os.stat(M + '/x')"
assert_errno ENOENT "os.stat(M + '/live.db-journal')"
assert_errno ENOENT "os.unlink(M + '/x')"
assert_errno ENOENT "os.rmdir(M + '/d')"
assert_errno ENAMETOOLONG "os.stat(M + '/' + 'n' * 256)"
assert_errno ENOTDIR "os.stat(M + '/live.db/x')"
assert_errno EISDIR "os.open(M + '/.ctl', os.O_WRONLY)"
assert_errno EEXIST "os.mkdir(M + '/live.db')"
assert_errno EEXIST "os.open(M + '/live.db', os.O_CREAT | os.O_EXCL | os.O_WRONLY)"

# As people do it.
must_fail mkdir "$MNT/dir"
must_fail touch "$MNT/file"
must_fail cp "$T/outside" "$MNT/"
must_fail mv "$T/outside" "$MNT/"
[ -e "$T/outside" ] || fail "mv removed what it could not move"
must_fail mv "$DB" "$MNT/renamed"
must_fail rm -f "$DB"
must_fail ln -s live.db "$MNT/link"
must_fail ln "$DB" "$MNT/hard"

assert_eq "$(ls -A "$MNT" | sort | tr '\n' ' ')" '.ctl blobs branches files live.db snapshots ' "what is in the root"
assert_eq "$(digest)" "$before" "the database"
integrity
sql 'INSERT INTO t VALUES(2)'
umount_bh
