#!/usr/bin/env bash
# Each flush is a directory snapshots/ID: its live.db opens as it is and never changes, stat tells when it was taken, cp gets
# it back. Labels name snapshots (mkdir, mv, rmdir), rmdir drops one, and everything else in there is refused.
# level: full
# time: 120
# buckets: file ceph
. "${BASH_SOURCE%/*}/../lib.sh"

SNAPSHOTS=$MNT/snapshots
mount_bh
assert_eq "$(ls "$SNAPSHOTS")" "" "snapshots of an empty database"

# flushed N: the id of the N-th flush is in ID[N], the time before and after it in BEFORE[N] and AFTER[N].
declare -A ID=() BEFORE=() AFTER=()
flushed() {
    BEFORE[$1]=$EPOCHREALTIME
    flush
    AFTER[$1]=$EPOCHREALTIME
    ID[$1]=$(status_of snapshot)
}
sql "CREATE TABLE t(i INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, 'one')"
flushed 1
sql "INSERT INTO t VALUES(2, 'two')"
flushed 2
sql "WITH RECURSIVE n(i) AS (SELECT 3 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) INSERT INTO t SELECT i, hex(randomblob(200)) FROM n"
content=$(digest) size=$(sql 'SELECT page_count * page_size FROM pragma_page_count, pragma_page_size')
flushed 3
sql "DELETE FROM t WHERE i > 1; UPDATE t SET v = 'four'"

# They are listed at once, oldest first (ids sort by time); a flush of nothing adds none.
assert_eq "$(ls "$SNAPSHOTS" | xargs)" "${ID[1]} ${ID[2]} ${ID[3]}" "the listing"
flushed 4
flush
assert_eq "$(ls "$SNAPSHOTS" | xargs)" "${ID[1]} ${ID[2]} ${ID[3]} ${ID[4]}" "the listing after a flush of nothing"
assert_eq "$(status_of snapshots)" 4 "snapshots in status"
assert_eq "$(metric bhfs_snapshots)" 4 "bhfs_snapshots"
assert_match "$(status_of lease)" '^(advisory, )?held until 20..-' "the lease in status"

# Old snapshots are what they were, by SQLite as it is, in a rollback mode and sound.
assert_eq "$(sql 'SELECT group_concat(v) FROM t' "$SNAPSHOTS/${ID[1]}/live.db")" one
assert_eq "$(sql 'SELECT group_concat(v) FROM t' "$SNAPSHOTS/${ID[2]}/live.db")" one,two
assert_eq "$(digest "$SNAPSHOTS/${ID[3]}/live.db")" "$content" "the content of the third snapshot"
assert_eq "$(sql 'SELECT group_concat(v) FROM t' "$SNAPSHOTS/${ID[4]}/live.db")" four
for n in 1 2 3 4; do
    integrity "$SNAPSHOTS/${ID[$n]}/live.db"
    assert_eq "$(version_bytes "$SNAPSHOTS/${ID[$n]}/live.db")" "1 1" "the header of snapshot $n"
done

# stat: the time of the snapshot, its size, and nothing that can be written.
for n in 1 2 3 4; do
    for path in "$SNAPSHOTS/${ID[$n]}" "$SNAPSHOTS/${ID[$n]}/live.db"; do
        for time in X Y Z; do
            assert_between "$(stat -c %.3$time "$path")" "$(awk -v t="${BEFORE[$n]}" 'BEGIN { printf "%.3f", t - 0.002 }')" "${AFTER[$n]}" \
                "time $time of $path"
        done
    done
done
assert_eq "$(stat -c '%F %a' "$SNAPSHOTS/${ID[3]}")" "directory 555"
assert_eq "$(stat -c '%F %a %s' "$SNAPSHOTS/${ID[3]}/live.db")" "regular file 444 $size"
assert_eq "$(stat -c '%F %a' "$SNAPSHOTS/${ID[3]}/info")" "regular file 444"
assert_eq "$(ls -A "$SNAPSHOTS/${ID[3]}" | xargs)" "blobs files info live.db" "what is in a snapshot"
assert_eq "$(find "$SNAPSHOTS" -newer "$SNAPSHOTS/${ID[2]}" -name live.db | wc -l)" 2 "databases that are newer than the second"
assert_eq "$(ls -1t "$SNAPSHOTS" | head -n 1)" "${ID[4]}" "the newest by time"

