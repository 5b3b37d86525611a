#!/usr/bin/env bash
# Writing to live.db past SQLite (cp over it, : >, truncate, dd, mmap) would ruin it: EPERM, the database unharmed, and a
# sentence in the log that says what to do instead. In a rollback mode, in WAL, and in WAL beside a client.
# level: quick
# time: 90
# buckets: file ceph
# level@ceph: long
. "${BASH_SOURCE%/*}/../lib.sh"

live_journal delete
mount_bh
sql "CREATE TABLE t(i, v); INSERT INTO t VALUES(1, printf('%20000c', 'x'))"
sqlite3 "$T/x.db" "CREATE TABLE other(a); INSERT INTO other VALUES('intruder')"

unharmed() {
    assert_eq "$(stat -c %s "$DB")" "$size" "the size after: $*"
    assert_eq "$(sha256sum <"$DB")" "$bytes" "the bytes after: $*"
    assert_eq "$(digest)" "$before" "the content after: $*"
}
refused() {
    must_fail "$@"
    assert_match "$OUT" 'Operation not permitted' "what this says: $*"
    unharmed "$@"
}

for way in rollback WAL 'WAL, beside a client'; do
    case "$way" in
    WAL) assert_eq "$(sql 'PRAGMA journal_mode=WAL')" wal ;;
    *client)
        session beside
        ask beside "INSERT INTO t VALUES(1, 'z')" >/dev/null
        ;;
    esac
    before=$(digest) bytes=$(sha256sum <"$DB") size=$(stat -c %s "$DB")
    refused cp "$T/x.db" "$DB"
    refused sh -c ": >'$DB'"
    refused bash -c "echo x >'$DB'"
    refused bash -c "echo x >>'$DB'"
    refused truncate -s 0 "$DB"
    refused truncate -s +4096 "$DB"
    refused truncate -s 100 "$DB"
    refused dd if=/dev/zero of="$DB" bs=4096 count=1 conv=notrunc status=none
    refused dd if=/dev/zero of="$DB" bs=1 seek=40 count=4 conv=notrunc status=none
    assert_match "$(cat "$CTL/log")" 'live\.db.*import' "the sentence in the log"

    assert_errno EPERM "os.write(os.open(M + '/live.db', os.O_RDWR), b'x')"
    assert_errno EPERM "os.pwrite(os.open(M + '/live.db', os.O_RDWR), b'x' * 4096, 8192)"
    assert_errno EPERM "os.ftruncate(os.open(M + '/live.db', os.O_RDWR), 0)"
    assert_errno EPERM "os.open(M + '/live.db', os.O_RDWR | os.O_TRUNC)"
    assert_errno 'EPERM|EOPNOTSUPP' "os.posix_fallocate(os.open(M + '/live.db', os.O_RDWR), 0, 1 << 20)"
    unharmed "system calls"

    # A reader's lock is no licence; nor is a mapping.
    python3 - "$DB" <<'END'
import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDWR)
# SQLite's SHARED lock: a read lock somewhere in the 510 bytes from 0x40000002
fcntl.fcntl(fd, fcntl.F_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0x40000002, 510, 0))
try:
    os.pwrite(fd, b"x" * 100, 0)
except PermissionError:
    sys.exit(0)
sys.exit("written under a SHARED lock")
END
    unharmed "a write under a SHARED lock"
    python3 - "$DB" <<'END'
import mmap, os, sys
try:
    m = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    m[0:16] = b"this is damage!!"
    m.flush()
    print("a mapping was written to, and msync said that all is well")
    sys.exit(1)
except OSError:
    pass
END
    unharmed "a write through a mapping"
done
assert_eq "$(ask beside 'SELECT count(*) FROM t')" 2 "what the client that stayed sees"
leave beside

# Rightful writers go on as before.
sql "INSERT INTO t VALUES(2, 'y')"
integrity
flush
integrity "$(snap_file)"
umount_bh
