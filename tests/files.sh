# What the tests of files/ share, beside lib.sh, which is read in first. $FILES is the directory under test: $MNT/files of a
# mount that files_mount made, or, with BH_DIR=/some/dir in the environment, a new directory below that, so that a test of
# plain POSIX can be tried on any file system (what is about the bucket is left out then).
# shellcheck shell=bash
. "${BASH_SOURCE%/*}/lib.sh"
SEED=${BH_SEED:-$(date +%s)}
export PYTHONDONTWRITEBYTECODE=1 BH_LONG=$BHFS_LONG
FILES=$MNT/files
OTHER= # set: a directory of BH_DIR's
if [ -n "${BH_DIR-}" ]; then
    OTHER=$(mktemp -d "$BH_DIR/bhfs-files.XXXXXX")
    FILES=$OTHER/files
    mkdir "$FILES"
    clean_up_too() {
        local status=$1
        set +e
        cd /
        ! mountpoint -q "$OTHER/ro" || umount "$OTHER/ro"
        rm -rf --one-file-system "$OTHER"
        (exit $status)
    }
    trap 'clean_up_too $?; clean_up' EXIT
fi

# files_mount [OPTION...]: $FILES is there. Other users may go there.
files_mount() {
    [ -n "$OTHER" ] || mount_bh -o allow_other "$@"
    [ -d "$FILES" ] || fail_at_caller "there is no $FILES"
}

# files_umount: orderly, everything flushed.
files_umount() {
    [ -n "$OTHER" ] || umount_bh
}

# files_remount [OPTION...]: what is seen afterwards comes from the state directory or the bucket, not from the kernel.
files_remount() {
    files_umount
    files_mount "$@"
}

# files_flush: everything is in the bucket.
files_flush() {
    [ -n "$OTHER" ] || flush
}

# mount_only SENTENCE: the test is about the mount itself.
mount_only() {
    [ -z "$OTHER" ] || skip "${1:-this is about the bucket}"
}

# posix NAME [TEST...]: runs tests/helpers/posix/NAME.py in a new directory of $FILES, mounted and unmounted around it. It must
# find nothing wrong.
posix() {
    local dir name=$1 status=0
    shift
    files_mount
    dir=$FILES/$name
    mkdir "$dir"
    (cd "$dir" && exec python3 "$SRC/tests/helpers/posix/$name.py" "$@") || status=$?
    [ "$status" = 0 ] || fail_at_caller "$name.py: status $status"
    rmdir "$dir"
    files_umount
}

# listing DIR [TIMES]: a line for each thing below it: path, kind, mode, owner, size of files, links, mtime, target. Sorted.
listing() {
    (cd "$1" && find . -mindepth 1 \( -type d -printf '%P %y %m %U %G - %n %T@ %l\n' -o -printf '%P %y %m %U %G %s %n %T@ %l\n' \)) | sort
}

# sums DIR: the SHA-256 of every regular file below it, by path.
sums() {
    (cd "$1" && find . -type f -print0 | sort -z | xargs -0 -r sha256sum)
}

# same_tree DIR DIR [WHAT]: the same names, contents, modes, owners, times, links.
same_tree() {
    diff -r --no-dereference "$1" "$2" >"$T/tree.diff" 2>&1 || fail_at_caller "${3:-trees}: contents: $(head -n 5 "$T/tree.diff")"
    listing "$1" | sed 's/\(\.[0-9]\{9\}\)0 /\1 /' >"$T/tree.a"
    listing "$2" | sed 's/\(\.[0-9]\{9\}\)0 /\1 /' >"$T/tree.b"
    diff "$T/tree.a" "$T/tree.b" >"$T/tree.diff" || fail_at_caller "${3:-trees}: attributes: $(head -n 6 "$T/tree.diff")"
}

# blobs: how many there are in the bucket.
blobs() {
    bucket_ls files/ | grep -cE '^files/[0-9a-f]{64}$' || true
}
