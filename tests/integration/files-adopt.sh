#!/usr/bin/env bash
# What upstream put into the file store (an object files/SHA256 and a row of table filestore) has a name in files/: the row's
# filename, made safe and unique. What the user removes stays removed; a row that is inserted again has a name again; rows
# of our own files get no second one; rows that are none harm nothing.
# level: full
# time: 120
# buckets: file ceph
. "${BASH_SOURCE%/*}/../files.sh"
mount_only

theirs=$T/upstream.db
upstream_flush() {
    rm -f "$T/backup.db"
    sqlite3 -batch -bail "$theirs" ".backup '$T/backup.db'"
    bucket_put "$T/backup.db" "$SNAP"
}
# put CONTENT: the object alone. Sets SHA and SIZE.
put() {
    printf '%s' "$1" >"$T/blob"
    SHA=$(sha256sum <"$T/blob" | cut -d' ' -f1) SIZE=$(stat -c %s "$T/blob")
    bucket_put "$T/blob" "files/$SHA"
    echo "$SHA $1" >>"$T/objects"
}
# row FILENAME [METADATA [TIME]]: its row, as SQL. FILENAME is an expression.
row() {
    echo "INSERT INTO filestore VALUES('$SHA', 'files/$SHA', $SIZE, 'text/plain', $1, '${2:-{\}}', ${3:-1000000000.25});"
}
names() { (cd "$FILES" && find . -mindepth 1 -printf '%P\n' | LC_ALL=C sort); }
xattr() { python3 -c "import os, sys; print(os.getxattr(sys.argv[1], sys.argv[2]).decode())" "$1" "$2"; }

# --- theirs alone: names, contents, times, metadata
{
    echo "CREATE TABLE filestore(bh_key TEXT PRIMARY KEY, object_key TEXT, size INTEGER, mime TEXT, filename TEXT, metadata TEXT,
        created_at REAL);"
    put 'the report' && row "'report.txt'" '{"author": "A. Ü.", "pages": 3, "list": [1, {"a": null}], "yes": true, "": "x"}'
    put 'the same 1' && row "'same.tar.gz'"
    put 'the same 2' && row "'same.tar.gz'"
    put 'the same 3' && row "'same.tar.gz'"
    put 'evil 1' && row "'../../etc/passwd'"
    put 'evil 2' && row "'..'"
    put 'evil 3' && row "'.'"
    put 'evil 4' && row "'new' || char(10) || 'line'"
    put 'evil 5' && row "printf('%.*c', 400, 'x') || '.pdf'"
    put 'no name 1' && row "''" 'no JSON' && n1=$SHA
    put 'no name 2' && row NULL && n2=$SHA
    put 'no name 3' && row "x'00ff2f'" && n3=$SHA
    put 'a number' && row 42 && n4=$SHA
    # and rows that are none
    put 'elsewhere' && echo "INSERT INTO filestore VALUES('$SHA', 'other/$SHA', 9, NULL, 'elsewhere', '{}', 1);"
    echo "INSERT INTO filestore VALUES('no hash', 'files/x', 1, NULL, 'bad1', '{}', 1), (NULL, NULL, NULL, NULL, NULL, NULL, NULL),
        (x'00', 'files/x', 1, NULL, 'bad2', '{}', 1), ('$(printf A%.0s {1..64})', NULL, 1, NULL, 'bad3', '{}', 1),
        ('$(printf a%.0s {1..64})', NULL, -1, NULL, 'bad4', '{}', 1), ('$(printf b%.0s {1..64})', NULL, 'x', NULL, 'bad5', '{}', 1);"
    # one whose object is gone
    echo "INSERT INTO filestore VALUES('$(printf c%.0s {1..64})', NULL, 5, NULL, 'dangling', '{}', 'yesterday');"
} >"$T/theirs.sql"
sqlite3 -batch -bail "$theirs" <"$T/theirs.sql"
upstream_flush
bucket_ls >"$T/keys"
long=$(printf 'x%.0s' {1..251}).pdf
printf '%s\n' "_" "_." ".._.._etc_passwd" "new_line" "$long" "$n1" "$n2" "$n3" 42 dangling report.txt \
    same.tar.gz "same.tar (2).gz" "same.tar (3).gz" | LC_ALL=C sort >"$T/wanted"

look() { # WHAT
    assert_eq "$(names)" "$(cat "$T/wanted")" "names in files/, $1"
    assert_eq "$(cat "$FILES/report.txt")" 'the report' "report.txt, $1"
    assert_eq "$(stat -c '%a %s %h %u %.9Y' "$FILES/report.txt")" "644 10 1 $(id -u) 1000000000.250000000" "its attributes, $1"
    assert_eq "$(cat "$FILES"/same*)" 'the same 2the same 3the same 1' "those with one filename, $1"
    assert_eq "$(cat "$FILES/.._.._etc_passwd")" 'evil 1' "a filename with slashes, $1"
    assert_eq "$(cat "$FILES/$n1")" 'no name 1' "a row without a filename, $1"
    assert_eq "$(xattr "$FILES/report.txt" user.bh.meta.author)" 'A. Ü.' "an entry of metadata, $1"
    assert_eq "$(xattr "$FILES/report.txt" user.bh.meta.pages)" 3 "a number of metadata, $1"
    assert_eq "$(xattr "$FILES/report.txt" user.bh.state)" stored "the state, $1"
    assert_errno EIO "open(M + '/files/dangling').read()"
    assert_eq "$(stat -c %s "$FILES/dangling")" 5 "the size of one whose object is gone, $1"
}

