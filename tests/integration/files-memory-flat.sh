#!/usr/bin/env bash
# The daemon's memory is bounded, however many files there are and however much of them is read: files are made, listed, read, and
# listed and read again by a mount that has nothing but the bucket; so many that the names in memory are as many as there may be
# (300,000: directory entries and inodes), and then 100,000 more; and gigabytes of cold reads go through a cache that is much smaller.
# 100 GB; outside --long a part of that, and too few files to reach the bound.
# level: full
# time: 900
# buckets: file
# plain: a sanitizer's own memory is all one would see
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

files=${BH_FILES:-${BHFS_LONG:+160000}}
files=${files:-10000}
more=${BHFS_LONG:+100000}
gigabytes=${BH_GB:-${BHFS_LONG:+100}}
gigabytes=${gigabytes:-4}
rounds=4
large=1000000000 # bytes of the large file
[ "$(($(stat -f -c '%a * %S' "$T") / 1000000))" -gt 6000 ] || skip "needs 6 GB of disk below $T"
allowed=$((24 * 1024)) # KiB that are no growth: the allocator's, the threads'

# resident: KiB of the daemon's own memory.
resident() { sed -n 's/^RssAnon:[[:space:]]*\([0-9]*\) kB/\1/p' "/proc/$DAEMON/status"; }

# make FIRST LAST: files of a few bytes, 1,000 a directory, no two alike.
make() {
    python3 - "$FILES" "$@" <<'EOF'
import os, sys
where, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for i in range(first, last):
    directory = f"{where}/{i // 1000}"
    if i % 1000 == 0 or i == first:
        os.makedirs(directory, exist_ok=True)
    with open(f"{directory}/{i}", "xb") as f:
        f.write(b"%d\n" % i)
EOF
}
# walk LAST: each of them is there and is right.
walk() {
    python3 - "$FILES" "$1" <<'EOF'
import os, sys
where, count = sys.argv[1], 0
for directory, _, names in os.walk(where):
    for name in names:
        if name.isdigit():
            with open(f"{directory}/{name}", "rb") as f:
                assert f.read() == b"%s\n" % name.encode(), f"{directory}/{name}"
            count += 1
assert count == int(sys.argv[2]), f"{count} files, not {sys.argv[2]}"
EOF
}
# use LAST: what is done with so many, in a mount that made them and in one that has only the bucket. Sets made and cold.
use() {
    walk "$1"
    flush
    made=$(resident)
    umount_bh
    drop_state
    files_mount -o snapshot.interval=0
    walk "$1"
    cold=$(resident)
    echo "$1 files: $made KiB, cold $cold KiB"
}
# grew BEFORE AFTER FILES BYTES: that many more files may cost so much each.
grew() {
    [ "$2" -lt $(($1 + allowed + $3 * $4 / 1024)) ] || fail "with $3 more files memory went from $1 to $2 KiB"
}

few=1000
files_mount -o snapshot.interval=0
make 0 $few
use $few
made_few=$made cold_few=$cold
make $few "$files"
use "$files"
grew "$made_few" "$made" $((files - few)) 1024 # a name, an inode, what is known of the content that is here
grew "$cold_few" "$cold" $((files - few)) 1024
if [ -n "$more" ]; then
    made_full=$made cold_full=$cold
    make "$files" $((files + more))
    use $((files + more))
    # Of the content alone: some 120 bytes (README).
    grew "$made_full" "$made" "$more" 200
    grew "$cold_full" "$cold" "$more" 200
fi

# A cache of a tenth, so that all is fetched again each time.
head -c $large /dev/urandom >"$T/large"
cp "$T/large" "$FILES/large"
umount_bh
drop_state
files_mount -o snapshot.interval=0 -o files.cache_max=100MiB
sizes=()
for ((round = 1; round <= rounds; round++)); do
    for ((i = 0; i < (gigabytes + rounds - 1) / rounds; i++)); do
        # The kernel must not have it: what is read comes from the daemon.
        python3 -c 'import os, sys; os.posix_fadvise(os.open(sys.argv[1], os.O_RDONLY), 0, 0, os.POSIX_FADV_DONTNEED)' "$FILES/large"
        cmp "$T/large" "$FILES/large"
    done
    sizes+=("$(resident)")
done
fetched=$(($(metric bhfs_files_fetched_bytes_total) / 1000000))
echo "after each quarter of $gigabytes GB read: ${sizes[*]} KiB; fetched: $fetched MB"
[ "$fetched" -gt $((gigabytes * 800)) ] || fail "only $fetched MB of $gigabytes GB were fetched: the reads show nothing"
[ "${sizes[rounds - 1]}" -lt $((sizes[0] + allowed)) ] || fail "memory grew while it was read: ${sizes[*]} KiB"
umount_bh
