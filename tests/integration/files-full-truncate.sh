#!/usr/bin/env bash
# A state directory's disk that is full to the last byte, also for the log of names: a truncation that is refused has changed nothing,
# an append that is refused leaves nothing behind that a longer file shows later, and the next flush goes well.
# level: full
# time: 90
. "${BASH_SOURCE%/*}/../small-disk.sh"

rules=$T/rules
: >"$rules"
mount_bh -o snapshot.interval=0 -o bucket.fault="@$rules"
F=$MNT/files

# While a flush waits for the bucket nothing is published.
echo 'put:delay=15s:key=files/*' >"$rules"
echo held >"$F/held"
"$BHFS" flush "$MNT" >"$T/flush" 2>&1 &
flusher=$!
wait_for 10 sh -c "[ \$('$BHFS' status '$MNT' | sed -n 's/^uploads_under_way: //p') = 1 ]"
for n in 1 2 3 4 5; do head -c 50000 /dev/urandom >"$F/f$n"; done
(cd "$F" && sha256sum f?) >"$T/sums"

python3 - "$T/small/filler" "$F" <<'END'
import errno, os, sys
filler, top = sys.argv[1:3]
def is_full(call):
    try:
        call()
        return False
    except OSError as e:
        assert e.errno == errno.ENOSPC, e
        return True
def fill(size):
    f = os.open(filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    while not is_full(lambda: os.write(f, bytes(size))):
        pass
    os.close(f)
fill(1 << 20)
fill(4096)
for i in range(1000000):
    if is_full(lambda: os.chmod(top + "/held", 0o600 + i % 2)):
        break
else:
    sys.exit("the log of names was never full")
assert is_full(lambda: os.truncate(top + "/f1", 1000)), "f1 was truncated"
f = os.open(top + "/f2", os.O_RDWR)
refused = is_full(lambda: os.ftruncate(f, 1000))
print("ftruncate was refused" if refused else "ftruncate went well")
assert refused or os.fstat(f).st_size == 1000
os.close(f)
assert is_full(lambda: os.close(os.open(top + "/f3", os.O_WRONLY | os.O_TRUNC))), "f3 was emptied"
END
(cd "$F" && sha256sum -c --quiet "$T/sums") || fail "contents on the full disk"

# Room for a little: a part of a large write fits, and the write is refused or is short.
rm "$T/small/filler"
python3 - "$T/small/filler" "$F/f4" <<'END'
import errno, os, sys
f = os.open(sys.argv[2], os.O_WRONLY)
size = os.fstat(f).st_size
filler = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
room = os.statvfs(sys.argv[1])
os.posix_fallocate(filler, 0, room.f_bavail * room.f_frsize - 300000)
written = 0
try:
    while written < 3000000:
        written += os.pwrite(f, b"\xff" * 1000000, size + written)
    sys.exit("the disk was never full")
except OSError as e:
    assert e.errno == errno.ENOSPC, e
os.close(filler)
os.unlink(sys.argv[1])
os.ftruncate(f, size + written + 2000000)
os.close(f)
with open(sys.argv[2], "rb") as g:
    got = g.read()
assert got[size:size + written] == b"\xff" * written, "what was acknowledged is not there"
foreign = len(got[size + written:].rstrip(b"\0"))
assert foreign == 0, f"{foreign} bytes of what was refused"
END

: >"$rules"
kill "$flusher" 2>/dev/null || true
wait "$flusher" || true
sha256sum "$F"/f? | sed "s|$F/||" >"$T/now"
flush
umount_bh
drop_state
mount_bh
(cd "$MNT/files" && sha256sum -c --quiet "$T/now") || fail "contents from the bucket alone"
grep -v f4 "$T/sums" | (cd "$MNT/files" && sha256sum -c --quiet) || fail "contents from the bucket alone"
umount_bh
umount "$T/small"
