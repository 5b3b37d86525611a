#!/usr/bin/env bash
# The directory that is the bucket is removed under a mount (ENODEV), or its disk becomes read-only (EROFS): commands fail with a
# sentence that says so and what to do, nothing takes the bucket for empty, and when it is back all is flushed.
# level: full
# time: 90
. "${BASH_SOURCE%/*}/../lib.sh"

mount_bh
sql 'CREATE TABLE t(i); INSERT INTO t VALUES(1)'
echo one >"$MNT/files/one"
head -c 20000 /dev/urandom >"$MNT/files/two"
flush
umount_bh
drop_state
mount_bh
assert_eq "$(cat "$MNT/files/one")" one # two is in the bucket only
cp -a "$BUCKET" "$T/kept"
rm -rf "$BUCKET"
echo new >"$MNT/files/new"
for what in "os.utime(M + '/.ctl/flush')" "os.utime(M + '/.ctl/gc')" "os.utime(M + '/.ctl/verify')" "os.mkdir(M + '/snapshots/x')" \
    "os.mkdir(M + '/branches/x')" "os.read(os.open(M + '/files/two', os.O_RDONLY), 100)"; do
    assert_errno ENODEV "$what"
    assert_match "$(last_status)" "in the bucket file://$BUCKET: its directory was removed; put it back, and mount again" "$what"
done
assert_match "$(status_of last_error)" "its directory was removed"
assert_eq "$(cat "$MNT/files/one" "$MNT/files/new" | xargs)" "one new" "what is here"
must_fail "$BHFS" umount "$MNT"
assert_match "$OUT" "its directory was removed"
must_fail "$BHFS" umount --force "$MNT"
ended
cp -a "$T/kept" "$BUCKET"
mount_bh
cmp <(cd "$T/kept/files" && cat "$(sha256sum <"$MNT/files/two" | cut -d' ' -f1)") "$MNT/files/two"
flush
umount_bh

mount --bind "$BUCKET" "$BUCKET" 2>/dev/null || exit 0 # this machine cannot make a directory read-only
unbind() {
    local status=$1
    ! mountpoint -q "$BUCKET" || umount -l "$BUCKET"
    (exit "$status")
}
trap 'unbind $?; clean_up' EXIT
mount_bh
mount -o remount,bind,ro "$BUCKET"
echo later >"$MNT/files/later"
assert_errno EROFS "os.utime(M + '/.ctl/flush')"
assert_match "$(last_status)" "read-only; make it writable, or mount with -o ro"
assert_eq "$(status_of upload_error)" "$(last_status)"
mount -o remount,bind,rw "$BUCKET"
flush
assert_eq "$(status_of upload_error)" none
umount_bh
