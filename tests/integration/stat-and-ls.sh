#!/usr/bin/env bash
# What stat, ls -la, du, find and df say of the tree is true: types, modes, owners, link counts, sizes, times, inode numbers.
# level: quick
# time: 60
# buckets: file ceph
# level@ceph: long
. "${BASH_SOURCE%/*}/../lib.sh"

start=$(date +%s)
live_journal delete
mount_bh

# The root and .ctl: directories with the right link counts, of the mounting user.
assert_eq "$(stat -c '%F %h %u' "$MNT")" "directory 7 $(id -u)" "the root"
assert_eq "$(stat -c '%F %h %u' "$CTL")" "directory 2 $(id -u)" ".ctl"
assert_eq "$(ls "$MNT" | xargs)" "blobs branches files live.db snapshots" "a plain ls"
assert_eq "$(ls -A "$CTL" | sort | xargs)" "branch config flush force_flush gc hydrate import last_status log metrics restore status status.json verify" ".ctl's content"

# live.db is there when it is empty; its size is that of the database afterwards.
assert_eq "$(stat -c '%F %h %u %s' "$DB")" "regular empty file 1 $(id -u) 0" "a new live.db"
sql "CREATE TABLE t(i, b); INSERT INTO t VALUES(1, zeroblob(3000000))"
pages=$(sql 'PRAGMA page_count') page=$(sql 'PRAGMA page_size')
assert_eq "$(stat -c '%F %h %s' "$DB")" "regular file 1 $((pages * page))" "live.db"
assert_eq "$(wc -c <"$DB")" "$((pages * page))" "the bytes that can be read"
assert_eq "$(du -b "$DB" | cut -f1)" "$((pages * page))" "du -b"
assert_between "$(du -B1 "$DB" | cut -f1)" 1 $((pages * page + 1048576)) "du"
assert_match "$(stat -c %a "$DB")" '^6[0-6][0-6]$' "the mode of live.db"
assert_between "$(stat -c %o "$DB")" 512 1048576 "the block size of live.db"

# Times: of the last write, moving with the next; not of some other century.
for time in X Y Z; do
    assert_between "$(stat -c %$time "$DB")" $((start - 1)) $((start + 60)) "time $time of live.db"
    assert_between "$(stat -c %$time "$MNT")" $((start - 60)) $((start + 60)) "time $time of the root"
    assert_between "$(stat -c %$time "$CTL/status")" $((start - 60)) $((start + 60)) "time $time of status"
done
before=$(stat -c %.9Y "$DB")
sleep 1.1
sql 'SELECT count(*) FROM t' >/dev/null
assert_eq "$(stat -c %.9Y "$DB")" "$before" "the time of live.db after a read"
sql 'INSERT INTO t VALUES(2, 2)'
assert_between "$(stat -c %.9Y "$DB")" "$(awk -v t="$before" 'BEGIN { printf "%.3f", t + 1 }')" $((start + 60)) "the time of live.db after a write"
touch -d '2020-02-02 02:02:02' "$DB" && assert_eq "$(stat -c %Y "$DB")" "$(date -d '2020-02-02 02:02:02' +%s)" "a time that was set"
sql 'INSERT INTO t VALUES(3, 3)'
assert_between "$(stat -c %Y "$DB")" "$start" $((start + 60)) "the time after the next write"

# A journal is there while a transaction is.
python3 - "$DB" <<'END'
import os, sqlite3, stat, sys
db = sys.argv[1]
c = sqlite3.connect(db, isolation_level=None)
c.execute("BEGIN IMMEDIATE")
c.execute("INSERT INTO t VALUES(9, 9)")
s = os.stat(db + "-journal")
assert stat.S_ISREG(s.st_mode) and s.st_nlink == 1 and s.st_ino != os.stat(db).st_ino, s
assert sorted(os.listdir(os.path.dirname(db))) == [".ctl", "blobs", "branches", "files", "live.db", "live.db-journal", "snapshots"]
c.execute("COMMIT")
assert not os.path.exists(db + "-journal")
assert sorted(os.listdir(os.path.dirname(db))) == [".ctl", "blobs", "branches", "files", "live.db", "snapshots"]
END

