"""truncate(2), ftruncate(2)"""
import fs
from fs import *


def by_path(path, size=5):
    truncate(path, size)


def by_handle(path, size=5):
    f = os.open(path, os.O_RDWR)
    try:
        ftruncate(f, size)
    finally:
        os.close(f)


def pattern(size):
    return bytes((i * 7 + i // 251) % 255 + 1 for i in range(size))


def test_sizes():
    for call in (by_path, by_handle):
        for old in (0, 1, 511, 4095, 4096, 4097, 70_000):
            for new in (0, 1, 511, 4095, 4096, 4097, 70_000, 300_000):
                data = pattern(old)
                put("a", data)
                with Times({"a": "mc" if new != old else "", ".": ""} if new != old else {".": ""}):
                    expect("ok", call, "a", new)
                equal(os.stat("a").st_size, new, f"size {old} -> {new}")
                check(get("a") == (data + bytes(max(0, new - old)))[:new], f"content {old} -> {new}")


def test_shrunk_and_grown_again_is_zero():
    for call in (by_path, by_handle):
        for cut in (0, 1, 100, 4095, 4096, 4097, 10_000):
            data = pattern(20_000)
            put("a", data)
            call("a", cut)
            call("a", 20_000)
            check(get("a") == data[:cut] + bytes(20_000 - cut), f"content, cut to {cut} and grown again")
            call("a", cut)
            f = os.open("a", os.O_WRONLY)
            os.pwrite(f, b"end", 15_000)
            os.close(f)
            check(get("a") == data[:cut] + bytes(15_000 - cut) + b"end", f"content, cut to {cut} and written beyond")


def test_through_open_handles():
    put("a", pattern(10_000))
    f = os.open("a", os.O_RDWR)
    by_path("a", 100)
    equal(os.fstat(f).st_size, 100, "size through a handle")
    equal(os.pread(f, 1000, 0), pattern(100), "content through a handle")
    ftruncate(f, 50)
    equal(os.stat("a").st_size, 50, "size by path")
    os.unlink("a")
    ftruncate(f, 200)
    equal(os.pread(f, 1000, 0), pattern(50) + bytes(150), "of what has no name")
    os.close(f)


def test_large():
    create("a")
    for size in (1 << 31, (1 << 32) + 1, 1 << 40):
        by_path("a", size)
        equal(os.stat("a").st_size, size, "size")
        f = os.open("a", os.O_RDWR)
        equal(os.pread(f, 10, size - 5), bytes(5), "the last bytes")
        os.close(f)
    check(os.stat("a").st_blocks < 10_000, "a hole takes no room")
    f = os.open("a", os.O_RDWR)
    os.pwrite(f, b"far", (1 << 40) - 3)
    equal(os.pread(f, 10, (1 << 40) - 3), b"far", "written at 1 TiB")
    os.close(f)
    by_path("a", 10)
    equal(get("a"), bytes(10), "content after all that")
    got, _ = outcome(truncate, "a", (1 << 63) - 1)
    check(got in ("ok", "EFBIG", "EINVAL"), f"a size of 2^63-1: {got}")


def test_errors():
    path_errors(by_path, needs="file", last_link="ELOOP")


def test_bad_arguments():
    put("a", b"content")
    for size in (-1, -(1 << 40), -(1 << 63)):
        expect("EINVAL", by_path, "a", size)
        expect("EINVAL", by_handle, "a", size)
    equal(get("a"), b"content", "content")
    f = os.open("a", os.O_RDONLY)
    expect("EINVAL|EBADF", ftruncate, f, 1)
    os.close(f)
    expect("EBADF", ftruncate, f, 1)
    os.mkdir("d")
    expect("EISDIR", by_path, "d", 0)
    f = os.open("d", os.O_RDONLY)
    expect("EINVAL|EBADF|EISDIR", ftruncate, f, 0)
    os.close(f)
    for kind in ("fifo", "socket", "char", "block"):
        make(kind, kind)
        expect("EINVAL|ENXIO", truncate, kind, 0)
    os.symlink("a", "s")
    expect("ok", by_path, "s", 3)
    equal(get("a"), b"con", "through a symlink")


def test_permission():
    put("a", b"content")
    os.chown("a", U1, G1)
    for uid, gid, groups, shift in ((U1, G1, (), 6), (U2, G1, (), 3), (U2, G2, (G1,), 3), (U3, G3, (), 0)):
        for bits in range(8):
            for others in (0, 0o777):
                os.chmod("a", others & ~(7 << shift) | bits << shift)
                with user(uid, gid, groups):
                    expect("ok" if bits & 2 else "EACCES", by_path, "a", 7)
    os.chmod("a", 0o600)
    with user(U1, G1):
        f = os.open("a", os.O_RDWR)
    os.chmod("a", 0)
    with user(U1, G1):
        expect("ok", ftruncate, f, 2)  # the handle's rights count
    os.close(f)
    equal(os.stat("a").st_size, 2, "size")


def test_times_when_refused():
    put("a", b"content")
    os.chmod("a", 0o444)
    with Times({"a": ""}), user(U1, G1):
        expect("EACCES", by_path, "a", 3)
    with Times({"a": ""}):
        expect("EINVAL", by_path, "a", -1)


fs.run(globals())
