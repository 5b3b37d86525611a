# shellcheck shell=bash
# For tests of a full state directory: lib.sh, and STATE on a file system of 40 MB, $T/small, which only the test sees. The test
# unmounts it.
[ "$(id -u)" = 0 ] || { echo "needs root, to make a small file system"; exit 77; }
[ -e /dev/fuse ] || { echo "/dev/fuse is absent"; exit 77; }
[ -n "${IN_NAMESPACE-}" ] || IN_NAMESPACE=1 exec unshare -m --propagation private bash "$0"
. "${BASH_SOURCE%/*}/lib.sh"

mkdir "$T/small"
mount -t tmpfs -o size=40m none "$T/small"
STATE=$T/small/state
