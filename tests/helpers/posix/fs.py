"""What the tests of POSIX's file interface share. Each runs in an empty directory of the file system under test, as root:

    import fs
    from fs import *

    def test_what_it_is_about():            # each in an empty directory of its own, with umask 0
        expect("ok", os.mkdir, "d")         # this call ends so: ok or the name of an errno, or several: EPERM|EACCES
        equal(perm("d"), 0o755, "mode")
    fs.run(globals())

expect, equal, check are assertions; all are made, those that fail are printed with their place, and the exit status says
whether there were any. Times are compared to the nanosecond, as far as the file system has them. BH_LONG=1: the long forms."""
import contextlib
import ctypes
import errno
import inspect
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
import traceback

U1, U2, U3 = 65501, 65502, 65503  # users that own nothing
G1, G2, G3 = 65511, 65512, 65513  # groups
LONG = bool(os.environ.get("BH_LONG"))
NAME_MAX, PATH_MAX = 255, 4096
KINDS = ("file", "dir", "fifo", "block", "char", "socket", "symlink")
NOT_DIRS = tuple(k for k in KINDS if k != "dir")
NOT_LINKS = tuple(k for k in KINDS if k != "symlink")

count = 0
failed = 0
current = ""
serial = 0

# --- assertions ------------------------------------------------------------------------------------------------


def place():
    for frame in inspect.stack()[2:]:
        if os.path.basename(frame.filename) != "fs.py":
            return f"{os.path.basename(frame.filename)}:{frame.lineno}"
    return "?"


def check(truth, what):
    global count, failed
    count += 1
    if not truth:
        failed += 1
        print(f"not ok {count} - {current}: {what} [{place()}]", flush=True)
    return bool(truth)


def equal(got, want, what):
    return check(got == want, f"{what}: got {shown(got)}, wanted {shown(want)}")


def shown(value):
    text = repr(value)
    return text if len(text) < 120 else text[:60] + "..." + text[-50:]


def error_name(e):
    """Its errno's name; of two names for one number the usual one."""
    usual = {errno.EOPNOTSUPP: "EOPNOTSUPP", errno.EDEADLK: "EDEADLK", errno.EAGAIN: "EAGAIN"}
    return usual.get(e.errno) or errno.errorcode.get(e.errno, str(e.errno))


def outcome(call, *args, **kw):
    """("ok", value) or (name of the errno, None)"""
    try:
        return "ok", call(*args, **kw)
    except OSError as e:
        return error_name(e), None


def expect(want, call, *args, **kw):
    got, value = outcome(call, *args, **kw)
    text = ", ".join(shown(a) for a in args)
    check(got in want.split("|"), f"{getattr(call, '__name__', 'call')}({text}): got {got}, wanted {want}")
    return value


# --- calls that Python has not, or not exactly -----------------------------------------------------------------

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE = 1, 2, 8, 16, 32


class timespec(ctypes.Structure):
    _fields_ = [("sec", ctypes.c_int64), ("nsec", ctypes.c_long)]


def raw(name, *args):
    ctypes.set_errno(0)
    result = getattr(libc, name)(*args)
    if result == -1:
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))
    return result


def b(path):
    return os.fsencode(path)


def link(old, new):
    return raw("link", b(old), b(new))


def rename2(old, new, flags):
    return raw("renameat2", AT_FDCWD, b(old), AT_FDCWD, b(new), ctypes.c_uint(flags))


def exchange(old, new):
    return rename2(old, new, EXCHANGE)


def noreplace(old, new):
    return rename2(old, new, NOREPLACE)


def utimens(path, atime, mtime, follow=True):
    """Times as (seconds, nanoseconds), or "now", "omit"; both None: a null pointer."""
    def spec(t):
        if t == "now":
            return timespec(0, UTIME_NOW)
        if t == "omit":
            return timespec(0, UTIME_OMIT)
        return timespec(*t)
    both = None if atime is None else (timespec * 2)(spec(atime), spec(mtime))
    return raw("utimensat", AT_FDCWD, b(path), both, 0 if follow else AT_SYMLINK_NOFOLLOW)


def futimens(fd, atime, mtime):
    return raw("futimens", fd, (timespec * 2)(timespec(*atime), timespec(*mtime)))


def fallocate(fd, mode, offset, length):
    return raw("fallocate", fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length))


def truncate(path, size):
    return raw("truncate64", b(path), ctypes.c_int64(size))


def ftruncate(fd, size):
    return raw("ftruncate64", fd, ctypes.c_int64(size))


def create(path, mode=0o644):
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))


