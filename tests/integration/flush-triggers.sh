#!/usr/bin/env bash
# Whatever people do to a control file called `flush`, it is exactly one flush, the second time too, and what was
# written before is in the bucket when it returns.
# level: quick
# time: 120
# buckets: file ceph
. "${BASH_SOURCE%/*}/../lib.sh"

mount_bh
sql 'CREATE TABLE t(i)'
n=0
echo now >"$T/word"

# one NAME COMMAND...: after a change, the command (with F, the control file, in its environment) is one upload.
one() {
    local name=$1 before uploaded
    shift
    n=$((n + 1))
    sql "INSERT INTO t VALUES($n)"
    before=$(metric bhfs_flushes_total)
    uploaded=$(metric 'bhfs_flushes_total{result="uploaded"}')
    "$@" || fail "$name: status $?, $(last_status)"
    assert_eq "$(snapshot_value 'SELECT max(i) FROM t')" "$n" "$name: what is in the bucket"
    assert_eq "$(($(metric bhfs_flushes_total) - before))" 1 "$name: number of flushes"
    assert_eq "$(($(metric 'bhfs_flushes_total{result="uploaded"}') - uploaded))" 1 "$name: number of uploads"
}

for file in flush force_flush; do
    export F=$CTL/$file
    for round in first second; do
        for shell in bash dash; do
            one "$shell echo >, $round" $shell -c 'echo x >"$F"'
            one "$shell : >, $round" $shell -c ': >"$F"'
            one "$shell echo >>, $round" $shell -c 'echo x >>"$F"'
        done
        one "touch, $round" touch "$F"
        one "touch -c, $round" touch -c "$F"
        one "touch -d, $round" touch -d '2001-02-03 04:05:06' "$F"
        one "tee, $round" bash -c 'echo x | tee "$F" >/dev/null'
        one "tee -a, $round" bash -c 'echo x | tee -a "$F" >/dev/null'
        one "truncate -s 0, $round" truncate -s 0 "$F"
        one "dd, $round" dd if="$T/word" of="$F" status=none
        one "python open and write, $round" python3 -c 'import os; open(os.environ["F"], "w").write("now")'
        one "python open only, $round" python3 -c 'import os; open(os.environ["F"], "w").close()'
        one "python append, $round" python3 -c 'import os; open(os.environ["F"], "a").write("now\n")'
        one "python pwrite at an offset, $round" python3 -c 'import os; os.pwrite(os.open(os.environ["F"], os.O_WRONLY), b"x", 5000)'
        one "python utime, $round" python3 -c 'import os; os.utime(os.environ["F"])'
    done
done

# Looking, or opening for append without writing, is no command.
before=$(metric bhfs_flushes_total)
cat "$CTL/flush" >/dev/null
: >>"$CTL/flush"
ls -la "$CTL" >/dev/null
stat "$CTL/flush" >/dev/null
python3 -c 'import os, sys; os.close(os.open(sys.argv[1], os.O_RDWR))' "$CTL/flush"
assert_eq "$(metric bhfs_flushes_total)" "$before" "flushes after mere looking"

# On one open file every further write is a command of its own; the first after O_TRUNC belongs to the open.
sql 'INSERT INTO t VALUES(-1)'
before=$(metric bhfs_flushes_total)
python3 - "$CTL/flush" <<'END'
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_TRUNC)
for _ in range(3):
    os.write(fd, b"x\n")
END
assert_eq "$(($(metric bhfs_flushes_total) - before))" 3 "flushes of an open with O_TRUNC and three writes"

# What the last one did can be read.
report=$(cat "$CTL/flush")
for key in time snapshot bytes seconds result; do
    assert_match "$report" "(^|"$'\n'")$key: ." "the report in .ctl/flush"
done
umount_bh
