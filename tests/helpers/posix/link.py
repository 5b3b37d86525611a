"""link(2)"""
import fs
from fs import *


def test_every_kind():
    for kind in NOT_DIRS:
        make(kind, "a")
        before = os.lstat("a")
        equal(before.st_nlink, 1, "links")
        with Times({".": "mc", "a": "c"}):
            expect("ok", link, "a", "b")
        now, other = os.lstat("a"), os.lstat("b")
        equal(now.st_nlink, 2, f"links of a {kind}")
        equal(tuple(now), tuple(other), f"what stat says of the two names of a {kind}")
        equal((now.st_ino, now.st_mode, now.st_rdev), (before.st_ino, before.st_mode, before.st_rdev), "what it is")
        os.mkdir("d")
        with Times({"d": "mc", "a": "c", ".": ""}):
            expect("ok", link, "b", "d/c")
        equal(nlink("d/c"), 3, "links")
        if kind != "symlink":
            os.chmod("d/c", 0o201)
            os.chown("b", U1, G1)
            equal((perm("a"), owner("a")), (0o201, (U1, G1)), "what was changed by other names")
        with Times({".": "mc", "b": "c"}):
            os.unlink("a")
        equal(nlink("b"), 2, "links after unlink")
        expect("ENOENT", os.lstat, "a")
        os.unlink("b")
        equal(nlink("d/c"), 1, "links of the last name")
        os.unlink("d/c")
        os.rmdir("d")


def test_content_is_one():
    put("a", b"one")
    link("a", "b")
    put("b", b"two")
    equal(get("a"), b"two", "content by the other name")
    f = os.open("a", os.O_RDWR)
    os.pwrite(f, b"T", 0)
    equal(get("b"), b"Two", "content written through a handle of the other name")
    os.unlink("a")
    os.pwrite(f, b"W", 1)
    equal(get("b"), b"TWo", "written through a handle whose name is gone")
    os.close(f)


def test_errors_of_the_old_path():
    path_errors(lambda p: link(p, "target" + fresh()), needs="file")


def test_errors_of_the_new_path():
    create("source")
    path_errors(lambda p: link("source", p), creates=True)


def test_permission():
    create("source", 0o666)
    os.chmod("source", 0o666)
    os.chown("source", U1, G1)
    needs_writable_parent(lambda p: link("source", p))


def test_exists():
    create("a")
    for kind in KINDS:
        make(kind, "b")
        with Times({".": "", "a": ""}):
            expect("EEXIST", link, "a", "b")
        equal(nlink("a"), 1, "links")
        (os.rmdir if kind == "dir" else os.unlink)("b")
    expect("EEXIST", link, "a", "a")
    expect("EEXIST", link, "a", ".")
    expect("EEXIST", link, "a", "..")


def test_directory():
    os.mkdir("d")
    for who in (0, U1):
        with user(who):
            expect("EPERM|EACCES" if who else "EPERM", link, "d", "e")
    expect("EPERM", link, ".", "e")
    equal(exists("e"), False, "a link to a directory")


def test_across_file_systems():
    create("a")
    here = os.stat(".").st_dev
    for other in [p for p in ("/dev/shm", "/tmp", "/run") if os.path.isdir(p) and os.stat(p).st_dev != here]:
        target = f"{other}/{fresh()}-{os.getpid()}"
        expect("EXDEV", link, "a", target)
        expect("EXDEV", os.rename, "a", target)
        equal(exists("a"), True, "the old name")


def test_symlink_itself_is_linked():
    create("a")
    os.symlink("a", "s")
    link("s", "t")
    equal(kind_of("t"), "symlink", "link(2) of a symlink")
    equal(nlink("a"), 1, "links of its target")
    AT_SYMLINK_FOLLOW = 0x400
    raw("linkat", AT_FDCWD, b"s", AT_FDCWD, b"u", AT_SYMLINK_FOLLOW)
    equal((kind_of("u"), nlink("a")), ("file", 2), "linkat with AT_SYMLINK_FOLLOW")


def test_a_thousand():
    put("a", b"x")
    os.mkdir("many")
    total = 70000 if LONG else 1000
    last = 1
    for i in range(1, total):
        got, _ = outcome(link, "a", f"many/{i}")
        if got == "EMLINK":
            break
        if got != "ok":
            check(False, f"link {i}: {got}")
            break
        last = i + 1
    check(last >= 1000, f"{last} links")
    equal(nlink("a"), last, "links")
    equal(len(os.listdir("many")), last - 1, "entries")
    for i in range(1, last):
        os.unlink(f"many/{i}")
    equal(nlink("a"), 1, "links at the end")


def test_of_an_unlinked_file():
    f = os.open("a", os.O_RDWR | os.O_CREAT, 0o600)
    os.unlink("a")
    equal(os.fstat(f).st_nlink, 0, "links")
    expect("ENOENT", raw, "linkat", f, b"", AT_FDCWD, b"b", 0x1000)  # AT_EMPTY_PATH
    equal(exists("b"), False, "a name for what had none")
    os.close(f)


fs.run(globals())
