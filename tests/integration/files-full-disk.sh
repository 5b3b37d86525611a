#!/usr/bin/env bash
# A state directory's disk that is full: who writes a file hears of it (ENOSPC), nobody else does; what was there stays, removing
# works and makes room again; contents that are in the bucket as well give way by themselves.
# level: quick
# time: 90
. "${BASH_SOURCE%/*}/../small-disk.sh"

mount_bh
F=$MNT/files
sql "CREATE TABLE t(i); INSERT INTO t VALUES(1)"
head -c 8000000 /dev/urandom >"$F/kept"
kept=$(sha256sum <"$F/kept")
echo small >"$F/small"
flush

# filled FILE: written until there is no room.
filled() {
    python3 - "$1" <<'END'
import errno, os, sys
f = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
try:
    for i in range(100):
        os.write(f, os.urandom(1 << 20))
    sys.exit("it was never full")
except OSError as e:
    assert e.errno == errno.ENOSPC, e
os.close(f)
END
}
filled "$F/large"
# New files need room, too, however small: each is refused, and again; the daemon's own files are none of their business.
for i in 1 2 3 4 5 6 7 8; do
    python3 - "$F/new-$i" <<'END'
import errno, os, sys
try:
    f = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
    os.write(f, b"x" * 100000)
    os.close(f)
except OSError as e:
    assert e.errno == errno.ENOSPC, e
END
done
assert_eq "$(sql 'SELECT count(*) FROM t')" 1 "the database"
assert_eq "$(sha256sum <"$F/kept")" "$kept" "what was flushed before, on a full disk"
assert_eq "$(cat "$F/small")" small
ls -lR "$F" >/dev/null
rm "$F/large" "$F"/new-*
wait_for 10 sh -c "head -c 2000000 /dev/urandom >'$F/after' && [ \$(stat -c %s '$F/after') = 2000000 ]"
flush
assert_eq "$(ls "$F" | xargs)" "after kept small" "what is left"
assert_eq "$(sha256sum <"$F/kept")" "$kept" "what was flushed before"
sql "INSERT INTO t VALUES(2)"
umount_bh
mount_bh
assert_eq "$(sha256sum <"$F/kept")" "$kept" "after another mount"
assert_eq "$(sql 'SELECT count(*) FROM t')" 2 "the database after another mount"
umount_bh
umount "$T/small"