# Modes of the control files.
for file in status status.json metrics log last_status; do
    assert_eq "$(stat -c '%a %h %u %F' "$CTL/$file" | sed 's/ empty / /')" "444 1 $(id -u) regular file" "$file"
done
for file in flush force_flush import; do
    assert_eq "$(stat -c '%a %h %u %F' "$CTL/$file" | sed 's/ empty / /')" "644 1 $(id -u) regular file" "$file"
done
assert_eq "$(stat -c '%a %u' "$CTL/config")" "400 $(id -u)" "config"
assert_eq "$(stat -c %s "$CTL/log")" "$(wc -c <"$CTL/log")" "the size of log"

# Inode numbers: one each, the same in a listing and in stat, and again when asked again.
listing=$(ls -1iA "$MNT" | sort)
assert_eq "$(awk '{print $1}' <<<"$listing" | sort -u | wc -l)" 6 "different inode numbers"
assert_eq "$(ls -1iA "$MNT" | sort)" "$listing" "inode numbers, asked again"
assert_eq "$(stat -c '%i %n' "$DB")" "$(awk '$2 == "live.db" {print $1}' <<<"$listing") $DB" "inode number of live.db"
assert_eq "$(stat -c %d "$DB" "$CTL" "$CTL/status" "$MNT" | sort -u | wc -l)" 1 "device numbers in the mount"
[ "$(stat -c %d "$MNT")" != "$(stat -c %d "$T")" ] || fail "the mount has the device number of what is below"

# find, ls -la, and du over everything: no error, no name twice.
find "$MNT" >"$T/found" 2>"$T/errors"
assert_eq "$(cat "$T/errors")" "" "errors of find"
assert_eq "$(sort "$T/found" | uniq -d)" "" "names that find sees twice"
assert_eq "$(find "$MNT" -type f | wc -l)" 16 "regular files"
assert_eq "$(find "$MNT" -type d | wc -l)" 7 "directories"
ls -laR "$MNT" >/dev/null 2>"$T/errors"
du -a "$MNT" >/dev/null 2>>"$T/errors"
assert_eq "$(cat "$T/errors")" "" "errors of ls -laR and du -a"
assert_eq "$(ls -la "$MNT" | awk 'NR > 1 {print $NF}' | xargs)" ". .. .ctl blobs branches files live.db snapshots" "ls -la"
# One entry at a time, and begun again in the middle.
python3 - "$CTL" <<'END'
import os, sys
names = sorted(os.listdir(sys.argv[1]))
for _ in range(50):
    assert sorted(os.listdir(sys.argv[1])) == names
assert {e.name: e.is_file() for e in os.scandir(sys.argv[1])} == {n: True for n in names}
END

# The file system.
assert_eq "$(stat -f -c %l "$MNT")" 255 "longest name"
python3 - "$MNT" <<'END'
import os, sys
s = os.statvfs(sys.argv[1])
assert s.f_bsize > 0 and s.f_frsize > 0 and s.f_blocks > 0 and 0 < s.f_bavail <= s.f_bfree <= s.f_blocks, s
END
df "$MNT" >/dev/null
df -i "$MNT" >/dev/null

# Everything in .ctl can be read, whole and in pieces.
for file in "$CTL"/*; do
    timeout 10 cat "$file" >"$T/whole"
    timeout 10 dd if="$file" of="$T/pieces" bs=7 status=none
    case "${file##*/}" in
    metrics | log | status*) ;; # they may change between two reads
    *) cmp "$T/whole" "$T/pieces" ;;
    esac
done
[ -s "$CTL/config" ] || [ "$(wc -c <"$CTL/config")" -gt 0 ] || fail "config is empty"
umount_bh
