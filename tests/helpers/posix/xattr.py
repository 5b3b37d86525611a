"""setxattr(2), getxattr(2), listxattr(2), removexattr(2)"""
import fs
from fs import *

CREATE, REPLACE = os.XATTR_CREATE, os.XATTR_REPLACE
# What is said of the file by the file system itself (user.bh.*) is not the user's.


def listed(path, **kw):
    return sorted(n for n in os.listxattr(path, **kw) if not n.startswith("user.bh.") and n.startswith(("user.", "trusted.")))


def test_values():
    for kind in ("file", "dir"):
        make(kind, "a")
        equal(listed("a"), [], "names on a new one")
        for name in ("user.x", "user.a.b.c", "user." + "n" * 200, "user.ünïcödé", "user.With Capitals and blanks", "user.%41", "trusted.y"):
            for value in (b"", b"v", b"\0binary\xff\n", b"x" * 1000):
                with Times({"a": "c", ".": ""}):
                    expect("ok", os.setxattr, "a", name, value)
                equal(expect("ok", os.getxattr, "a", name), value, f"the value of {name}")
            equal(listed("a"), [name], "names")
            with Times({"a": "c"}):
                expect("ok", os.removexattr, "a", name)
            expect("ENODATA", os.getxattr, "a", name)
            expect("ENODATA", os.removexattr, "a", name)
        equal(listed("a"), [], "names at the end")
        (os.rmdir if kind == "dir" else os.unlink)("a")


def test_create_and_replace():
    create("a")
    expect("ENODATA", os.setxattr, "a", "user.x", b"1", REPLACE)
    expect("ok", os.setxattr, "a", "user.x", b"2", CREATE)
    expect("EEXIST", os.setxattr, "a", "user.x", b"3", CREATE)
    equal(os.getxattr("a", "user.x"), b"2", "the value after a refusal")
    expect("ok", os.setxattr, "a", "user.x", b"4", REPLACE)
    equal(os.getxattr("a", "user.x"), b"4", "the value after REPLACE")
    expect("ok", os.setxattr, "a", "user.x", b"longer than it was" * 10)
    expect("ok", os.setxattr, "a", "user.x", b"5")
    equal(os.getxattr("a", "user.x"), b"5", "the value after it became shorter")
    expect("EINVAL", os.setxattr, "a", "user.x", b"6", 64)


def test_sizes():
    create("a")
    buffer = ctypes.create_string_buffer(100)
    os.setxattr("a", "user.x", b"0123456789")
    equal(raw("getxattr", b"a", b"user.x", None, 0), 10, "the size alone")
    expect("ERANGE", raw, "getxattr", b"a", b"user.x", buffer, 5)
    equal(raw("getxattr", b"a", b"user.x", buffer, 10), 10, "into what just holds it")
    size = raw("listxattr", b"a", None, 0)
    check(size >= 7, "size of the list")
    expect("ERANGE", raw, "listxattr", b"a", buffer, 3)
    for length in (3000, 60_000, 65_536):
        value = os.urandom(length)
        got, _ = outcome(os.setxattr, "a", "user.big", value)
        if file_system() == "fuse" or got == "ok":
            equal(got, "ok", f"a value of {length} bytes")
            check(os.getxattr("a", "user.big") == value, f"a value of {length} bytes")
        else:
            check(got in ("ENOSPC", "E2BIG"), f"a value of {length} bytes: {got}")
    expect("E2BIG|ENOSPC", os.setxattr, "a", "user.big", b"x" * 65_537)
    for name, want in (("user." + "n" * 250, "ok"), ("user." + "n" * 251, "ERANGE|ENAMETOOLONG"), ("user.", "EINVAL"), ("", "ERANGE|EINVAL")):
        expect(want, os.setxattr, "a", name, b"1")


def test_many():
    create("a")
    names = [f"user.name{i:03}" for i in range(60)]
    for name in names:
        os.setxattr("a", name, name.encode())
    equal(listed("a"), names, "sixty names")
    equal([os.getxattr("a", n).decode() for n in names], names, "their values")
    for name in names[::2]:
        os.removexattr("a", name)
    equal(listed("a"), names[1::2], "names after half of them were removed")


