"""Locks between processes: fcntl(2) byte ranges, those of open file descriptions, flock(2)."""
import fcntl
import signal
import struct

import fs
from fs import *

F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW = 36, 37, 38
READ, WRITE, UNLOCK = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
LAYOUT = "hhlli4x"


def lock(fd, command, kind, start=0, length=0, whence=0):
    """fcntl; with F_GETLK: (kind, start, length, pid) of the lock in the way, or None."""
    answer = fcntl.fcntl(fd, command, struct.pack(LAYOUT, kind, whence, start, length, 0))
    kind, whence, start, length, pid = struct.unpack(LAYOUT, answer)
    return None if kind == UNLOCK else (kind, start, length, pid)


class Process:
    """Another process, which does what it is told: p(function, argument...) waits for the outcome, p.begin() does not."""

    all = set()

    def __init__(self):
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            signal.signal(signal.SIGALRM, lambda *a: None)
            signal.siginterrupt(signal.SIGALRM, True)
            ours.close()
            for other in Process.all:
                other.socket.close()
            files = {}
            stream = theirs.makefile("rw")
            while True:
                line = stream.readline()
                what, *args = eval(line) if line else ("quit",)
                try:
                    if what == "open":
                        files[args[0]] = os.open(args[1], args[2], 0o644)
                        result = "ok"
                    elif what == "close":
                        os.close(files.pop(args[0]))
                        result = "ok"
                    elif what == "dup":
                        files[args[1]] = os.dup(files[args[0]])
                        result = "ok"
                    elif what == "lock":
                        lock(files[args[0]], *args[1:])
                        result = "ok"
                    elif what == "alarm":
                        signal.setitimer(signal.ITIMER_REAL, args[0])
                        raw_setlkw(files[args[1]], *args[2:])
                        result = "ok"
                    elif what == "get":
                        result = repr(lock(files[args[0]], *args[1:]))
                    elif what == "flock":
                        fcntl.flock(files[args[0]], args[1])
                        result = "ok"
                    elif what == "quit":
                        os._exit(0)
                    else:
                        result = "?"
                except OSError as e:
                    result = error_name(e)
                stream.write(result + "\n")
                stream.flush()
        theirs.close()
        self.socket, self.stream = ours, ours.makefile("rw")
        Process.all.add(self)

    def begin(self, *what):
        self.stream.write(repr(what) + "\n")
        self.stream.flush()

    def answer(self, seconds=20):
        self.socket.settimeout(seconds)
        return self.stream.readline().strip()

    def waits(self, seconds=0.15):
        """Has it no answer yet?"""
        import select
        return not select.select([self.socket], [], [], seconds)[0]

    def __call__(self, *what):
        self.begin(*what)
        return self.answer()

    def end(self):
        self.begin("quit")
        self.forget()

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        self.forget()

    def forget(self):
        Process.all.discard(self)
        os.waitpid(self.pid, 0)
        self.stream.close()
        self.socket.close()


def raw_setlkw(fd, kind, start, length):
    """One F_SETLKW that a signal interrupts (Python would begin it again)."""
    what = struct.pack(LAYOUT, kind, 0, start, length, 0)
    ctypes.set_errno(0)
    if libc.fcntl(fd, fcntl.F_SETLKW, what) < 0:
        raise OSError(ctypes.get_errno(), "fcntl")


def pair(path="a"):
    one, two = Process(), Process()
    for p in (one, two):
        p("open", "f", path, os.O_RDWR | os.O_CREAT)
    return one, two


SETLK, SETLKW, GETLK = fcntl.F_SETLK, fcntl.F_SETLKW, fcntl.F_GETLK
REFUSED = ("EAGAIN", "EACCES")


def test_conflicts():
    for set_lock in (SETLK, F_OFD_SETLK):
        one, two = pair()
        for mine, theirs, may in ((READ, READ, True), (READ, WRITE, False), (WRITE, READ, False), (WRITE, WRITE, False)):
            for a, c, overlap in (((0, 10), (5, 10), True), ((0, 10), (10, 10), False), ((5, 1), (0, 0), True), ((0, 0), (1 << 40, 1), True),
                                  ((100, 50), (0, 100), False), ((100, 50), (0, 101), True), ((100, 50), (149, 1), True), ((100, 50), (150, 0), False),
                                  ((1 << 62, 10), ((1 << 62) + 9, 0), True)):
                equal(one("lock", "f", set_lock, mine, *a), "ok", f"the first lock {a}")
                got = two("lock", "f", set_lock, theirs, *c)
                if may or not overlap:
                    equal(got, "ok", f"kinds {mine} and {theirs}, ranges {a} and {c}")
                else:
                    check(got in REFUSED, f"kinds {mine} and {theirs}, ranges {a} and {c}: {got}")
                for p in (one, two):
                    equal(p("lock", "f", set_lock, UNLOCK, 0, 0), "ok", "unlock")
        one.end()
        two.end()


