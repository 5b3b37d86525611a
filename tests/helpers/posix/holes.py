"""SEEK_HOLE, SEEK_DATA, posix_fallocate(3), fallocate(2) with its flags. A file system need not know of holes: then all is
data. It need not have a flag: then EOPNOTSUPP."""
import fs
from fs import *

ABSENT = "EOPNOTSUPP"


def pattern(size):
    return bytes(i % 251 + 1 for i in range(size))


def test_seek_in_a_file_of_data():
    put("a", b"x" * 100_000)
    f = os.open("a", os.O_RDONLY)
    equal(os.lseek(f, 0, os.SEEK_DATA), 0, "the first data")
    equal(os.lseek(f, 99_999, os.SEEK_DATA), 99_999, "data at the last byte")
    equal(os.lseek(f, 0, os.SEEK_HOLE), 100_000, "the hole that the end is")
    equal(os.lseek(f, 5000, os.SEEK_HOLE), 100_000, "the same from within")
    for where in (100_000, 100_001, 1 << 40):
        expect("ENXIO", os.lseek, f, where, os.SEEK_DATA)
        expect("ENXIO", os.lseek, f, where, os.SEEK_HOLE)
    expect("ENXIO|EINVAL", os.lseek, f, -1, os.SEEK_DATA)
    os.close(f)
    create("empty")
    f = os.open("empty", os.O_RDONLY)
    expect("ENXIO", os.lseek, f, 0, os.SEEK_DATA)
    expect("ENXIO", os.lseek, f, 0, os.SEEK_HOLE)
    os.close(f)


def walk(path):
    """The stretches of data, as the file system says."""
    f = os.open(path, os.O_RDONLY)
    size, at, found = os.fstat(f).st_size, 0, []
    while at < size:
        try:
            data = os.lseek(f, at, os.SEEK_DATA)
        except OSError as e:
            if e.errno != errno.ENXIO:
                raise
            break
        hole = os.lseek(f, data, os.SEEK_HOLE)
        if not at <= data < hole <= size:
            raise AssertionError(f"data at {data}, hole at {hole}, from {at}, size {size}")
        found.append((data, hole))
        at = hole
    os.close(f)
    return found


def test_seek_in_a_sparse_file():
    f = os.open("a", os.O_RDWR | os.O_CREAT, 0o644)
    pieces = [(1 << 20, 5000), (5 << 20, 1), ((9 << 20) + 77, 100_000)]
    for at, length in pieces:
        os.pwrite(f, b"D" * length, at)
    ftruncate(f, 20 << 20)
    os.fsync(f)
    os.close(f)
    for again in range(2):
        stretches = walk("a")
        for at, length in pieces:  # whatever is said to be a hole must read as zeros, and data must not be in one
            check(any(s <= at and at + length <= e for s, e in stretches), f"the data at {at} is in no hole")
        content, last = get("a"), 0
        for s, e in stretches + [(20 << 20, 20 << 20)]:
            check(not any(content[last:s]), f"what is said to be a hole, {last} to {s}, is zeros")
            last = e
        if again == 0:
            opens("a", os.O_RDWR)


def test_posix_fallocate():
    for size, offset, length in ((0, 0, 100), (0, 1000, 5), (7, 0, 5), (7, 3, 100), (100_000, 50_000, 1000), (5, 8000, 70_000)):
        data = pattern(size)
        put("a", data)
        f = os.open("a", os.O_RDWR)
        with Times({"a": "mc" if offset + length > size else "", ".": ""} if offset + length > size else {".": ""}):
            expect("ok", os.posix_fallocate, f, offset, length)
        want = data + bytes(max(0, offset + length - size))
        equal(os.fstat(f).st_size, len(want), "size")
        check(get("a") == want, "content")
        os.close(f)
    f = os.open("a", os.O_RDWR)
    expect("EINVAL", os.posix_fallocate, f, 0, 0)
    expect("EINVAL", os.posix_fallocate, f, -1, 5)
    expect("EINVAL", os.posix_fallocate, f, 0, -5)
    os.close(f)
    f = os.open("a", os.O_RDONLY)
    expect("EBADF", os.posix_fallocate, f, 0, 10)
    os.close(f)
    os.mkdir("d")
    make("fifo", "p")
    f = os.open("p", os.O_RDWR | os.O_NONBLOCK)
    expect("ESPIPE|ENODEV", os.posix_fallocate, f, 0, 10)
    os.close(f)


