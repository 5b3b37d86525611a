#!/usr/bin/env python3
"""Clients that read and write a mounted live.db all the time, with connections and prepared statements that are kept, while
snapshots are restored and branches switched under them. Each must see whole states only, and what was committed must be in the
history for good. Ends with the first broken promise.

    restoreload.py MNT VERBS SEED MODE SECONDS

A state is whole if the tables a, b and c, the log and the tag fit together:
- each write draws a new lineage, which is in tag and in the log's newest row; each row of the log names the one before;
- each row of a, b, c has the number and lineage of the write that it is of, so a row of another lineage has no row in the log;
- tag has the sum of each table; each row knows its table (root pages move: the tables are dropped and made again at times).
So pages of two states never pass for one. What a client was told is committed must be in the log of a snapshot at last."""
import collections
import multiprocessing
import os
import random
import sqlite3
import sys
import time

MNT, VERBS, SEED, MODE, SECONDS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], float(sys.argv[5])
DB, CTL = MNT + "/live.db", MNT + "/.ctl"
TABLES, ROWS, TIMEOUT, CLIENTS, KEPT = ("a", "b", "c"), 120, 10, 4, 1500

BROKEN = ["SELECT 'rows of another table in %s', count(*) FROM %s WHERE tab <> '%s'" % (t, t, t) for t in TABLES]
BROKEN += ["SELECT 'rows of another lineage in %s', count(*) FROM %s LEFT JOIN log USING(n) WHERE log.lineage IS NOT %s.lineage"
           % (t, t, t) for t in TABLES]
BROKEN += ["SELECT 'sum of %s', sum_%s <> (SELECT total(v) FROM %s) FROM tag" % (t, t, t) for t in TABLES]
BROKEN += ["SELECT 'rows in %s', count(*) <> %d FROM %s" % (t, ROWS, t) for t in TABLES]
BROKEN += ["SELECT 'breaks in the log', count(*) FROM log JOIN log AS before ON before.n = log.n - 1 WHERE log.before <> before.lineage",
           "SELECT 'holes in the log', count(*) <> max(n) - min(n) + 1 FROM log",
           "SELECT 'the newest of the log', count(*) FROM tag LEFT JOIN log ON log.n = tag.n WHERE log.lineage IS NOT tag.lineage",
           "SELECT 'beyond the newest', max(log.n) > (SELECT n FROM tag) FROM log"]
CHEAP = BROKEN[6:9] + BROKEN[-2:]


class Broken(Exception):
    pass


def check(c, statements):
    """Within one read transaction: what is there fits together. Its tag."""
    for statement in statements:
        what, count = c.execute(statement).fetchone()
        if count:
            raise Broken("%s: %s; tag %s" % (what, count, c.execute("SELECT * FROM tag").fetchall()))
    tags = c.execute("SELECT n, lineage, branch FROM tag").fetchall()
    if len(tags) != 1:
        raise Broken("tags: %s" % tags)
    return tags[0]


def make_table(c, t, rows):
    c.execute("CREATE TABLE %s(k INTEGER PRIMARY KEY, tab, n INTEGER, lineage INTEGER, v INTEGER, pad BLOB)" % t)
    c.executemany("INSERT INTO %s VALUES(?, ?, ?, ?, ?, ?)" % t, rows)


def create(c, rand):
    lineage = rand.getrandbits(60)
    c.execute("BEGIN IMMEDIATE")
    c.execute("CREATE TABLE tag(n INTEGER, lineage INTEGER, branch, sum_a, sum_b, sum_c)")
    c.execute("CREATE TABLE log(n INTEGER PRIMARY KEY, lineage INTEGER, before INTEGER)")
    for t in TABLES:
        make_table(c, t, [(k, t, 1, lineage, 100, rand.randbytes(rand.randint(0, 300))) for k in range(ROWS)])
    c.execute("INSERT INTO log VALUES(1, ?, 0)", (lineage,))
    c.execute("INSERT INTO tag VALUES(1, ?, 'main', ?, ?, ?)", (lineage,) + (ROWS * 100.0,) * 3)
    c.execute("COMMIT")


