"""mmap(2), msync(2), munmap(2) of files, shared and private, beside read and write"""
import mmap

import fs
from fs import *

PAGE = 4096


def mapped(path, length=0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE, how=os.O_RDWR, offset=0):
    f = os.open(path, how)
    try:
        return mmap.mmap(f, length, flags=flags, prot=prot, offset=offset)
    finally:
        os.close(f)


def test_reads():
    data = bytes(i % 251 for i in range(3 * PAGE + 100))
    put("a", data)
    for flags in (mmap.MAP_SHARED, mmap.MAP_PRIVATE):
        m = mapped("a", flags=flags, prot=mmap.PROT_READ, how=os.O_RDONLY)
        check(m[:] == data, "content")
        m.close()
    m = mapped("a", offset=2 * PAGE, length=PAGE)
    check(m[:] == data[2 * PAGE:3 * PAGE], "content from an offset")
    m.close()


def test_writes():
    put("a", bytes(5 * PAGE))
    m = mapped("a")
    m[10:15] = b"hello"
    m[3 * PAGE:3 * PAGE + 3] = b"far"
    equal(get("a")[10:15], b"hello", "what was stored in memory, by read")
    f = os.open("a", os.O_RDWR)
    os.pwrite(f, b"W", 11)
    equal(m[10:15], b"hWllo", "what was written, in memory")
    expect("ok", m.flush)
    expect("ok", m.flush, PAGE, PAGE)
    tick()
    before = times("a")
    m[0:1] = b"x"
    m.flush()
    if file_system() != "tmpfs":  # which does not look
        check(times("a")["m"] > before["m"] and times("a")["c"] > before["c"], "mtime and ctime move on by a store and msync")
    m.close()
    equal(os.pread(f, 15, 0), b"x" + bytes(9) + b"hWllo", "content after munmap")
    os.fsync(f)
    os.close(f)
    equal(get("a")[3 * PAGE:3 * PAGE + 4], b"far\0", "content after close")


def test_lives_longer_than_the_handle_and_the_name():
    put("a", b"old" + bytes(PAGE))
    m = mapped("a")
    os.unlink("a")
    m[0:3] = b"new"
    m.flush()
    equal(m[0:3], b"new", "in memory, without handle and name")
    put("a", b"another")
    equal((m[0:3], get("a")), (b"new", b"another"), "beside a new file of that name")
    m.close()


def test_closed_handle_then_stores():
    """What is stored after the handle was closed counts, too."""
    put("a", bytes(2 * PAGE))
    m = mapped("a")
    for i in range(10):
        m[i * 100:i * 100 + 5] = b"store"
        opens("a", os.O_RDONLY)
    m.flush()
    m[5000:5005] = b"later"
    m.close()
    content = get("a")
    equal((content[900:905], content[5000:5005]), (b"store", b"later"), "content")


def test_private_is_private():
    put("a", b"content" + bytes(PAGE))
    m = mapped("a", flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE, how=os.O_RDONLY)
    m[0:3] = b"xyz"
    equal((m[0:7], get("a")[:7]), (b"xyztent", b"content"), "in memory and in the file")
    m.close()
    equal(get("a")[:7], b"content", "in the file afterwards")


def test_between_processes():
    put("a", bytes(PAGE))
    there, back = os.pipe(), os.pipe()

    def other():
        m = mapped("a")
        for i in range(100):
            os.read(there[0], 1)
            if m[0] != i % 256:
                os._exit(4)
            m[1] = i % 256
            os.write(back[1], b".")
    pid = fork(other)
    m = mapped("a")
    wrong = 0
    for i in range(100):
        m[0] = i % 256
        os.write(there[1], b".")
        os.read(back[0], 1)
        wrong += m[1] != i % 256
    equal(wrong, 0, "stores that the other process did not see")
    join(pid)
    m.close()


def test_beyond_the_end():
    """The rest of the last page is zeros, and what is stored there goes nowhere."""
    put("a", b"x" * 100)
    m = mapped("a")
    check(len(m) == 100, "length")
    m.close()
    f = os.open("a", os.O_RDWR)
    address = libc_mmap(f, PAGE)
    ctypes.memmove(address + 200, b"stray", 5)
    equal(os.fstat(f).st_size, 100, "size")
    os.ftruncate(f, 300)
    got = os.pread(f, 300, 0)
    check(got[:100] == b"x" * 100, "content")
    raw("munmap", ctypes.c_void_p(address), ctypes.c_size_t(PAGE))
    os.close(f)

    def touches_beyond():
        put("b", b"x")
        g = os.open("b", os.O_RDWR)
        where = libc_mmap(g, 3 * PAGE)
        ctypes.string_at(where + 2 * PAGE, 1)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        touches_beyond()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    equal(os.WTERMSIG(status), 7, "the signal for a page beyond the end (SIGBUS)")


def libc_mmap(fd, length):
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
    return libc.mmap(None, length, 3, 1, fd, 0)


def test_truncate_below():
    put("a", b"x" * (4 * PAGE))
    m = mapped("a")
    truncate("a", PAGE + 10)
    equal(m[PAGE:PAGE + 20], b"x" * 10 + bytes(10), "the last page after truncate")
    truncate("a", 4 * PAGE)
    check(m[PAGE + 10:] == bytes(3 * PAGE - 10), "grown again: zeros in memory")
    m[2 * PAGE:2 * PAGE + 3] = b"new"
    equal(get("a")[2 * PAGE:2 * PAGE + 3], b"new", "stored there")
    m.close()


def test_permission():
    put("a", bytes(PAGE))
    expect("EACCES", mapped, "a", how=os.O_RDONLY)
    expect("EACCES", mapped, "a", how=os.O_WRONLY)
    expect("ok", mapped, "a", prot=mmap.PROT_READ, how=os.O_RDONLY)
    expect("ok", mapped, "a", flags=mmap.MAP_PRIVATE, how=os.O_RDONLY)
    os.mkdir("d")
    f = os.open("d", os.O_RDONLY)
    expect("ENODEV|EACCES", lambda: mmap.mmap(f, PAGE, prot=mmap.PROT_READ))
    os.close(f)


def test_large():
    size = 40 << 20
    create("a")
    truncate("a", size)
    m = mapped("a")
    for i in range(0, size, 1 << 16):
        m[i:i + 8] = i.to_bytes(8, "little")
    m.flush()
    f = os.open("a", os.O_RDONLY)
    wrong = sum(os.pread(f, 8, i) != i.to_bytes(8, "little") for i in range(0, size, 1 << 16))
    equal(wrong, 0, "stores in a mapping of 40 MiB that read did not see")
    os.posix_fadvise(f, 0, 0, os.POSIX_FADV_DONTNEED)
    m.close()
    wrong = sum(os.pread(f, 8, i) != i.to_bytes(8, "little") for i in range(0, size, 1 << 16))
    equal(wrong, 0, "the same after munmap")
    os.close(f)


fs.run(globals())
