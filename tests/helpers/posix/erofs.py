"""Everything that changes something is EROFS in a tree that is read-only. The tree, made by `erofs.py prepare` where it could be written: file
(content), dir, dir/inner, symlink, fifo."""
import fs
from fs import *


def prepare():
    put("file", b"content")
    os.makedirs("dir/empty")
    put("dir/inner", b"inner")
    os.symlink("file", "symlink")
    os.mkfifo("fifo")
    os.setxattr("file", "user.x", b"kept")
    os.chmod("file", 0o666)


def test_changes():
    here = os.getcwd()
    os.chdir(os.environ["BH_READ_ONLY"])
    before = listing()
    for call, *args in (
            (create, "new"), (os.mkdir, "new"), (os.mkfifo, "new"), (os.mknod, "new", stat.S_IFREG | 0o644), (os.symlink, "x", "new"), (link, "file", "new"),
            (bind, "new"), (os.unlink, "file"), (os.unlink, "symlink"), (os.unlink, "fifo"), (os.rmdir, "dir/empty"), (os.rename, "file", "new"),
            (os.rename, "dir", "new"), (os.rename, "file", "dir/inner"), (noreplace, "file", "new"), (exchange, "file", "dir/inner"), (os.chmod, "file", 0o600),
            (os.chmod, "dir", 0o700), (os.chmod, "fifo", 0o600), (os.chown, "file", U1, G1), (lchown, "symlink", U1, G1), (os.chown, "dir", U1, G1),
            (truncate, "file", 0), (truncate, "file", 100), (utimens, "file", (1, 2), (3, 4)), (utimens, "file", "now", "now"), (utimens, "dir", None, None),
            (utimens, "symlink", (1, 2), (3, 4), False), (opens, "file", os.O_WRONLY), (opens, "file", os.O_RDWR), (opens, "file", os.O_WRONLY | os.O_APPEND),
            (opens, "file", os.O_RDONLY | os.O_TRUNC), (opens, "file", os.O_RDWR | os.O_TRUNC), (opens, "new", os.O_RDONLY | os.O_CREAT),
            (os.setxattr, "file", "user.y", b"1"), (os.removexattr, "file", "user.x"), (os.setxattr, "dir", "user.y", b"1")):
        expect("EROFS", call, *args)
    for call, *args in (
            (opens, "file", os.O_RDONLY), (opens, "file", os.O_RDONLY | os.O_CREAT), (get, "file"), (os.listdir, "dir"), (os.stat, "file"), (os.readlink, "symlink"),
            (os.getxattr, "file", "user.x"), (os.statvfs, ".")):
        expect("ok", call, *args)
    # What is wrong beside that is said first, or not: both are right.
    expect("EEXIST|EROFS", os.mkdir, "dir")
    expect("EEXIST|EROFS", create, "file")
    expect("ENOENT|EROFS", os.unlink, "no")
    expect("ENOTEMPTY|EROFS", os.rmdir, "dir")
    expect("EISDIR", opens, "dir", os.O_RDWR)
    expect("ENOENT", os.chmod, "no", 0)
    if os.statvfs(".").f_flag & os.ST_RDONLY: # else the kernel answers by owner and mode alone
        equal(os.access("file", os.W_OK), False, "access(W_OK) even of root")
    equal(os.access("file", os.R_OK), True, "access(R_OK)")
    equal((get("file"), os.getxattr("file", "user.x")), (b"content", b"kept"), "content")
    equal(listing(), before, "the tree afterwards")
    os.chdir(here)


def listing():
    return subprocess.run(["find", ".", "-printf", "%P %y %m %n %U %G %s %T@ %C@ %l\\n"], capture_output=True, check=True).stdout


if sys.argv[1:] == ["prepare"]:
    prepare()
else:
    fs.run(globals())
