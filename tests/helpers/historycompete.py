#!/usr/bin/env python3
"""Two machines, each with a state directory of its own, compete for branch main of one bucket: they mount it as it is free, take it
from each other, write and flush both at once, are killed and stopped, and their bucket fails. Beside them a model: an
acknowledged flush stays in the branch for good, one that was pushed out never gets in, nothing that was committed is lost, and
every snapshot of every branch stays what it was, byte for byte. Ends with the first difference.

    historycompete.py BHFS URL DIR STEPS SEED [OPTION...]

What is in the bucket is seen by a third mount, which is on a branch of its own."""
import errno
import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time

BHFS, URL, DIR, STEPS, SEED = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
OPTIONS = sys.argv[6:]
LEASE = 6
KEEP = 8  # snapshots that a branch may have before old ones are dropped
rand = random.Random(SEED)


class Wrong(Exception):
    pass


def is_id(name):
    return name[:8].isdigit()


def digest(data):
    """Of a database's bytes, but for what differs by design: the counters, and which journal it has."""
    data = bytearray(data)
    for first, last in ((18, 19), (24, 27), (40, 43), (92, 99)):
        data[first:last + 1] = bytes(last + 1 - first)
    return hashlib.sha256(data).hexdigest()


class Mount:
    def __init__(self, name, *options):
        self.name, self.mnt, self.state = name, DIR + "/" + name, DIR + "/state-" + name
        self.rules, self.options, self.process = DIR + "/rules-" + name, options, None
        os.makedirs(self.mnt)
        self.faults("")

    def faults(self, rules):
        with open(self.rules + ".new", "w") as f:
            f.write(rules + "\n")
        os.rename(self.rules + ".new", self.rules)

    def start(self, *options):
        self.log = open(DIR + "/daemon-%s.log" % self.name, "ab")
        self.told = open(DIR + "/told-" + self.name, "w+b")
        self.process = subprocess.Popen(
            [BHFS, "-f", "-o", "live.dir=" + self.state, "-o", "snapshot.interval=0", "-o", "bucket.fault=@" + self.rules]
            + ["-o", "log.file=" + DIR + "/daemon-%s.log" % self.name] + OPTIONS + list(self.options) + list(options)
            + [URL, self.mnt], stdout=self.log, stderr=self.told)

    def wait(self):
        """Whether it is mounted in the end; what it said if not is in self.why."""
        for _ in range(3000):
            if self.process.poll() is not None:
                self.told.seek(0)
                self.why, self.process = self.told.read().decode(errors="replace"), None
                return False
            if os.path.ismount(self.mnt) and os.path.exists(self.mnt + "/.ctl/status"):
                return True
            time.sleep(0.02)
        raise Wrong("%s: not mounted in time" % self.name)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None
        if subprocess.run(["findmnt", "-n", "-M", self.mnt], stdout=subprocess.DEVNULL).returncode == 0:
            subprocess.run(["umount", "-l", self.mnt], check=True)

    def unmount(self, *options):
        """The exit status of bhfs umount."""
        r = subprocess.run([BHFS, "umount", *options, self.mnt], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if not os.path.ismount(self.mnt):
            self.process.wait(60)
            self.process = None
        return r.returncode

    def command(self, name, text=""):
        try:
            with open(self.mnt + "/.ctl/" + name, "wb", 0) as f:
                f.write(text.encode() + b"\n")
            return 0
        except OSError as e:
            return e.errno

    def last_status(self):
        return open(self.mnt + "/.ctl/last_status").read().strip()

    def status(self, name):
        for line in open(self.mnt + "/.ctl/status"):
            if line.startswith(name + ": "):
                return line.split(": ", 1)[1].strip()


class Machine(Mount):
    def __init__(self, name):
        super().__init__(name, "-o", "snapshot.lease=%ds" % LEASE)
        self.live = None     # digest of what is committed in its state directory; None: it has none
        self.dirty = False   # that is not known to be in the bucket
        self.base = None     # the snapshot that it comes from
        self.tried = set()   # digests of flushes that may get into the branch yet
        self.taken = "no"    # whether its branch was taken from it: no, maybe, yes
        self.steals = False  # it was to take the branch, and has not been able to yet: a flush will
        self.died = 0        # when it was killed

    def now(self):
        c = sqlite3.connect(self.mnt + "/live.db", timeout=20)
        sound = c.execute("PRAGMA integrity_check").fetchone()[0]
        data = c.serialize()
        c.close()
        if sound != "ok":
            raise Wrong("%s: integrity_check: %s" % (self.name, sound))
        return digest(data)

    def write(self):
        c = sqlite3.connect(self.mnt + "/live.db", timeout=20, isolation_level=None)
        if rand.random() < 0.1:
            c.execute("PRAGMA journal_mode=" + rand.choice(["WAL", "DELETE", "TRUNCATE", "PERSIST"]))
        for _ in range(rand.randint(1, 3)):
            c.execute("BEGIN IMMEDIATE")
            c.execute("INSERT INTO writes VALUES(?, ?)", (self.name, rand.getrandbits(60)))
            for _ in range(rand.randint(1, 10)):
                i = rand.randint(1, 100)
                if rand.random() < 0.7:
                    c.execute("INSERT OR REPLACE INTO t VALUES(?, randomblob(?))", (i, rand.randint(0, 3000)))
                else:
                    c.execute("DELETE FROM t WHERE id BETWEEN ? AND ?", (i, i + rand.randint(0, 10)))
            c.execute("COMMIT")
        if rand.random() < 0.05:
            c.execute("VACUUM")
        c.close()
        self.live, self.dirty = self.now(), True

    def flush(self):
        """Its errno. What it flushes may get into the branch from now on."""
        if self.taken != "yes":
            self.tried.add(self.live)
        return self.command("flush")


UNKNOWN = object()  # who has the branch


class Compete:
    def __init__(self):
        self.machines = [Machine("a"), Machine("b")]
        self.eye = Mount("eye", "-o", "snapshot.branch=watch")
        self.snapshots, self.history, self.saved = {}, {}, set()
        self.gone = set()  # snapshots that were dropped from main
        self.holder, self.counts, self.names = None, {}, 0

    def count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    def other(self, m):
        return self.machines[m is self.machines[0]]

    # --- what is in the bucket ---
    def look(self, everything=False):
        if everything:  # nothing comes from a cache
            if self.eye.unmount():
                raise Wrong("the third mount cannot be unmounted")
            self.eye.start()
            if not self.eye.wait():
                raise Wrong("the third mount: " + self.eye.why)
        if self.eye.command("branch", "watch"):  # it is there, but forgets what it knew of branches
            raise Wrong(self.eye.last_status())
        root = self.eye.mnt + "/branches"
        for name in sorted(os.listdir(root)):
            ids = sorted(e for e in os.listdir("%s/%s/snapshots" % (root, name)) if is_id(e))
            known = self.history.get(name)
            if known is None:
                self.meet_branch(name, ids)
            elif ids[:len(known)] != known:
                raise Wrong("branch %s has lost snapshots: %s, now %s" % (name, known, ids))
            for i in ids:
                with open("%s/%s/snapshots/%s/live.db" % (root, name, i), "rb") as f:
                    now = digest(f.read())
                if i not in self.snapshots:
                    self.meet_snapshot(name, i, now)
                elif now != self.snapshots[i]:
                    raise Wrong("snapshot %s of branch %s has changed" % (i, name))
            self.history[name] = ids
        missing = set(self.history) - set(os.listdir(root))
        if missing:
            raise Wrong("branches that are gone: %s" % missing)

    def meet_branch(self, name, ids):
        main = self.history.get("main", [])
        strange = [i for i in ids[:-1] if i not in main and i not in self.gone]
        if not (name.startswith("rescue-") or name.startswith("saved-")) or strange:
            raise Wrong("branch %s, with %s" % (name, strange))
        self.count("branches " + name.split("-")[0])

    def meet_snapshot(self, branch, i, now):
        if branch == "main":
            allowed = set().union(*(m.tried for m in self.machines))
        else:
            allowed = {m.live for m in self.machines}
        if now not in allowed:
            raise Wrong("snapshot %s of branch %s is nothing that may be there" % (i, branch))
        self.snapshots[i] = now
        self.saved.add(now)

    def newest(self):
        return self.history["main"][-1]

    # --- mounting ---
    def is_free(self, m):
        h = self.holder
        return h in (None, m) or (h is not UNKNOWN and h.process is None and time.monotonic() - h.died > LEASE + 2.5)

    def begin_mount(self, m, steal):
        m.start(*(["-o", "snapshot.steal=true"] if steal else []))

    def end_mount(self, m, steal, faulty=False):
        """It has been started; the other one may have been at work meanwhile."""
        o, free = self.other(m), self.is_free(m)
        if not m.wait():
            if free or steal:
                if not faulty:
                    raise Wrong("%s is refused: %s" % (m.name, m.why))
                self.doubt(m)
            elif "is being written by" not in m.why and not faulty:
                raise Wrong("%s: %s" % (m.name, m.why))
            elif faulty:
                self.doubt(m)
            self.count("refused mounts")
            return False
        m.faults("")
        if faulty and not m.status("lease").startswith("held"):
            self.mounted_without_lease(m, steal)
            return True
        if not free and not steal and o.process and o.taken == "no" and time.monotonic() - o.acked < LEASE - 2:
            raise Wrong("%s got the branch that %s has" % (m.name, o.name))
        if o.process and o.taken != "yes":
            self.count("taken")
            o.taken = "maybe" if o.steals else "yes"
        self.look()
        if not o.steals:
            o.tried.clear()  # from now on it gets nothing in any more
        self.after_mount(m)
        return True

    def mounted_without_lease(self, m, steal):
        """The store did not answer, so it went on with what it had, or could just read: its flushes will tell."""
        self.doubt(m)
        self.look()
        now = m.now()
        if m.live not in (None, now) and m.live not in self.saved:
            raise Wrong("%s: what was committed is neither live nor in a branch" % m.name)
        if now not in (m.live, self.snapshots[self.newest()]):
            raise Wrong("%s shows neither what it had nor the newest snapshot" % m.name)
        if now == self.snapshots[self.newest()]:  # a flush has nothing to do, and takes nothing
            m.live, m.base, m.dirty = now, self.newest(), False
        m.taken, m.steals, m.acked = "maybe", steal, time.monotonic()
        self.count("mounted without the lease")

    def doubt(self, m):
        """A mount that failed in the middle may have taken the branch."""
        o = self.other(m)
        if o.process and o.taken == "no":
            o.taken = "maybe"
        self.holder = self.holder if self.holder is m else UNKNOWN

    def after_mount(self, m):
        now, newest = m.now(), self.newest()
        if m.live is not None and now != m.live and m.live not in self.saved:
            raise Wrong("%s: what was committed is neither live nor in a branch; recovered: %s" % (m.name, m.status("recovered")))
        if now == self.snapshots[newest]:
            m.dirty = False
        elif now != m.live:
            raise Wrong("%s shows neither what it had nor the newest snapshot" % m.name)
        elif newest != m.base and self.snapshots[newest] not in m.tried:
            raise Wrong("%s goes on from %s, although the newest is %s" % (m.name, m.base, newest))
        if m.live != now:
            self.count("went over to the other's content")
        m.live, m.base, m.taken, m.steals, m.acked = now, newest, "no", False, time.monotonic()
        m.tried.clear()
        self.holder = m

    def mount(self):
        m = self.pick(lambda m: not m.process)
        if not m:
            return False
        steal, faulty = rand.random() < 0.6, rand.random() < 0.4
        if faulty:
            m.faults(rand.choice(["*:eio:30%", "put:done-but-failed:50%", "*:eagain:30%", "get:eio:50%", "put:eio:key=*/branches/main", "put:eio:key=*/branches/main"]))
        self.begin_mount(m, steal)
        self.end_mount(m, steal, faulty)
        m.faults("")

    def mount_beside_flush(self):
        """The branch is taken while its writer is flushing to it, on a store that is slow at times."""
        m = self.pick(lambda m: not m.process)
        o = m and self.other(m)
        if not o or not o.process:
            return False
        o.write()
        o.faults(rand.choice(["", "put:delay=%dms" % rand.randint(1, 400), "put:delay=200ms:50%;put:done-but-failed:30%",
                              "put:delay=%dms:key=*/branches/main" % rand.randint(1, 800)]))
        m.faults(rand.choice(["", "", "put:delay=300ms:50%", "get:delay=150ms:50%", "put:delay=400ms:key=*/branches/main"]))
        before, result = o.taken, []
        t = threading.Thread(target=lambda: result.append(o.flush()))
        t.start()
        time.sleep(rand.random() * 0.4)
        self.begin_mount(m, True)
        if rand.random() < 0.5:
            t.join()
        mounted = m.wait()
        t.join()
        for x in (m, o):
            x.faults("")
        if not mounted:
            raise Wrong("%s cannot take the branch: %s" % (m.name, m.why))
        self.look()
        self.flushed(o, result[0], before, alone=False)
        self.count("taken while flushing, flush " + ("done" if result[0] == 0 else "refused"))
        self.end_mount(m, True)

    def mount_and_kill(self):
        m = self.pick(lambda m: not m.process)
        if not m:
            return False
        m.faults(rand.choice(["", "put:delay=100ms", "get:delay=50ms"]))
        self.begin_mount(m, True)
        time.sleep(rand.random() * 0.8)
        m.kill()
        m.died = time.monotonic()
        m.faults("")
        self.doubt(m)
        self.count("kills")

    # --- flushing ---
    def flushed(self, m, rc, taken, alone=True):
        """What a flush said, and what is in the bucket. taken: what was known when it began."""
        if rc == 0 and m.dirty:
            if taken == "yes":
                raise Wrong("a flush of %s, which was pushed out, was acknowledged" % m.name)
            found = [i for i in self.history["main"] if self.snapshots[i] == m.live]
            if not found or (alone and found[-1] != self.newest()):
                raise Wrong("an acknowledged flush of %s is not in the branch" % m.name)
            m.base, m.dirty, m.acked = found[-1], False, time.monotonic()
            m.tried.clear()
            self.count("flushes")
            if alone or m.steals:  # then it has just taken it
                if taken == "maybe" and self.other(m).process:
                    self.other(m).taken = "yes"
                m.taken, m.steals, self.holder = "no", False, m
        elif rc and m.taken != "no":
            if rc not in (errno.ESTALE, errno.EBUSY):
                self.count("errno %d" % rc)
            self.count("refused flushes")

    def flush(self):
        m = self.pick(lambda m: m.process)
        if not m:
            return False
        faulty = rand.random() < 0.3
        if faulty:
            m.faults(rand.choice(["*:eio:40%", "put:done-but-failed:50%", "*:eagain:30%", "put:etimedout:60%"]))
        taken = m.taken
        rc = m.flush()
        if faulty:
            m.faults("")
            self.look()
            if rc:
                rc = m.flush()
        self.look()
        if rc and m.taken == "no":
            raise Wrong("flush of %s, which has the branch: %s" % (m.name, m.last_status()))
        if rc and m.taken == "yes" and rc not in (errno.ESTALE, errno.EBUSY):
            raise Wrong("flush of %s, which was pushed out: errno %d: %s" % (m.name, rc, m.last_status()))
        self.flushed(m, rc, taken)

    def flush_both(self):
        a, b = self.machines
        if not a.process or not b.process:
            return False
        a.write()
        b.write()
        taken, result = (a.taken, b.taken), [None, None]
        threads = [threading.Thread(target=lambda k=k: result.__setitem__(k, self.machines[k].flush())) for k in (0, 1)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.look()
        for k in (0, 1):
            self.flushed(self.machines[k], result[k], taken[k], alone=False)
        if result == [0, 0]:
            raise Wrong("two writers of one branch were both told that they flushed")
        self.count("flushes of both")

    def flush_and_kill(self):
        m = self.pick(lambda m: m.process)
        if not m:
            return False
        if rand.random() < 0.7:
            m.write()
        if m.taken != "yes":
            m.tried.add(m.live)
        child = subprocess.Popen([BHFS, "flush", m.mnt], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rand.random() * 0.25)
        self.die(m)
        child.wait()
        self.look()

    def die(self, m=None):
        m = m or self.pick(lambda m: m.process)
        if not m:
            return False
        m.kill()
        m.died = time.monotonic()
        self.count("kills")

    # --- the rest ---
    def pick(self, wanted):
        some = [m for m in self.machines if wanted(m)]
        return rand.choice(some) if some else None

    def write(self):
        m = self.pick(lambda m: m.process)
        if not m:
            return False
        m.write()

    def save(self):
        """What one that was pushed out still has becomes a branch."""
        m = self.pick(lambda m: m.process and m.taken == "yes" and m.dirty)
        if not m:
            return False
        if m.command("flush") not in (errno.ESTALE, errno.EBUSY):  # it finds out by this, if not yet
            raise Wrong("flush of %s, which was pushed out: %s" % (m.name, m.last_status()))
        if "fenced" not in m.status("lease"):
            return  # the answer was that somebody has it: not yet that it is lost
        self.names += 1
        name = "saved-%d" % self.names
        os.mkdir(m.mnt + "/branches/" + name)
        self.look()
        if self.snapshots[self.history[name][-1]] != m.live:
            raise Wrong("branch %s is not what %s has" % (name, m.name))

    def unmount(self):
        m = self.pick(lambda m: m.process)
        if not m:
            return False
        if m.taken != "yes":
            m.tried.add(m.live)
        rc = m.unmount()
        if rc == 0:
            self.look()
            if m.dirty and (m.taken == "yes" or m.live not in self.saved):
                raise Wrong("bhfs umount of %s said that everything is in the bucket" % m.name)
            if self.holder is m:
                self.holder = None
            m.dirty = False
            return
        if m.taken == "no" or not m.dirty:
            raise Wrong("bhfs umount of %s: status %d" % (m.name, rc))
        if not m.process:
            raise Wrong("bhfs umount of %s failed, and unmounted it" % m.name)
        m.unmount("--force")
        if m.process:
            raise Wrong("%s is still mounted after bhfs umount --force" % m.name)

    def pause(self):
        """A machine that sleeps longer than its lease lasts; who comes meanwhile just gets the branch."""
        o = self.pick(lambda m: m.process and m.taken == "no" and m is self.holder)
        m = o and self.other(o)
        if not m or m.process:
            return False
        o.write()
        o.process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(LEASE + 2.5)
            self.begin_mount(m, False)
            if not m.wait():
                raise Wrong("%s is refused although the lease has ended: %s" % (m.name, m.why))
            self.look()  # what it had unflushed is a rescue branch now
            m.write()
            if m.command("flush"):
                raise Wrong("flush of %s, after the lease of the other one has ended" % m.name)
        finally:
            o.process.send_signal(signal.SIGCONT)
        o.taken = "yes"
        o.tried.clear()
        m.tried = {m.live}
        self.look()
        m.base, m.dirty, m.taken, m.acked, self.holder = self.newest(), False, "no", time.monotonic(), m
        if self.snapshots[m.base] != m.live:
            raise Wrong("an acknowledged flush of %s is not the newest" % m.name)
        if o.command("flush") not in (errno.ESTALE, errno.EBUSY):
            raise Wrong("flush of %s, which has slept too long: %s" % (o.name, o.last_status()))
        self.count("pauses")

    def lose_machine(self):
        m = self.pick(lambda m: not m.process and (not m.dirty or m.live in self.saved) and m is not self.holder)
        if not m:
            return False
        subprocess.run(["rm", "-rf", m.state], check=True)
        m.live, m.base, m.dirty = None, None, False
        m.tried.clear()

    def tidy(self):
        """The one that has main drops old snapshots of it, and branches that were looked at."""
        m = self.holder
        if m in (None, UNKNOWN) or not m.process or m.taken != "no" or m.dirty:
            return False
        for name in sorted(self.history):
            if name not in ("main", "watch") and rand.random() < 0.5:
                os.rmdir(m.mnt + "/branches/" + name)
                del self.history[name]
        main = self.history["main"]
        while len(main) > KEEP:
            victim = rand.choice(main[:-2])
            os.rmdir(m.mnt + "/snapshots/" + victim)
            main.remove(victim)
            self.gone.add(victim)
        self.count("tidied")

    def run(self):
        a = self.machines[0]
        a.start()
        if not a.wait():
            raise Wrong(a.why)
        c = sqlite3.connect(a.mnt + "/live.db")
        c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)")
        c.execute("CREATE TABLE writes(who, what)")
        c.commit()
        c.close()
        a.live, a.dirty = a.now(), True
        if a.flush():
            raise Wrong(a.last_status())
        os.mkdir(a.mnt + "/branches/watch")
        self.eye.start()
        if not self.eye.wait():
            raise Wrong(self.eye.why)
        first = a.status("snapshot")
        self.history = {"main": [], "watch": [first]}
        self.look()
        a.base, a.dirty, a.acked, self.holder = first, False, time.monotonic(), a
        steps = [(self.write, 20), (self.flush, 16), (self.mount, 20), (self.mount_beside_flush, 16), (self.mount_and_kill, 5),
                 (self.flush_both, 8), (self.flush_and_kill, 8), (self.die, 6), (self.save, 4), (self.unmount, 5), (self.pause, 1),
                 (self.lose_machine, 2), (self.tidy, 6)]
        for step in range(STEPS):
            try:
                while True:
                    fn = rand.choices([s[0] for s in steps], [s[1] for s in steps])[0]
                    if fn() is not False:  # else: nothing to do it with
                        break
                self.check(step % 25 == 24 or step == STEPS - 1)
            except BaseException:
                print("step %d (%s), seed %d" % (step, fn.__name__, SEED), flush=True)
                raise
        for m in self.machines + [self.eye]:
            if m.process and m.unmount() and m.unmount("--force") and m.process:
                raise Wrong("%s cannot be unmounted" % m.name)
        print("%d steps, %d snapshots: %s" % (STEPS, len(self.snapshots), self.counts))

    def check(self, everything):
        self.look(everything)
        for m in self.machines:
            if m.process and m.now() != m.live:
                raise Wrong("%s: the live database is not what was committed" % m.name)


Compete().run()
