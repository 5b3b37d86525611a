#!/usr/bin/env bash
# What people do with files, in files/ and the same on the local disk, compared: git (clone, status, commit, gc, fsck), tar, rsync
# -a --delete twice, a C project configured and built, SQLite databases in rollback and WAL mode by two processes, editors'
# ways to save; in --long trees of 20,000 files and files of 4 GB. Afterwards from the bucket alone.
# level: full
# time: 600
. "$(dirname "${BASH_SOURCE[0]}")/../files.sh" || exit 1

files=${BH_FILES:-${BHFS_LONG:+20000}}
files=${files:-2000}
LOCAL=$T/local
mkdir "$LOCAL"
export GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
export GIT_AUTHOR_DATE='2024-01-01T00:00:00Z' GIT_COMMITTER_DATE='2024-01-01T00:00:00Z'
git config --global init.defaultBranch main
git config --global core.fsync none # the content counts here, not the disk's speed
git config --global gc.auto 0
git config --global --add safe.directory '*'

both() { # FUNCTION ARGUMENT...: in files/ and on the local disk; both must print the same
    local function=$1 where
    shift
    for where in "$FILES" "$LOCAL"; do
        (cd "$where" && "$function" "$@") >"$T/out.${where##*/}" 2>&1 ||
            fail "$function in $where: status $?: $(tail -n 5 "$T/out.${where##*/}")"
    done
    diff "$T/out.files" "$T/out.local" >"$T/out.diff" || fail "$function prints other things in files/: $(head -n 5 "$T/out.diff")"
}

step() { # WHAT: says how long the one before took
    local now
    now=$(now_ms)
    [ -z "${last_step-}" ] || echo "$last_step: $(awk -v a="$last_ms" -v b="$now" 'BEGIN { printf "%.1f s", (b - a) / 1000 }')"
    last_step=$1 last_ms=$now
}

# --- what the work is about, on the local disk
python3 "$SRC/tests/helpers/maketree.py" "$T/tree" "$files"
tar --format=posix -C "$T" -cf "$T/tree.tar" tree
(
    cp -a "$T/tree" "$T/origin"
    cd "$T/origin"
    git init -q
    git add -A
    git commit -q -m first
    python3 "$SRC/tests/helpers/maketree.py" --change . 7
    git add -A
    git commit -q -m second
) || fail "the repository cannot be made"

files_mount

# --- git
git_work() {
    git clone -q --no-hardlinks "$T/origin" clone
    cd clone
    git status --porcelain
    git log --oneline
    git checkout -q HEAD~1
    git status --porcelain
    git checkout -q main
    find . -name '*.c' -type f | sort | head -n 20 | while read -r file; do echo changed >>"$file"; done
    git status --porcelain
    git stash -q
    git status --porcelain
    git stash pop -q
    git commit -q -a -m third
    git branch side HEAD~1
    git merge -q side
    git gc -q
    git fsck --full --strict 2>&1 | grep -v dangling || true
    git rev-parse HEAD
    git diff --stat HEAD~1
    git grep -c changed | sort
}
step git
both git_work
diff -r --no-dereference -x .git "$FILES/clone" "$LOCAL/clone" || fail "the clones differ"

# --- tar
tar_work() {
    tar -xf "$T/tree.tar"
    tar -df "$T/tree.tar"
    tar --sort=name -cf - tree | tar -tvf - | sort
}
step tar
both tar_work
same_tree "$FILES/tree" "$T/tree" "tar x"

# --- rsync, twice, with changes between
step rsync
for round in 1 2; do
    rsync -aH --modify-window=-1 --delete "$T/tree/" "$FILES/rsynced/"
    same_tree "$FILES/rsynced" "$T/tree" "rsync $round"
    assert_eq "$(rsync -aHi --modify-window=-1 --delete "$T/tree/" "$FILES/rsynced/")" "" "what rsync finds to do after it"
    python3 "$SRC/tests/helpers/maketree.py" --change "$T/tree" $round
done
rsync -aH --modify-window=-1 --delete "$FILES/rsynced/" "$T/back/"
same_tree "$FILES/rsynced" "$T/back" "rsync out of files/"
cp -a "$FILES/rsynced" "$FILES/copied"
same_tree "$FILES/rsynced" "$FILES/copied" "cp -a within files/"
mv "$FILES/copied" "$FILES/moved"
same_tree "$FILES/rsynced" "$FILES/moved" "mv within files/"
rm -rf "$FILES/moved"
[ ! -e "$FILES/moved" ] || fail "rm -rf left something"

# --- a C project
c_work() {
    mkdir project project/src
    cd project
    for i in $(seq 12); do
        printf '#include "all.h"\nint f%d(int x)\n{\n    return x + %d;\n}\n' "$i" "$i" >"src/f$i.c"
        echo "int f$i(int x);"
    done >src/all.h
    {
        printf '#include <stdio.h>\n#include "all.h"\nint main(void)\n{\n    int x = 0;\n'
        for i in $(seq 12); do echo "    x = f$i(x);"; done
        printf '    printf("%%d\\n", x);\n    return 0;\n}\n'
    } >src/main.c
    cat >configure <<'CONFIGURE'
#!/bin/sh
set -e
echo 'int main(void) { return 0; }' >conftest.c
cc -o conftest conftest.c && ./conftest && echo "CC = cc" >config.mk
rm -f conftest conftest.c
CONFIGURE
    printf 'include config.mk\nOBJECTS = $(patsubst %%.c,%%.o,$(wildcard src/*.c))\nprogram: lib.a src/main.o\n\t$(CC) -o $@ src/main.o lib.a\nlib.a: $(filter-out src/main.o,$(OBJECTS))\n\trm -f $@; ar rcsD $@ $^\n%%.o: %%.c src/all.h\n\t@$(CC) -O -c -o $@ $<\nclean:\n\trm -f program lib.a src/*.o\n' >Makefile
    chmod +x configure
    ./configure
    make -s -j2
    ./program
    make -q && echo "nothing to do"
    touch src/f7.c
    make -n | grep -c 'f7' || true
    make -s -j2
    make -q && echo "nothing to do"
    sha256sum program lib.a
    strip program && ./program
    make -s clean && make -s -j2 && ./program
}
step "a C project"
both c_work

# --- SQLite in files/
step SQLite
for mode in delete persist wal; do
    python3 "$SRC/tests/helpers/twosqlite.py" "$FILES/$mode.db" $mode 100 || fail "SQLite in mode $mode"
    integrity "$FILES/$mode.db"
    assert_eq "$(sql 'SELECT count(*) FROM log' "$FILES/$mode.db")" 200 "$mode: rows"
done
sql "ATTACH '$FILES/delete.db' AS b; BEGIN; INSERT INTO log SELECT who + 10, n, text FROM b.log; DELETE FROM b.log WHERE n < 50; COMMIT" "$FILES/persist.db"
assert_eq "$(sql 'SELECT count(*) FROM log' "$FILES/persist.db") $(sql 'SELECT count(*) FROM log' "$FILES/delete.db")" "400 100" "rows after a transaction over both"
integrity "$FILES/delete.db"
VACUUMED=$(digest "$FILES/wal.db")
sql VACUUM "$FILES/wal.db"
assert_eq "$(digest "$FILES/wal.db")" "$VACUUMED" "the content after VACUUM"

# --- ways to save, temporary files, tools
save_work() {
    printf 'one\ntwo\n' >text
    sed -i s/one/ONE/ text
    cat text
    cp text text~ && printf 'three\n' >.text.swp && mv .text.swp text
    cat text text~
    ln -f text other && ln -sfn text link && cat link
    printf 'x%.0s' $(seq 5000) | dd of=dd bs=512 conv=fsync 2>/dev/null
    dd if=/dev/zero of=dd bs=512 seek=3 count=2 conv=notrunc 2>/dev/null
    sha256sum dd
    mktemp -d tmp.XXXXXX >/dev/null && rmdir tmp.*
    split -b 1000 dd part. && cat part.* | cmp - dd && rm part.*
    gzip -k dd && zcat dd.gz | cmp - dd
    seq 100000 | sort -R --random-source=dd -T . | sort -n -T . -S 1M | sha256sum
    find . -maxdepth 1 -name 'dd*' -printf '%P %s\n' | grep -v gz | sort
    install -m 751 dd installed && stat -c '%a %s' installed
    du -s --apparent-size . | wc -l
    patch -s text <<'PATCH' 2>/dev/null || true
--- text
+++ text
@@ -1 +1 @@
-three
+four
PATCH
    tail -c 3 text | od -An -c
    mkfifo fifo && (echo through >fifo &) && cat fifo && rm fifo
    python3 -c 'import tempfile, os
with tempfile.TemporaryFile(dir=".") as f:
    f.write(b"x" * 100000); f.flush(); f.seek(0); print(len(f.read()))
with tempfile.NamedTemporaryFile(dir=".") as f:
    f.write(b"y"); f.flush(); print(os.path.getsize(f.name))'
}
step "other tools"
both save_work

# --- large files
if [ -n "$BHFS_LONG" ] && [ -z "$OTHER" ]; then
    if [ "$(($(stat -f -c '%a * %S' "$T") / 1048576))" -lt 20000 ]; then
        echo "4 GB files are left out: less than 20 GB of disk are free"
    else
        step "a file of 4 GB"
        large=4400
        python3 - "$FILES/large" $large >"$T/large.sum" <<'PY'
import hashlib, random, sys
r, h = random.Random(5), hashlib.sha256()
with open(sys.argv[1], "wb") as f:
    for i in range(int(sys.argv[2])):
        block = r.randbytes(1 << 20)
        h.update(block)
        f.write(block)
print(h.hexdigest())
PY
        assert_eq "$(sha256sum <"$FILES/large" | cut -d' ' -f1)" "$(cat "$T/large.sum")" "4 GB as they are read"
        assert_eq "$(stat -c %s "$FILES/large")" $((large << 20)) "the size"
        files_flush
        printf edited | dd of="$FILES/large" bs=1 seek=$((4299 << 20)) conv=notrunc 2>/dev/null
        large_sum=$(sha256sum <"$FILES/large" | cut -d' ' -f1)
    fi
fi

# --- from the state directory, then from the bucket alone
step "after remounts"
listing "$FILES" | grep -v '^\(wal\.db-\)' >"$T/before"
sums "$FILES" >"$T/before.sums"
files_remount
listing "$FILES" >"$T/after"
diff "$T/before" "$T/after" >"$T/diff" || fail "after a remount: $(head -n 5 "$T/diff")"
if [ -z "$OTHER" ]; then
    files_umount
    drop_state
    files_mount
    listing "$FILES" >"$T/after"
    diff "$T/before" "$T/after" >"$T/diff" || fail "from the bucket alone: $(head -n 5 "$T/diff")"
fi
sums "$FILES" >"$T/after.sums"
diff "$T/before.sums" "$T/after.sums" >"$T/diff" || fail "contents after it: $(head -n 5 "$T/diff")"
(cd "$FILES/clone" && assert_eq "$(git status --porcelain)" "" "git status" && git fsck --full 2>&1 | { ! grep -E 'error|missing|corrupt'; })
[ -z "${large_sum-}" ] || assert_eq "$(sha256sum <"$FILES/large" | cut -d' ' -f1)" "$large_sum" "4 GB with an edit, from the bucket"
integrity "$FILES/wal.db"
files_umount
step end
