#!/usr/bin/env bash
# A large content (more than is checked before it is handed out) that was damaged in the bucket, its size as before: who reads all of it
# is told (EIO, with a sentence), the first time and every time, through files/, blobs/ and a snapshot, in one go or from the kernel's
# memory but for the end; and it is well again when the object is.
# level: full
# time: 90
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1
mount_only

files_mount
head -c 20000000 /dev/urandom >"$FILES/large"
head -c 20000000 /dev/urandom >"$FILES/other"
flush
id=$(status_of snapshot)
sum=$(sha256sum <"$FILES/large" | cut -d' ' -f1) other=$(sha256sum <"$FILES/other" | cut -d' ' -f1)
files_umount
drop_state
object=$BUCKET/files/$sum
cp "$object" "$T/right"
printf wrong | dd of="$object" bs=1 seek=8000000 conv=notrunc status=none

files_mount
for path in files/large files/large "blobs/$sum" "snapshots/$id/files/large" files/large; do
    must_fail sha256sum "$MNT/$path"
    assert_match "$OUT" "Input/output error" "reading $path"
    assert_match "$(last_status)" "files/$sum in the bucket is damaged" "the sentence for $path"
done
must_fail cp "$FILES/large" "$T/copy"
assert_eq "$(sha256sum <"$FILES/other" | cut -d' ' -f1)" "$other" "one that is whole"
part_is_right() { cmp -n 1000000 "$FILES/large" "$T/right"; }
wait_for 10 part_is_right # who read it last may have it open still: known to be damaged, it gives nothing
cp "$T/right" "$T/new" && mv "$T/new" "$object"
files_remount
assert_eq "$(sha256sum <"$FILES/large" | cut -d' ' -f1)" "$sum" "once the object is right again"
assert_eq "$(sha256sum <"$MNT/blobs/$sum" | cut -d' ' -f1)" "$sum" "the same in blobs/"
files_umount
