#!/usr/bin/env python3
"""Two mounts on two branches of one bucket write, remove and write again files of few contents, flush, label, drop and restore
snapshots, run gc beside each other, and are killed; with a model of which contents every snapshot names. After each step all of them
are in the bucket; at the end, after the last gc, nothing else is.

    filesgctorture.py BHFS BUCKET-DIRECTORY DIR STEPS SEED GRACE-SECONDS [OPTION...]

DIR gets mount points, state directories and logs. OPTIONs are given to each mount."""
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

BHFS, BUCKET, DIR, STEPS, SEED, GRACE = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), float(sys.argv[6])
OPTIONS = sys.argv[7:]
rand = random.Random(SEED)
POOL = [(("content %d\n" % i) * (1 + 20000 * (i % 13 == 0))).encode() for i in range(30)]
HASH = [hashlib.sha256(c).hexdigest() for c in POOL]
NAMES = ["f%d" % i for i in range(12)] + ["d/g%d" % i for i in range(6)]
counts = {}


class Mount:
    def __init__(self, branch):
        self.branch = branch
        self.mnt, self.state = "%s/%s" % (DIR, branch), "%s/%s.state" % (DIR, branch)
        self.files = {}  # name -> number of the content
        self.snapshots = {}  # id -> set of numbers
        self.id = None
        self.gc_thread = None

    def mount(self):
        os.makedirs(self.mnt, exist_ok=True)
        args = [BHFS, "-f", "-o", "live.dir=" + self.state, "-o", "snapshot.interval=0", "-o", "snapshot.branch=" + self.branch,
                "-o", "retention.grace=%gs" % GRACE, "-o", "retention.keep_last=3", "-o", "snapshot.plain=never",
                "-o", "snapshot.steal=true"] + OPTIONS + ["file://" + BUCKET, self.mnt]
        self.log = open("%s/%s.log" % (DIR, self.branch), "ab")
        self.process = subprocess.Popen(args, stdout=self.log, stderr=self.log)
        with open("%s/%s.pid" % (DIR, self.branch), "w") as pid:
            print(self.process.pid, file=pid)
        for _ in range(1500):
            if os.path.ismount(self.mnt) and os.path.exists(self.mnt + "/.ctl/status"):
                break
            assert self.process.poll() is None, "the mount ended"
            time.sleep(0.02)
        else:
            raise AssertionError("not mounted in time")
        self.note()

    def note(self):
        """A snapshot that is new has what the live tree has: nothing is written beside a flush."""
        now = self.status("snapshot")
        if now and now != "none" and now != self.id:
            self.id = now
            self.snapshots.setdefault(now, set(self.files.values()))
            self.contents.setdefault(now, dict(self.files))

    def status(self, name):
        for line in open(self.mnt + "/.ctl/status"):
            if line.startswith(name + ": "):
                return line.split(": ", 1)[1].strip()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.wait_gc()
        subprocess.run(["umount", "-l", self.mnt], check=True)

    def command(self, name, text=b"\n", may_fail=False):
        try:
            fd = os.open(self.mnt + "/.ctl/" + name, os.O_WRONLY)
            try:
                os.write(fd, text)
            finally:
                os.close(fd)
        except OSError as e:
            if not may_fail:
                raise AssertionError("%s: %s: %s" % (name, e, open(self.mnt + "/.ctl/last_status").read())) from e

    # --- steps
    def write(self):
        name, n = rand.choice(NAMES), rand.randrange(len(POOL))
        path = self.mnt + "/files/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(POOL[n])
        self.files[name] = n

    def remove(self):
        if self.files:
            name = rand.choice(sorted(self.files))
            os.unlink(self.mnt + "/files/" + name)
            del self.files[name]

    def flush(self):
        self.command("flush")
        self.note()

    def label(self):
        if self.id:
            labels = [x for x in os.listdir(self.mnt + "/snapshots") if x.startswith("l-" + self.branch)]
            if len(labels) > 1:
                os.rmdir(self.mnt + "/snapshots/" + rand.choice(labels))
            else:
                os.mkdir("%s/snapshots/l-%s-%d" % (self.mnt, self.branch, rand.randrange(1000000)))
                self.note()

    def drop(self):
        ids = [x for x in self.listed() if x != self.id]
        if ids:
            try:
                os.rmdir(self.mnt + "/snapshots/" + rand.choice(ids))
            except OSError:  # it is labelled
                pass
            self.note()

    def restore(self):
        self.wait_gc()  # whose retention would drop it
        ids = [x for x in self.listed() if x in self.snapshots and x in self.contents]
        if not ids:
            return
        self.flush()
        which = rand.choice(ids)
        try:
            self.command("restore", which.encode())
        except AssertionError:
            if "condemned" in open(self.mnt + "/.ctl/last_status").read():
                return
            raise
        self.files = dict(self.contents[which])
        self.note()

    def gc(self):
        self.wait_gc()
        self.gc_thread = threading.Thread(target=self.command, args=("gc", b"\n", True))
        self.gc_thread.start()

    def wait_gc(self):
        if self.gc_thread:
            self.gc_thread.join()
            self.gc_thread = None

    # --- the model
    def listed(self):
        return sorted(x for x in os.listdir(self.mnt + "/snapshots") if len(x) > 20 and x[8] == "T")

    @property
    def contents(self):
        return contents[self.branch]

    def needed(self):
        need = set()
        for i in self.listed():
            need |= self.snapshots.get(i, set())
        return need


