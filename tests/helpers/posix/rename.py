"""rename(2), renameat2(2)"""
import fs
from fs import *


def remove(path):
    (os.rmdir if kind_of(path) == "dir" else os.unlink)(path)


def test_every_kind():
    for kind in KINDS:
        make(kind, "a")
        os.mkdir("d")
        before = os.lstat("a")
        with Times({".": "mc"}):
            expect("ok", os.rename, "a", "b")
        expect("ENOENT", os.lstat, "a")
        now = os.lstat("b")
        equal((now[:6], now.st_mtime_ns, now.st_rdev), (before[:6], before.st_mtime_ns, before.st_rdev), f"a renamed {kind}")
        with Times({".": "mc", "d": "mc"}):
            expect("ok", os.rename, "b", "d/c")
        now = os.lstat("d/c")
        equal((now[:6], now.st_mtime_ns), (before[:6], before.st_mtime_ns), f"a {kind} in another directory")
        equal(os.listdir("d"), ["c"], "entries")
        if kind != "dir":
            link("d/c", "x")
            equal((os.lstat("x").st_ino, os.lstat("x").st_nlink), (before.st_ino, 2), "another name of it")
            with Times({".": "", "d": "", "x": ""}):
                expect("ok", os.rename, "d/c", "x")  # two names of one file: nothing happens
            equal((exists("d/c"), nlink("x")), (True, 2), "both names are there")
            os.unlink("x")
        remove("d/c")
        os.rmdir("d")


def test_replaces():
    for new in NOT_DIRS:
        for old in NOT_DIRS:
            make(new, "a")
            make(old, "b")
            link("b", "other")
            ino = os.lstat("a").st_ino
            with Times({".": "mc", "other": "c"}):
                expect("ok", os.rename, "a", "b")
            equal((exists("a"), os.lstat("b").st_ino, kind_of("b")), (False, ino, new), f"a {new} over a {old}")
            equal((nlink("other"), kind_of("other")), (1, old), "the other name of what was replaced")
            os.unlink("b")
            os.unlink("other")


def test_replaces_directories():
    os.mkdir("d")
    os.mkdir("d/a")
    os.mkdir("d/b")
    create("d/a/x")
    links = nlink("d")
    f = os.open("d/b", os.O_RDONLY)
    expect("ok", os.rename, "d/a", "d/b")
    equal(os.listdir("d"), ["b"], "entries")
    equal(os.listdir("d/b"), ["x"], "what is in it")
    equal(os.fstat(f).st_nlink, 0, "links of the directory that was replaced")
    os.close(f)
    if directories_count():
        equal(nlink("d"), links - 1, "links of the parent")
    for kind in KINDS:
        os.mkdir("a")
        os.mkdir("full")
        make(kind, "full/x")
        with Times({".": "", "a": "", "full": ""}):
            expect("ENOTEMPTY|EEXIST", os.rename, "a", "full")
        equal((exists("a"), exists("full/x")), (True, True), "both are there")
        remove("full/x")
        os.rmdir("full")
        os.rmdir("a")
    for kind in NOT_DIRS:
        make(kind, "a")
        os.mkdir("b")
        expect("EISDIR", os.rename, "a", "b")
        expect("ENOTDIR", os.rename, "b", "a")
        equal((kind_of("a"), kind_of("b")), (kind, "dir"), "both are there")
        os.unlink("a")
        os.rmdir("b")


def test_directories_and_their_parents():
    os.makedirs("p/d/in")
    os.mkdir("q")
    create("p/d/f")
    p, q = nlink("p"), nlink("q")
    with Times({"p": "mc", "q": "mc", ".": ""}):
        expect("ok", os.rename, "p/d", "q/e")
    if directories_count():
        equal((nlink("p"), nlink("q")), (p - 1, q + 1), "links of the parents")
    equal(os.stat("q/e/..").st_ino, os.stat("q").st_ino, "where .. leads")
    equal(sorted(os.listdir("q/e")), ["f", "in"], "entries")
    equal((exists("q/e/in"), exists("p/d")), (True, False), "names")
    expect("EINVAL", os.rename, "q", "q/e/in/q")
    expect("EINVAL", os.rename, "q", "q/q")
    expect("EINVAL", os.rename, "q/e", "q/e/in/x")
    expect("ENOTEMPTY|EEXIST", os.rename, "p", "q")
    expect("ENOTEMPTY|EEXIST", os.rename, "q/e/in", "q/e")
    expect("ok", os.rename, "q", "q")
    for bad in (".", "..", "q/.", "q/.."):
        expect("EINVAL|EBUSY", os.rename, bad, "new")
        expect("EINVAL|EBUSY|EEXIST|ENOTEMPTY", os.rename, "p", bad)
    create("f")
    expect("ENOTDIR", os.rename, "f", "g/")
    expect("ENOTDIR", os.rename, "f/", "g")
    expect("ok", os.rename, "p/", "r/")
    equal(kind_of("r"), "dir", "renamed with slashes")