def test_getlk():
    one, two = pair()
    equal(two("get", "f", GETLK, WRITE, 0, 0), "None", "nothing is in the way")
    one("lock", "f", SETLK, WRITE, 100, 50)
    one("lock", "f", SETLK, READ, 300, 10)
    equal(two("get", "f", GETLK, WRITE, 0, 0), repr((WRITE, 100, 50, one.pid)), "the first lock in the way, and whose")
    equal(two("get", "f", GETLK, READ, 120, 5), repr((WRITE, 100, 50, one.pid)), "for reading")
    equal(two("get", "f", GETLK, READ, 300, 5), "None", "for reading where somebody reads")
    equal(two("get", "f", GETLK, WRITE, 305, 0), repr((READ, 300, 10, one.pid)), "for writing where somebody reads")
    equal(one("get", "f", GETLK, WRITE, 0, 0), "None", "one's own lock is not in the way")
    equal(two("get", "f", GETLK, WRITE, 150, 150), "None", "between them")
    one.end()
    two.end()


def test_ranges_split_and_merge():
    one, two = pair()
    one("lock", "f", SETLK, WRITE, 0, 100)
    one("lock", "f", SETLK, UNLOCK, 40, 20)
    equal(two("get", "f", GETLK, WRITE, 0, 40), repr((WRITE, 0, 40, one.pid)), "the first half")
    equal(two("get", "f", GETLK, WRITE, 40, 0), repr((WRITE, 60, 40, one.pid)), "the second half")
    equal(two("lock", "f", SETLK, WRITE, 40, 20), "ok", "a lock in the gap")
    check(one("lock", "f", SETLK, WRITE, 0, 100) in REFUSED, "a lock over somebody else's")
    equal(two("lock", "f", SETLK, UNLOCK, 0, 0), "ok", "unlock")
    one("lock", "f", SETLK, READ, 20, 60)
    equal(two("get", "f", GETLK, READ, 0, 0), repr((WRITE, 0, 20, one.pid)), "the part that stayed for writing")
    equal(two("get", "f", GETLK, READ, 20, 60), "None", "the part that is for reading")
    equal(two("get", "f", GETLK, WRITE, 20, 60)[1:].split(",")[0], str(READ), "the same, asked for writing")
    one("lock", "f", SETLK, WRITE, 0, 200)
    equal(two("get", "f", GETLK, READ, 0, 0), repr((WRITE, 0, 200, one.pid)), "one lock again")
    one.end()
    two.end()


def test_waiting():
    one, two = pair()
    one("lock", "f", SETLK, WRITE, 0, 10)
    two.begin("lock", "f", SETLKW, WRITE, 5, 10)
    check(two.waits(), "the second waits")
    one("lock", "f", SETLK, UNLOCK, 0, 10)
    equal(two.answer(), "ok", "it has the lock then")
    check(one("lock", "f", SETLK, READ, 5, 1) in REFUSED, "and holds it")
    one.begin("lock", "f", SETLKW, READ, 14, 1)
    check(one.waits(), "now the first waits")
    two("lock", "f", SETLK, READ, 5, 10)
    equal(one.answer(), "ok", "until the other only reads")
    one.end()
    two.end()


def test_waiting_is_interrupted():
    one, two = pair()
    one("lock", "f", SETLK, WRITE, 0, 10)
    began = time.monotonic()
    equal(two("alarm", 0.2, "f", WRITE, 0, 10), "EINTR", "a signal ends the waiting")
    check(time.monotonic() - began < 5, "at once")
    equal(one("lock", "f", SETLK, UNLOCK, 0, 10), "ok", "unlock")
    equal(one("get", "f", GETLK, WRITE, 0, 0), "None", "the one that was interrupted has nothing")
    one("lock", "f", SETLK, WRITE, 0, 10)
    two.begin("lock", "f", SETLKW, WRITE, 0, 10)
    check(two.waits(), "it waits again")
    two.kill()  # a process that waits ends, and waits for nothing afterwards
    equal(one("lock", "f", SETLK, UNLOCK, 0, 10), "ok", "unlock")
    time.sleep(0.1)
    equal(one("lock", "f", SETLK, WRITE, 0, 0), "ok", "a lock over all, after the one who waited was killed")
    one.end()