contents = {"main": {}, "two": {}}


def in_bucket():
    try:
        return set(os.listdir(BUCKET + "/files"))
    except FileNotFoundError:
        return set()


def check(mounts, why):
    need = set()
    for m in mounts:
        need |= m.needed()
    there = in_bucket()
    missing = [n for n in need if HASH[n] not in there]
    assert not missing, "%s: contents %s are named and not in the bucket, by %s" % (
        why, missing, [(m.branch, i) for m in mounts for i in m.listed() if m.snapshots.get(i, set()) & set(missing)])
    for m in mounts:
        for name, n in m.files.items():
            with open(m.mnt + "/files/" + name, "rb") as f:
                assert f.read() == POOL[n], "%s: %s of %s" % (why, name, m.branch)


def main():
    a = Mount("main")
    a.mount()
    a.write()
    a.flush()
    os.mkdir(a.mnt + "/branches/two")
    b = Mount("two")
    b.files = dict(a.files)
    b.mount()
    mounts = [a, b]
    steps = ["write"] * 8 + ["remove"] * 5 + ["flush"] * 6 + ["gc"] * 4 + ["label", "drop", "restore", "kill", "wait", "lose"]
    for step in range(STEPS):
        m, what = rand.choice(mounts), rand.choice(steps)
        counts[what] = counts.get(what, 0) + 1
        if what == "kill":
            if rand.random() < 0.5:  # in the middle of a flush, or a gc
                threading.Thread(target=m.command, args=(rand.choice(["flush", "gc"]), b"\n", True), daemon=True).start()
                time.sleep(rand.random() * 0.15)
            m.kill()
            m.mount()
        elif what == "lose":  # the machine is gone: what was flushed is all there is
            m.flush()
            m.kill()
            shutil.rmtree(m.state)
            m.mount()
        elif what == "wait":
            time.sleep(GRACE / 2)
        else:
            getattr(m, what)()
        if step % 4 == 0:
            for x in mounts:
                x.wait_gc()
            check(mounts, "step %d (%s on %s)" % (step, what, m.branch))
    for m in mounts:
        m.wait_gc()
        m.flush()
    for root, _, names in os.walk(BUCKET):  # of machines that were lost: these keep for a month what they may come back with
        for name in names if root.endswith(".bhfs/pins") else []:
            os.unlink(root + "/" + name)
    for _ in range(4):
        time.sleep(GRACE + 0.2)
        for m in mounts:
            m.command("gc")
    check(mounts, "at the end")
    need = {HASH[n] for m in mounts for n in m.needed()}
    more = in_bucket() - need
    assert not more, "%d blobs are left that nothing names" % len(more)
    for m in mounts:
        m.command("verify", b"full")
        subprocess.run([BHFS, "umount", m.mnt], check=True, stdout=subprocess.DEVNULL)
        assert m.process.wait(60) == 0
    print("%d steps: %s; %d blobs at the end" % (STEPS, ", ".join("%s %d" % x for x in sorted(counts.items())), len(need)))


main()
