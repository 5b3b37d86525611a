"""rmdir(2)"""
import fs
from fs import *


def test_removes():
    os.mkdir("p")
    links = nlink("p")
    os.mkdir("p/d")
    with Times({"p": "mc", ".": ""}):
        expect("ok", os.rmdir, "p/d")
    expect("ENOENT", os.lstat, "p/d")
    expect("ENOENT", os.rmdir, "p/d")
    equal(nlink("p"), links, "links of the parent")
    os.mkdir("p/d")
    expect("ok", os.rmdir, "p/d/")


def test_errors():
    path_errors(os.rmdir, needs="dir")


def test_permission():
    needs_writable_parent(os.rmdir, "dir")


def test_not_empty():
    for kind in KINDS:
        os.mkdir("d")
        make(kind, "d/x")
        with Times({".": "", "d": ""}):
            expect("ENOTEMPTY|EEXIST", os.rmdir, "d")
        (os.rmdir if kind == "dir" else os.unlink)("d/x")
        expect("ok", os.rmdir, "d")


def test_no_directory():
    for kind in NOT_DIRS:
        make(kind, "x")
        expect("ENOTDIR", os.rmdir, "x")
        os.unlink("x")
    os.mkdir("d")
    os.symlink("d", "s")
    expect("ENOTDIR", os.rmdir, "s")


def test_dots():
    os.makedirs("a/b")
    expect("EINVAL", os.rmdir, "a/b/.")
    expect("ENOTEMPTY|EEXIST", os.rmdir, "a/b/..")
    expect("EINVAL", os.rmdir, ".")
    expect("ENOTEMPTY|EEXIST|EBUSY", os.rmdir, "..")


def test_sticky():
    for of_parent in (0, U1, U2, U3):
        for of_dir in (0, U1, U2, U3):
            for sticky in (0o1777, 0o777):
                os.mkdir("s")
                os.chown("s", of_parent, G1)
                os.chmod("s", sticky)
                os.mkdir("s/x")
                os.chown("s/x", of_dir, G1)
                may = sticky == 0o777 or U1 in (of_parent, of_dir)
                with user(U1, G1):
                    expect("ok" if may else "EPERM", os.rmdir, "s/x")
                equal(exists("s/x"), not may, "is it there")
                if not may:
                    os.rmdir("s/x")
                os.rmdir("s")


def test_as_working_directory():
    here = os.open(".", os.O_RDONLY)
    os.mkdir("d")
    os.chdir("d")
    expect("ok", os.rmdir, "../d")
    expect("ENOENT", os.getcwd)
    expect("ENOENT", create, "x")
    equal(os.listdir("."), [], "entries of a directory that was removed")
    os.fchdir(here)
    os.close(here)


def test_mount_point_is_busy():
    expect("EBUSY|ENOTEMPTY", os.rmdir, "/proc")


fs.run(globals())
