#!/usr/bin/env python3
"""Random writes, flushes, forks, switches, restores, labels and kill -9 on a mount, beside a model: what every snapshot of
every branch must hold. Ends with the first difference.

    historytorture.py BHFS URL DIR STEPS SEED [OPTION...]

DIR gets the mount point, the state directory and the log. OPTIONs are given to each mount. BH_RULES names a file of fault
rules that is filled by chance for single steps. BH_KILLS=N makes kills N times as likely."""
import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

BHFS, URL, DIR, STEPS, SEED = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
OPTIONS = sys.argv[6:]
RULES = os.environ.get("BH_RULES")
KILLS = int(os.environ.get("BH_KILLS", "1"))
MNT, STATE = DIR + "/mnt", DIR + "/state"
DB, CTL = MNT + "/live.db", MNT + "/.ctl"
rand = random.Random(SEED)


def digest(path, immutable=False):
    """Content and soundness of a database, in whatever pages it is."""
    uri = "file:%s?mode=ro%s" % (path.replace("%", "%25"), "&immutable=1" if immutable else "")
    c = sqlite3.connect(uri, uri=True, timeout=20)
    h = hashlib.sha256()
    for row in c.execute("SELECT id, n, x FROM t ORDER BY id"):
        h.update(repr(row).encode())
    sound = c.execute("PRAGMA integrity_check").fetchone()[0]
    c.close()
    assert sound == "ok", "%s: %s" % (path, sound)
    return h.hexdigest()


