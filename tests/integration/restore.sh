#!/usr/bin/env bash
# .ctl/restore puts the live database back to a snapshot, in place: clients that are connected see it and go on, what was
# there before stays in the history, and what cannot be done changes nothing.
# level: full
# time: 120
# buckets: file ceph
. "${BASH_SOURCE%/*}/../lib.sh"

restore() { echo "$1" >"$CTL/restore" || fail "restore $1: $(last_status)"; }
values() { sql 'SELECT group_concat(v) FROM (SELECT v FROM t ORDER BY i)' "${1:-$DB}"; }
report() { sed -n "s/^$1: //p" "$CTL/restore"; }

mount_bh -o live.busy_timeout=1s
assert_eq "$(cat "$CTL/restore")" never "the report before the first restore"
assert_errno ENOENT "open(M + '/.ctl/restore', 'wb', 0).write(b'prev')"

declare -A ID=() TIME=()
take() { # NAME: flushes what there is; ID[NAME] is its snapshot, TIME[NAME] a time at which it was the newest
    flush
    ID[$1]=$(status_of snapshot)
    sleep 0.05
    TIME[$1]=$(date -u +%Y-%m-%dT%H:%M:%S.%3NZ)
    sleep 0.05
}
sql "CREATE TABLE t(i INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, 'a')"
take a
sql "INSERT INTO t VALUES(2, 'b'); CREATE TABLE later(x)"
take b
mv "$MNT/snapshots/${ID[b]}" "$MNT/snapshots/label-b"
sql "DROP TABLE later; DELETE FROM t WHERE i = 1; ALTER TABLE t ADD COLUMN w"
sql "WITH RECURSIVE n(i) AS (SELECT 3 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) INSERT INTO t(i, w) SELECT i, hex(randomblob(200)) FROM n"
take c
content_c=$(digest)

# A client that stays open, with its cache and prepared statements: it sees what was put back, and writes into it.
session stays
assert_eq "$(ask stays 'SELECT count(*) FROM t')" 1999
sql "UPDATE t SET w = 'unflushed' WHERE i = 3"
content_d=$(digest)
restore "${ID[a]}"
assert_eq "$(last_status)" ok
assert_eq "$(values)" a "the content after a restore by id"
integrity
assert_eq "$(ask stays 'SELECT group_concat(v) FROM t')" a "what the client that stays sees"
assert_match "$(ask stays 'SELECT w FROM t')" '^error: no such column' "the schema that it sees"
assert_eq "$(ask stays "INSERT INTO t VALUES(7, 'after')")" ""
assert_eq "$(values)" a,after "what the client wrote after the restore"
integrity

# The report: what was asked for, what that is, what it is now. The history goes on: nothing is lost, and what was not
# flushed before the restore is a snapshot, too.
assert_eq "$(report 'asked for') $(report restored)" "${ID[a]} ${ID[a]}" "the report"
restored=$(report snapshot)
snapshots=$(ls "$MNT/snapshots" | grep -v label)
assert_eq "$(wc -l <<<"$snapshots")" 5 "snapshots: three, the one before the restore, the restored one"
assert_eq "$(tail -n 1 <<<"$snapshots")" "$restored" "the newest"
assert_eq "$(values "$MNT/snapshots/$restored/live.db")" a "the content of the newest"
assert_eq "$(digest "$MNT/snapshots/$(sed -n 4p <<<"$snapshots")/live.db")" "$content_d" "what was unflushed before"
assert_eq "$(digest "$MNT/snapshots/${ID[c]}/live.db")" "$content_c" "the snapshot before that"

# It is in the bucket when the write returns, for upstream too, but for what was written since.
assert_eq "$(snapshot_value 'SELECT group_concat(v) FROM t')" a "what upstream sees"

# By label; by time, to the millisecond, with an offset, with a blank for the T.
restore label-b
assert_eq "$(values) $(sql 'SELECT count(*) FROM later')" "a,b 0" "the content after a restore by label"
assert_eq "$(report 'asked for') $(report restored)" "label-b ${ID[b]}" "the report"
assert_eq "$(ask stays 'SELECT count(*) FROM later')" 0 "the table that came back, in the client that stays"
restore "${TIME[c]}"
assert_eq "$(digest)" "$content_c" "the content of ${TIME[c]}"
restore "${TIME[a]}"
assert_eq "$(values)" a "the content of ${TIME[a]}"
restore "$(date -u -d "${TIME[b]} + 2 hours" +%Y-%m-%dT%H:%M:%S.%3N+02:00)"
assert_eq "$(values)" a,b "the content of ${TIME[b]}, said in another time zone"
restore "${TIME[a]/T/ }"
assert_eq "$(values)" a "the content of ${TIME[a]}, written with a blank"
restore 2100-01-01T00:00:00Z
assert_eq "$(values)" a "the content of a time to come: the newest"