def test_errors_of_the_old_path():
    def there_and_back(path):
        os.rename(path, "moved")
        os.rename("moved", path)
    path_errors(there_and_back, needs="file")


def test_errors_of_the_new_path():
    def there(path):
        if not exists("source"):
            create("source")
        os.rename("source", path)
    create("source")
    path_errors(there, creates=True)


def test_permission_of_the_new_parent():
    os.mkdir("from", 0o777)

    def there(path):
        name = f"from/{fresh()}"
        create(name)
        os.rename(name, path)
    needs_writable_parent(there)


def test_permission_of_the_old_parent():
    os.mkdir("to", 0o777)
    for kind in KINDS:
        def away(path):
            os.rename(path, f"to/{fresh()}")
        needs_writable_parent(away, kind)


def test_sticky_old_parent():
    for kind in KINDS:
        for of_dir in (0, U1, U2):
            for of_file in (0, U1, U2):
                for sticky in (0o1777, 0o777):
                    os.mkdir("s")
                    os.mkdir("to", 0o777)
                    os.chown("s", of_dir, G1)
                    os.chmod("s", sticky)
                    make(kind, "s/x")
                    lchown("s/x", of_file, G1)
                    may = sticky == 0o777 or U1 in (of_dir, of_file)
                    # A directory that changes its parent has its .. written: who may not write into it may not move it.
                    wants = "ok" if may else "EPERM|EACCES"
                    if may and kind == "dir" and of_file != U1:
                        wants = "EACCES"
                    with user(U1, G1):
                        expect("ok" if may else "EPERM", os.rename, "s/x", "s/y")
                        if may:
                            expect("ok", os.rename, "s/y", "s/x")
                        expect(wants, os.rename, "s/x", "to/x")
                    equal(exists("to/x"), wants == "ok", "is it there")
                    clear("s")
                    clear("to")


def test_sticky_new_parent():
    for kind in ("file", "fifo", "symlink", "dir"):
        for of_dir in (0, U1, U2):
            for of_file in (0, U1, U2):
                for sticky in (0o1777, 0o777):
                    os.mkdir("s")
                    os.chown("s", of_dir, G1)
                    os.chmod("s", sticky)
                    make(kind, "s/x")
                    lchown("s/x", of_file, G1)
                    os.mkdir("from", 0o777)
                    make(kind, "from/x")
                    lchown("from/x", U1, G1)
                    ino = os.lstat("s/x").st_ino
                    may = sticky == 0o777 or U1 in (of_dir, of_file)
                    with user(U1, G1):
                        expect("ok" if may else "EPERM", os.rename, "from/x", "s/x")
                    equal(os.lstat("s/x").st_ino == ino, not may, "what has the name")
                    clear("s")
                    clear("from")


def test_directory_that_may_not_be_written_changes_its_parent():
    os.mkdir("p", 0o777)
    os.mkdir("q", 0o777)
    for mode, may in ((0o755, True), (0o555, False), (0o700, True), (0o500, False)):
        os.mkdir("p/d")
        os.chown("p/d", U1, G1)
        os.chmod("p/d", mode)
        with user(U1, G1):
            expect("ok", os.rename, "p/d", "p/e")
            expect("ok" if may else "EACCES", os.rename, "p/e", "q/d")
        os.rmdir("q/d" if may else "p/e")


