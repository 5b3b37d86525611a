"""maketree.py DIR FILES [SEED]: a tree of that many small files there, the same for the same seed: sources, documents, a few larger
ones, empty ones, symbolic and hard links, modes and times of all kinds. maketree.py --change DIR SEED: changes a tenth of it."""
import os
import random
import sys


def content(r, size):
    words = ["if", "return", "struct", "the", "file", "directory", "while", "value", "\n", "    ", "(x)", "=", "+", "0x%08x" % r.getrandbits(32)]
    return (" ".join(r.choice(words) for _ in range(size // 4 + 1)))[:size].encode()


def size_of(r):
    kind = r.random()
    if kind < 0.03:
        return 0
    if kind < 0.85:
        return int(r.expovariate(1 / 3000))
    return int(r.expovariate(1 / 30000)) if kind < 0.995 else r.randrange(200_000, 600_000)


def write(r, path):
    with open(path, "wb") as f:
        size = size_of(r)
        f.write(os.urandom(size) if size > 100_000 else content(r, size))
    os.chmod(path, r.choice((0o644, 0o644, 0o644, 0o755, 0o600, 0o444)))
    t = r.randrange(1_000_000_000, 1_700_000_000) * 1_000_000_000 + r.randrange(1_000_000_000)
    os.utime(path, ns=(t, t))


def make(top, count, r):
    directories, files = [top], []
    os.makedirs(top, exist_ok=True)
    for i in range(count):
        if r.random() < 0.06:
            path = f"{r.choice(directories[-40:])}/dir{i}"
            os.mkdir(path)
            directories.append(path)
        path = f"{r.choice(directories[-60:])}/file{i}{r.choice(('.c', '.h', '.txt', '', '.tar.gz', ' with blanks', '.ä'))}"
        kind = r.random()
        if kind < 0.02:
            os.symlink(r.choice(("file0", "../dir1", "/nowhere/at all")), path)
        elif kind < 0.03 and files:
            os.link(r.choice(files), path)
        else:
            write(r, path)
            files.append(path)
    for d in reversed(directories):
        t = r.randrange(1_000_000_000, 1_700_000_000) * 1_000_000_000
        os.utime(d, ns=(t, t))


def change(top, r):
    paths = sorted(os.path.join(d, f) for d, _, fs in os.walk(top) for f in fs if "/.git" not in d)
    for path in r.sample(paths, len(paths) // 10):
        what = r.random()
        if what < 0.4 and not os.path.islink(path):
            os.chmod(path, 0o644)
            write(r, path)
        elif what < 0.6:
            os.unlink(path)
        elif what < 0.8:
            os.rename(path, path + ".moved")
        else:
            write(r, path + ".new")


if sys.argv[1] == "--change":
    change(sys.argv[2], random.Random(int(sys.argv[3])))
else:
    make(sys.argv[1], int(sys.argv[2]), random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 1))