# Relative times.
sleep 1.2
sql "INSERT INTO t VALUES(8, 'young')"
flush
restore '1s ago'
assert_eq "$(values)" a "the content of a second ago"

# prev: the snapshot before the newest, so twice is back again. What is unflushed is the newest then.
sql "INSERT INTO t VALUES(9, 'p')"
flush
sql "INSERT INTO t VALUES(10, 'q')"
flush
restore prev
assert_eq "$(values)" a,p "prev"
restore prev
assert_eq "$(values)" a,p,q "prev again"
sql "INSERT INTO t VALUES(11, 'r')"
restore prev
assert_eq "$(values)" a,p,q "prev with unflushed changes"
restore prev
assert_eq "$(values)" a,p,q,r "and back: they were not lost"

# What cannot be done changes nothing, and says why; the same open file reads the sentence.
snapshots=$(ls "$MNT/snapshots") now=$(digest)
refused() { # ERRNO WHAT REGEX
    assert_errno "$1" "f = os.open(M + '/.ctl/restore', os.O_WRONLY); os.write(f, '''$2'''.encode())"
    assert_match "$(last_status)" "$3" "the sentence about $2"
    assert_eq "$(digest)" "$now" "the content after a refused restore of $2"
    assert_eq "$(ls "$MNT/snapshots")" "$snapshots" "the history after a refused restore of $2"
}
refused ENOENT 20200101T000000.000Z-00000000 '20200101T000000.000Z-00000000'
refused ENOENT no-such-label no-such-label
refused ENOENT 2001-01-01T00:00:00Z 2001
refused ENOENT '1000d ago' '1000d ago'
refused EINVAL 'the day before' 'the day before'
refused EINVAL '2026-13-77T00:00:00Z' '2026-13-77'
refused EINVAL ../../etc/passwd passwd
refused EINVAL '\n' 'ls snapshots'
must_fail touch "$CTL/restore"
python3 - "$CTL/restore" <<'END'
import os, sys
f = os.open(sys.argv[1], os.O_RDWR)
try:
    os.write(f, b"nothing-of-this-name")
    raise SystemExit("it succeeded")
except FileNotFoundError:
    pass
assert b"nothing-of-this-name" in os.pread(f, 1000, 0)
END
session busy
assert_eq "$(ask busy 'BEGIN IMMEDIATE')" ""
start=$(now_ms)
assert_errno EBUSY "f = os.open(M + '/.ctl/restore', os.O_WRONLY); os.write(f, b'${ID[a]}')"
assert_between $(($(now_ms) - start)) 900 8000 "ms that it waited for the client"
assert_match "$(last_status)" "(^|[^0-9])${session_pid[busy]}([^0-9]|\$)" "the sentence names the client"
assert_eq "$(ask busy 'SELECT group_concat(v) FROM t')" a,p,q,r "what the client sees after that"
assert_eq "$(ask busy 'COMMIT')" ""
leave busy
assert_eq "$(digest)" "$now" "the content after a restore that was held up"
leave stays

# In both journal modes, and over a new page size.
for mode in delete wal; do
    assert_eq "$(sql "PRAGMA journal_mode=$mode")" $mode
    restore "${ID[c]}"
    assert_eq "$(digest)" "$content_c" "$mode: the content after a restore"
    assert_eq "$(sql 'PRAGMA journal_mode')" $mode "the journal mode after a restore"
    restore "${ID[b]}"
    assert_eq "$(values)" a,b "$mode: the content after the next"
    integrity
done

# On a machine that has nothing of it: what is restored comes from the bucket, as it is read, or all at once by hydrate.
umount_bh
drop_state
mount_bh
restore "${ID[c]}"
assert_between "$(status_of absent_bytes)" 1 100000000 "bytes that are not local after a restore"
touch "$CTL/hydrate"
assert_eq "$(status_of absent_bytes) $(metric bhfs_absent_bytes)" "0 0" "bytes that are not local after hydrate"
assert_match "$(cat "$CTL/hydrate")" 'absent_bytes: 0'
assert_eq "$(digest)" "$content_c" "the content on another machine"
integrity
umount_bh
drop_state
mount_bh -o ro
assert_eq "$(digest)" "$content_c" "what was restored, on a third machine"
assert_errno EROFS "f = os.open(M + '/.ctl/restore', os.O_WRONLY); os.write(f, b'${ID[a]}')"
umount_bh
