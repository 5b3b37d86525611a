"""Names and paths: every byte but / and NUL, 255 of them; paths to PATH_MAX and deeper; statfs."""
import fs
from fs import *


def test_every_byte():
    names = []
    for byte in range(1, 256):
        if byte in (0x2f,):
            continue
        name = os.fsdecode(bytes([byte])) + "x"
        names.append(name)
        expect("ok", create, name)
        expect("ok", os.stat, name)
    equal(set(os.listdir(".")), set(names), "names as they are listed")
    for name in names:
        os.rename(name, name + "y")
    equal(set(os.listdir(".")), {n + "y" for n in names}, "names after renames")


def test_no_name_is_special():
    names = ("...", ".hidden", " ", "a ", ".ctl", "live.db", "snapshots", "CON", "a:b", "a\\b", "%2F", "-rf", "~", "*", "\n", "é", "e\u0301",
                 "E\u0301", "A", "a", "lost+found", ".bhfs-meta", "%", "'", '"', ";", ".fuse_hidden0001")
    for name in names:
        expect("ok", put, name, name.encode())
        equal(get(name), name.encode(), f"content of {name!r}")
    equal(set(os.listdir(".")), set(names), "names: none was taken for another")


def test_lengths():
    for length in (1, 100, 254, 255):
        for kind in KINDS:
            if kind == "socket" and length > 100:
                continue
            name = "n" * length
            make(kind, name)
            equal(os.listdir("."), [name], "the name")
            (os.rmdir if kind == "dir" else os.unlink)(name)
    for call in (create, os.mkdir, os.mkfifo, os.stat, os.unlink, os.rmdir, lambda p: os.rename("x", p), lambda p: os.symlink("x", p), lambda p: link("x", p),
                 lambda p: os.rename(p, "y"), lambda p: os.chmod(p, 0o600), lambda p: truncate(p, 0), os.listdir, os.readlink):
        if not exists("x"):
            create("x")
        expect("ENAMETOOLONG", call, "n" * 256)
        expect("ENAMETOOLONG", call, "ü" * 128)
    equal(os.listdir("."), ["x"], "names")


def test_deep():
    """Down to where a path is longer than PATH_MAX: still reached step by step."""
    here = os.open(".", os.O_RDONLY)
    part = "d" * 100
    for i in range(60):
        os.mkdir(part)
        os.chdir(part)
    put("bottom", b"deep down")
    equal(get("bottom"), b"deep down", "content 60 levels and 6,000 bytes down")
    os.fchdir(here)
    expect("ENAMETOOLONG", os.stat, (part + "/") * 60 + "bottom")
    expect("ok", os.stat, (part + "/") * 39 + part)
    equal(subprocess.run(["find", ".", "-name", "bottom", "-size", "1"], capture_output=True).stdout.count(b"bottom"), 1, "what find finds")
    equal(subprocess.run(["du", "-s", "."], capture_output=True).returncode, 0, "status of du")
    equal(subprocess.run(["rm", "-rf", part]).returncode, 0, "status of rm -rf")
    equal(os.listdir("."), [], "names that rm -rf left")
    os.close(here)


def test_path_max():
    create("x")
    for length in (4000, PATH_MAX - 2, PATH_MAX - 1):
        expect("ok", os.stat, path_of(length))
        expect("ok", opens, path_of(length), os.O_RDONLY)
    expect("ENAMETOOLONG", os.stat, path_of(PATH_MAX))


def test_statfs():
    s = os.statvfs(".")
    equal(s.f_namemax, 255, "f_namemax")
    check(s.f_bsize >= 512 and s.f_frsize >= 512, f"block sizes {s.f_bsize}, {s.f_frsize}")
    check(s.f_blocks > 0 and s.f_bavail <= s.f_bfree <= s.f_blocks, f"blocks {s.f_blocks}, free {s.f_bfree}, available {s.f_bavail}")
    check(s.f_ffree <= s.f_files, f"files {s.f_files}, free {s.f_ffree}")
    equal(s.f_flag & os.ST_RDONLY, 0, "read-only")
    create("a")
    f = os.open("a", os.O_RDONLY)
    equal(os.fstatvfs(f).f_namemax, 255, "fstatvfs")
    equal(os.pathconf(".", "PC_NAME_MAX"), 255, "pathconf")
    os.close(f)
    equal(subprocess.run(["df", "."], capture_output=True).returncode, 0, "status of df")
    path_errors(os.statvfs, needs="file", last_link="ELOOP")


def test_inodes_are_one_a_file():
    inodes = set()
    for i in range(500):
        create(f"f{i}")
        inodes.add(os.stat(f"f{i}").st_ino)
    equal(len(inodes), 500, "different inodes")
    before = {i: os.stat(f"f{i}").st_ino for i in range(500)}
    for i in range(0, 500, 2):
        os.unlink(f"f{i}")
    for i in range(1, 500, 2):
        if os.stat(f"f{i}").st_ino != before[i]:
            check(False, f"the inode of f{i} changed")
            break
    equal(len({os.stat(".").st_dev} | {os.stat(f"f{i}").st_dev for i in range(1, 500, 50)}), 1, "devices")


def test_stat():
    put("a", b"x" * 5000)
    s = os.stat("a")
    check(8 <= s.st_blocks <= 64, f"blocks of 5000 bytes: {s.st_blocks}")
    check(s.st_blksize >= 512 and s.st_blksize & (s.st_blksize - 1) == 0, f"st_blksize {s.st_blksize}")
    equal(s.st_size, 5000, "size")
    path_errors(os.stat, needs="file", last_link="ELOOP")
    path_errors(os.lstat, needs="symlink")


fs.run(globals())
