"""open(2), creat(2)"""
import subprocess

import fs
from fs import *

READ, WRITE, BOTH = os.O_RDONLY, os.O_WRONLY, os.O_RDWR


def creat(path, mode=0o644):
    opens(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)


def remove(path):
    (os.rmdir if kind_of(path) == "dir" else os.unlink)(path)


def test_makes():
    makes(creat, "file")


def test_errors_of_making():
    path_errors(creat, creates=True)


def test_errors():
    path_errors(lambda p: opens(p, READ), needs="file", last_link="ELOOP")


def test_errors_of_a_directory():
    path_errors(lambda p: opens(p, os.O_RDONLY | os.O_DIRECTORY), needs="dir", last_link="ELOOP")


def test_permission_to_make():
    needs_writable_parent(creat)
    needs_writable_parent(lambda p: opens(p, os.O_CREAT | os.O_RDWR))


def test_modes_do_not_bind_the_maker():
    for mode in (0o000, 0o400, 0o200):
        os.mkdir("d", 0o777)
        with user(U1, G1):
            f = os.open("d/a", os.O_RDWR | os.O_CREAT, mode)
            equal(os.write(f, b"abc"), 3, f"a write to what was made with mode {mode:o}")
            equal(os.pread(f, 5, 0), b"abc", "a read")
            os.close(f)
        equal(perm("d/a"), mode, "mode")
        clear("d")


def test_old_file_is_taken_as_it_is():
    put("a", b"content")
    os.chmod("a", 0o612)
    with Times({"a": "", ".": ""}):
        expect("ok", opens, "a", os.O_CREAT | os.O_RDWR, 0o777)
    equal((perm("a"), get("a")), (0o612, b"content"), "after O_CREAT of what is there")
    for flags in (os.O_CREAT | os.O_EXCL, os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_RDWR):
        with Times({"a": "", ".": ""}):
            expect("EEXIST", opens, "a", flags)
    equal(get("a"), b"content", "content after O_EXCL")
    for kind in KINDS:
        make(kind, "x")
        expect("EEXIST", opens, "x", os.O_CREAT | os.O_EXCL | os.O_RDWR)
        remove("x")
    os.symlink("a", "s")
    expect("EEXIST", opens, "s", os.O_CREAT | os.O_EXCL)


