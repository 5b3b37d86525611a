"""unlink(2)"""
import fs
from fs import *


def test_every_kind():
    for kind in NOT_DIRS:
        make(kind, "a")
        with Times({".": "mc"}):
            expect("ok", os.unlink, "a")
        expect("ENOENT", os.lstat, "a")
        expect("ENOENT", os.unlink, "a")
        make(kind, "a")
        link("a", "b")
        with Times({".": "mc", "b": "c"}):
            expect("ok", os.unlink, "a")
        equal(nlink("b"), 1, "links")
        os.unlink("b")
        make("dir", "a")
        os.rmdir("a")


def test_errors():
    for kind in ("file", "fifo", "symlink"):
        os.mkdir(kind)
        os.chdir(kind)
        path_errors(os.unlink, needs=kind)
        os.chdir("..")


def test_permission():
    for kind in NOT_DIRS:
        needs_writable_parent(os.unlink, kind)


def test_sticky():
    """In a directory with the sticky bit only the owner of the file, of the directory, or root may."""
    for kind in NOT_DIRS:
        for of_dir in (0, U1, U2, U3):
            for of_file in (0, U1, U2, U3):
                for sticky in (0o1777, 0o777):
                    os.mkdir("s")
                    os.chown("s", of_dir, G1)
                    os.chmod("s", sticky)
                    make(kind, "s/x")
                    lchown("s/x", of_file, G1)
                    may = sticky == 0o777 or U1 in (of_dir, of_file)
                    with user(U1, G1):
                        expect("ok" if may else "EPERM", os.unlink, "s/x")
                    equal(exists("s/x"), not may, "is it there")
                    if not may:
                        expect("ok", os.unlink, "s/x")
                    os.rmdir("s")


def test_directory():
    os.mkdir("d")
    expect("EISDIR|EPERM", os.unlink, "d")
    with user(U1):
        expect("EISDIR|EPERM|EACCES", os.unlink, "d")
    expect("EISDIR|EPERM|EINVAL", os.unlink, "d/.")
    expect("EISDIR|EPERM|EINVAL", os.unlink, ".")
    create("f")
    expect("ENOTDIR", os.unlink, "f/")
    os.symlink("d", "s")
    expect("ENOTDIR|EISDIR", os.unlink, "s/")
    expect("ok", os.unlink, "s")
    equal(kind_of("d"), "dir", "the directory behind the symlink")


def test_while_open():
    f = os.open("a", os.O_RDWR | os.O_CREAT, 0o640)
    os.write(f, b"written before")
    tick()
    before = os.fstat(f)
    os.unlink("a")
    now = os.fstat(f)
    equal(now.st_nlink, 0, "links of what is open without a name")
    check(now.st_ctime_ns > before.st_ctime_ns, "ctime moves on")
    equal((now.st_mtime_ns, now.st_size, now.st_ino, now.st_mode), (before.st_mtime_ns, 14, before.st_ino, before.st_mode), "the rest")
    equal(os.pread(f, 100, 0), b"written before", "content")
    os.pwrite(f, b"x" * 100_000, 50)
    equal(os.fstat(f).st_size, 100_050, "size after a write")
    equal(os.pread(f, 100, 0), b"written before" + bytes(36) + b"x" * 50, "content after a write")
    ftruncate(f, 10)
    equal(os.pread(f, 100, 0), b"written be", "content after ftruncate")
    os.fchmod(f, 0o600)
    os.fchown(f, U1, G1)
    futimens(f, (5, 6), (7, 8))
    s = os.fstat(f)
    equal((stat.S_IMODE(s.st_mode), s.st_uid, s.st_gid, s.st_mtime_ns), (0o600, U1, G1, 7_000_000_008), "attributes changed without a name")
    os.fsync(f)
    put("a", b"another")
    equal(os.pread(f, 100, 0), b"written be", "content beside a new file of that name")
    check(os.stat("a").st_ino != s.st_ino, "the new file is another")
    equal(get("a"), b"another", "the new file's content")
    os.close(f)


def test_while_open_twice():
    put("a", b"content")
    first, second = os.open("a", os.O_RDWR), os.open("a", os.O_RDONLY)
    os.unlink("a")
    os.pwrite(first, b"C", 0)
    os.close(first)
    equal(os.pread(second, 100, 0), b"Content", "through the handle that is left")
    os.close(second)


def test_a_directory_that_is_open():
    os.mkdir("d")
    f = os.open("d", os.O_RDONLY)
    os.rmdir("d")
    equal(os.fstat(f).st_nlink, 0, "links of a removed directory")
    equal(os.listdir(f), [], "its entries")
    expect("ENOENT", os.open, "x", os.O_CREAT | os.O_WRONLY, dir_fd=f)
    os.close(f)


fs.run(globals())