# Getting it back, as a file and for a comparison.
cp "$SNAPSHOTS/${ID[3]}/live.db" "$T/back.db"
assert_eq "$(stat -c %s "$T/back.db")" "$size" "the size of the copy"
assert_eq "$(digest "$T/back.db")" "$content" "the content of the copy"
cmp "$T/back.db" "$SNAPSHOTS/${ID[3]}/live.db"
attempt diff -rq "$SNAPSHOTS/${ID[1]}" "$SNAPSHOTS/${ID[2]}"
assert_eq "$(grep -c '/live.db differ' <<<"$OUT")" 1 "what diff -rq says of two snapshots: $OUT"
diff -r "$SNAPSHOTS/${ID[2]}" "$MNT/branches/main/snapshots/${ID[2]}"
# Pieces of any size at any place, and beyond the end.
python3 - "$SNAPSHOTS/${ID[3]}/live.db" "$T/back.db" <<'END'
import os, random, sys
a, b = (os.open(p, os.O_RDONLY) for p in sys.argv[1:])
size = os.fstat(b).st_size
random.seed(7)
for _ in range(300):
    at, n = random.randrange(size + 1000), random.choice((1, 511, 4096, 16384, 100000, 700000))
    assert os.pread(a, n, at) == os.pread(b, n, at), (at, n)
END

# info is text with a true size.
info=$(cat "$SNAPSHOTS/${ID[3]}/info")
assert_eq "$(sed -n 's/^id: //p' <<<"$info")" "${ID[3]}" "id in info"
assert_eq "$(sed -n 's/^branch: //p' <<<"$info")" main "branch in info"
assert_eq "$(sed -n 's/^size: //p' <<<"$info")" "$size" "size in info"
assert_eq "$(date -d "$(sed -n 's/^created: //p' <<<"$info")" +%s)" "$(stat -c %Y "$SNAPSHOTS/${ID[3]}")" "created in info"
assert_eq "$(stat -c %s "$SNAPSHOTS/${ID[3]}/info")" "$(wc -c < <(cat "$SNAPSHOTS/${ID[3]}/info"))" "the size of info"
assert_eq "$(grep -c '^label:' <<<"$info" || true)" 0 "labels in info"

# Read-only, for root too; and no file appears beside it.
assert_errno 'EROFS|EACCES' "os.open(M + '/snapshots/${ID[1]}/live.db', os.O_RDWR)"
assert_errno 'EROFS|EACCES' "os.open(M + '/snapshots/${ID[1]}/new', os.O_RDWR | os.O_CREAT)"
assert_errno 'EROFS|EACCES|EPERM' "os.unlink(M + '/snapshots/${ID[1]}/live.db')"
assert_errno 'EROFS|EPERM' "os.truncate(M + '/snapshots/${ID[1]}/live.db', 0)"
assert_errno 'EROFS|EPERM' "os.chmod(M + '/snapshots/${ID[1]}/live.db', 0o666)"
assert_errno 'EACCES|EPERM' "os.mkdir(M + '/snapshots/${ID[1]}/d')"
assert_errno ENOENT "os.stat(M + '/snapshots/${ID[1]}/live.db-wal')"
assert_errno ENOENT "os.stat(M + '/snapshots/nothing')"
assert_errno ENOENT "os.stat(M + '/snapshots/20200101T000000.000Z-00000000')"
must_fail sql "INSERT INTO t VALUES(9, 9)" "$SNAPSHOTS/${ID[1]}/live.db"
assert_match "$OUT" 'readonly'
# Locks are granted, and a reader of a snapshot keeps nobody from writing.
session old "file:$SNAPSHOTS/${ID[2]}/live.db?mode=ro"
assert_eq "$(ask old BEGIN)" ""
assert_eq "$(ask old 'SELECT count(*) FROM t')" 2
sql "INSERT INTO t VALUES(5, 'five')"
flushed 5
assert_eq "$(ask old 'SELECT count(*) FROM t')" 2 "what a reader of the second snapshot sees after a flush"
leave old