def test_deadlock():
    for count_of in (2, 3):
        ring = [Process() for _ in range(count_of)]
        for i, p in enumerate(ring):
            p("open", "f", "a", os.O_RDWR | os.O_CREAT)
            equal(p("lock", "f", SETLK, WRITE, i * 10, 10), "ok", "its own range")
        for i, p in enumerate(ring[:-1]):
            p.begin("lock", "f", SETLKW, WRITE, (i + 1) * 10, 10)
            check(p.waits(), f"{i} waits for {i + 1}")
        equal(ring[-1]("lock", "f", SETLKW, WRITE, 0, 10), "EDEADLK", f"the last one of {count_of} would close the ring")
        ring[-1]("lock", "f", SETLK, UNLOCK, 0, 0)
        equal(ring[-2].answer(), "ok", "the one that waited for it goes on")
        for i in range(count_of - 2, 0, -1):
            ring[i]("lock", "f", SETLK, UNLOCK, 0, 0)
            equal(ring[i - 1].answer(), "ok", "and the next")
        for p in ring:
            p.end()


def test_released_by_close():
    """Any close of the file by the process takes its locks away, whichever handle they were made by."""
    one, two = pair()
    one("lock", "f", SETLK, WRITE, 0, 10)
    one("open", "g", "a", os.O_RDONLY)
    one("close", "g")
    equal(two("lock", "f", SETLK, WRITE, 0, 10), "ok", "after the process closed another handle of it")
    two("lock", "f", SETLK, UNLOCK, 0, 0)
    one("lock", "f", SETLK, WRITE, 0, 10)
    one("dup", "f", "h")
    one("close", "h")
    equal(two("lock", "f", SETLK, WRITE, 0, 10), "ok", "after it closed a dup")
    two("lock", "f", SETLK, UNLOCK, 0, 0)
    one("lock", "f", SETLK, WRITE, 0, 10)
    two.begin("lock", "f", SETLKW, WRITE, 0, 10)
    check(two.waits(), "somebody waits")
    one("close", "f")
    equal(two.answer(), "ok", "and has it when the handle is closed")
    two.end()
    one.end()


def test_released_by_the_end():
    for how in ("exit", "kill"):
        one, two = pair()
        one("lock", "f", SETLK, WRITE, 0, 10)
        two.begin("lock", "f", SETLKW, WRITE, 0, 10)
        check(two.waits(), "somebody waits")
        one.kill() if how == "kill" else one.end()
        equal(two.answer(), "ok", f"and has it after the {how} of the other")
        two.end()


def test_not_inherited():
    f = os.open("a", os.O_RDWR | os.O_CREAT, 0o644)
    lock(f, SETLK, WRITE, 0, 10)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        got = outcome(lock, f, SETLK, WRITE, 0, 10)[0]
        os._exit(0 if got in REFUSED else 1)
    equal(os.waitpid(pid, 0)[1], 0, "a child has not its parent's lock")
    pid = os.fork()
    if pid == 0:
        os.close(f)
        os._exit(0)
    os.waitpid(pid, 0)
    p = Process()
    p("open", "f", "a", os.O_RDWR)
    check(p("lock", "f", SETLK, WRITE, 0, 10) in REFUSED, "the child's close does not take the parent's lock away")
    os.close(f)
    equal(p("lock", "f", SETLK, WRITE, 0, 10), "ok", "after the parent's close")
    p.end()


def test_errors():
    put("a", b"content")
    reader, writer = os.open("a", os.O_RDONLY), os.open("a", os.O_WRONLY)
    expect("EBADF", lock, reader, SETLK, WRITE, 0, 1)
    expect("EBADF", lock, writer, SETLK, READ, 0, 1)
    expect("ok", lock, reader, SETLK, READ, 0, 1)
    f = os.open("a", os.O_RDWR)
    expect("EINVAL", lock, f, SETLK, WRITE, -1, 5)
    expect("EINVAL", lock, f, SETLK, 77, 0, 5)
    expect("EINVAL|EOVERFLOW", lock, f, SETLK, WRITE, (1 << 63) - 1, 5)
    expect("ok", lock, f, SETLK, WRITE, 10, -5)  # five bytes before
    expect("ok", lock, f, SETLK, WRITE, 0, 0, os.SEEK_END)
    for x in (reader, writer, f):
        os.close(x)


def test_by_another_name():
    """Locks are on the file, not on the name."""
    one, two = pair()
    link("a", "b")
    two("open", "g", "b", os.O_RDWR)
    one("lock", "f", SETLK, WRITE, 0, 10)
    check(two("lock", "g", SETLK, WRITE, 0, 10) in REFUSED, "by another name of the file")
    os.rename("a", "c")
    check(two("lock", "f", SETLK, WRITE, 0, 10) in REFUSED, "after a rename")
    os.unlink("b")
    os.unlink("c")
    check(two("lock", "f", SETLK, WRITE, 0, 10) in REFUSED, "without any name")
    one("close", "f")
    equal(two("lock", "f", SETLK, WRITE, 0, 10), "ok", "afterwards")
    one.end()
    two.end()


