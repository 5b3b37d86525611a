#!/usr/bin/env bash
# WAL under memory pressure: clients and daemon in a cgroup whose limit makes the kernel take back pages all the time, those
# of the mapped live.db-shm and of the database among them, while something else reads large files and takes what memory
# is left. No increment is lost, nobody fails. Needs a memory controller, of cgroup v2 or v1, as root: the group is made
# inside the one that the test is in, or in BH_CGROUP=DIR.
# level: long
# time: 900
# plain: a sanitizer needs the memory for itself
# own_group: the directory of the group that this process is in, as far as memory is concerned
own_group() {
    local path
    path=$(sed -n 's/^[0-9]*:memory://p' /proc/self/cgroup)
    if [ -n "$path" ]; then
        echo "/sys/fs/cgroup/memory$path"
    else
        echo "/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)"
    fi
}
parent=${BH_CGROUP:-$(own_group)}
if [ -z "${IN_GROUP-}" ]; then
    group=$parent/bhfs-test-$$
    [[ "$(stat -f -c %T "$parent" 2>/dev/null)" = cgroup* ]] || { echo "$parent is no cgroup directory"; exit 77; }
    mkdir "$group" 2>/dev/null || { echo "$parent cannot have a group (not root?)"; exit 77; }
    if [ ! -e "$group/memory.max" ] && [ ! -e "$group/memory.limit_in_bytes" ]; then
        rmdir "$group"
        echo "$parent has no memory controller"
        exit 77
    fi
    trap : TERM INT # the script in the group ends, then the group
    (
        echo "$BASHPID" >"$group/cgroup.procs" || exit 1
        IN_GROUP=$group exec bash "${BASH_SOURCE[0]}"
    )
    status=$?
    for ((i = 0; i < 100; i++)); do
        rmdir "$group" 2>/dev/null && break
        sleep 0.1
    done
    exit $status
fi
. "$(dirname "${BASH_SOURCE[0]}")/../load.sh" || exit 1

megabytes=${BH_MEGABYTES:-64}
increments=${BH_INCREMENTS:-2000}
if [ -e "$IN_GROUP/memory.max" ]; then limit=$IN_GROUP/memory.max; else limit=$IN_GROUP/memory.limit_in_bytes; fi

# reclaimed: how often the kernel had to look for memory here.
reclaimed() {
    if [ -e "$IN_GROUP/memory.failcnt" ]; then
        cat "$IN_GROUP/memory.failcnt"
    else
        sed -n 's/^pgscan //p' "$IN_GROUP/memory.stat"
    fi
}

live_journal wal
mount_bh -o snapshot.interval=0
make_counter
assert_eq "$(sql 'PRAGMA journal_mode=WAL')" wal
sql "CREATE TABLE big(id INTEGER PRIMARY KEY, v INTEGER, pad); WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 20000)
     INSERT INTO big SELECT i, 0, randomblob(2000) FROM s"
flush
head -c 300000000 /dev/zero >"$T/large"
echo $((megabytes * 1048576)) >"$limit"

# Takes a third of the memory for good, and is what the kernel kills if that is too much.
cat >"$T/hog.py" <<'END'
import sys, time
open("/proc/self/oom_score_adj", "w").write("1000")
taken = bytearray(b"x") * (int(sys.argv[1]) * 1048576 // 3)
while True:
    taken[:] = taken
    time.sleep(0.5)
END
beside() { # COMMAND...: again and again until the file $T/enough is there
    (
        trap - ERR EXIT
        set +e
        while [ ! -e "$T/enough" ]; do "$@"; done
    ) >/dev/null 2>&1 & # bash would report each one that the kernel kills
    others+=($!)
}
others=()
beside timeout 20 python3 "$T/hog.py" "$megabytes"
beside cat "$T/large"
beside sh -c "sync -f '$MNT'; sleep 0.05"
[ ! -w "$IN_GROUP/memory.reclaim" ] || beside sh -c "echo 16M >'$IN_GROUP/memory.reclaim'; sleep 0.1"

before=$(reclaimed)
start longreader -m 200 -p 20 "$DB"
readers=("$PID")
start churn "$DB"
readers+=("$PID")
start counter -n "$increments" -j WAL -b 60000 "$DB"
counters=("$PID")
start counter -n "$increments" -j WAL -k 100 -b 60000 "$DB"
counters+=("$PID")
start counter -n "$increments" -j WAL -x 'PRAGMA cache_size=2000; SELECT sum(length(pad)) FROM big' -k 500 -b 60000 "$DB"
counters+=("$PID")
for ((i = 0; i < 50; i++)); do
    door run $((increments / 50)) 'UPDATE c SET n = n + 1' >/dev/null
    door run 1 'UPDATE big SET v = v + 1 WHERE id % 50 = 0' >/dev/null
done
flush
reap 0 "${counters[@]}"
stop "${readers[@]}"
touch "$T/enough"
wait "${others[@]}" || true
before=$(($(reclaimed) - before))
total=$((3 * increments + increments / 50 * 50))
echo "$total increments in $megabytes MiB; the kernel looked for memory $before times"
[ "$before" -ge 1000 ] || fail "there was hardly any pressure: this shows nothing"
assert_eq "$(door query 'SELECT n FROM c')" $total "the sum, as the daemon sees it"
assert_eq "$(sql 'SELECT n FROM c')" $total "the sum, as a client sees it"
assert_eq "$(sql 'SELECT sum(v), count(*) FROM big')" '20000|20000' "the rows that the daemon changed"
assert_eq "$(door query 'PRAGMA integrity_check')" ok "integrity_check by the daemon"
integrity
umount_bh
assert_eq "$(snapshot_value 'SELECT n FROM c')" $total "the sum in the bucket"