def opens(path, flags, mode=0o644):
    os.close(os.open(path, flags, mode))


def bind(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path)


def lchown(path, uid, gid):
    os.chown(path, uid, gid, follow_symlinks=False)


def symlink_to(path):
    os.symlink("nowhere", path)


def file_system():
    """ext2/ext3, tmpfs, fuseblk, fuse, ..."""
    return subprocess.run(["stat", "-f", "-c", "%T", "."], capture_output=True, text=True, check=True).stdout.strip()


# --- making and looking ----------------------------------------------------------------------------------------


def make(kind, path, mode=None):
    """Something of that kind; a file is empty, a symlink points nowhere."""
    mode = mode if mode is not None else (0o755 if kind == "dir" else 0o644)
    if kind == "file":
        create(path, mode)
    elif kind == "dir":
        os.mkdir(path, mode)
    elif kind == "fifo":
        os.mkfifo(path, mode)
    elif kind == "block":
        os.mknod(path, stat.S_IFBLK | mode, os.makedev(7, 200))
    elif kind == "char":
        os.mknod(path, stat.S_IFCHR | mode, os.makedev(1, 3))
    elif kind == "socket":
        bind(path)
        os.chmod(path, mode)
    elif kind == "symlink":
        os.symlink("nowhere", path)
    else:
        raise ValueError(kind)
    return path


def kind_of(path):
    mode = os.lstat(path).st_mode
    for kind, test in (("file", stat.S_ISREG), ("dir", stat.S_ISDIR), ("fifo", stat.S_ISFIFO), ("block", stat.S_ISBLK),
                       ("char", stat.S_ISCHR), ("socket", stat.S_ISSOCK), ("symlink", stat.S_ISLNK)):
        if test(mode):
            return kind
    return oct(mode)


def put(path, data=b""):
    with open(path, "wb") as f:
        f.write(data)
    return path


def get(path):
    with open(path, "rb") as f:
        return f.read()