def test_noreplace():
    for kind in KINDS:
        make(kind, "a")
        ino = os.lstat("a").st_ino
        for there in KINDS:
            make(there, "b")
            with Times({".": "", "a": "", "b": ""}):
                expect("EEXIST", noreplace, "a", "b")
            equal((os.lstat("a").st_ino, kind_of("b")), (ino, there), "both stay")
            remove("b")
        expect("EEXIST", noreplace, "a", "a")
        with Times({".": "mc"}):
            expect("ok", noreplace, "a", "b")
        equal((exists("a"), os.lstat("b").st_ino), (False, ino), "after it")
        expect("ENOENT", noreplace, "a", "c")
        remove("b")


def test_exchange():
    os.mkdir("d")
    for one in KINDS:
        for two in KINDS:
            make(one, "a")
            make(two, "d/b")
            first, second = os.lstat("a"), os.lstat("d/b")
            with Times({".": "mc", "d": "mc"}):
                expect("ok", exchange, "a", "d/b")
            a, other = os.lstat("a"), os.lstat("d/b")
            equal((a.st_ino, other.st_ino), (second.st_ino, first.st_ino), f"inodes of {one} and {two}, exchanged")
            equal((kind_of("a"), kind_of("d/b")), (two, one), "kinds")
            equal((a.st_mtime_ns, other.st_mtime_ns), (second.st_mtime_ns, first.st_mtime_ns), "mtimes")
            remove("a")
            remove("d/b")
    if directories_count():
        equal(nlink("d"), 2, "links after exchanges with directories")
    os.makedirs("x/y")
    create("f")
    outer, inner = nlink("."), nlink("x")
    exchange("f", "x/y")
    if directories_count():
        equal((nlink("."), nlink("x")), (outer + 1, inner - 1), "links of the parents")
    equal(os.stat("f/..").st_ino, os.stat(".").st_ino, "where .. leads")
    os.mkdir("x/z")
    create("x/z/full")
    expect("ok", exchange, "f", "x/z")
    equal(os.listdir("f"), ["full"], "a directory that is not empty, exchanged")
    expect("ENOENT", exchange, "f", "nothing")
    expect("ENOENT", exchange, "nothing", "f")
    expect("EINVAL", exchange, "x", "x/z")
    expect("EINVAL", exchange, "x/z", "x")
    equal(exists("nothing"), False, "what was not there")


def test_exchange_of_hard_links():
    put("a", b"1")
    link("a", "b")
    expect("ok", exchange, "a", "b")
    equal((get("a"), get("b"), nlink("a")), (b"1", b"1", 2), "two names of one file")


def test_bad_flags():
    create("a")
    create("b")
    expect("EINVAL", rename2, "a", "b", EXCHANGE | NOREPLACE)
    expect("EINVAL", rename2, "a", "b", 1 << 20)
    expect("EINVAL", rename2, "a", "b", EXCHANGE | WHITEOUT)
    equal(sorted(os.listdir(".")), ["a", "b"], "names")


def test_while_open():
    put("a", b"old")
    put("b", b"replaced")
    f, g = os.open("a", os.O_RDWR), os.open("b", os.O_RDWR)
    os.rename("a", "b")
    os.pwrite(f, b"O", 0)
    os.pwrite(g, b"R", 0)
    equal(get("b"), b"Old", "content by the new name")
    equal(os.pread(g, 100, 0), b"Replaced", "content of what was replaced, through its handle")
    equal((os.fstat(f).st_nlink, os.fstat(g).st_nlink), (1, 0), "links")
    put("a", b"new")
    equal((get("a"), os.pread(f, 10, 0)), (b"new", b"Old"), "a new file of the old name")
    os.close(f)
    os.close(g)


def test_ctime_of_what_moved():
    """POSIX leaves it open; whatever it is, it does not go back."""
    for kind in KINDS:
        make(kind, "a")
        before = os.lstat("a").st_ctime_ns
        tick()
        os.rename("a", "b")
        check(os.lstat("b").st_ctime_ns >= before, "ctime")
        remove("b")


def test_many_in_a_row():
    create("n0")
    ino = os.stat("n0").st_ino
    for i in range(500):
        os.rename(f"n{i}", f"n{i + 1}")
    equal(os.listdir("."), ["n500"], "names after 500 renames")
    equal(os.stat("n500").st_ino, ino, "inode")


fs.run(globals())
