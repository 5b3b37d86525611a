"""Changes files until the file system goes away, and says after a power cut whether what was durable is still there.

    filespower.py work DIR LOG ROUND SEED   writes blocks of some files in place, replaces others by renaming a new file over them,
                                            and syncs some of it; a line in LOG (another file system) after each fsync. Ends with
                                            status 3 when the file system is gone.
    filespower.py check DIR LOG             of each file that was ever synced: every block is of the version that was synced or a
                                            later one.

A block is a line, repeated: the file's number, the block's and a version, which rises. Nothing else may be in a file but zeros where
nothing was ever written."""
import json
import os
import random
import sys
import time

FILES, BLOCKS, BLOCK, LINE = 12, 24, 4096, 32


def block(number, at, version):
    return (b"%08d %08d %012d\n" % (number, at, version)).rjust(LINE) * (BLOCK // LINE)


def path_of(top, number):
    return os.path.join(top, f"f{number}")


def version_of(line, number, at):
    """-1: nothing of ours."""
    if line == bytes(LINE):
        return 0
    try:
        version = int(line[-13:])
    except ValueError:
        return -1
    return version if line == block(number, at, version)[:LINE] else -1


def versions_in(path, number):
    """The oldest version in each block; dies of what is foreign."""
    with open(path, "rb") as f:
        data = f.read()
    found = []
    for at in range((len(data) + BLOCK - 1) // BLOCK):
        part = data[at * BLOCK:(at + 1) * BLOCK]
        seen = [version_of(part[i:i + LINE], number, at) for i in range(0, len(part), LINE)]
        if -1 in seen:
            i = seen.index(-1) * LINE
            sys.exit(f"{path}: in block {at} at {i} there is {part[i:i + LINE]!r}")
        found.append(min(seen))
    return found


class Worker:
    def __init__(self, top, log, round_, seed):
        self.top, self.log = top, open(log, "a", buffering=1)
        self.r = random.Random(seed)
        self.version = round_ * 1000000
        self.now = {n: versions_in(path_of(top, n), n) if os.path.exists(path_of(top, n)) else [] for n in range(FILES)}

    def put(self, fd, number, at, now):
        self.version += 1
        os.pwrite(fd, block(number, at, self.version), at * BLOCK)
        now.extend([0] * (at + 1 - len(now)))
        now[at] = self.version

    def synced(self, number, now):
        self.log.write(json.dumps([number, now]) + "\n")

    def in_place(self, number):
        now = self.now[number]
        fd = os.open(path_of(self.top, number), os.O_RDWR | os.O_CREAT, 0o644)
        for _ in range(self.r.randrange(1, 4)):
            self.put(fd, number, self.r.randrange(min(len(now) + 2, BLOCKS)), now)
        if self.r.random() < 0.5:
            os.fsync(fd)
            self.synced(number, now)
        os.close(fd)

    def replace(self, number):
        now, new = [], path_of(self.top, number) + ".new"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for at in range(max(1, len(self.now[number]))):
            self.put(fd, number, at, now)
        os.fsync(fd)
        os.rename(new, path_of(self.top, number))
        self.now[number] = now
        if self.r.random() < 0.5:
            os.fsync(fd)
            self.synced(number, now)
        os.close(fd)

    def one(self):
        # A few files are written all the time, others rest long enough to become blobs.
        number = self.r.randrange(FILES) if self.r.random() < 0.3 else self.r.randrange(3)
        (self.replace if self.r.random() < 0.3 else self.in_place)(number)
        time.sleep(self.r.random() * 0.05)


def check(top, log):
    durable = {}
    with open(log) as f:
        for row in f.read().split("\n")[:-1]:
            number, versions = json.loads(row)
            durable[number] = versions
    for number, versions in durable.items():
        path = path_of(top, number)
        if not os.path.exists(path):
            sys.exit(f"{path} is gone; blocks that were synced: {versions}")
        found = versions_in(path, number)
        if len(found) < len(versions):
            sys.exit(f"{path} has {len(found)} blocks, {len(versions)} were synced")
        for at, (is_, was) in enumerate(zip(found, versions)):
            if is_ < was:
                sys.exit(f"{path}: block {at} is of version {is_}, {was} was synced")
    print(len(durable))


def main():
    what, top, log = sys.argv[1:4]
    if what == "check":
        return check(top, log)
    os.makedirs(top, exist_ok=True)
    try:
        worker = Worker(top, log, int(sys.argv[4]), int(sys.argv[5]))
        while True:
            worker.one()
    except OSError:
        try:
            os.listdir(top)
        except OSError:
            sys.exit(3)
        raise


main()
