"""What each operation does to the times of the file and of its directory."""
import fs
from fs import *


def test_changes_of_content():
    put("a", b"content")
    f = os.open("a", os.O_RDWR)
    for name, action in (("write", lambda: os.write(f, b"C")), ("pwrite beyond the end", lambda: os.pwrite(f, b"x", 100)),
                         ("ftruncate", lambda: ftruncate(f, 50)), ("truncate", lambda: truncate("a", 20)), ("writev", lambda: os.writev(f, [b"1", b"2"]))):
        with Times({"a": "mc", ".": ""}):
            action()
        check(True, name)
    os.close(f)


def test_looking_changes_nothing():
    put("a", b"content")
    os.mkdir("d")
    os.symlink("a", "s")
    f = os.open("a", os.O_RDWR)
    for name, action in (("stat", lambda: os.stat("a")), ("open", lambda: opens("a", os.O_RDWR)), ("read", lambda: get("a")), ("access", lambda: os.access("a", 7)),
                         ("readlink", lambda: os.readlink("s")), ("readdir", lambda: os.listdir(".")), ("lseek", lambda: os.lseek(f, 3, os.SEEK_SET)),
                         ("fsync", lambda: os.fsync(f)), ("statfs", lambda: os.statvfs(".")), ("getxattr", lambda: outcome(os.getxattr, "a", "user.x")),
                         ("chdir", lambda: os.chdir("."))):
        with Times({"a": "", ".": "", "d": "", "s": ""}):
            action()
        check(True, name)
    os.close(f)


def test_failures_change_nothing():
    put("a", b"content")
    os.mkdir("d")
    create("d/full")
    for name, call in (("link", lambda: link("a", "a")), ("mkdir", lambda: os.mkdir("d")), ("rmdir", lambda: os.rmdir("d")), ("unlink", lambda: os.unlink("d")),
                       ("rename", lambda: os.rename("a", "d")),
                       ("symlink", lambda: os.symlink("x", "a")), ("open", lambda: create("a")), ("truncate", lambda: truncate("a", -1)),
                       ("chmod", lambda: os.chmod("no", 0))):
        with Times({"a": "", ".": "", "d": "", "d/full": ""}):
            got, _ = outcome(call)
        check(got != "ok", f"{name} fails")


def test_changes_of_names():
    os.mkdir("d")
    os.mkdir("e")
    for name, action, wanted in (
            ("create", lambda: create("d/a"), {"d": "mc", "e": "", ".": ""}),
            ("mkdir", lambda: os.mkdir("d/b"), {"d": "mc", "e": "", ".": ""}),
            ("symlink", lambda: os.symlink("x", "d/s"), {"d": "mc", "e": "", ".": ""}),
            ("mkfifo", lambda: os.mkfifo("d/p"), {"d": "mc", "e": "", ".": ""}),
            ("link", lambda: link("d/a", "e/a"), {"d": "", "e": "mc", "d/a": "c", ".": ""}),
            ("rename within", lambda: os.rename("d/p", "d/q"), {"d": "mc", "e": "", ".": ""}),
            ("rename between", lambda: os.rename("d/q", "e/q"), {"d": "mc", "e": "mc", ".": ""}),
            ("unlink", lambda: os.unlink("e/a"), {"d": "", "e": "mc", "d/a": "c", ".": ""}),
            ("rmdir", lambda: os.rmdir("d/b"), {"d": "mc", "e": "", ".": ""}),
            ("exchange", lambda: exchange("d/a", "e/q"), {"d": "mc", "e": "mc", ".": ""}),
            ("change within a file", lambda: put("e/a2", b"") or None, {"e": "mc", "d": "", ".": ""})):
        with Times(wanted):
            action()
        check(True, name)


def test_order():
    """Times never go back, and what happens later has no earlier one."""
    last = 0
    for i in range(300):
        put(f"f{i % 10}", b"x" * (i + 1))
        s = os.stat(f"f{i % 10}")
        check(s.st_mtime_ns >= last, f"mtime {i} is not before the one before")
        last = s.st_mtime_ns
        check(s.st_ctime_ns >= s.st_mtime_ns, "ctime is not before mtime")


def test_reading_and_atime():
    """relatime at the least may be: the atime is never after now, and never before what was set."""
    put("a", b"content")
    utimens("a", (1000, 5), (2000, 6))
    get("a")
    s = times("a")
    check(s["a"] == 1_000_000_000_005 or s["a"] > 1_600_000_000_000_000_000, f"atime after a read: {s['a']}")
    equal(s["m"], 2_000_000_000_006, "mtime after a read")


def test_seen_at_once_by_all():
    """What one process changes, another sees in the next stat."""
    put("a", b"1")
    ask, say = os.pipe()
    back, answer = os.pipe()

    def other():
        while os.read(ask, 1) == b"?":
            s = os.stat("a")
            os.write(answer, f"{s.st_size} {s.st_mtime_ns} {s.st_mode} {s.st_nlink}\n".encode())
    pid = fork(other)
    for i in range(100):
        if i % 4 == 0:
            put("a", b"x" * i)
        elif i % 4 == 1:
            os.chmod("a", 0o600 + i % 8)
        elif i % 4 == 2:
            utimens("a", (i, 0), (i, i))
        else:
            link("a", f"l{i}")
        s = os.stat("a")
        os.write(say, b"?")
        equal(os.read(back, 200).decode(), f"{s.st_size} {s.st_mtime_ns} {s.st_mode} {s.st_nlink}\n", "what another process sees")
    os.write(say, b".")
    join(pid)


fs.run(globals())