files_mount
look "of their bucket"
log_has 'row 14 of table filestore gets no name' || fail "the log does not say which row is none"
files_umount
assert_eq "$(bucket_ls)" "$(cat "$T/keys")" "the bucket after a mount that wrote nothing"
files_mount
look "once more"
assert_eq "$(status_of unflushed)" no "unflushed, in status"
files_umount
mount_bh -o ro
assert_eq "$(ls "$FILES" | wc -l)" 0 "names in files/ of a mount that may not write"
umount_bh

# --- the first that is done is a removal, and then the daemon is killed
files_mount
rm "$FILES/dangling"
kill_daemon
files_mount
[ ! -e "$FILES/dangling" ] || fail "a name that was removed before a kill came back"
assert_eq "$(names)" "$(grep -vx dangling "$T/wanted")" "names in files/ after a kill"
flush
assert_eq "$(sql "SELECT count(*) FROM filestore WHERE filename = 'dangling'")" 0 "the row of a name that was removed before a kill"
files_umount
files_mount
assert_eq "$(status_of unflushed)" no "unflushed, in status, after that"
files_umount
bucket_empty

# --- a change: what the bucket has then has the names; what is removed stays removed
drop_state
while read -r sha text; do
    put "$text"
    [ "$SHA" = "$sha" ] || fail "$text"
done < <(cat "$T/objects")
upstream_flush
files_mount
echo 'our own' >"$FILES/own"
mkdir "$FILES/dir"
mv "$FILES/report.txt" "$FILES/dir/renamed.txt"
rm "$FILES/_" "$FILES/new_line" "$FILES/42"
flush
assert_eq "$(sql "SELECT count(*) FROM filestore WHERE bh_key = '$n4'")" 0 "the row of a name that was removed"
assert_eq "$(sql "SELECT filename FROM filestore WHERE filename IN ('own', 'report.txt') ORDER BY 1")" "own
report.txt" "rows of the others"
names >"$T/wanted"
for how in state bucket; do
    files_umount
    [ $how = state ] || drop_state
    files_mount
    assert_eq "$(names)" "$(cat "$T/wanted")" "names in files/ from the $how"
    assert_eq "$(cat "$FILES/dir/renamed.txt" "$FILES/own")" "the reportour own" "contents from the $how"
    assert_eq "$(status_of unflushed)" no "unflushed, in status, from the $how"
done

# --- attributes user.bh.meta.* are the row's metadata
meta() { sql "SELECT metadata FROM filestore WHERE filename = '$1'"; }
set_xattr() { python3 -c "import os, sys; os.setxattr(sys.argv[1], sys.argv[2], os.fsencode(sys.argv[3]))" "$@"; }
R=$FILES/dir/renamed.txt
assert_eq "$(meta report.txt)" '{"author": "A. Ü.", "pages": 3, "list": [1, {"a": null}], "yes": true, "": "x"}' "metadata that nobody changed"
set_xattr "$R" user.bh.meta.title 'say "é"'
set_xattr "$R" user.note mine
python3 -c "import os; os.removexattr('$R', 'user.bh.meta.author')"
set_xattr "$FILES/own" user.bh.meta.kind own
printf 'with an attribute' >"$FILES/with"
set_xattr "$FILES/with" user.bh.meta.a ''
flush
python3 - "$(meta report.txt)" "$(meta own)" "$(meta with)" <<'END' || fail "metadata: $(meta report.txt) $(meta own) $(meta with)"
import json, sys
assert json.loads(sys.argv[1]) == {'pages': 3, 'list': [1, {'a': None}], 'yes': True, 'title': 'say "é"'}
assert json.loads(sys.argv[2]) == {'kind': 'own'}
assert json.loads(sys.argv[3]) == {'a': ''}
END
set_xattr "$R" user.bh.meta.pages 4
files_umount
drop_state
files_mount
assert_match "$(meta report.txt)" '"pages":"4"' "metadata in the bucket"
assert_eq "$(xattr "$R" user.bh.meta.title)$(xattr "$R" user.bh.meta.list)$(xattr "$R" user.note)" 'say "é"[1,{"a":null}]mine' "attributes from the bucket"
assert_errno ENODATA "os.getxattr('$R', 'user.bh.meta.author')"
assert_errno EPERM "os.setxattr('$R', 'user.bh.key', b'x')"
rm "$FILES/with"
flush

