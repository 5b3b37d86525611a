"""opendir(3), readdir(3), telldir(3), seekdir(3), rewinddir(3), getdents(2): many entries, and changes meanwhile"""
import fs
from fs import *

MANY = 100_000 if LONG else int(os.environ.get("BH_ENTRIES", 20_000))


class dirent(ctypes.Structure):
    _fields_ = [("ino", ctypes.c_uint64), ("off", ctypes.c_int64), ("reclen", ctypes.c_ushort), ("type", ctypes.c_ubyte),
                ("name", ctypes.c_char * 256)]


libc.opendir.restype = ctypes.c_void_p
libc.readdir64.restype = ctypes.POINTER(dirent)
libc.telldir.restype = ctypes.c_long


class Dir:
    def __init__(self, path):
        self.p = ctypes.c_void_p(libc.opendir(b(path)))

    def read(self):
        ctypes.set_errno(0)
        e = libc.readdir64(self.p)
        if not e:
            if ctypes.get_errno():
                raise OSError(ctypes.get_errno(), "readdir")
            return None
        return os.fsdecode(e.contents.name)

    def rest(self):
        names = []
        while (name := self.read()) is not None:
            names.append(name)
        return names

    def tell(self):
        return libc.telldir(self.p)

    def seek(self, where):
        libc.seekdir(self.p, ctypes.c_long(where))

    def rewind(self):
        libc.rewinddir(self.p)

    def close(self):
        libc.closedir(self.p)


def fill(path, count):
    os.mkdir(path)
    for i in range(count):
        os.close(os.open(f"{path}/f{i}", os.O_CREAT | os.O_WRONLY, 0o644))


def test_what_it_says():
    for kind in KINDS:
        make(kind, kind)
    os.mkdir("dir/below")
    types = {"file": 8, "dir": 4, "fifo": 1, "block": 6, "char": 2, "socket": 12, "symlink": 10}
    d = Dir(".")
    seen = {}
    while True:
        e = libc.readdir64(d.p)
        if not e:
            break
        seen[os.fsdecode(e.contents.name)] = (e.contents.ino, e.contents.type)
    d.close()
    equal(sorted(seen), sorted([".", ".."] + list(KINDS)), "names")
    for kind in KINDS:
        ino, kind_code = seen[kind]
        equal(ino, os.lstat(kind).st_ino, f"inode of a {kind}")
        check(kind_code in (types[kind], 0), f"d_type of a {kind}: {kind_code}")
    equal(seen["."][0], os.stat(".").st_ino, "inode of .")
    equal(seen[".."][0], os.stat("..").st_ino, "inode of ..")


