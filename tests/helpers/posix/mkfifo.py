"""mkfifo(3)"""
import select

import fs
from fs import *


def mkfifo(path, mode=0o644):
    os.mkfifo(path, mode)


def test_makes():
    makes(mkfifo, "fifo")


def test_errors():
    path_errors(mkfifo, creates=True)


def test_permission():
    needs_writable_parent(mkfifo)


def test_carries_bytes():
    mkfifo("f")
    reader = os.open("f", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open("f", os.O_WRONLY)
    equal(os.write(writer, b"through"), 7, "bytes written")
    equal(os.read(reader, 100), b"through", "bytes read")
    equal(os.stat("f").st_size, 0, "size of a fifo")
    os.rename("f", "g")
    second = os.open("g", os.O_WRONLY | os.O_NONBLOCK)
    os.write(second, b"renamed")
    equal(os.read(reader, 100), b"renamed", "bytes by its new name")
    os.unlink("g")
    os.write(writer, b"unlinked")
    equal(os.read(reader, 100), b"unlinked", "bytes without a name")
    os.close(writer)
    os.close(second)
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    check(poll.poll(1000), "the reader is told that the writers have gone")
    equal(os.read(reader, 100), b"", "end")
    os.close(reader)


def test_open_without_the_other_end():
    mkfifo("f")
    expect("ENXIO", opens, "f", os.O_WRONLY | os.O_NONBLOCK)
    expect("ok", opens, "f", os.O_RDONLY | os.O_NONBLOCK)
    expect("ok", opens, "f", os.O_RDWR | os.O_NONBLOCK)


fs.run(globals())