# --- rows that come while it is mounted; the kernel knows that there is no such name
assert_errno ENOENT "os.stat(M + '/files/late.txt')"
put 'late'
sql "$(row "'late.txt'")"
flush
assert_eq "$(cat "$FILES/late.txt")" late "a row that a client inserted"
ls "$FILES" | grep -qx late.txt || fail "it is not listed"
rm "$FILES/late.txt"
flush
assert_eq "$(sql "SELECT count(*) FROM filestore WHERE bh_key = '$SHA'")" 0 "its row after it was removed"
flush
[ ! -e "$FILES/late.txt" ] || fail "it came back"
sql "$(row "'late.txt'")"
flush
assert_eq "$(cat "$FILES/late.txt")" late "a row that was inserted again"
# ... also before a flush has deleted the one before
rm "$FILES/late.txt"
sql "DELETE FROM filestore WHERE bh_key = '$SHA'; $(row "'late.txt'" '' "$(date +%s.%N)")"
sql "INSERT INTO filestore(bh_key, size) VALUES('none', 1)"
flush
assert_eq "$(cat "$FILES/late.txt" 2>&1)" late "a row that was inserted again before a flush"
# ... and when the mount ends
put 'at the end'
sql "$(row "'end'")"
files_remount
assert_eq "$(cat "$FILES/end")" 'at the end' "a row that came just before the end"
# a row of a content that a file of ours has
put 'ours as well'
printf 'ours as well' >"$FILES/ours"
sql "$(row "'theirs'")"
flush
[ ! -e "$FILES/theirs" ] || fail "a content that has a name has got another one"
assert_eq "$(sql "SELECT filename FROM filestore WHERE bh_key = '$SHA'")" theirs "its row"
names >"$T/wanted"
kill_daemon
files_mount
assert_eq "$(names)" "$(cat "$T/wanted")" "names in files/ after a kill"

# --- what was removed just before a kill stays removed, a file of ours and one of theirs
rm "$FILES/late.txt" "$FILES/own"
kill_daemon
files_mount
grep -vxE 'late.txt|own' "$T/wanted" >"$T/wanted2"
assert_eq "$(names)" "$(cat "$T/wanted2")" "names in files/ after a removal and a kill"
flush
assert_eq "$(sql "SELECT count(*) FROM filestore WHERE filename IN ('late.txt', 'own')")" 0 "rows of what was removed before a kill"

# --- many of one filename, and a table that others made anew: nothing gets a second name
sql "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
    INSERT INTO filestore SELECT printf('%064x', i), NULL, i, NULL, 'one.name', '{}', i FROM n"
flush
assert_eq "$(ls "$FILES" | grep -c '^one')" 3000 "names of 3,000 rows with one filename"
assert_eq "$(ls "$FILES" | grep '^one' | sort -u | wc -l)" 3000 "different ones"
[ -e "$FILES/one (3000).name" ] || fail "they are not numbered without gaps"
sql "CREATE TABLE copy AS SELECT * FROM filestore ORDER BY size DESC; DELETE FROM filestore; INSERT INTO filestore SELECT * FROM copy"
flush
assert_eq "$(names | wc -l)" $(($(wc -l <"$T/wanted2") + 3000)) "names after the table was filled again"
sql "DROP TABLE filestore"
flush
assert_eq "$(sql 'SELECT count(*) FROM filestore')" "$(find "$FILES" -type f -size +0 | wc -l)" "rows after the table was dropped"
sql "DROP TABLE filestore; CREATE TABLE filestore(bh_key TEXT PRIMARY KEY, size) WITHOUT ROWID; INSERT INTO filestore VALUES('$(printf d%.0s {1..64})', 3)"
rm "$FILES/one.name"
flush
integrity
assert_eq "$(ls "$FILES" | grep -c '^one')" 2999 "names when the table is another one"
sql "DROP TABLE filestore; CREATE TABLE filestore(bh_key TEXT PRIMARY KEY, size)"
flush
flush
names >"$T/wanted"
sql "INSERT INTO filestore VALUES('$(printf d%.0s {1..64})', 3)"
flush
assert_eq "$(names | LC_ALL=C comm -13 "$T/wanted" -)" "$(printf d%.0s {1..64})" "a row of a table that was made meanwhile"
files_umount

# --- a database that has no such table until a client makes one
drop_state
bucket_empty
files_mount
flush
put 'the first'
sql "CREATE TABLE filestore(bh_key TEXT PRIMARY KEY, object_key TEXT, size INTEGER, mime TEXT, filename TEXT, metadata TEXT,
    created_at REAL); $(row "'first'")"
flush
assert_eq "$(cat "$FILES/first")" 'the first' "the first row"

# --- another database is imported: our files have their rows in that one, too, and its rows have names
echo 'our own' >"$FILES/own"
flush
put 'the second'
sqlite3 -batch -bail "$T/other.db" "CREATE TABLE filestore(bh_key TEXT PRIMARY KEY, object_key TEXT, size INTEGER, mime TEXT,
    filename TEXT, metadata TEXT, created_at REAL); $(row "'second'")"
echo "$T/other.db" >"$CTL/import" || fail "import: $(last_status)"
flush
assert_eq "$(names | xargs)" "first own second" "names after an import"
assert_eq "$(sql 'SELECT filename FROM filestore ORDER BY 1' | xargs)" "first own second" "rows after an import"
assert_eq "$(cat "$FILES/second")" 'the second' "a row of the imported database"
files_umount
