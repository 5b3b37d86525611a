"""utimensat(2), futimens(3)"""
import fs
from fs import *

A, M = (1_000_000_000, 123_456_789), (1_234_567_890, 987_654_321)


def ns(t):
    return t[0] * 1_000_000_000 + t[1]


def set_both(path, follow=True):
    utimens(path, A, M, follow)


def test_every_kind():
    for kind in NOT_LINKS:
        make(kind, "a")
        for a, m in ((A, M), (M, A), ((0, 0), (0, 1)), ((1, 999_999_999), (2, 0))):
            with Times({".": ""}):
                began = time.time_ns()
                tick()
                expect("ok", utimens, "a", a, m)
            now = times("a")
            equal((now["a"], now["m"]), (ns(a), ns(m)), f"atime and mtime of a {kind}")
            check(now["c"] >= began, "ctime is now")
        (os.rmdir if kind == "dir" else os.unlink)("a")


def test_symlinks():
    create("a")
    os.symlink("a", "s")
    with Times({"s": ""}):
        expect("ok", utimens, "s", A, M)
    equal(times("a")["m"], ns(M), "mtime through a symlink")
    with Times({"a": ""}):
        expect("ok", utimens, "s", M, A, False)
    equal((times("s")["a"], times("s")["m"]), (ns(M), ns(A)), "of the symlink itself")
    os.symlink("nothing", "d")
    expect("ENOENT", utimens, "d", A, M)
    expect("ok", utimens, "d", A, M, False)
    equal(times("d")["m"], ns(M), "of a dangling one")


def test_now_and_omit():
    create("a")
    utimens("a", A, M)
    tick()
    began = time.time_ns()
    expect("ok", utimens, "a", "now", "omit")
    now = times("a")
    check(began - 30_000_000 <= now["a"] <= time.time_ns(), "UTIME_NOW as atime is now")
    equal(now["m"], ns(M), "UTIME_OMIT leaves the mtime")
    check(now["c"] >= began - 30_000_000, "ctime is now")
    utimens("a", A, M)
    tick()
    began = time.time_ns()
    expect("ok", utimens, "a", "omit", "now")
    now = times("a")
    equal(now["a"], ns(A), "UTIME_OMIT leaves the atime")
    check(began - 30_000_000 <= now["m"] <= time.time_ns(), "UTIME_NOW as mtime is now")
    utimens("a", A, M)
    expect("ok", utimens, "a", "omit", (7, 8))
    equal((times("a")["a"], times("a")["m"]), (ns(A), 7_000_000_008), "mtime alone")
    expect("ok", utimens, "a", (9, 10), "omit")
    equal((times("a")["a"], times("a")["m"]), (9_000_000_010, 7_000_000_008), "atime alone")
    with Times({"a": ""}):
        expect("ok", utimens, "a", "omit", "omit")
    equal(times("a")["a"], 9_000_000_010, "atime after both were omitted")
    for how in (("now", "now"), (None, None)):
        utimens("a", A, M)
        began = time.time_ns()
        expect("ok", utimens, "a", *how)
        now = times("a")
        for which in "amc":
            check(began - 30_000_000 <= now[which] <= time.time_ns(), f"{which}time is now")
    check(abs(now["a"] - now["m"]) < 1_000_000_000, "both are of one moment")


def test_futimens():
    create("a")
    f = os.open("a", os.O_RDONLY)
    expect("ok", futimens, f, A, M)
    equal((times("a")["a"], times("a")["m"]), (ns(A), ns(M)), "atime and mtime")
    os.close(f)
    f = os.open("a", os.O_RDWR)
    os.write(f, b"data that may be written back later")
    futimens(f, A, M)
    os.close(f)
    equal(times("a")["m"], ns(M), "mtime that was set after a write, after close")
    f = os.open("a", os.O_RDWR)
    os.write(f, b"more")
    utimens("a", A, M)
    os.fsync(f)
    equal(times("a")["m"], ns(M), "the same, after fsync")
    os.write(f, b"again")
    os.close(f)
    check(times("a")["m"] > ns(M), "a write after that counts")


def test_range():
    """Before 1970, after 2038 and 2106: what the file system cannot have it clamps, and ours can."""
    create("a")
    os.mkdir("d")
    os.symlink("x", "s")
    for sec in (-1, -2, -86400, -2147483648, 2147483647, 2147483648, 4294967295, 4294967296, 5_000_000_000,
                9_000_000_000):
        for nsec in (0, 1, 999_999_999) if sec != -2147483648 else (0,):  # there ext4 begins
            for path in ("a", "d", "s"):
                expect("ok", utimens, path, (sec, nsec), (sec, nsec), False)
                equal((times(path)["a"], times(path)["m"]), (ns((sec, nsec)),) * 2, f"times of {path}")


def test_far_away():
    """Later than the file system can tell is the last that it can tell, not something else."""
    create("a")
    for sec in (15_032_385_535, 1 << 36, 1 << 40, (1 << 62)):
        utimens("a", (sec, 0), (sec, 0))
        got = int(os.lstat("a").st_mtime)
        check(9_000_000_000 <= got <= sec, f"mtime {sec} became {got}")
        utimens("a", (-sec, 0), (-sec, 0))
        got = int(os.lstat("a").st_mtime)
        check(-sec <= got <= -2147483648, f"mtime {-sec} became {got}")


def test_errors():
    path_errors(set_both, needs="file", last_link="ELOOP")


def test_errors_of_a_symlink_itself():
    path_errors(lambda p: set_both(p, False), needs="symlink")


def test_bad_arguments():
    create("a")
    with Times({"a": ""}):
        for bad in ((0, 1_000_000_000), (0, -1), (0, 2_000_000_000)):
            expect("EINVAL", utimens, "a", bad, (0, 0))
            expect("EINVAL", utimens, "a", (0, 0), bad)
    expect("EINVAL", raw, "utimensat", AT_FDCWD, b"a", None, 0x8000)


def test_permission():
    """Now: who may write, or the owner. Anything else: the owner alone."""
    for kind in ("file", "dir"):
        make(kind, "a")
        os.chown("a", U1, G1)
        for mode in (0o000, 0o444, 0o222, 0o666, 0o777):
            os.chmod("a", mode)
            for uid, gid, groups in ((U1, G1, ()), (U2, G1, ()), (U2, G2, (G1,)), (U3, G3, ())):
                mine = uid == U1
                with user(uid, gid, groups):
                    for how in (("now", "now"), (None, None)):
                        expect("ok" if mine or mode & 2 else "EACCES", utimens, "a", *how)
                    for how in ((A, M), ("now", "omit"), ("omit", "now"), (A, "omit"), ("omit", M), ("now", M)):
                        expect("ok" if mine else "EPERM", utimens, "a", *how)
                    expect("ok", utimens, "a", "omit", "omit")
        (os.rmdir if kind == "dir" else os.unlink)("a")


def test_stays():
    """What was set stays through reads of attributes, opening, other changes."""
    put("a", b"content")
    utimens("a", A, M)
    for action in (lambda: os.stat("a"), lambda: os.rename("a", "b"), lambda: os.rename("b", "a"), lambda: os.chmod("a", 0o600),
                   lambda: link("a", "c"), lambda: os.unlink("c"), lambda: opens("a", os.O_RDWR), lambda: os.access("a", os.R_OK)):
        action()
        if exists("a"):
            equal((times("a")["a"], times("a")["m"]), (ns(A), ns(M)), "atime and mtime")
    get("a")
    equal(times("a")["m"], ns(M), "mtime after a read")


fs.run(globals())
