#!/usr/bin/env bash
# An edit of a large file sends the parts that changed, not all of it: one byte in the middle, what was appended, what was cut; of a
# file that stays open, too, and by a mount that has nothing local. What the bucket has then is the whole content.
# level: full
# time: 150
# buckets: file ceph
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1
mount_only

MIB=$((1 << 20))
sent() { # what flushes sent of files' contents since the mount
    status_of uploaded_bytes "$MNT"
}

# flushed_with LOW HIGH WHAT: a flush sends between LOW and HIGH bytes more.
before=0
flushed_with() {
    flush
    local now
    now=$(sent)
    assert_between $((now - before)) "$1" "$2" "bytes sent: $3"
    before=$now
}

# right FILE: the object in the bucket is FILE's content by the hash, and by comparison.
right() {
    local key
    key=$(sha256sum <"$1" | cut -d' ' -f1)
    bucket_get "files/$key" "$T/object"
    cmp "$T/object" "$1"
}

write_at() { # FILE OFFSET TEXT
    python3 - "$@" <<'END'
import os, sys
f = os.open(sys.argv[1], os.O_WRONLY)
os.pwrite(f, sys.argv[3].encode(), int(sys.argv[2]))
os.close(f)
END
}

files_mount
head -c $((48 * MIB + 1234)) /dev/urandom >"$T/wanted"
cp "$T/wanted" "$FILES/large"
flushed_with $((48 * MIB + 1234)) $((48 * MIB + 1234)) "a new file"

first=$(sha256sum <"$T/wanted" | cut -d' ' -f1)
write_at "$FILES/large" $((20 * MIB + 17)) edited
write_at "$T/wanted" $((20 * MIB + 17)) edited
flushed_with 6 $((5 * MIB)) "six bytes in the middle"
bucket_rm "files/$first" # what was copied from it is a copy
right "$T/wanted"
cmp "$T/wanted" "$FILES/large"

head -c 100000 /dev/urandom >"$T/more"
cat "$T/more" >>"$FILES/large"
cat "$T/more" >>"$T/wanted"
flushed_with 100000 $((5 * MIB)) "what was appended"
right "$T/wanted"

write_at "$FILES/large" $((10 * MIB - 2)) border
write_at "$T/wanted" $((10 * MIB - 2)) border
flushed_with 6 $((10 * MIB)) "across the border of two parts"
right "$T/wanted"

truncate -s $((33 * MIB)) "$FILES/large" "$T/wanted"
flushed_with 0 $((5 * MIB)) "what was cut"
right "$T/wanted"
truncate -s $((40 * MIB)) "$FILES/large" "$T/wanted"
flushed_with 0 $((10 * MIB)) "zeros at the end"
right "$T/wanted"

# Open all the time: each flush publishes what was synced.
python3 - "$FILES/large" "$T/wanted" "$CTL/flush" <<'END'
import os, sys
for round in range(3):
    fs = [os.open(p, os.O_RDWR) for p in sys.argv[1:3]] if round == 0 else fs
    for f in fs:
        os.pwrite(f, b"round %d" % round, (7 + 6 * round) << 20)
        os.fsync(f)
    os.close(os.open(sys.argv[3], os.O_WRONLY | os.O_TRUNC))
END
flushed_with $((15 * MIB)) $((20 * MIB)) "three edits of an open file"
right "$T/wanted"

# Whatever can be done to a file, by handle and by name: each by itself, then a few at random between two flushes.
change() { # SEED WHAT...: the same to both files
    for file in "$FILES/large" "$T/wanted"; do
        python3 - "$file" "$@" <<'END'
import mmap, os, random, subprocess, sys
path, r = sys.argv[1], random.Random(int(sys.argv[2]))
f = os.open(path, os.O_RDWR)
for what in sys.argv[3:]:
    size, data = os.fstat(f).st_size, r.randbytes(r.randrange(1, 70000))
    at = r.randrange(1 << 20, size - (3 << 20))
    if what == "write":
        os.pwrite(f, data, at)
    elif what == "append":
        os.pwrite(f, data, size + r.choice([0, 5 << 20]))
    elif what == "cut":
        os.pwrite(f, data, 5)
        os.truncate(path, at)
        os.ftruncate(f, size)
    elif what == "shorten":
        os.ftruncate(f, max(size - r.randrange(4 << 20), 20 << 20))
    elif what in ("-p", "-z"):
        subprocess.check_call(["fallocate", what, "-o", str(at), "-l", str(r.randrange(1, 3 << 20)), path])
    elif what == "range":
        os.copy_file_range(f, f, 1 << 20, 0, at)
    elif what == "map":
        with mmap.mmap(f, 0) as m:
            m[at:at + len(data)] = data
            m.flush()
os.close(f)
END
    done
}
echo "seed: $SEED (BH_SEED=$SEED repeats it)"
head -c $((32 * MIB)) /dev/urandom | tee "$T/wanted" >"$FILES/large"
flush
before=$(sent) total=0
whats=(write append -p range map shorten -z cut)
for ((round = 0; round < 14; round++)); do
    now=("${whats[@]:round:1}")
    [ "$round" -lt 8 ] || read -ra now < <(python3 -c 'import random, sys
print(*random.Random(int(sys.argv[1])).sample(sys.argv[2:], 3))' $((SEED + round)) "${whats[@]}")
    change $((SEED + round)) "${now[@]}"
    flush
    right "$T/wanted"
    total=$((total + $(stat -c %s "$T/wanted")))
done
assert_between $(($(sent) - before)) 1 $((total * 3 / 4)) "bytes sent of $total"
before=$(sent)

# Nothing is known to the next mount; what it edits it knows.
umount_bh
drop_state
files_mount
before=0
write_at "$FILES/large" 5 "from another machine"
write_at "$T/wanted" 5 "from another machine"
flushed_with 6 $((5 * MIB)) "by a mount that had nothing"
right "$T/wanted"

# The older object is gone: all is sent.
size=$(stat -c %s "$T/wanted")
bucket_rm "files/$(sha256sum <"$T/wanted" | cut -d' ' -f1)"
write_at "$FILES/large" 500 again
write_at "$T/wanted" 500 again
flushed_with "$size" "$size" "without the older object"
right "$T/wanted"
umount_bh
drop_state
files_mount
cmp "$T/wanted" "$FILES/large"
umount_bh
