#!/usr/bin/env bash
# A restore while files are open: what was written to one since its last close or fsync is in no snapshot, and its writer is told so by
# fsync and close (ESTALE, with a sentence); who had synced, or only reads, is told of no error. Others see the restored files.
# level: full
# time: 60
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1
mount_only

files_mount
echo before >"$FILES/a"
echo before >"$FILES/b"
flush
id=$(status_of snapshot)
echo after >>"$FILES/a"
cat >"$T/client.py" <<'END'
import errno, os, sys
files, id, ctl = sys.argv[1:]


def outcome(f, *args):
    try:
        f(*args)
    except OSError as e:
        return errno.errorcode[e.errno]
    return "ok"


def same(got, wanted, what):
    if got != wanted:
        sys.exit(f"{what}: {got}, not {wanted}")


unsynced = os.open(files + "/a", os.O_RDWR)
reader = os.open(files + "/a", os.O_RDONLY)
synced = os.open(files + "/b", os.O_RDWR)
new = os.open(files + "/new", os.O_WRONLY | os.O_CREAT)
os.pwrite(unsynced, b"LOST", 0)
os.pwrite(synced, b"KEPT", 0)
os.fsync(synced)
os.write(new, b"LOST")
with open(ctl + "/restore", "w") as f:
    f.write(id)
same(outcome(os.fsync, unsynced), "ESTALE", "fsync of what was not synced")
same(outcome(os.fsync, synced), "ok", "fsync of what was synced")
same(outcome(os.pwrite, synced, b"x", 0), "ESTALE", "a write")
same(os.pread(reader, 10, 0), b"LOSTre\naft", "what a reader goes on reading")
same(outcome(os.close, unsynced), "ESTALE", "close of what was not synced")
same(outcome(os.close, new), "ESTALE", "close of a new file")
same(outcome(os.close, reader), "ok", "close of a reader")
same(outcome(os.close, synced), "ok", "close of what was synced")
END
python3 "$T/client.py" "$FILES" "$id" "$CTL" || fail "the client: status $?"
assert_match "$(last_status)" "^files/: what was written to .* is lost" "the sentence"
assert_eq "$(cat "$FILES/a" "$FILES/b" | xargs)" "before before"
[ ! -e "$FILES/new" ] || fail "a file that was not there then"
# What was synced is in the snapshot that the restore made before it.
last=$(ls "$MNT/snapshots" | tail -n 2 | head -n 1)
assert_eq "$(cat "$MNT/snapshots/$last/files/b")" KEPTre
files_umount