def test_namespaces():
    create("a")
    expect("EOPNOTSUPP", os.setxattr, "a", "nonsense", b"1")
    expect("EOPNOTSUPP", os.setxattr, "a", "nonsense.x", b"1")
    expect("EOPNOTSUPP|EINVAL|EPERM", os.setxattr, "a", "system.x", b"1")
    os.chmod("a", 0o666)
    os.setxattr("a", "trusted.x", b"secret")
    with user(U1, G1):
        expect("EPERM", os.setxattr, "a", "trusted.y", b"1")
        expect("ENODATA|EPERM", os.getxattr, "a", "trusted.x")
        expect("EPERM", os.removexattr, "a", "trusted.x")
        equal([n for n in os.listxattr("a") if n.startswith("trusted.")], [], "trusted names that a user sees")
    equal(os.getxattr("a", "trusted.x"), b"secret", "root's")
    for kind in ("fifo", "socket", "char", "block", "symlink"):
        make(kind, "s")
        expect("EPERM", os.setxattr, "s", "user.x", b"1", follow_symlinks=False)
        expect("ok", os.setxattr, "s", "trusted.x", b"1", follow_symlinks=False)
        equal(os.getxattr("s", "trusted.x", follow_symlinks=False), b"1", f"trusted of a {kind}")
        os.unlink("s")


def test_symlinks_and_handles():
    create("a")
    os.symlink("a", "s")
    os.setxattr("s", "user.x", b"through")
    equal(os.getxattr("a", "user.x"), b"through", "set through a symlink")
    equal(listed("s", follow_symlinks=False), [], "names of the symlink itself")
    f = os.open("a", os.O_RDWR)
    os.setxattr(f, "user.y", b"by handle")
    equal(os.getxattr("a", "user.y"), b"by handle", "set by handle")
    os.unlink("a")
    os.setxattr(f, "user.z", b"without a name")
    equal((os.getxattr(f, "user.z"), listed(f)), (b"without a name", ["user.x", "user.y", "user.z"]), "of what has no name")
    os.close(f)
    create("a")
    equal(listed("a"), [], "names of a new file of that name")


def test_go_with_the_file():
    create("a")
    os.setxattr("a", "user.x", b"1")
    os.rename("a", "b")
    equal(os.getxattr("b", "user.x"), b"1", "after a rename")
    link("b", "c")
    os.setxattr("c", "user.x", b"2")
    equal(os.getxattr("b", "user.x"), b"2", "by another name")
    put("b", b"new content")
    equal(os.getxattr("b", "user.x"), b"2", "after new content")
    create("d")
    os.rename("d", "b")
    equal((listed("b"), listed("c")), ([], ["user.x"]), "after the name was replaced")
    subprocess.run(["cp", "--preserve=all", "c", "e"], check=True)
    equal(os.getxattr("e", "user.x"), b"2", "copied by cp")


def test_permission():
    for kind in ("file", "dir"):
        make(kind, "a")
        os.chown("a", U1, G1)
        for uid, gid, groups, shift in ((U1, G1, (), 6), (U2, G1, (), 3), (U2, G2, (G1,), 3), (U3, G3, (), 0)):
            for bits in range(8):
                os.chmod("a", 0o777)
                os.setxattr("a", "user.x", b"1")
                os.chmod("a", 0o777 & ~(7 << shift) | bits << shift)
                r, w = bits & 4, bits & 2
                with user(uid, gid, groups):
                    expect("ok" if r else "EACCES", os.getxattr, "a", "user.x")
                    expect("ok" if w else "EACCES", os.setxattr, "a", "user.x", b"2")
                    expect("ok", os.listxattr, "a")
                    expect("ok" if w else "EACCES", os.removexattr, "a", "user.x")
        (os.rmdir if kind == "dir" else os.unlink)("a")


def test_sticky_directory():
    """In a directory with the sticky bit user.* is the owner's alone to change."""
    os.mkdir("d")
    os.chmod("d", 0o1777)
    os.chown("d", U2, G2)
    with user(U1, G1):
        expect("EPERM", os.setxattr, "d", "user.x", b"1")
    with user(U2, G2):
        expect("ok", os.setxattr, "d", "user.x", b"1")


def test_errors():
    path_errors(lambda p: os.setxattr(p, "user.x", b"1"), needs="file", last_link="ELOOP")
    path_errors(os.listxattr, needs="dir", last_link="ELOOP")


def test_acl():
    """With effect, or not at all."""
    acl = bytes.fromhex("02000000" "0100" "0600" "ffffffff" "0200" "0400") + U2.to_bytes(4, "little") + bytes.fromhex(
        "0400" "0000" "ffffffff" "1000" "0700" "ffffffff" "2000" "0000" "ffffffff")
    put("a", b"content")
    os.chmod("a", 0o600)
    got, _ = outcome(os.setxattr, "a", "system.posix_acl_access", acl)
    check(got in ("ok", "EOPNOTSUPP"), f"an ACL: {got}")
    if got == "ok":
        with user(U2, G2):
            expect("ok", get, "a")
            expect("EACCES", opens, "a", os.O_WRONLY)
        with user(U3, G3):
            expect("EACCES", get, "a")
        equal(os.getxattr("a", "system.posix_acl_access"), acl, "the ACL that was set")
    else:
        with user(U2, G2):
            expect("EACCES", get, "a")


fs.run(globals())