def test_trunc():
    for size in (0, 1, 4096, 100_000):
        put("a", b"x" * size)
        ino = os.stat("a").st_ino
        with Times({"a": "mc", ".": ""} if size else {".": ""}):
            expect("ok", opens, "a", os.O_WRONLY | os.O_TRUNC)
        s = os.stat("a")
        equal((s.st_size, s.st_ino, get("a")), (0, ino, b""), f"after O_TRUNC of {size} bytes")
    put("a", b"0123456789")
    f = os.open("a", os.O_RDWR)
    opens("a", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    equal(os.pread(f, 10, 0), b"", "what another handle reads after O_TRUNC")
    os.pwrite(f, b"z", 3)
    equal(get("a"), b"\0\0\0z", "written beyond the end after O_TRUNC")
    os.close(f)
    os.symlink("a", "s")
    opens("s", os.O_WRONLY | os.O_TRUNC)
    equal(os.stat("a").st_size, 0, "O_TRUNC through a symlink")
    put("a", b"content")
    os.chmod("a", 0o444)
    os.chown("a", U1, G1)
    with user(U1, G1):
        expect("EACCES", opens, "a", os.O_WRONLY | os.O_TRUNC)
        expect("EACCES", opens, "a", os.O_RDONLY | os.O_TRUNC)
    equal(get("a"), b"content", "content after a refused O_TRUNC")


def test_directories():
    os.mkdir("d")
    for flags in (WRITE, BOTH, READ | os.O_TRUNC, WRITE | os.O_TRUNC, READ | os.O_CREAT, BOTH | os.O_CREAT):
        expect("EISDIR", opens, "d", flags)
        expect("EISDIR", opens, "d/", flags)
    expect("ok", opens, "d", READ)
    expect("ok", opens, "d/", READ)
    expect("ok", opens, "d", READ | os.O_DIRECTORY)
    expect("EISDIR", opens, "new/", os.O_CREAT | os.O_RDWR)
    for kind in NOT_DIRS:
        make(kind, "x")
        expect("ENOTDIR" if kind != "symlink" else "ENOENT", opens, "x", READ | os.O_DIRECTORY | os.O_NONBLOCK)
        os.unlink("x")
    create("f")
    expect("ENOTDIR", opens, "f/", READ)
    expect("EISDIR", os.read, os.open("d", READ), 10)


def test_nofollow():
    create("a")
    os.mkdir("d")
    os.symlink("a", "s")
    os.symlink("d", "t")
    for flags in (READ, WRITE, BOTH, READ | os.O_CREAT):
        expect("ELOOP", opens, "s", flags | os.O_NOFOLLOW)
    expect("ELOOP|ENOTDIR", opens, "t", READ | os.O_NOFOLLOW | os.O_DIRECTORY)
    expect("ok", opens, "a", READ | os.O_NOFOLLOW)
    f = os.open("s", os.O_PATH | os.O_NOFOLLOW)
    equal(stat.S_ISLNK(os.fstat(f).st_mode), True, "O_PATH of a symlink")
    os.close(f)


def test_special_files():
    make("fifo", "p")
    expect("ENXIO", opens, "p", WRITE | os.O_NONBLOCK)
    expect("ok", opens, "p", READ | os.O_NONBLOCK)
    make("socket", "s")
    for flags in (READ, WRITE, BOTH):
        expect("ENXIO|EOPNOTSUPP", opens, "s", flags)
    server = socket.socket(socket.AF_UNIX)
    server.bind("live")
    server.listen(1)
    client = socket.socket(socket.AF_UNIX)
    expect("ok", client.connect, "live")
    peer, _ = server.accept()
    client.send(b"hello")
    equal(peer.recv(10), b"hello", "through a socket")
    for s in (peer, client, server):
        s.close()
    expect("ECONNREFUSED", socket.socket(socket.AF_UNIX).connect, "live")


def test_permission():
    """Who may open a file how: the first class that fits decides, and no other."""
    create("a", 0o666)
    os.chown("a", U1, G1)
    for uid, gid, groups, shift in ((U1, G1, (), 6), (U1, G2, (), 6), (U2, G1, (), 3), (U2, G2, (G3, G1), 3), (U2, G2, (G3,), 0)):
        for bits in range(8):
            for others in (0, 0o777):
                os.chmod("a", others & ~(7 << shift) | bits << shift)
                r, w = bits & 4, bits & 2
                with user(uid, gid, groups):
                    for flags, may in ((READ, r), (WRITE, w), (BOTH, r and w), (WRITE | os.O_APPEND, w), (WRITE | os.O_TRUNC, w),
                                       (READ | os.O_CREAT, r)):
                        expect("ok" if may else "EACCES", opens, "a", flags)
    os.chmod("a", 0)
    expect("ok", opens, "a", BOTH)  # root may


def test_handles_live_on():
    put("a", b"0123456789")
    f = os.open("a", READ)
    expect("EBADF", os.write, f, b"x")
    g = os.open("a", WRITE)
    expect("EBADF", os.read, g, 1)
    os.pwrite(g, b"abc", 0)
    equal(os.pread(f, 5, 0), b"abc34", "what another handle wrote")
    equal(os.lseek(f, -3, os.SEEK_END), 7, "lseek from the end")
    equal(os.read(f, 10), b"789", "read from there")
    equal(os.read(f, 10), b"", "read at the end")
    expect("EINVAL", os.lseek, f, -1, os.SEEK_SET)
    equal(os.lseek(f, 1 << 40, os.SEEK_SET), 1 << 40, "lseek far beyond the end")
    equal(os.read(f, 1), b"", "read far beyond the end")
    equal(os.fstat(f).st_size, 10, "size after lseek")
    h = os.dup(g)
    os.lseek(g, 2, os.SEEK_SET)
    os.write(h, b"Z")
    equal(get("a"), b"abZ3456789", "handles that share a position")
    for x in (f, g, h):
        os.close(x)
    expect("EBADF", os.read, f, 1)


def test_tmpfile():
    got, f = outcome(os.open, ".", os.O_TMPFILE | os.O_RDWR, 0o600)
    check(got in ("ok", "EOPNOTSUPP", "EISDIR"), f"O_TMPFILE: {got}")
    if got == "ok":
        os.write(f, b"unnamed")
        equal((os.fstat(f).st_nlink, os.listdir(".")), (0, []), "links and names of an O_TMPFILE")
        raw("linkat", AT_FDCWD, b(f"/proc/self/fd/{f}"), AT_FDCWD, b"named", 0x400)
        equal((get("named"), nlink("named")), (b"unnamed", 1), "an O_TMPFILE that was given a name")
        os.close(f)


def test_direct_and_sync():
    for flags in (os.O_SYNC, os.O_DSYNC, os.O_NOATIME, os.O_CLOEXEC, os.O_NONBLOCK):
        f = os.open("a", os.O_RDWR | os.O_CREAT | os.O_TRUNC | flags, 0o644)
        equal(os.write(f, b"abc"), 3, "bytes written")
        equal(os.pread(f, 5, 0), b"abc", "bytes read")
        os.close(f)
    got, f = outcome(os.open, "a", os.O_RDWR | os.O_DIRECT)
    check(got in ("ok", "EINVAL"), f"O_DIRECT: {got}")
    if got == "ok":
        import mmap
        block = mmap.mmap(-1, 4096)
        block[:] = b"D" * 4096
        equal(os.pwrite(f, block, 0), 4096, "bytes written with O_DIRECT")
        equal(get("a"), b"D" * 4096, "content")
        os.close(f)


def test_text_busy():
    shutil.copy("/bin/true", "program")
    os.chmod("program", 0o755)
    # nosuid and noexec mounts are not what this is about
    shutil.copy("/bin/sleep", "sleeper")
    os.chmod("sleeper", 0o755)
    try:
        running = subprocess.Popen(["./sleeper", "100"])
    except PermissionError:
        check(os.statvfs(".").f_flag & os.ST_NOEXEC, "nothing may be executed here, and the mount does not say noexec")
        return
    try:
        for flags in (WRITE, BOTH, WRITE | os.O_TRUNC):
            expect("ETXTBSY", opens, "sleeper", flags)
        expect("ETXTBSY", truncate, "sleeper", 10)
        expect("ok", opens, "sleeper", READ)
        expect("ok", os.chmod, "sleeper", 0o700)
        expect("ok", os.rename, "sleeper", "renamed")
        expect("ok", os.unlink, "renamed")
    finally:
        running.kill()
        running.wait()
    f = os.open("program", WRITE)
    expect("ETXTBSY", subprocess.run, ["./program"])
    os.close(f)
    equal(expect("ok", subprocess.run, ["./program"]).returncode, 0, "its exit status afterwards")


def test_execution():
    with open("script", "w") as f:
        f.write("#!/bin/sh\nexit 7\n")
    os.chmod("script", 0o755)
    if not os.statvfs(".").f_flag & os.ST_NOEXEC:
        equal(subprocess.run(["./script"]).returncode, 7, "a script's exit status")
    for mode, may in ((0o644, False), (0o744, False), (0o755, True), (0o711, False), (0o754, False)):
        os.chmod("script", mode)
        with user(U1, G1):
            equal(os.access("script", os.X_OK, effective_ids=True), bool(mode & 1), f"access(X_OK) with mode {mode:o}")
    os.chmod("script", 0o644)
    expect("EACCES", subprocess.run, ["./script"])  # not root either, without any x


def test_fds_of_a_removed_directory():
    os.mkdir("d")
    put("d/a", b"kept")
    f = os.open("d/a", READ)
    os.unlink("d/a")
    os.rmdir("d")
    equal(os.pread(f, 10, 0), b"kept", "content whose directory is gone")
    os.close(f)


def test_bad_address():
    expect("EFAULT", raw, "open", None, 0)
    expect("EFAULT", raw, "mkdir", None, 0o755)
    expect("EFAULT", raw, "unlink", None)
    expect("EFAULT", raw, "rmdir", None)
    expect("EFAULT", raw, "symlink", b"x", None)
    expect("EFAULT", raw, "rename", b"x", None)
    expect("EFAULT", raw, "chmod", None, 0o644)
    expect("EFAULT", raw, "truncate64", None, ctypes.c_int64(0))
    expect("EFAULT", raw, "link", None, b"x")
    create("a")
    f = os.open("a", BOTH)
    expect("EFAULT", raw, "write", f, None, 10)
    equal(os.fstat(f).st_size, 0, "size after a write from nowhere")
    os.close(f)


fs.run(globals())