def changed_by(mode, offset, length, want):
    """fallocate with that mode on a file of data: the content is `want` of the old one, or it is not supported and nothing changed."""
    data = pattern(50_000)
    put("a", data)
    f = os.open("a", os.O_RDWR)
    tick()
    before = times("a")
    got, _ = outcome(fallocate, f, mode, offset, length)
    check(got in ("ok", ABSENT), f"fallocate mode {mode} at {offset}+{length}: {got}")
    wanted = want(data) if got == "ok" else data
    equal(os.fstat(f).st_size, len(wanted), f"size after mode {mode} at {offset}+{length}")
    check(os.pread(f, 1 << 20, 0) == wanted, f"content after mode {mode} at {offset}+{length}, same handle")
    check(get("a") == wanted, f"content after mode {mode} at {offset}+{length}")
    if got == "ok" and wanted != data:
        check(times("a")["c"] > before["c"] and times("a")["m"] > before["m"], "mtime and ctime move on")
    os.fsync(f)
    os.close(f)
    check(get("a") == wanted, f"content after close")
    return got == "ok"


RANGES = ((0, 1), (0, 4096), (100, 50), (4000, 200), (4096, 8192), (5000, 20_000), (49_999, 1), (40_000, 100_000), (0, 50_000))


def test_punch_hole():
    for offset, length in RANGES + ((60_000, 10), (0, 1 << 40)):
        def want(data):
            end = min(len(data), offset + length)
            return data[:offset] + bytes(max(0, end - offset)) + data[end:] if offset < len(data) else data
        changed_by(PUNCH_HOLE | KEEP_SIZE, offset, length, want)
    put("a", b"x")
    f = os.open("a", os.O_RDWR)
    expect("EOPNOTSUPP|EINVAL", fallocate, f, PUNCH_HOLE, 0, 1)
    os.close(f)


def test_zero_range():
    for offset, length in RANGES:
        def zeroed(data, keep):
            end = offset + length
            new = data[:offset] + bytes(end - offset) + data[end:]
            return new[:len(data)] if keep else new
        changed_by(ZERO_RANGE, offset, length, lambda d: zeroed(d, False))
        changed_by(ZERO_RANGE | KEEP_SIZE, offset, length, lambda d: zeroed(d, True))


def test_keep_size():
    for offset, length in ((0, 10), (49_000, 100_000), (100_000, 5000)):
        changed_by(KEEP_SIZE, offset, length, lambda d: d)


def test_collapse_and_insert():
    """Nobody needs these; whoever has them has them right."""
    changed_by(COLLAPSE_RANGE, 4096, 8192, lambda d: d[:4096] + d[12288:])
    changed_by(INSERT_RANGE, 4096, 8192, lambda d: d[:4096] + bytes(8192) + d[4096:])


def test_errors():
    put("a", b"x" * 100)
    f = os.open("a", os.O_RDWR)
    for mode in (0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE):
        expect("EINVAL", fallocate, f, mode, 0, 0)
        expect("EINVAL", fallocate, f, mode, -1, 10)
        expect("EINVAL", fallocate, f, mode, 0, -1)
        expect("EFBIG|EINVAL", fallocate, f, mode, (1 << 63) - 5, 100)
    expect("EOPNOTSUPP|EINVAL", fallocate, f, 1 << 12, 0, 10)
    os.close(f)
    f = os.open("a", os.O_RDONLY)
    expect("EBADF", fallocate, f, 0, 0, 10)
    os.close(f)
    equal(get("a"), b"x" * 100, "content")


def test_sparse_copy():
    """cp --sparse=always and tar -S make use of it."""
    import subprocess
    f = os.open("a", os.O_RDWR | os.O_CREAT, 0o644)
    os.pwrite(f, b"D" * 10_000, 3 << 20)
    ftruncate(f, 8 << 20)
    os.close(f)
    subprocess.run("cp --sparse=always a b && cp --sparse=never a c && tar -cSf t a && mkdir x && tar -xSf t -C x", shell=True, check=True)
    for copy in ("b", "c", "x/a"):
        check(get(copy) == get("a"), f"content of {copy}")
    check(os.stat("b").st_blocks <= os.stat("c").st_blocks, "a sparse copy takes no more room than a full one")


fs.run(globals())