def perm(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def owner(path):
    s = os.lstat(path)
    return s.st_uid, s.st_gid


def nlink(path):
    return os.lstat(path).st_nlink


def exists(path):
    return os.path.lexists(path)


def fresh():
    """A name that nothing has."""
    global serial
    serial += 1
    return f"n{serial}"


def path_of(length, last="x"):
    """A relative path of that many bytes: as many ./ as are needed before its last name."""
    rest = length - len(last)
    return "./" * (rest // 2 - 1) + "./" + "/" * (rest % 2) + last


@contextlib.contextmanager
def user(uid, gid=None, groups=()):
    """As that user: the effective ids, by which the kernel decides."""
    gid = gid if gid is not None else G1
    os.setgroups(groups)
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups([])


def fork(function):
    """Runs it in another process; returns its pid."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            function()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return pid


def join(*pids):
    for pid in pids:
        _, status = os.waitpid(pid, 0)
        check(status == 0, f"status {status} of another process")


# --- times -----------------------------------------------------------------------------------------------------


def tick():
    """So long that a time taken afterwards is another."""
    time.sleep(0.012)


def times(path):
    s = os.lstat(path)
    return {"a": s.st_atime_ns, "m": s.st_mtime_ns, "c": s.st_ctime_ns}


class Times:
    """with Times({path: "mc", other: ""}): these times of path become now, mtime and ctime of the other stay. The access
    time is not looked at unless it is said ("a")."""

    def __init__(self, wanted):
        self.wanted = wanted

    def __enter__(self):
        self.before = {p: times(p) for p in self.wanted}
        tick()
        self.began = time.time_ns()

    def __exit__(self, kind, *rest):
        if kind:
            return
        for path, moved in self.wanted.items():
            now = times(path)
            for which in "mc" + ("a" if "a" in moved else ""):
                if which in moved:
                    check(self.began - 30_000_000 <= now[which] <= time.time_ns(),
                          f"{which}time of {path} is now (it is {now[which] - self.began} ns from the call)")
                    check(now[which] > self.before[path][which], f"{which}time of {path} moves on")
                else:
                    equal(now[which], self.before[path][which], f"{which}time of {path} stays")


# --- what most calls with a path have in common ----------------------------------------------------------------


def path_errors(call, creates=False, missing="ENOENT", needs="file", last_link=None, twice=False):
    """call(PATH): the errors of a path. creates: it makes PATH (else PATH is a thing of kind `needs`). missing: what it says
    of a PATH that is not there. last_link: "ELOOP" if it follows a symlink that PATH is."""
    def there(path):
        if not creates:
            make(needs, path)
        return path

    def undo(path):
        if exists(path):
            (os.rmdir if kind_of(path) == "dir" else os.unlink)(path)

    for kind in ("file", "fifo", "block", "char", "socket"):
        make(kind, "notdir")
        expect("ENOTDIR", call, "notdir/x")
        expect("ENOTDIR", call, "notdir/x/y")
        os.unlink("notdir")

    expect("ENOENT", call, "no/x")
    expect("ENOENT", call, "")
    os.symlink("no", "dangling")
    expect("ENOENT", call, "dangling/x")
    os.unlink("dangling")
    if not creates:
        expect(missing, call, "no")

    for length in (1, NAME_MAX - 1, NAME_MAX):
        name = there("n" * length)
        expect("ok", call, name)
        undo(name)
        name = there("ü" * (length // 2) if length > 1 else "ü")
        expect("ok", call, name)
        undo(name)
    for length in (NAME_MAX + 1, NAME_MAX + 2, 1000):
        expect("ENAMETOOLONG", call, "n" * length)
        expect("ENAMETOOLONG", call, "n" * length + "/x")
    expect("ENAMETOOLONG", call, "ü" * 128)
    there("x")
    expect("ok", call, path_of(PATH_MAX - 1))
    undo("x")
    for length in (PATH_MAX, PATH_MAX + 1, 3 * PATH_MAX):
        expect("ENAMETOOLONG", call, path_of(length))

    os.symlink("loop2", "loop1")
    os.symlink("loop1", "loop2")
    os.symlink("self", "self")
    for loop in ("loop1", "loop2", "self"):
        expect("ELOOP", call, loop + "/x")
        if last_link:
            expect(last_link, call, loop)
    for loop in ("loop1", "loop2", "self"):
        os.unlink(loop)
    os.mkdir("deep")
    os.symlink("deep", "s0")
    for i in range(1, 41):
        os.symlink(f"s{i - 1}", f"s{i}")
    there("deep/x")
    expect("ok", call, "s39/x")  # 40 symlinks are followed, 41 are not
    undo("deep/x")
    expect("ELOOP", call, "s40/x")
    for i in range(41):
        os.unlink(f"s{i}")
    os.rmdir("deep")

    # A directory that may not be searched.
    os.mkdir("closed")
    os.mkdir("closed/in", 0o777)
    os.chown("closed", U1, G1)
    there("closed/x")
    for path in os.listdir("closed"):
        lchown("closed/" + path, U1, G1)
    for mode, ids in ((0o677, (U1, G1)), (0o767, (U2, G1)), (0o776, (U2, G2)), (0o000, (U1, G1)), (0o600, (U1, G1))):
        os.chmod("closed", mode)
        with user(*ids):
            expect("EACCES", call, "closed/in/y")
            expect("EACCES", call, "closed/y")
            expect("EACCES", call, "closed/x")
    os.chmod("closed", 0o755)
    undo("closed/x")
    os.rmdir("closed/in")
    os.rmdir("closed")


def needs_writable_parent(call, kind=None, prepare=None):
    """call(PATH) makes, or takes away, a thing in a directory: who may, by its permissions. kind: what has to be there."""
    os.mkdir("p")
    os.chown("p", U1, G1)
    cases = [(U1, G1, (), "u"), (U2, G1, (), "g"), (U2, G2, (G1,), "g"), (U2, G2, (G3,), "o")]
    shift = {"u": 6, "g": 3, "o": 0}
    for uid, gid, groups, which in cases:
        for bits in range(8):
            mode = 0o777 & ~(7 << shift[which]) | bits << shift[which]
            os.chmod("p", 0o777)
            if kind:
                make(kind, "p/x")
                lchown("p/x", uid, gid)
            os.chmod("p", mode)
            with user(uid, gid, groups):
                expect("ok" if bits & 3 == 3 else "EACCES", call, "p/x")
            os.chmod("p", 0o777)
            if exists("p/x"):
                (os.rmdir if kind_of("p/x") == "dir" else os.unlink)("p/x")
    os.rmdir("p")


def makes(call, kind, mode_counts=True):
    """call(PATH, MODE) makes a thing of that kind: its mode and owner, the parent's times, and it does not replace anything."""
    if mode_counts:
        for mode in (0o755, 0o644, 0o600, 0o151, 0o777, 0o000, 0o345):
            name = fresh()
            expect("ok", call, name, mode)
            equal(kind_of(name), kind, "kind")
            equal(perm(name), mode, f"mode of one made with {mode:o}")
            if kind in ("file", "fifo", "socket"):
                equal(os.lstat(name).st_size, 0, "size")
        for mask, mode, want in ((0o077, 0o151, 0o100), (0o070, 0o345, 0o305), (0o501, 0o345, 0o244), (0o022, 0o777, 0o755),
                                 (0o777, 0o777, 0)):
            name = fresh()
            os.umask(mask)
            expect("ok", call, name, mode)
            os.umask(0)
            equal(perm(name), want, f"mode {mode:o} under umask {mask:o}")

    # Owner and group: those of the caller; the group of a directory with S_ISGID.
    os.mkdir("own", 0o777)
    os.chmod("own", 0o777)
    for uid, gid in ((U1, G1), (U1, G2), (U2, G1)):
        name = "own/" + fresh()
        with user(uid, gid):
            expect("ok", call, name, 0o644)
        equal(owner(name), (uid, gid), "owner")
    os.chown("own", U3, G3)
    os.chmod("own", 0o2777)
    name = "own/" + fresh()
    with user(U1, G1):
        expect("ok", call, name, 0o644)
    equal(owner(name), (U1, G3), "owner in a directory with S_ISGID")
    equal(bool(perm(name) & stat.S_ISGID), kind == "dir", "S_ISGID is inherited by directories alone")
    name = "own/" + fresh()
    expect("ok", call, name, 0o644)
    equal(owner(name), (0, G3), "owner in a directory with S_ISGID, root")

    # Times: its own are now, those of the parent change.
    os.mkdir("t")
    links = nlink("t")
    with Times({"t": "mc"}):
        began = time.time_ns()
        expect("ok", call, "t/x", 0o644)
    now = time.time_ns()
    for which, value in times("t/x").items():
        check(began - 30_000_000 <= value <= now, f"{which}time of a new {kind} is now ({value - began} ns off)")
    equal(nlink("t/x"), 2 if kind == "dir" and directories_count() else 1, "links of a new one")
    equal(nlink("t"), links + (1 if kind == "dir" and directories_count() else 0), "links of the parent")
    with Times({"t": ""}):
        expect("EEXIST", call, "t/x", 0o644)

    for there in KINDS:
        make(there, "old")
        before = os.lstat("old")
        with Times({".": "", "old": ""}):
            expect("EEXIST" if kind != "socket" else "EADDRINUSE|EEXIST", call, "old", 0o644)
        equal(os.lstat("old")[:6], before[:6], f"the {there} that was there")
        (os.rmdir if there == "dir" else os.unlink)("old")
    expect("EEXIST" if kind != "socket" else "EADDRINUSE|EEXIST", call, ".", 0o644)
    expect("EEXIST" if kind != "socket" else "EADDRINUSE|EEXIST", call, "..", 0o644)

    # In a directory that was removed nothing is made.
    os.mkdir("gone")
    here = os.open(".", os.O_RDONLY)
    os.chdir("gone")
    os.rmdir("../gone")
    expect("ENOENT", call, "x", 0o644)
    os.fchdir(here)
    os.close(here)


counts = None


def directories_count():
    """Do a directory's links count its subdirectories? (They need not.)"""
    global counts
    if counts is None:
        os.mkdir("counting")
        counts = nlink("counting") == 2
        os.rmdir("counting")
    return counts


# --- running ---------------------------------------------------------------------------------------------------


def clear(path):
    def again(function, p, _):
        os.chmod(os.path.dirname(p), 0o700)
        function(p)
    shutil.rmtree(path, onerror=again)


def run(names):
    """Runs the functions test_*, each in a directory of its own; those that the command line names, if it names any."""
    global current, failed, count
    os.umask(0)
    chosen = sys.argv[1:]
    for name, function in list(names.items()):
        if not name.startswith("test_") or (chosen and name[5:] not in chosen):
            continue
        current = name[5:]
        os.mkdir(current, 0o755)
        here = os.open(".", os.O_RDONLY)
        os.chdir(current)
        try:
            function()
        except Exception:
            count += 1
            failed += 1
            print(f"not ok {count} - {current}: it ended early:\n{traceback.format_exc()}", flush=True)
        os.umask(0)
        os.seteuid(0)
        os.setegid(0)
        os.fchdir(here)
        os.close(here)
        try:
            clear(current)
        except OSError as e:
            count += 1
            failed += 1
            print(f"not ok {count} - {current}: what it made cannot be removed: {e}", flush=True)
    print(f"{count} assertions" + (f", {failed} failed" if failed else ""), flush=True)
    sys.exit(1 if failed or not count else 0)
