#!/usr/bin/env python3
"""A client of a database with content that can be told right from wrong, for live-cache.sh.

cache-load.py make DB ROWS          makes the table
cache-load.py run DB ID CLIENTS LOG [PRAGMA...]   until killed, or LOG.enough is there: reads random rows and ranges, and
                                    writes rows whose id is ID modulo CLIENTS; each commit is in LOG before the next
cache-load.py check DB [LOG...]     all rows, and that no commit of these logs is missing
Exits 3 where content is wrong, 4 where the database went away (it was killed)."""
import hashlib, os, random, sqlite3, sys

SIZE = 3000


def content(row, version):
    return hashlib.shake_128(b"%d.%d" % (row, version)).digest(SIZE)


def verify(rows):
    for row, version, data in rows:
        if data != content(row, version):
            print(f"row {row}, version {version}: wrong content", file=sys.stderr)
            sys.exit(3)


def make(path, rows):
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v INTEGER, x BLOB)")
    db.executemany("INSERT INTO t VALUES(?, 0, ?)", ((i, content(i, 0)) for i in range(1, int(rows) + 1)))
    db.commit()


def run(path, me, clients, log, *pragmas):
    me, clients = int(me), int(clients)
    db = sqlite3.connect(path, timeout=60, isolation_level=None)
    for pragma in pragmas:
        db.execute("PRAGMA " + pragma).fetchall()
    rows = db.execute("SELECT max(id) FROM t").fetchone()[0]
    out = open(log, "a", buffering=1)
    while not os.path.exists(log + ".enough"):
        row = random.randrange(1, rows + 1)
        verify(db.execute("SELECT id, v, x FROM t WHERE id = ?", (row,)))
        if random.random() < 0.2:
            verify(db.execute("SELECT id, v, x FROM t WHERE id BETWEEN ? AND ?", (row, row + 50)))
        if random.random() < 0.1:
            wanted = []
            db.execute("BEGIN IMMEDIATE")
            for _ in range(random.randrange(1, 6)):
                row = random.randrange(rows // clients) * clients + me + 1
                found = db.execute("SELECT v FROM t WHERE id = ?", (row,)).fetchone()
                if found:
                    db.execute("UPDATE t SET v = ?, x = ? WHERE id = ?", (found[0] + 1, content(row, found[0] + 1), row))
                    wanted.append((row, found[0] + 1))
            db.execute("COMMIT")
            for row, version in wanted:
                out.write(f"{row} {version}\n")


def check(path, *logs):
    db = sqlite3.connect(path, timeout=60)
    have = {}
    for row in db.execute("SELECT id, v, x FROM t"):
        verify([row])
        have[row[0]] = row[1]
    commits = 0
    for log in logs:
        for line in open(log):
            row, version = map(int, line.split())
            commits += 1
            if have[row] < version:
                print(f"row {row} is version {have[row]}, {version} was committed", file=sys.stderr)
                sys.exit(3)
    print(f"{len(have)} rows, {commits} writes")


try:
    {"make": make, "run": run, "check": check}[sys.argv[1]](*sys.argv[2:])
except sqlite3.Error as e:
    print(e, file=sys.stderr)
    sys.exit(4)
except OSError as e:
    print(e, file=sys.stderr)
    sys.exit(4)
