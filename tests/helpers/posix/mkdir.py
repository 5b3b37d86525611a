"""mkdir(2)"""
import fs
from fs import *


def mkdir(path, mode=0o755):
    os.mkdir(path, mode)


def test_makes():
    makes(mkdir, "dir")


def test_errors():
    path_errors(mkdir, creates=True)


def test_permission():
    needs_writable_parent(mkdir)


def test_is_empty_and_whole():
    mkdir("d")
    equal(os.listdir("d"), [], "entries of a new directory")
    equal(os.stat("d/.").st_ino, os.stat("d").st_ino, "inode of .")
    equal(os.stat("d/..").st_ino, os.stat(".").st_ino, "inode of ..")
    links = nlink("d")
    for i in range(5):
        mkdir(f"d/{i}")
    if directories_count():
        equal(nlink("d"), links + 5, "links of a directory with five in it")
    equal(sorted(os.listdir("d")), list("01234"), "entries")
    expect("ok", mkdir, "slash/")
    equal(kind_of("slash"), "dir", "made with a slash at the end")
    os.symlink("nowhere", "s")
    expect("EEXIST", mkdir, "s")
    expect("EEXIST", mkdir, "s/")
    expect("EEXIST", mkdir, "/")


def test_sticky_and_set_id():
    for mode in (0o1777, 0o1755):
        name = fresh()
        mkdir(name, mode)
        equal(perm(name), mode, "the sticky bit by mkdir")
    os.mkdir("g")
    os.chmod("g", 0o2755)
    os.mkdir("g/h")
    os.mkdir("g/h/i")
    equal(perm("g/h/i") & stat.S_ISGID, stat.S_ISGID, "S_ISGID goes down")


def test_many_levels():
    here = os.open(".", os.O_RDONLY)
    for i in range(300):
        os.mkdir("level")
        os.chdir("level")
    create("bottom")
    equal(os.path.exists("bottom"), True, "a file 300 levels down")
    os.fchdir(here)
    os.close(here)
    equal(exists("level/" * 300 + "bottom"), True, "the same by its path")


fs.run(globals())