class Client:
    """One process. What it was told is committed goes to a file, a lineage a line."""

    def __init__(self, number, acks):
        self.rand = random.Random(SEED * 100 + number)
        self.acks, self.counts = open(acks, "w", buffering=1), collections.Counter()
        self.c = sqlite3.connect("file:%s?mode=rw" % DB, uri=True, timeout=TIMEOUT, isolation_level=None, cached_statements=200)
        mode = self.c.execute("PRAGMA journal_mode").fetchone()[0]
        assert mode.upper() == MODE, "journal mode %s" % mode

    def read(self):
        self.c.execute("BEGIN")
        first = check(self.c, BROKEN if self.rand.random() < 0.5 else CHEAP)
        if self.rand.random() < 0.1:
            time.sleep(self.rand.random() * 0.1)
        again = check(self.c, CHEAP)
        self.c.execute("COMMIT")
        if first != again:
            raise Broken("a transaction read %s, then %s" % (first, again))

    def glance(self):
        """Without a transaction: the same statement, kept over all that happens to the database."""
        n, lineage, newest = self.c.execute("SELECT n, lineage, (SELECT lineage FROM log WHERE log.n = tag.n) FROM tag").fetchone()
        if lineage != newest:
            raise Broken("tag %d has lineage %d, the log %s" % (n, lineage, newest))

    def change(self, n, lineage):
        total = {}
        for t in TABLES:
            for _ in range(self.rand.randint(0, 6)):
                self.c.execute("UPDATE %s SET n = ?, lineage = ?, v = ?, pad = ? WHERE k = ?" % t,
                               (n, lineage, self.rand.randint(0, 1000), self.rand.randbytes(self.rand.randint(0, 300)),
                                self.rand.randrange(ROWS)))
            # What the log will forget must be rewritten first.
            self.c.execute("UPDATE %s SET n = ?, lineage = ? WHERE n < ?" % t, (n, lineage, n - KEPT + 200))
            total[t] = self.c.execute("SELECT total(v) FROM %s" % t).fetchone()[0]
        self.c.execute("DELETE FROM log WHERE n < ?", (n - KEPT,))
        return total

    def change_schema(self):
        what = self.rand.random()
        if what < 0.4:
            self.c.execute("CREATE INDEX IF NOT EXISTS by_v ON a(v)")
        elif what < 0.6:
            self.c.execute("DROP INDEX IF EXISTS by_v")
        else:  # other root pages: who wrote with an old schema would write into another table
            rows = {t: self.c.execute("SELECT k, tab, n, lineage, v, pad FROM %s" % t).fetchall() for t in TABLES}
            for t in TABLES:
                self.c.execute("DROP TABLE " + t)
            for t in self.rand.sample(TABLES, len(TABLES)):
                make_table(self.c, t, rows[t])
            self.counts["tables made again"] += 1

    def write(self):
        self.upgrades = self.rand.random() < 0.2
        self.c.execute("BEGIN" if self.upgrades else "BEGIN IMMEDIATE")
        n, before, _ = check(self.c, CHEAP)
        if self.rand.random() < 0.03:
            self.change_schema()
        lineage = self.rand.getrandbits(60)
        self.c.execute("INSERT INTO log VALUES(?, ?, ?)", (n + 1, lineage, before))
        total = self.change(n + 1, lineage)
        self.c.execute("UPDATE tag SET n = ?, lineage = ?, sum_a = ?, sum_b = ?, sum_c = ?",
                       (n + 1, lineage, total["a"], total["b"], total["c"]))
        if self.rand.random() < 0.05:
            self.c.execute("ROLLBACK")
            return
        self.c.execute("COMMIT")
        self.acks.write("%d\n" % lineage)

    def step(self):
        what, began, self.upgrades = self.rand.random(), time.monotonic(), False
        fn = self.write if what < 0.5 else self.read if what < 0.8 else self.glance
        try:
            fn()
            self.counts[fn.__name__] += 1
        except sqlite3.OperationalError as e:
            # Locking among clients, as SQLite has it: after the timeout; or, for who reads first and then wants to write,
            # at once, as the wait could have no end.
            waited = time.monotonic() - began
            name = getattr(e, "sqlite_errorname", "?")
            if name == "SQLITE_BUSY_SNAPSHOT" or (name == "SQLITE_BUSY" and (self.upgrades or waited > TIMEOUT * 0.8)):
                self.counts[name + (" at once" if waited < TIMEOUT * 0.8 else "")] += 1
            else:
                raise Broken("%s: %s (%s) after %.3f s" % (fn.__name__, e, name, waited)) from e
            if self.c.in_transaction:
                self.c.execute("ROLLBACK")

    def run(self, stop):
        while not stop.is_set():
            self.step()
            time.sleep(self.rand.random() * 0.02)
        self.c.close()


