# What the benches share: the tests' own library (a directory, mounts, clean-up) and a little arithmetic.
# shellcheck shell=bash
BENCH=$(realpath "$0")
. "$(realpath "${BASH_SOURCE%/*}")/../load.sh"
# shellcheck disable=SC2034
BHFS=$BHFS_BUILD/fs/bhfs # the product itself, without the test door

# field NAME LINE: the value of NAME=VALUE in a line of txnbench.
field() {
    sed -n "s/.* $1=\([^ ]*\).*/\1/p" <<<"$2"
}

# ratio A B: A / B with one or two decimals.
ratio() {
    awk -v a="$1" -v b="$2" 'BEGIN { if (b == 0) print "-"; else printf(a / b < 10 ? "%.2f\n" : "%.1f\n", a / b) }'
}

# sample NAME [MOUNTPOINT]: one sample of .ctl/metrics as it is written, fractions too.
sample() {
    awk -v name="$1" '$1 == name { print $2 }' "${2:-$MNT}/.ctl/metrics"
}

# median NUMBER...
median() {
    printf '%s\n' "$@" | sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

# percentile_us QUANTILE: of bhfs_freeze_seconds, in microseconds
percentile_us() {
    sample "bhfs_freeze_seconds{quantile=\"$1\"}" | awk '{ printf "%.2f\n", $1 * 1e6 }'
}

# memory_holds MEGABYTES: is that much to be had on the tmpfs /dev/shm?
memory_holds() {
    local free
    free=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
    [ -w /dev/shm ] && [ "$free" -gt $((2 * $1)) ] && [ "$(($(stat -f -c '%a * %S' /dev/shm) / 1048576))" -gt "$1" ]
}

# in_directory DIR ARGUMENT...: this bench once more with its directory (bucket, state, everything) below DIR.
in_directory() {
    local dir=$1
    shift
    env -u BHFS_TEST_DIR TMPDIR="$dir" bash "$BENCH" "$@"
}
