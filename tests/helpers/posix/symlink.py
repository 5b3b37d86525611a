"""symlink(2), readlink(2)"""
import fs
from fs import *


def symlink(path, mode=None):
    os.symlink("target", path)


def test_makes():
    makes(symlink, "symlink", mode_counts=False)


def test_errors():
    path_errors(symlink, creates=True)


def test_permission():
    needs_writable_parent(symlink)


def test_targets():
    for target in ("a", "a/b", "/", "/absolute", "..", ".", "x" * 255, "x" * 256, "y/" * 1000, "z" * 4095, "with\nnewline",
                   "ünïcödé", b"\xff\xfe".decode("utf8", "surrogateescape"), " ", "a//b/", "%41"):
        name = fresh()
        expect("ok", os.symlink, target, name)
        equal(os.readlink(name), target, "the target")
        equal(os.lstat(name).st_size, len(os.fsencode(target)), "size is the target's length")
        equal(perm(name), 0o777, "mode")
        equal(os.lstat(name).st_blocks in range(0, 9), True, "blocks")
    expect("ENAMETOOLONG", os.symlink, "z" * 4096, "x")
    expect("ENOENT", os.symlink, "", "x")
    equal(exists("x"), False, "what failed made something")


def test_readlink_errors():
    for kind in NOT_LINKS:
        make(kind, "x")
        expect("EINVAL", os.readlink, "x")
        (os.rmdir if kind == "dir" else os.unlink)("x")
    path_errors(os.readlink, needs="symlink")
    os.symlink("abcdef", "s")
    buffer = ctypes.create_string_buffer(100)
    equal(raw("readlink", b"s", buffer, 3), 3, "readlink into a short buffer")
    equal(buffer.raw[:4], b"abc\0", "what it put there")


def test_followed():
    os.mkdir("d")
    put("d/f", b"content")
    os.symlink("d", "s")
    os.symlink("s/f", "t")
    equal(get("s/f"), b"content", "through a symlink to a directory")
    equal(get("t"), b"content", "through two")
    os.symlink(os.getcwd() + "/d/f", "absolute")
    equal(get("absolute"), b"content", "through an absolute one")
    expect("ENOTDIR", os.stat, "t/")
    equal(sorted(os.listdir("s")), ["f"], "entries through a symlink")
    expect("ENOTDIR", os.rmdir, "s")
    os.rename("d", "e")
    expect("ENOENT", get, "t")
    os.symlink("e/f", "made")
    put("made", b"new")
    equal(get("e/f"), b"new", "written through a symlink")
    os.symlink("e/made-by-link", "maker")
    put("maker", b"x")
    equal(get("e/made-by-link"), b"x", "a file made through a dangling symlink")
    os.unlink("s")
    os.symlink("e", "s")
    equal(get("s/f"), b"new", "a name that is another symlink now")


def test_times():
    os.symlink("nowhere", "s")
    os.symlink("file", "l")
    create("file")
    with Times({"s": "", ".": ""}):
        os.readlink("s")
        os.lstat("s")
    with Times({"l": "", "file": "mc", ".": ""}):
        put("l", b"x")


fs.run(globals())
