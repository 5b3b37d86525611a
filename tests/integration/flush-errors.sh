#!/usr/bin/env bash
# A command that fails does so with the true errno, and its sentence is in last_status, in the log, and is what a read on
# the same open file returns. Control files cannot be removed, renamed, or changed otherwise.
# level: quick
# time: 90
# buckets: file ceph
. "${BASH_SOURCE%/*}/../lib.sh"

rules=$T/rules
: >"$rules"
live_journal delete # in WAL a flush waits for nobody
mount_bh -o bucket.fault="@$rules" -o bucket.attempts=1 -o bucket.retry_base=10ms -o live.busy_timeout=500ms
sql 'CREATE TABLE t(i)'
flush

# refused ERRNO FILE DATA REGEX: a write to a command file, without O_TRUNC.
refused() {
    local got
    got=$(python3 - "$CTL/$2" "$3" <<'END'
import errno, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
try:
    os.write(fd, sys.argv[2].encode())
    print("ok")
except OSError as e:
    print(errno.errorcode[e.errno])
print(os.pread(fd, 4096, 0).decode().strip())
END
    )
    assert_match "${got%%$'\n'*}" "^($1)$" "errno of a write to $2"
    assert_eq "${got#*$'\n'}" "$(last_status)" "$2: what the same file returns, beside last_status"
    assert_match "$(last_status)" "$4" "the sentence"
    grep -qF -- "$(last_status)" "$CTL/log" || fail "the sentence is not in the log: $(last_status)"
}

refused EMSGSIZE flush "$(printf '%4097s' x)" '4.?(096|KiB|K)'
refused EMSGSIZE import "/$(printf '%4097s' x)" '4.?(096|KiB|K)'
refused EINVAL import relative/path.db 'absolute'
refused EINVAL import $'\n' '[Pp]ath|empty'
refused ENOENT import "$T/not-there.db" 'not-there.db'
echo 'this is no database, but it is longer than a header of one hundred bytes would be, if it were one, you see' >"$T/text.db"
refused 'EINVAL|EIO' import "$T/text.db" 'text.db'
refused 'EISDIR|EINVAL' import "$T" "$T"

# 4 KiB exactly is a command, and the status of a good one is ok.
python3 -c 'import os, sys; os.write(os.open(sys.argv[1], os.O_WRONLY), b"x" * 4096)' "$CTL/flush"
assert_eq "$(last_status)" ok "last_status after a good one"

# The bucket's own failures.
sql 'INSERT INTO t VALUES(1)'
echo 'put:eio' >"$rules"
refused EIO flush x 'snap.db'
echo 'put:eacces' >"$rules"
refused EACCES flush x 'snap.db'
echo 'put:enospc' >"$rules"
refused ENOSPC flush x 'snap.db'
echo 'put:etimedout' >"$rules"
refused ETIMEDOUT flush x 'snap.db'
assert_eq "$(status_of unflushed)" yes "unflushed after failures"
assert_match "$(status_of last_error)" . "last_error in status"
# By every way in: touch, an open with O_TRUNC, the command.
echo 'put:eacces' >"$rules"
assert_errno EACCES "os.utime(M + '/.ctl/flush')"
assert_errno EACCES "os.open(M + '/.ctl/flush', os.O_WRONLY | os.O_TRUNC)"
assert_errno EACCES "os.open(M + '/.ctl/force_flush', os.O_WRONLY | os.O_TRUNC)"
assert_errno EACCES "os.truncate(M + '/.ctl/flush', 0)"
must_fail "$BHFS" flush "$MNT"
assert_match "$OUT" 'snap.db' "what bhfs flush says"
: >"$rules"
flush
assert_eq "$(snapshot_value 'SELECT count(*) FROM t')" 1 "rows in the bucket after the repair"
assert_eq "$(status_of unflushed)" no "unflushed after the repair"

# Somebody's transaction does not end: EBUSY, and who it is.
sql 'INSERT INTO t VALUES(2)'
python3 - "$DB" "$T/held" <<'END' &
import os, sqlite3, sys, time
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("BEGIN EXCLUSIVE")
open(sys.argv[2], "w").write(str(os.getpid()))
time.sleep(60)
END
holder=$!
wait_for 10 test -s "$T/held"
refused EBUSY flush x "(^|[^0-9])$(cat "$T/held")([^0-9]|\$)"
kill "$holder"
wait "$holder" || true
flush

# What is read-only is so for root too; nothing here can be removed, renamed, made or given other modes.
for file in status status.json metrics log last_status config; do
    assert_errno 'EACCES|EPERM' "os.write(os.open(M + '/.ctl/$file', os.O_WRONLY), b'x')"
    assert_errno 'EACCES|EPERM' "os.truncate(M + '/.ctl/$file', 0)"
done
for file in flush force_flush import status status.json last_status metrics config log; do
    assert_errno EPERM "os.unlink(M + '/.ctl/$file')"
    assert_errno EPERM "os.chmod(M + '/.ctl/$file', 0o777)"
    assert_errno EPERM "os.chown(M + '/.ctl/$file', 12345, 12345)"
    assert_errno EPERM "os.rename(M + '/.ctl/$file', M + '/.ctl/other')"
    [ -e "$CTL/$file" ] || fail "$file is gone"
done
assert_errno EPERM "os.rename(M + '/.ctl/log', M + '/.ctl/status')"
assert_errno EPERM "os.open(M + '/.ctl/new', os.O_CREAT | os.O_WRONLY)"
assert_errno EPERM "os.mkdir(M + '/.ctl/new')"
assert_errno EPERM "os.symlink('x', M + '/.ctl/new')"
assert_errno EPERM "os.link(M + '/.ctl/log', M + '/.ctl/new')"
assert_errno 'EPERM|EXDEV' "os.rename('$T/text.db', M + '/.ctl/import')"
assert_errno ENOENT "os.stat(M + '/.ctl/new')"
umount_bh
