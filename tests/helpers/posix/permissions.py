"""Who may do what, by the permission bits of files and directories: one class of users decides, the first that fits."""
import subprocess

import fs
from fs import *

# uid, gid, supplementary groups, the shift of the bits that count for him; files are U1's and G1's
USERS = ((U1, G1, (), 6), (U1, G2, (), 6), (U2, G1, (), 3), (U2, G2, (G1,), 3), (U2, G2, (G3, G1, 5), 3), (U3, G3, (), 0),
         (U3, G2, (G3,), 0))


def each():
    """Each user with each combination of his bits, those of the others all set and none set: (user, bits, mode)."""
    for uid, gid, groups, shift in USERS:
        for bits in range(8):
            for others in (0, 0o777):
                yield (uid, gid, groups), bits, others & ~(7 << shift) | bits << shift


def test_access():
    for kind in ("file", "dir", "fifo", "socket"):
        make(kind, "a")
        os.chown("a", U1, G1)
        for who, bits, mode in each():
            os.chmod("a", mode)
            with user(*who):
                for ask in range(8):
                    equal(os.access("a", ask, effective_ids=True), bits & ask == ask, f"access {ask} of a {kind} with mode {mode:o} by {who}")
        (os.rmdir if kind == "dir" else os.unlink)("a")


def test_directories():
    """r: its names; x: what is in it; w and x: changes."""
    os.mkdir("d")
    create("d/f", 0o666)
    os.chmod("d/f", 0o666)
    os.mkdir("d/e", 0o777)
    os.chown("d", U1, G1)
    for path in ("d/f", "d/e"):
        os.chown(path, U1, G1)
    for who, bits, mode in each():
        os.chmod("d", mode)
        r, w, x = bits & 4, bits & 2, bits & 1

        def wants(may):
            return "ok" if may else "EACCES"
        with user(*who):
            expect(wants(r), os.listdir, "d")
            expect(wants(x), os.stat, "d/f")
            expect(wants(x), opens, "d/f", os.O_RDWR)
            expect(wants(x), os.readlink, "d/f") if not x else expect("EINVAL", os.readlink, "d/f")
            expect(wants(x) if x == 0 else "ENOENT", os.stat, "d/no")
            expect(wants(w and x), os.mkdir, "d/m")
            expect(wants(w and x), os.rmdir, "d/m") if w and x else None
            expect(wants(w and x), os.rename, "d/f", "d/g")
            expect(wants(w and x), os.rename, "d/g", "d/f") if w and x else None
            here = os.open("/", os.O_RDONLY)
            expect(wants(x), enter_and_leave, "d")
            os.close(here)


def enter_and_leave(path):
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(path)
        os.fchdir(here)
    finally:
        os.close(here)


def test_root():
    os.mkdir("d", 0)
    os.chown("d", U1, G1)
    for call in (lambda: create("d/a", 0), lambda: opens("d/a", os.O_RDWR), lambda: os.rename("d/a", "d/b"), lambda: os.unlink("d/b"),
                 lambda: os.listdir("d"), lambda: os.chmod("d", 0o001), lambda: os.stat("d/.")):
        expect("ok", call)
    create("f", 0)
    equal(os.access("f", os.R_OK | os.W_OK), True, "access of root to a file without any right")
    equal(os.access("f", os.X_OK), False, "to execute it")
    os.chmod("f", 0o001)
    equal(os.access("f", os.X_OK), True, "to execute what anybody may execute")


def test_program_of_another_user():
    """The same in another process, as programs do it: real ids, too."""
    os.mkdir("d", 0o770)
    os.chown("d", U1, G1)
    put("d/f", b"text")
    os.chmod("d/f", 0o640)
    os.chown("d/f", U1, G1)

    def run(uid, gid, groups, command):
        return subprocess.run(command, user=uid, group=gid, extra_groups=groups, capture_output=True, text=True, shell=True)
    equal(run(U1, G1, [], "cat d/f").stdout, "text", "the owner reads")
    equal(run(U2, G2, [G1], "cat d/f").stdout, "text", "the group reads")
    equal(run(U2, G2, [G1], "echo x >>d/f").returncode != 0, True, "the group may not write")
    equal(run(U2, G2, [], "cat d/f").returncode != 0, True, "another may not read")
    equal(run(U2, G2, [G1], "echo new >d/g && rm d/f").returncode, 0, "the group replaces what is in its directory")
    equal((owner("d/g"), os.listdir("d")), ((U2, G2), ["g"]), "what is there then")
    equal(run(U1, G1, [], "chmod 600 d/g").returncode != 0, True, "the directory's owner may not chmod another's file")
    equal(run(U1, G1, [], "rm -f d/g").returncode, 0, "but may remove it")


def test_attributes_need_no_right_to_the_file():
    put("a", b"content")
    os.chmod("a", 0)
    os.chown("a", U1, G1)
    with user(U2, G2):
        equal(os.stat("a").st_size, 7, "size of what may not be read")
        expect("EACCES", get, "a")


def test_handles_keep_their_rights():
    os.mkdir("d", 0o777)
    put("d/a", b"content")
    os.chmod("d/a", 0o666)
    with user(U1, G1):
        f = os.open("d/a", os.O_RDWR)
    os.chmod("d/a", 0)
    os.chmod("d", 0)
    with user(U1, G1):
        equal(os.pread(f, 7, 0), b"content", "read through a handle")
        equal(os.pwrite(f, b"C", 0), 1, "written through a handle")
        expect("EACCES", os.stat, "d/a")
        equal(os.fstat(f).st_size, 7, "fstat")
    os.close(f)


fs.run(globals())
