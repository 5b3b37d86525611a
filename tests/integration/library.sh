#!/usr/bin/env bash
# libbuckethead without FUSE: a C program compiled against the installed header, library and pkg-config file creates, starts,
# connects, writes from several threads, flushes, gets its callbacks, imports, stops; and the bucket has what it wrote. Once
# in a rollback mode, once in WAL.
# level: quick
# time: 120
# buckets: file ceph
. "${BASH_SOURCE%/*}/../lib.sh"

meson install -C "$BHFS_BUILD" --no-rebuild --quiet --destdir "$T/root" >"$T/install.log" 2>&1 || fail "meson install: $(cat "$T/install.log")"
prefix=$T/root/usr/local
pc=$(find "$prefix" -name buckethead.pc)
[ -n "$pc" ] || fail "no pkg-config file was installed"
libdir=${pc%/pkgconfig/*}
for file in "$prefix/bin/bhfs" "$prefix/include/buckethead.h" "$libdir/libbuckethead.so" "$libdir/libbuckethead.a"; do
    [ -e "$file" ] || fail "not installed: $file"
done
[ -x "$(find "$prefix" -path '*sbin/mount.bhfs')" ] || fail "mount.bhfs is not installed in sbin"
if [ -z "$BHFS_SANITIZE" ]; then # which adds names of its own
    assert_eq "$(nm -D --defined-only "$libdir/libbuckethead.so" | awk '$2 ~ /[TDB]/ && $3 !~ /^bh_/ { print $3 }')" "" \
        "exported names that are not the library's"
fi

case "$BHFS_SANITIZE" in
asan) flags=(-fsanitize=address,undefined) ;;
tsan) flags=(-fsanitize=thread) ;;
*) flags=() ;;
esac
# shellcheck disable=SC2046
cc -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -g "${flags[@]}" -o "$T/libuser" "$SRC/tests/helpers/libuser.c" \
    $(PKG_CONFIG_PATH=${pc%/*} pkg-config --define-variable=prefix="$prefix" --cflags --libs buckethead) -lsqlite3 -pthread
sqlite3 "$T/import.db" "CREATE TABLE imported(i); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) INSERT INTO imported SELECT i FROM n"

for journal in delete wal; do
    bucket_empty
    drop_state
    LD_LIBRARY_PATH=$libdir "$T/libuser" "$STATE" "$URL" "$T/rules" "$T/import.db" $journal || fail "libuser, $journal: status $?"
    integrity "$(snap_file)"
    assert_eq "$(snapshot_value 'SELECT count(*), min(i) FROM imported')" "1001|-1" "$journal: what the program left in the bucket"
    assert_eq "$(version_bytes "$(snap_file)")" "1 1" "$journal: the header of the snapshot"
    assert_eq "$(snapshot_value 'SELECT count(*) FROM imported' "$SNAP.prev")" 1000 "$journal: the snapshot before it"

    # What it left is what a mount finds, with the same state and without.
    mount_bh
    assert_eq "$(sql 'SELECT count(*) FROM imported')" 1001
    assert_eq "$(sql 'PRAGMA journal_mode')" $journal "the mode in a mount with the same state"
    umount_bh
    drop_state
    mount_bh
    assert_eq "$(sql 'SELECT count(*) FROM imported')" 1001
    umount_bh
done