def test_many():
    began = time.monotonic()
    fill("d", MANY)
    made = time.monotonic() - began
    began = time.monotonic()
    names = os.listdir("d")
    read = time.monotonic() - began
    equal(len(names), MANY, "entries")
    equal(len(set(names)), MANY, "different ones")
    equal(set(names) == {f"f{i}" for i in range(MANY)}, True, "the names")
    began = time.monotonic()
    total = sum(1 for e in os.scandir("d") if e.stat(follow_symlinks=False).st_size == 0)
    looked = time.monotonic() - began
    equal(total, MANY, "empty files")
    for i in range(0, MANY, MANY // 1000):
        os.unlink(f"d/f{i}")
    equal(len(os.listdir("d")), MANY - len(range(0, MANY, MANY // 1000)), "entries after some were removed")
    expect("ENOENT", os.stat, "d/f0")
    expect("ok", os.stat, "d/f1")
    expect("ENOTEMPTY", os.rmdir, "d")
    expect("ok", os.rename, "d", "e")
    equal(exists(f"e/f{MANY - 1}"), True, "an entry of the renamed directory")
    print(f"{MANY} entries: made in {made:.2f} s, listed in {read:.2f} s, stat of each in {looked:.2f} s")


def test_stable_under_change():
    """What was there all the time is returned exactly once, whatever else comes and goes; nothing is returned twice."""
    for rounds in range(3):
        fill("d", 3000)
        d = Dir("d")
        seen = [d.read() for _ in range(500)]
        for i in range(0, 3000, 3):
            os.unlink(f"d/f{i}")
        for i in range(1500):
            create(f"d/new{i}")
        for i in range(1, 3000, 300):
            os.rename(f"d/f{i}", f"d/renamed{i}")
        seen += d.rest()
        d.close()
        equal(len(seen), len(set(seen)), "names returned, and different ones")
        stayed = {f"f{i}" for i in range(3000) if i % 3 and i % 300 != 1}
        equal(len(stayed - set(seen)), 0, "names that were there all the time and were not returned")
        equal(set(os.listdir("d")), stayed | {f"new{i}" for i in range(1500)} | {f"renamed{i}" for i in range(1, 3000, 300)}, "names afterwards")
        clear("d")


def test_remove_while_reading():
    """As rm -r does: read some, remove them, read on."""
    fill("d", 5000)
    d = Dir("d")
    removed = 0
    while (name := d.read()) is not None:
        if name not in (".", ".."):
            os.unlink("d/" + name)
            removed += 1
    d.close()
    equal(removed, 5000, "files removed in one pass")
    equal(os.listdir("d"), [], "entries that are left")


def test_tell_and_seek():
    fill("d", 2000)
    d = Dir("d")
    marks = []
    while True:
        where = d.tell()
        name = d.read()
        if name is None:
            break
        marks.append((where, name))
    equal(len(marks), 2002, "entries")
    equal(len({m[0] for m in marks}), 2002, "positions that differ")
    for i in (0, 1, 2, 500, 1999, 2001, 777, 5):
        d.seek(marks[i][0])
        equal(d.read(), marks[i][1], f"the name at position {i}")
        if i < 2001:
            equal(d.read(), marks[i + 1][1], "the name after it")
    d.seek(marks[1000][0])
    equal(d.rest(), [m[1] for m in marks[1000:]], "the rest from a position")
    d.rewind()
    equal(d.rest(), [m[1] for m in marks], "all of it after rewinddir")
    create("d/later")
    d.rewind()
    equal("later" in d.rest(), True, "rewinddir sees what is new")
    os.unlink("d/later")
    d.rewind()
    equal("later" in d.rest(), False, "and what is gone")
    d.close()


def test_two_readers():
    fill("d", 3000)
    one, two = Dir("d"), Dir("d")
    a, c = [], []
    for i in range(3002):
        a.append(one.read())
        if i % 2:
            c.append(two.read())
    c += two.rest()
    equal((sorted(a), sorted(c)), (sorted(c), sorted(a)), "what two readers saw")
    one.close()
    two.close()


def test_small_buffers():
    fill("d", 300)
    f = os.open("d", os.O_RDONLY)
    buffer = ctypes.create_string_buffer(256)
    names = []
    while True:
        n = libc.syscall(217, f, buffer, 256)  # getdents64
        if n <= 0:
            break
        at = 0
        while at < n:
            length = int.from_bytes(buffer.raw[at + 16:at + 18], "little")
            names.append(buffer.raw[at + 19:at + length].split(b"\0")[0].decode())
            at += length
    equal(sorted(names), sorted([".", ".."] + [f"f{i}" for i in range(300)]), "names by small buffers")
    os.lseek(f, 0, os.SEEK_SET)
    expect("EINVAL", getdents, f, 10)
    os.close(f)
    create("a")
    f = os.open("a", os.O_RDONLY)
    expect("ENOTDIR", getdents, f, 1000)
    os.close(f)


def getdents(fd, size):
    ctypes.set_errno(0)
    if libc.syscall(217, fd, ctypes.create_string_buffer(max(size, 16)), size) < 0:
        raise OSError(ctypes.get_errno(), "getdents64")


def test_long_names():
    os.mkdir("d")
    names = [f"{i:03}" + "n" * 252 for i in range(300)] + [f"{i:03}" + "ü" * 126 for i in range(100)]
    for name in names:
        create("d/" + name)
    equal(sorted(os.listdir("d")), sorted(names), "names of 255 bytes")


def test_atime_and_times():
    os.mkdir("d")
    create("d/a")
    with Times({"d": ""}):
        os.listdir("d")
    expect("ENOTDIR", os.listdir, "d/a")
    expect("ENOENT", os.listdir, "no")


def test_by_several_processes():
    """Five make and remove names while one reads: no error, nothing twice."""
    fill("d", 500)

    def churn(who):
        def work():
            for i in range(400):
                create(f"d/{who}-{i}")
                if i % 2:
                    os.unlink(f"d/{who}-{i}")
                else:
                    os.rename(f"d/{who}-{i}", f"d/{who}+{i}")
        return work
    pids = [fork(churn(w)) for w in "abcde"]
    wrong = 0
    for _ in range(30):
        names = os.listdir("d")
        wrong += len(names) != len(set(names)) or not {f"f{i}" for i in range(500)} <= set(names)
    join(*pids)
    equal(wrong, 0, "listings with a name twice, or without one that was there all the time")
    equal(set(os.listdir("d")), {f"f{i}" for i in range(500)} | {f"{w}+{i}" for w in "abcde" for i in range(0, 400, 2)}, "names at the end")


fs.run(globals())
