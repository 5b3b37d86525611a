"""copy_file_range(2)"""
import fs
from fs import *

SIZES = (0, 1, 100, 4096, 5000, 100_000)


def pattern(size, seed=0):
    return bytes((i * 11 + seed) % 253 + 1 for i in range(size))


def copy(a, c, length, at, to):
    """All of it, in as many calls as it takes; the number of bytes."""
    done = 0
    while done < length:
        n = os.copy_file_range(a, c, length - done, at + done, to + done)
        if n == 0:
            break
        done += n
    return done


def test_between_files():
    for size in SIZES:
        for at, length, to in ((0, size, 0), (0, size // 2, 10), (size // 3, size, 0), (1, 4096, 5000), (0, 3, 200_000), (size, 10, 0)):
            source, old = pattern(size), pattern(6000, 5)
            put("a", source)
            put("c", old)
            a, c = os.open("a", os.O_RDONLY), os.open("c", os.O_RDWR)
            n = expect("ok", copy, a, c, length, at, to)
            piece = source[at:at + length]
            equal(n, len(piece), f"bytes of {at}+{length} of {size}")
            want = old
            if piece:
                want = (old + bytes(max(0, to - len(old))))[:to] + piece + old[to + len(piece):]
            check(os.pread(c, 1 << 20, 0) == want, f"content, {at}+{length} of {size} to {to}")
            check(get("a") == source, "the source")
            os.close(a)
            os.close(c)
            check(get("c") == want, "content after close")


def test_within_one_file():
    data = pattern(100_000)
    put("a", data)
    f = os.open("a", os.O_RDWR)
    equal(expect("ok", copy, f, f, 10_000, 0, 50_000), 10_000, "bytes")
    check(get("a") == data[:50_000] + data[:10_000] + data[60_000:], "content")
    equal(expect("ok", copy, f, f, 500, 99_500, 100_000), 500, "bytes beyond the end")
    equal(os.fstat(f).st_size, 100_500, "size")
    expect("EINVAL", os.copy_file_range, f, f, 1000, 0, 500)
    os.close(f)


def test_positions_and_times():
    put("a", pattern(1000))
    create("c")
    a, c = os.open("a", os.O_RDONLY), os.open("c", os.O_RDWR)
    os.lseek(a, 100, os.SEEK_SET)
    with Times({"c": "mc", "a": "", ".": ""}):
        n = os.copy_file_range(a, c, 200)
    equal((n, os.lseek(a, 0, os.SEEK_CUR), os.lseek(c, 0, os.SEEK_CUR)), (200, 300, 200), "positions")
    n = os.copy_file_range(a, c, 50, offset_src=0)
    equal((n, os.lseek(a, 0, os.SEEK_CUR), os.lseek(c, 0, os.SEEK_CUR)), (50, 300, 250), "positions with an offset given")
    check(get("c") == pattern(1000)[100:300] + pattern(1000)[:50], "content")
    equal(os.copy_file_range(a, c, 100, offset_src=1000), 0, "bytes from the end")
    os.close(a)
    os.close(c)


def test_errors():
    put("a", b"content")
    create("c")
    os.mkdir("d")
    make("fifo", "p")
    a, c, d, p = (os.open(x, f) for x, f in (("a", os.O_RDONLY), ("c", os.O_RDWR), ("d", os.O_RDONLY), ("p", os.O_RDWR)))
    append = os.open("c", os.O_WRONLY | os.O_APPEND)
    write_only = os.open("a", os.O_WRONLY)
    expect("EBADF", os.copy_file_range, a, a, 5, 0, 100)
    expect("EBADF", os.copy_file_range, write_only, c, 5, 0, 0)
    expect("EBADF", os.copy_file_range, a, append, 5, 0)
    expect("EISDIR", os.copy_file_range, d, c, 5, 0, 0)
    expect("EINVAL", os.copy_file_range, p, c, 5)
    for f in (a, c, d, p, append, write_only):
        os.close(f)
    equal((get("a"), get("c")), (b"content", b""), "content")


def test_set_id_bits_go():
    put("a", b"content")
    put("c", b"old")
    os.chmod("c", 0o6777)
    with user(U1, G1):
        a, c = os.open("a", os.O_RDONLY), os.open("c", os.O_RDWR)
        os.copy_file_range(a, c, 5, 0, 0)
        os.close(a)
        os.close(c)
    equal(perm("c"), 0o777, "mode")


def test_a_copy_is_a_copy():
    put("a", pattern(50_000))
    create("c")
    a, c = os.open("a", os.O_RDWR), os.open("c", os.O_RDWR)
    copy(a, c, 50_000, 0, 0)
    os.pwrite(a, b"changed", 1000)
    check(get("c") == pattern(50_000), "the copy after a change of the source")
    os.pwrite(c, b"too", 2000)
    check(os.pread(a, 3, 2000) == pattern(50_000)[2000:2003], "the source after a change of the copy")
    os.close(a)
    os.close(c)


def test_many_sizes_with_cp():
    import subprocess
    os.mkdir("from")
    for size in (0, 1, 4095, 4096, 4097, 131_072, 1_000_003):
        put(f"from/{size}", pattern(size, size))
    for how in ("--reflink=auto", "--reflink=never", "--sparse=always"):
        subprocess.run(["cp", "-a", how, "from", f"to{how}"], check=True)
        equal(subprocess.run(["diff", "-r", "from", f"to{how}"], capture_output=True).stdout, b"", f"differences after cp {how}")
    got = subprocess.run(["cp", "--reflink=always", "from/1", "r"], capture_output=True).returncode
    check(got == 0 and get("r") == get("from/1") or got != 0, "a reflink is right, or refused")


fs.run(globals())
