#!/usr/bin/env bash
# A write is one request: the kernel does not ask for a file's capabilities before each of them (FUSE_HANDLE_KILLPRIV_V2, Linux
# 5.12). Of live.db's files and in files/.
# level: quick
. "${BASH_SOURCE%/*}/../lib.sh"

release=$(uname -r)
[ "$(printf '%s\n5.12\n' "${release%%-*}" | sort -V | head -n 1)" = 5.12 ] || skip "Linux ${release%%-*} has no FUSE_HANDLE_KILLPRIV_V2"
mount_bh
sql 'CREATE TABLE t(i)'

requests() { metric "bhfs_fuse_requests_total{op=\"$1\"}"; }

# asks_for_nothing WHAT COMMAND...: it writes at least 200 times
asks_for_nothing() {
    local what=$1 writes others
    shift
    writes=$(requests write) others=$(requests other)
    "$@"
    assert_between $(($(requests write) - writes)) 200 100000 "$what: requests to write"
    assert_between $(($(requests other) - others)) 0 20 "$what: other requests"
}

asks_for_nothing "a file in files/" python3 -c "
import os, sys
f = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o644)
for i in range(300):
    os.pwrite(f, b'x' * 4096, i * 4096)" "$MNT/files/f"
asks_for_nothing "the write-ahead log" python3 -c "
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
assert c.execute('PRAGMA journal_mode').fetchone()[0] == 'wal'
for i in range(150):
    c.execute('INSERT INTO t VALUES(?)', (i,))" "$DB"
assert_eq "$(sql 'SELECT count(*) FROM t')" 150 "rows"
umount_bh