def test_ofd():
    """Locks of an open file description: two handles of one process conflict, a dup does not, only the last close releases."""
    a, c = os.open("a", os.O_RDWR | os.O_CREAT, 0o644), os.open("a", os.O_RDWR)
    expect("ok", lock, a, F_OFD_SETLK, WRITE, 0, 10)
    expect("EAGAIN", lock, c, F_OFD_SETLK, WRITE, 5, 10)
    expect("EAGAIN", lock, c, SETLK, WRITE, 5, 10)
    found = lock(c, F_OFD_GETLK, WRITE, 0, 0)
    equal(found[:3] if found else found, (WRITE, 0, 10), "the lock in the way")
    equal(found and found[3], -1, "its pid, as there is none")
    d = os.dup(a)
    expect("ok", lock, d, F_OFD_SETLK, WRITE, 0, 20)
    os.close(a)
    expect("EAGAIN", lock, c, F_OFD_SETLK, WRITE, 5, 10)
    os.close(os.open("a", os.O_RDONLY))
    expect("EAGAIN", lock, c, F_OFD_SETLK, WRITE, 5, 10)
    os.close(d)
    expect("ok", lock, c, F_OFD_SETLK, WRITE, 5, 10)
    os.close(c)
    one, two = pair("b")
    one("lock", "f", F_OFD_SETLK, WRITE, 0, 10)
    two.begin("lock", "f", F_OFD_SETLKW, WRITE, 0, 10)
    check(two.waits(), "another process waits")
    one.kill()
    equal(two.answer(), "ok", "and has it when the first is killed")
    two.end()


def test_flock():
    SH, EX, UN, NB = fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN, fcntl.LOCK_NB
    one, two = pair()
    for mine, theirs, may in ((SH, SH, True), (SH, EX, False), (EX, SH, False), (EX, EX, False)):
        equal(one("flock", "f", mine | NB), "ok", "the first")
        equal(two("flock", "f", theirs | NB), "ok" if may else "EAGAIN", f"{mine} and {theirs}")
        for p in (one, two):
            equal(p("flock", "f", UN), "ok", "unlock")
    one("flock", "f", EX)
    two.begin("flock", "f", EX)
    check(two.waits(), "the second waits")
    one("flock", "f", UN)
    equal(two.answer(), "ok", "and has it")
    one.begin("flock", "f", SH)
    check(one.waits(), "now the first waits")
    two.kill()
    equal(one.answer(), "ok", "until the other is killed")
    equal(one("flock", "f", EX | NB), "ok", "shared becomes exclusive")
    one("dup", "f", "g")
    one("close", "f")
    three = Process()
    three("open", "f", "a", os.O_RDONLY)
    equal(three("flock", "f", SH | NB), "EAGAIN", "a dup holds it")
    equal(one("flock", "g", UN), "ok", "a dup lets it go")
    equal(three("flock", "f", EX | NB), "ok", "a lock on a read-only handle")
    one("open", "h", "a", os.O_RDWR)
    equal(one("flock", "h", SH | NB), "EAGAIN", "a handle of its own is another owner")
    equal(one("lock", "h", SETLK, WRITE, 0, 0), "ok", "byte ranges are another matter")
    three.end()
    equal(one("flock", "h", EX | NB), "ok", "after the end of the holder")
    one.end()


def test_flock_by_program():
    create("a")
    holder = subprocess.Popen(["flock", "a", "sleep", "0.5"])
    time.sleep(0.2)
    equal(subprocess.run(["flock", "-n", "a", "true"]).returncode, 1, "status of flock -n while it is held")
    equal(subprocess.run(["flock", "a", "true"]).returncode, 0, "status of flock, which waits")
    equal(holder.wait(), 0, "status of the holder")
    os.mkdir("d")
    equal(subprocess.run(["flock", "d", "flock", "-n", "d", "true"]).returncode, 1, "status of flock -n on a directory that is held")


def test_lease_by_hand():
    """A counter under a lock, by four processes: none is lost."""
    put("n", b"0")

    def add():
        f = os.open("n", os.O_RDWR)
        for _ in range(200):
            lock(f, SETLKW, WRITE, 0, 0)
            value = int(os.pread(f, 20, 0)) + 1
            os.pwrite(f, str(value).encode(), 0)
            lock(f, SETLK, UNLOCK, 0, 0)

    def add_by_flock():
        for _ in range(200):
            f = os.open("n", os.O_RDWR)
            fcntl.flock(f, fcntl.LOCK_EX)
            os.pwrite(f, str(int(os.pread(f, 20, 0)) + 1).encode(), 0)
            os.close(f)
    join(*[fork(add) for _ in range(4)])
    equal(get("n"), b"800", "the counter under fcntl's locks")
    join(*[fork(add_by_flock) for _ in range(4)])
    equal(get("n"), b"1600", "the counter under flock")


fs.run(globals())