# A label: of the newest, made now, with what was not flushed yet; of an old one; moved; two on one.
sql "INSERT INTO t VALUES(6, 'six')"
mkdir "$SNAPSHOTS/six"
assert_eq "$(last_status)" ok
flushed 6
assert_eq "$(sql 'SELECT count(*) FROM t' "$SNAPSHOTS/six/live.db")" "$(sql 'SELECT count(*) FROM t')" "the labelled snapshot"
assert_eq "$(sed -n 's/^id: //p' "$SNAPSHOTS/six/info")" "${ID[6]}" "what the label is of: flushed, and once only"
mv "$SNAPSHOTS/${ID[2]}" "$SNAPSHOTS/second"
mv "$SNAPSHOTS/second" "$SNAPSHOTS/zwei"
mv "$SNAPSHOTS/${ID[2]}" "$SNAPSHOTS/deux"
assert_eq "$(ls "$SNAPSHOTS" | xargs)" "${ID[1]} ${ID[2]} ${ID[3]} ${ID[4]} ${ID[5]} ${ID[6]} deux six zwei" "ids and labels"
assert_errno ENOENT "os.stat(M + '/snapshots/second')"
assert_eq "$(sql 'SELECT group_concat(v) FROM t' "$SNAPSHOTS/zwei/live.db")" one,two
assert_eq "$(sed -n 's/^label: //p' "$SNAPSHOTS/${ID[2]}/info" | xargs)" "deux zwei" "labels in info"
assert_eq "$(stat -c %.3Y "$SNAPSHOTS/zwei")" "$(stat -c %.3Y "$SNAPSHOTS/${ID[2]}")" "the time of a label's directory"
[ "$(stat -c %i "$SNAPSHOTS/zwei")" != "$(stat -c %i "$SNAPSHOTS/${ID[2]}")" ] || fail "label and id share an inode number"

# Names that are taken or are none; the sentence is in last_status.
assert_errno EEXIST "os.mkdir(M + '/snapshots/six')"
assert_errno EEXIST "os.mkdir(M + '/snapshots/${ID[1]}')"
assert_errno EINVAL "os.mkdir(M + '/snapshots/no.label')"
assert_match "$(last_status)" 'no\.label'
assert_errno EINVAL "os.mkdir(M + '/snapshots/20200101T000000.000Z-00000000')"
assert_errno EEXIST "os.rename(M + '/snapshots/${ID[1]}', M + '/snapshots/six')"
assert_errno EEXIST "os.rename(M + '/snapshots/deux', M + '/snapshots/zwei')"
assert_errno EINVAL "os.rename(M + '/snapshots/${ID[1]}', M + '/snapshots/no.label')"
must_fail mv --exchange "$SNAPSHOTS/deux" "$SNAPSHOTS/zwei"

# Away: a label; a snapshot, unless it is the newest or labelled.
assert_errno EBUSY "os.rmdir(M + '/snapshots/${ID[2]}')"
assert_match "$(last_status)" 'deux|zwei' "the sentence names the label"
assert_errno EBUSY "os.rmdir(M + '/snapshots/${ID[6]}')"
rmdir "$SNAPSHOTS/deux" "$SNAPSHOTS/zwei" "$SNAPSHOTS/${ID[2]}" "$SNAPSHOTS/${ID[4]}"
assert_eq "$(ls "$SNAPSHOTS" | xargs)" "${ID[1]} ${ID[3]} ${ID[5]} ${ID[6]} six" "what is left"
assert_errno ENOENT "os.stat(M + '/snapshots/${ID[2]}')"
assert_errno ENOENT "os.rmdir(M + '/snapshots/${ID[2]}')"
assert_eq "$(digest "$SNAPSHOTS/${ID[3]}/live.db")" "$content" "a neighbour of dropped snapshots"

# The machine is lost: everything is still there, and a mount on another machine reads it.
live=$(digest)
umount_bh
drop_state
mount_bh -o ro
assert_eq "$(ls "$SNAPSHOTS" | xargs)" "${ID[1]} ${ID[3]} ${ID[5]} ${ID[6]} six" "snapshots of the lost machine"
assert_eq "$(digest "$SNAPSHOTS/${ID[3]}/live.db")" "$content" "the third snapshot, from the bucket"
assert_eq "$(digest "$SNAPSHOTS/six/live.db")" "$live" "the labelled snapshot, from the bucket"
assert_errno EROFS "os.mkdir(M + '/snapshots/later')"
umount_bh

# Without a history the directories are not there.
drop_state
mount_bh -o snapshot.history=false
assert_eq "$(ls "$MNT")" live.db "the tree without a history"
umount_bh
