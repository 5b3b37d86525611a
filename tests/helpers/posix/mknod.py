"""mknod(2): fifos, devices, sockets, regular files"""
import fs
from fs import *


def maker(kind, device=0):
    def mknod(path, mode=0o644):
        os.mknod(path, kind | mode, device)
    return mknod


fifo, file, sock = maker(stat.S_IFIFO), maker(stat.S_IFREG), maker(stat.S_IFSOCK)
block, char = maker(stat.S_IFBLK, os.makedev(7, 201)), maker(stat.S_IFCHR, os.makedev(1, 5))


def test_makes_fifo():
    makes(fifo, "fifo")


def test_makes_file():
    makes(file, "file")


def test_errors_fifo():
    path_errors(fifo, creates=True)


def test_errors_file():
    path_errors(file, creates=True)


def test_permission_fifo():
    needs_writable_parent(fifo)


def test_permission_file():
    needs_writable_parent(file)


def test_permission_socket():
    needs_writable_parent(sock)


def test_devices():
    for call, kind in ((block, "block"), (char, "char")):
        for mode in (0o644, 0o600, 0o000, 0o777):
            name = fresh()
            with Times({".": "mc"}):
                expect("ok", call, name, mode)
            equal(kind_of(name), kind, "kind")
            equal(perm(name), mode, "mode")
            equal(owner(name), (0, 0), "owner")
        expect("EEXIST", call, name)
        name = fresh()
        os.umask(0o077)
        call(name, 0o666)
        os.umask(0)
        equal(perm(name), 0o600, "mode under umask")
        os.mkdir(f"d{kind}", 0o777)
        with user(U1, G1):
            expect("EPERM", call, f"d{kind}/x")  # devices are root's
    create("notdir")
    expect("ENOTDIR", block, "notdir/x")
    expect("ENOTDIR", char, "notdir/x")
    for there in KINDS:
        make(there, "old")
        for call in (block, char, sock):
            expect("EEXIST", call, "old")
        (os.rmdir if there == "dir" else os.unlink)("old")


def test_device_numbers():
    for major, minor in ((0, 0), (1, 3), (8, 255), (8, 256), (255, 1), (256, 1), (4095, 1048575), (7, 65536)):
        for kind in (stat.S_IFBLK, stat.S_IFCHR):
            name = fresh()
            os.mknod(name, kind | 0o644, os.makedev(major, minor))
            s = os.stat(name)
            equal((os.major(s.st_rdev), os.minor(s.st_rdev)), (major, minor), "device number")
            os.rename(name, name + "r")
            equal(os.stat(name + "r").st_rdev, s.st_rdev, "device number after a rename")
    create("f")
    equal(os.stat("f").st_rdev, 0, "device number of a file")


def test_no_such_kind():
    expect("EPERM|EINVAL", os.mknod, "d", stat.S_IFDIR | 0o755)
    expect("EINVAL|EPERM", os.mknod, "l", stat.S_IFLNK | 0o755)
    expect("EINVAL", os.mknod, "x", 0o170000 | 0o644)
    equal(os.listdir("."), [], "names")
    os.mknod("plain", 0o644)
    equal(kind_of("plain"), "file", "without a kind it is a file")


def test_set_id_bits():
    for kind in (fifo, file):
        for mode in (0o4755, 0o2755, 0o1755, 0o6755):
            name = fresh()
            kind(name, mode)
            equal(perm(name), mode, "mode")


fs.run(globals())