class Torture:
    def __init__(self):
        self.snapshots = {}  # id -> digest
        self.history = {"main": []}  # branch -> ids, oldest first
        self.labels = {}
        self.branch = "main"
        self.live = None  # digest of what was committed last
        self.counts = {}

    # --- the mount ---
    def mount(self):
        os.makedirs(MNT, exist_ok=True)
        args = [BHFS, "-f", "-o", "live.dir=" + STATE, "-o", "snapshot.interval=0"] + OPTIONS + [URL, MNT]
        self.log = open(DIR + "/daemon.log", "ab")
        self.process = subprocess.Popen(args, stdout=self.log, stderr=self.log)
        with open(DIR + "/pid", "w") as pid:
            print(self.process.pid, file=pid)
        for _ in range(1500):
            if os.path.ismount(MNT) and os.path.exists(CTL + "/status"):
                return
            assert self.process.poll() is None, "the mount ended: " + open(DIR + "/daemon.log").read()[-600:]
            time.sleep(0.02)
        raise AssertionError("not mounted in time")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        subprocess.run(["umount", "-l", MNT], check=True)

    def unmount(self):
        subprocess.run([BHFS, "umount", MNT], check=True, stdout=subprocess.DEVNULL)
        assert self.process.wait(60) == 0

    def status(self, name):
        for line in open(CTL + "/status"):
            if line.startswith(name + ": "):
                return line.split(": ", 1)[1].strip()

    def command(self, name, text):
        """One command; its errno, 0 if it went well."""
        try:
            fd = os.open(CTL + "/" + name, os.O_WRONLY)
            try:
                os.write(fd, text.encode() + b"\n")
            finally:
                os.close(fd)
            return 0
        except OSError as e:
            return e.errno

    def newest(self):
        return self.status("snapshot")

    def note_newest(self):
        """The newest snapshot is one of the live content."""
        new, ids = self.newest(), self.history[self.branch]
        if not ids or ids[-1] != new:
            assert new not in self.snapshots, "snapshot %s twice" % new
            ids.append(new)
            self.snapshots[new] = self.live
        assert self.snapshots[new] == self.live, "the newest snapshot is not what is live"

    # --- steps ---
    def write(self):
        c = sqlite3.connect(DB, timeout=20, isolation_level=None)
        if rand.random() < 0.1:
            c.execute("PRAGMA journal_mode=" + rand.choice(["WAL", "DELETE", "TRUNCATE", "PERSIST"]))
        for _ in range(rand.randint(1, 4)):
            c.execute("BEGIN IMMEDIATE")
            what = rand.random()
            for _ in range(rand.randint(1, 30)):
                i = rand.randint(1, 3000)
                if what < 0.6:
                    c.execute("INSERT OR REPLACE INTO t VALUES(?, ?, randomblob(?))", (i, rand.randint(0, 1 << 40), rand.randint(0, 3000)))
                elif what < 0.8:
                    c.execute("DELETE FROM t WHERE id BETWEEN ? AND ?", (i, i + rand.randint(0, 100)))
                else:
                    c.execute("UPDATE t SET n = n + 1 WHERE id % 17 = ?", (i % 17,))
            c.execute("COMMIT")
        if rand.random() < 0.08:
            c.execute("VACUUM")
        if rand.random() < 0.1:
            c.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        c.close()
        self.live = digest(DB)

    def flush(self):
        faulty = RULES and rand.random() < 0.4
        if faulty:
            with open(RULES, "w") as f:
                f.write(rand.choice(["*:eio:40%", "put:done-but-failed:50%", "*:eagain:30%", "put:etimedout:60%", "put:enospc:50%"]) + "\n")
        rc = self.command("flush", "")
        if faulty:
            open(RULES, "w").close()
            self.counts["failed flushes"] = self.counts.get("failed flushes", 0) + (rc != 0)
            if rc:
                rc = self.command("flush", "")
        assert rc == 0, "flush: " + open(CTL + "/last_status").read()
        self.note_newest()

    def flush_and_kill(self):
        """The flush may or may not have happened; nothing committed is lost."""
        child = subprocess.Popen([BHFS, "flush", MNT], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rand.random() * 0.12)
        self.kill()
        child.wait()
        self.mount()
        self.after_death()

    def die(self):
        self.kill()
        self.mount()
        self.after_death()

    def left(self, branch):
        """A branch that is not the current one any more: its newest snapshot has all that was live."""
        newest = max(e for e in os.listdir(MNT + "/branches/" + branch + "/snapshots") if e[:8].isdigit())
        if self.history[branch][-1:] != [newest]:
            self.history[branch].append(newest)
            self.snapshots[newest] = self.live
        assert self.snapshots[newest] == self.live, "what was left is not what was flushed"

    def after_death(self):
        # Where everything was flushed a mount begins on the branch that it is told, else it goes on where it was.
        now = open(CTL + "/branch").read().strip()
        if now != self.branch:
            self.left(self.branch)
            self.branch = now
            self.live = self.snapshots[self.history[now][-1]]
        assert digest(DB) == self.live, "the live database lost something"
        new, ids = self.newest(), self.history[self.branch]
        if new and (not ids or ids[-1] != new):
            ids.append(new)
            self.snapshots[new] = self.live

    def fork(self):
        name = "b%d" % rand.randint(0, 9999)
        if name in self.history or len(self.history) > 6:
            return
        os.mkdir(MNT + "/branches/" + name)
        self.note_newest()
        self.history[name] = list(self.history[self.branch])

    def switch(self):
        before = self.branch
        name = rand.choice(sorted(self.history))
        rc = self.command("branch", name)
        assert rc == 0, "branch: " + open(CTL + "/last_status").read()
        if name != before:
            self.left(before)
            self.branch = name
            self.live = self.snapshots[self.history[name][-1]]
            assert digest(DB) == self.live, "the branch that was switched to"
        else:
            self.note_newest()

    def remove_branch(self):
        names = [n for n in self.history if n not in ("main", self.branch)]
        if names:
            name = rand.choice(sorted(names))
            os.rmdir(MNT + "/branches/" + name)
            del self.history[name]
            assert name not in os.listdir(MNT + "/branches")

    def restore(self):
        ids = self.history[self.branch]
        if not ids:
            return
        target = rand.choice(ids)
        before = self.live
        rc = self.command("restore", target)
        assert rc == 0, "restore: " + open(CTL + "/last_status").read()
        listed = sorted(e for e in os.listdir(MNT + "/snapshots") if e[:8].isdigit())
        fresh = [e for e in listed if e not in self.snapshots]
        assert 1 <= len(fresh) <= 2, "restore made %s" % fresh
        if len(fresh) == 2:
            self.snapshots[fresh[0]] = before
            ids.append(fresh[0])
        self.live = self.snapshots[target]
        self.snapshots[fresh[-1]] = self.live
        ids.append(fresh[-1])
        assert digest(DB) == self.live, "the restored content"

    def label(self):
        ids = self.history[self.branch]
        name = "L%d" % rand.randint(0, 20)
        if name in self.labels or not ids:
            return
        target = rand.choice(ids)
        os.rename(MNT + "/snapshots/" + target, MNT + "/snapshots/" + name)
        self.labels[name] = target

    def unlabel(self):
        here = sorted(n for n, i in self.labels.items() if i in self.history[self.branch])
        if here:
            name = rand.choice(here)
            os.rmdir(MNT + "/snapshots/" + name)
            del self.labels[name]

    def lose_machine(self):
        self.flush()
        self.unmount()
        subprocess.run(["rm", "-rf", STATE], check=True)
        self.mount_branch_main()

    def mount_branch_main(self):
        self.mount()
        self.branch = "main"
        self.live = self.snapshots[self.history["main"][-1]]
        assert digest(DB) == self.live, "the content after the loss of the machine"

    # --- the checks ---
    def check(self, everything):
        root = MNT + "/branches"
        assert sorted(os.listdir(root)) == sorted(self.history), "branches: %s" % os.listdir(root)
        for name, ids in self.history.items():
            if not everything and rand.random() < 0.6:
                continue
            listed = [e for e in os.listdir("%s/%s/snapshots" % (root, name)) if e[:8].isdigit()]
            assert sorted(listed) == sorted(ids), "%s: %s, not %s" % (name, sorted(listed), sorted(ids))
            for i in ids if everything else rand.sample(ids, min(3, len(ids))):
                path = "%s/%s/snapshots/%s/live.db" % (root, name, i)
                assert digest(path, True) == self.snapshots[i], "snapshot %s of %s has changed" % (i, name)
        for label, target in self.labels.items():
            if target in self.history[self.branch]:
                assert digest(MNT + "/snapshots/" + label + "/live.db", True) == self.snapshots[target], "label " + label

    def run(self):
        steps = [(self.write, 30), (self.flush, 20), (self.flush_and_kill, 6 * KILLS), (self.die, 4 * KILLS), (self.fork, 4), (self.switch, 6),
                 (self.remove_branch, 2), (self.restore, 6), (self.label, 4), (self.unlabel, 3), (self.lose_machine, 2)]
        self.mount()
        c = sqlite3.connect(DB, timeout=20)
        c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER, x BLOB)")
        c.commit()
        c.close()
        self.live = digest(DB)
        self.flush()
        for step in range(STEPS):
            fn = rand.choices([s[0] for s in steps], [s[1] for s in steps])[0]
            self.counts[fn.__name__] = self.counts.get(fn.__name__, 0) + 1
            try:
                fn()
                self.check(step % 25 == 24 or step == STEPS - 1)
            except BaseException:
                print("step %d (%s), branch %s, seed %d" % (step, fn.__name__, self.branch, SEED), flush=True)
                raise
        self.unmount()
        kills = self.counts.get("flush_and_kill", 0) + self.counts.get("die", 0)
        print("%d snapshots, %d kills: %s" % (len(self.snapshots), kills, self.counts))


Torture().run()