def client(number, acks, stop, results):
    counts = None
    try:
        me = Client(number, acks)
        me.run(stop)
        counts = me.counts
    except BaseException as e:
        results.put((number, "%s: %s" % (type(e).__name__, e), counts))
        stop.set()
        raise
    results.put((number, None, counts))


class Driver:
    def __init__(self):
        self.rand, self.counts = random.Random(SEED), collections.Counter()
        self.forks = 0
        self.c = sqlite3.connect("file:%s?mode=rw" % DB, uri=True, timeout=60, isolation_level=None)

    def command(self, name, text):
        """One command. A client's transaction that does not end in time is a reason to try again, now and then."""
        for _ in range(4):
            try:
                with open(CTL + "/" + name, "wb", 0) as f:
                    f.write(text.encode() + b"\n")
                return
            except OSError as e:
                why = open(CTL + "/last_status").read().strip()
                if e.errno != 16:
                    raise Broken("%s %s: %s: %s" % (name, text, e, why)) from e
                self.counts["EBUSY"] += 1
        raise Broken("%s %s: EBUSY four times: %s" % (name, text, why))

    def tag_of(self, path):
        c = sqlite3.connect("file:%s?mode=ro&immutable=1" % path, uri=True)
        tag = check(c, BROKEN)
        c.close()
        return tag

    def expect(self, tag, what):
        """The live content is that state, or has gone on from it."""
        n, lineage, branch = tag
        self.c.execute("BEGIN")
        now = check(self.c, BROKEN)
        there = self.c.execute("SELECT lineage FROM log WHERE n = ?", (n,)).fetchall()
        self.c.execute("COMMIT")
        if there != [(lineage,)] or now[2] != branch:
            raise Broken("%s: live is %s, which does not come from %s (%s)" % (what, now, tag, there))

    def snapshots(self, branch=None):
        where = MNT + ("/branches/%s/snapshots" % branch if branch else "/snapshots")
        return sorted(e for e in os.listdir(where) if e[:8].isdigit())

    def restore(self):
        target = self.rand.choice(self.snapshots()[-40:])
        tag = self.tag_of("%s/snapshots/%s/live.db" % (MNT, target))
        prev = self.rand.random() < 0.1 and len(self.snapshots(open(CTL + "/branch").read().strip())) > 1
        self.command("restore", "prev" if prev else target)
        report = dict(line.split(": ", 1) for line in open(CTL + "/restore").read().splitlines())
        if report["restored"] != target:
            tag = self.tag_of("%s/snapshots/%s/live.db" % (MNT, report["restored"]))
        self.expect(tag, "restore of " + report["restored"])

    def switch(self):
        now = open(CTL + "/branch").read().strip()
        names = sorted(n for n in os.listdir(MNT + "/branches") if n != now)
        if not names or (len(names) < 4 and self.rand.random() < 0.3):
            self.forks += 1
            name = "b%d" % self.forks
            os.mkdir(MNT + "/branches/" + name)
            tag = self.tag_of("%s/branches/%s/live.db" % (MNT, name))
            self.command("branch", name)
            self.expect(tag, "the fork " + name)
            self.c.execute("UPDATE tag SET branch = ?", (name,))
        else:
            name = self.rand.choice(names)
            tag = self.tag_of("%s/branches/%s/live.db" % (MNT, name))
            self.command("branch", name)
            self.expect(tag, "branch " + name)

    def flush(self):
        self.command("flush", "")

    def run(self, stop, deadline):
        done = 0
        while done < VERBS and not stop.is_set():
            fn = self.rand.choices([self.restore, self.switch, self.flush], [5, 4, 2])[0]
            began = time.monotonic()
            fn()
            self.counts[fn.__name__] += 1
            self.counts["longest ms"] = max(self.counts["longest ms"], int((time.monotonic() - began) * 1000))
            done += fn != self.flush
            if time.monotonic() > deadline:
                raise Broken("%d verbs of %d in the time that there is" % (done, VERBS))
            time.sleep(self.rand.random() * 0.1)

    def lineages(self, c):
        tag = check(c, BROKEN)
        sound = c.execute("PRAGMA integrity_check").fetchone()[0]
        if sound != "ok":
            raise Broken("integrity_check: " + sound)
        return {lineage for lineage, in c.execute("SELECT lineage FROM log")}, tag

    def check_all(self, acks):
        """Every snapshot of every branch is a whole state; what was committed is somewhere in them."""
        self.flush()
        found, _ = self.lineages(self.c)
        looked_at = set()
        for branch in sorted(os.listdir(MNT + "/branches")):
            for snapshot in self.snapshots(branch):
                if snapshot in looked_at:
                    continue
                looked_at.add(snapshot)
                c = sqlite3.connect("file:%s/branches/%s/snapshots/%s/live.db?mode=ro&immutable=1" % (MNT, branch, snapshot), uri=True)
                try:
                    found |= self.lineages(c)[0]
                except (Broken, sqlite3.Error) as e:
                    raise Broken("snapshot %s of %s: %s" % (snapshot, branch, e)) from e
                c.close()
        acked = [int(line) for name in acks for line in open(name)]
        lost = [lineage for lineage in acked if lineage not in found]
        if lost:
            raise Broken("%d of %d committed transactions are in no snapshot" % (len(lost), len(acked)))
        print("%s: %d transactions, all found in %d snapshots" % (MODE, len(acked), len(looked_at)))


def main():
    driver = Driver()
    assert driver.c.execute("PRAGMA journal_mode=" + MODE).fetchone()[0].upper() == MODE
    create(driver.c, driver.rand)
    driver.flush()
    stop, results = multiprocessing.Event(), multiprocessing.Queue()
    acks = ["acks.%s.%d" % (MODE, i) for i in range(CLIENTS)]
    clients = [multiprocessing.Process(target=client, args=(i, acks[i], stop, results)) for i in range(CLIENTS)]
    for p in clients:
        p.start()
    failure = None
    try:
        driver.run(stop, time.monotonic() + SECONDS)
    except Broken as e:
        failure = "the driver: %s" % e
    stop.set()
    total = collections.Counter()
    for _ in clients:
        number, wrong, counts = results.get(timeout=60)
        failure = failure or (wrong and "client %d: %s" % (number, wrong))
        total.update(counts or {})
    for p in clients:
        p.join()
    print("%s, seed %d: verbs %s, clients %s" % (MODE, SEED, dict(driver.counts), dict(total)), flush=True)
    if failure:
        raise SystemExit("broken: " + failure)
    try:
        driver.check_all(acks)
    except Broken as e:
        raise SystemExit("broken: %s" % e)
    driver.c.close()


main()
