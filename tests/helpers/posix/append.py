"""write(2), pwrite(2), writev(2), O_APPEND, fsync(2): by one process and by several"""
import fs
from fs import *


def test_append_by_two():
    """Every line of two processes is there, whole and in each one's order."""
    lines = 2000

    def writer(name):
        def write():
            f = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            for i in range(lines):
                text = f"{name} {i} {'x' * (i % 97)}\n".encode()
                if os.write(f, text) != len(text):
                    os._exit(2)
            os.close(f)
        return write
    join(fork(writer("a")), fork(writer("b")), fork(writer("c")))
    got = get("log").decode().splitlines()
    equal(len(got), 3 * lines, "lines")
    for name in "abc":
        want = [f"{name} {i} {'x' * (i % 97)}" for i in range(lines)]
        equal([t for t in got if t.startswith(name + " ")] == want, True, f"the lines of {name}, in order")


def test_append_goes_to_the_end():
    put("a", b"0123456789")
    f = os.open("a", os.O_RDWR | os.O_APPEND)
    os.lseek(f, 2, os.SEEK_SET)
    os.write(f, b"abc")
    equal(get("a"), b"0123456789abc", "after lseek and write")
    equal(os.lseek(f, 0, os.SEEK_CUR), 13, "the position after it")
    truncate("a", 4)
    os.write(f, b"def")
    equal(get("a"), b"0123def", "after somebody else's truncate")
    g = os.open("a", os.O_WRONLY)
    os.pwrite(g, b"far", 20)
    os.write(f, b"!")
    equal(get("a"), b"0123def" + bytes(13) + b"far!", "after somebody else's write")
    os.pwrite(f, b"P", 0)  # Linux appends whatever the offset
    equal(get("a")[-1:], b"P", "pwrite with O_APPEND")
    os.close(g)
    os.close(f)


def test_writes():
    f = os.open("a", os.O_RDWR | os.O_CREAT, 0o644)
    with Times({"a": "mc", ".": ""}):
        equal(os.write(f, b"abc"), 3, "bytes")
    with Times({"a": ""}):
        equal(os.write(f, b""), 0, "bytes of an empty write")
        equal(os.pwrite(f, b"", 1000), 0, "bytes of an empty write beyond the end")
    equal(os.fstat(f).st_size, 3, "size")
    equal(os.writev(f, [b"de", b"", b"f" * 5000, b"g"]), 5003, "bytes of writev")
    equal(os.pread(f, 10, 0), b"abcdefffff", "content")
    equal(os.preadv(f, [bytearray(2), bytearray(3)], 1), 5, "bytes of preadv")
    equal(os.pwrite(f, b"end", 100_000), 3, "bytes beyond the end")
    equal(os.pread(f, 94_994, 5006), bytes(94_994), "the hole")
    equal(os.fstat(f).st_size, 100_003, "size")
    expect("EINVAL", os.pwrite, f, b"x", -1)
    expect("EINVAL", os.pread, f, 1, -1)
    equal(os.pread(f, 10, 100_003), b"", "read at the end")
    equal(os.pread(f, 10, 100_000), b"end", "read up to the end")
    os.close(f)
    expect("EFBIG|EINVAL", pwrite_far)


def pwrite_far():
    f = os.open("a", os.O_WRONLY)
    try:
        os.pwrite(f, b"xx", (1 << 63) - 2)
    finally:
        os.close(f)


def test_size_limit():
    import resource
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    create("a")
    f = os.open("a", os.O_RDWR)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, old[1]))
    try:
        equal(os.write(f, b"x" * 20_000), 10_000, "bytes up to the limit")
        expect("EFBIG", os.write, f, b"x")
        expect("EFBIG", ftruncate, f, 10_001)
        expect("ok", ftruncate, f, 9_999)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    equal(os.fstat(f).st_size, 9_999, "size")
    os.close(f)


def test_what_one_writes_another_reads():
    create("a")
    there, back = os.pipe(), os.pipe()

    def reader():
        f = os.open("a", os.O_RDONLY)
        for i in range(200):
            want = os.read(there[0], 1)
            size = 1 + (i * 37) % 9000
            if os.pread(f, size, i * 10_000) != want * size or os.stat("a").st_size != i * 10_000 + size:
                os._exit(3)
            os.write(back[1], b".")
    pid = fork(reader)
    f = os.open("a", os.O_WRONLY)
    for i in range(200):
        letter = bytes([65 + i % 26])
        os.pwrite(f, letter * (1 + (i * 37) % 9000), i * 10_000)
        os.write(there[1], letter)
        os.read(back[0], 1)
    os.close(f)
    join(pid)


def test_sync():
    f = os.open("a", os.O_RDWR | os.O_CREAT, 0o644)
    os.write(f, b"x" * 50_000)
    with Times({"a": ""}):
        for call in (os.fsync, os.fdatasync):
            expect("ok", call, f)
        expect("ok", raw, "sync_file_range", f, ctypes.c_int64(0), ctypes.c_int64(0), 7)
        expect("ok", raw, "syncfs", f)
    os.close(f)
    f = os.open(".", os.O_RDONLY)
    expect("ok", os.fsync, f)
    os.close(f)
    f = os.open("a", os.O_RDONLY)
    expect("ok", os.fsync, f)
    expect("ok", os.posix_fadvise, f, 0, 0, os.POSIX_FADV_DONTNEED)
    equal(os.read(f, 100_000), b"x" * 50_000, "content after the cache was let go")
    os.close(f)


def test_large_writes():
    data = bytes(range(256)) * 4 * 1024 * 9  # 9 MiB and an odd bit
    data += b"odd"
    f = os.open("a", os.O_RDWR | os.O_CREAT, 0o644)
    equal(os.write(f, data), len(data), "bytes of one large write")
    check(os.pread(f, len(data) + 5, 0) == data, "read in one")
    os.close(f)
    check(get("a") == data, "content")
    equal(os.stat("a").st_blocks * 512 >= len(data) // 2, True, "blocks")


def test_sendfile():
    put("a", bytes(range(256)) * 1000)
    a, c = os.open("a", os.O_RDONLY), os.open("c", os.O_RDWR | os.O_CREAT, 0o644)
    total = 0
    while total < 256_000:
        n = os.sendfile(c, a, total, 256_000 - total)
        check(n > 0, "sendfile goes on")
        if n <= 0:
            break
        total += n
    check(get("c") == get("a"), "content by sendfile")
    r, w = os.pipe()
    n = os.splice(a, w, 60_000, offset_src=1000)
    equal(os.read(r, n), get("a")[1000:1000 + n], "content by splice into a pipe")
    os.write(w, b"from a pipe")
    n = os.splice(r, c, 11, offset_dst=5)
    equal(os.pread(c, 11, 5), b"from a pipe", "content by splice from a pipe")


fs.run(globals())
