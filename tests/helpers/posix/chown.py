"""chown(2), lchown(2), fchown(2)"""
import fs
from fs import *


def chown(path, uid=U2, gid=G2):
    os.chown(path, uid, gid)


def remove(path):
    (os.rmdir if kind_of(path) == "dir" else os.unlink)(path)


def test_by_root():
    for kind in NOT_LINKS:
        make(kind, "a")
        mine = (0, 0)
        for uid, gid in ((U1, G1), (U2, -1), (-1, G2), (0, 0), (U3, G3), (4294967294, 4294967294), (65534, 65534), (-1, -1), (1, 2)):
            mine = (mine[0] if uid == -1 else uid, mine[1] if gid == -1 else gid)
            with Times({".": "", "a": "c"} if (uid, gid) != (-1, -1) else {".": ""}):
                expect("ok", chown, "a", uid, gid)
            equal(owner("a"), mine, f"owner after chown {uid}:{gid}")
        os.symlink("a", "s")
        with Times({"s": "", "a": "c"}):
            expect("ok", chown, "s", U1, G1)
        equal((owner("a"), owner("s")), ((U1, G1), (0, 0)), "through a symlink")
        with Times({"s": "c", "a": ""}):
            expect("ok", lchown, "s", U2, G2)
        equal((owner("a"), owner("s")), ((U1, G1), (U2, G2)), "of a symlink itself")
        os.unlink("s")
        with Times({"a": "c"}):
            expect("ok", lchown, "a", U3, G3)
        equal(owner("a"), (U3, G3), "by lchown")
        remove("a")


def test_fchown():
    for kind in ("file", "dir"):
        make(kind, "a")
        f = os.open("a", os.O_RDONLY)
        with Times({"a": "c"}):
            expect("ok", os.fchown, f, U1, G1)
        equal(owner("a"), (U1, G1), "owner")
        remove("a")
        expect("ok", os.fchown, f, U2, -1)
        s = os.fstat(f)
        equal((s.st_uid, s.st_gid), (U2, G1), "owner of what has no name")
        os.close(f)


def test_errors():
    for kind in ("file", "dir"):
        os.mkdir(kind)
        os.chdir(kind)
        path_errors(chown, needs=kind, last_link="ELOOP")
        os.chdir("..")


def test_errors_of_lchown():
    path_errors(lambda p: lchown(p, U2, G2), needs="symlink")


def test_dangling_symlink():
    os.symlink("nothing", "s")
    expect("ENOENT", chown, "s", U1, G1)
    expect("ok", lchown, "s", U1, G1)
    equal(owner("s"), (U1, G1), "owner")


def test_by_the_owner():
    """He may give the file to a group that he is in; nothing else."""
    for kind in KINDS:
        make(kind, "a")
        lchown("a", U1, G1)
        with user(U1, G1, (G2,)):
            for uid, gid, want in ((-1, G2, "ok"), (U1, G1, "ok"), (U1, G2, "ok"), (-1, G1, "ok"), (-1, G3, "EPERM"), (U1, G3, "EPERM"),
                                   (U2, -1, "EPERM"), (U2, G1, "EPERM"), (0, -1, "EPERM"), (-1, 0, "EPERM"), (-1, -1, "ok")):
                before = owner("a")
                with Times({} if want == "ok" else {"a": ""}):
                    expect(want, lchown, "a", uid, gid)
                equal(owner("a"), (before[0], before[1] if want != "ok" or gid == -1 else gid), f"owner of a {kind} after {uid}:{gid}")
        remove("a")


def test_by_others():
    for kind in KINDS:
        make(kind, "a")
        lchown("a", U1, G1)
        for uid, gid, groups in ((U2, G1, ()), (U2, G2, (G1,)), (U3, G3, ())):
            with user(uid, gid, groups), Times({"a": ""}):
                for to in ((uid, -1), (-1, gid), (uid, gid), (U1, gid), (-1, G2)):
                    expect("EPERM", lchown, "a", *to)
        equal(owner("a"), (U1, G1), "owner")
        remove("a")


def test_set_id_bits_go():
    """chown takes S_ISUID away, and S_ISGID where the group may execute; directories keep them."""
    for mode, want in ((0o6755, 0o755), (0o4755, 0o755), (0o2755, 0o755), (0o6777, 0o777), (0o7111, 0o1111), (0o4644, 0o644), (0o755, 0o755)):
        for who in (0, U1):
            for how in (("uid", U1, -1), ("gid", -1, G2), ("both", U1, G2)):
                create("a")
                os.chown("a", U1, G1)
                os.chmod("a", mode)
                with user(who, G1, (G2,)):
                    expect("ok", lchown, "a", how[1], how[2])
                equal(perm("a"), want, f"mode {mode:o} after chown of {how[0]} by {who}")
                os.unlink("a")
    os.mkdir("d")
    os.chmod("d", 0o6755)
    os.chown("d", U1, G1)
    equal(perm("d"), 0o6755, "mode of a directory after chown by root")
    for kind in ("file",):
        make(kind, "a")
        os.chown("a", U1, G1)
        os.chmod("a", 0o2745)
        os.chown("a", U1, G2)
        check(perm("a") in (0o2745, 0o745), "S_ISGID without execution by the group")


def test_set_id_bits_of_what_is_no_file():
    for kind in NOT_LINKS:
        if kind == "dir":
            continue
        make(kind, "a")
        os.chmod("a", 0o6755)
        os.chown("a", U1, G1)
        equal(perm("a"), 0o755, f"mode of a {kind} after chown by root")
        os.unlink("a")


def test_chown_to_nobody_else():
    """chown(-1, -1) takes set-id bits away, if the caller may."""
    for who, goes in ((0, True), (U1, True), (U2, False)):
        create("a")
        os.chown("a", U1, G1)
        os.chmod("a", 0o4755)
        with user(who, G1):
            expect("ok" if goes else "EPERM", os.chown, "a", -1, -1)
        equal(perm("a"), 0o755 if goes else 0o4755, f"mode after chown(-1, -1) by {who}")
        os.chmod("a", 0o755)
        with user(who, G1):
            expect("ok", os.chown, "a", -1, -1)
        os.unlink("a")


def test_new_owner_has_the_rights():
    create("a", 0o600)
    with user(U1, G1):
        expect("EACCES", opens, "a", os.O_RDONLY)
    os.chown("a", U1, G1)
    with user(U1, G1):
        expect("ok", opens, "a", os.O_RDWR)
    os.chown("a", U2, G1)
    with user(U1, G1):
        expect("EACCES", opens, "a", os.O_RDONLY)
    os.chmod("a", 0o640)
    with user(U1, G1):
        expect("ok", opens, "a", os.O_RDONLY)
        expect("EACCES", opens, "a", os.O_WRONLY)


fs.run(globals())
