"""Clients of tests/integration/follow.sh.

write DB STOP: transactions, until the file STOP is there, each of which raises a counter, moves money between three
tables, adds to a journal, and now and then changes the schema, shrinks or grows the file. Prints the counter.
read DB STOP fresh|stays|once: reads, each a whole state no older than the one before, by one connection or a new one each time.
Prints how many, and how many states they met."""
import os
import random
import sqlite3
import sys
import time

TOTAL = 3000


def begin(db):
    db.executescript(
        "CREATE TABLE IF NOT EXISTS counter(n); CREATE TABLE IF NOT EXISTS journal(n INTEGER PRIMARY KEY, text);"
        "CREATE TABLE IF NOT EXISTS a(i INTEGER PRIMARY KEY, v); CREATE TABLE IF NOT EXISTS b(i INTEGER PRIMARY KEY, v);"
        "CREATE TABLE IF NOT EXISTS c(i INTEGER PRIMARY KEY, v); CREATE TABLE IF NOT EXISTS filler(x);")
    if db.execute("SELECT count(*) FROM counter").fetchone()[0] == 0:
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO counter VALUES(0)")
        for name in "abc":
            db.executemany("INSERT INTO %s VALUES(?, 10)" % name, [(i,) for i in range(100)])
        db.execute("COMMIT")


def write(path, stop):
    db = sqlite3.connect(path, timeout=20, isolation_level=None)
    begin(db)
    rng = random.Random(1)
    n = db.execute("SELECT n FROM counter").fetchone()[0]
    while not os.path.exists(stop):
        n += 1
        db.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE counter SET n = ?", (n,))
        db.execute("INSERT INTO journal VALUES(?, ?)", (n, "x" * rng.randrange(400)))
        source, target = rng.sample("abc", 2)
        amount = rng.randrange(5)
        db.execute("UPDATE %s SET v = v - ? WHERE i = ?" % source, (amount, rng.randrange(100)))
        db.execute("UPDATE %s SET v = v + ? WHERE i = ?" % target, (amount, rng.randrange(100)))
        if n % 20 == 0:
            db.execute("INSERT INTO filler SELECT randomblob(3000) FROM journal LIMIT 200")
        if n % 7 == 0:
            db.execute("DROP TABLE IF EXISTS odd%d" % (n // 7 % 3))
            db.execute("CREATE TABLE odd%d AS SELECT n FROM counter" % (n // 7 % 3))
        db.execute("COMMIT")
        if n % 60 == 0:
            db.execute("DELETE FROM filler")
            db.execute("VACUUM")
        time.sleep(0.02)
    print(n)


def check(db, last):
    db.execute("BEGIN")
    n = db.execute("SELECT n FROM counter").fetchone()[0]
    total = sum(db.execute("SELECT sum(v) FROM %s" % name).fetchone()[0] for name in "abc")
    lines, newest = db.execute("SELECT count(*), coalesce(max(n), 0) FROM journal").fetchone()
    odd = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE name LIKE 'odd%'")]
    odd = max([db.execute("SELECT n FROM %s" % name).fetchone()[0] for name in odd], default=0)
    again = db.execute("SELECT n FROM counter").fetchone()[0]
    integrity = db.execute("PRAGMA integrity_check").fetchone()[0]
    db.execute("COMMIT")
    if (total, lines, newest, odd, again, integrity) != (TOTAL, n, n, n // 7 * 7, n, "ok") or n < last:
        sys.exit("n %d after %d: total %s, lines %s, newest %s, odd %s, again %s, integrity %s"
                 % (n, last, total, lines, newest, odd, again, integrity))
    return n


def read(path, stop, how):
    connect = lambda: sqlite3.connect("file:%s?mode=ro" % path, uri=True, timeout=20, isolation_level=None)
    db = connect()
    reads, states, last = 0, set(), 0
    while how == "once" and not reads or not os.path.exists(stop):
        if how == "fresh":
            db.close()
            db = connect()
        last = check(db, last)
        states.add(last)
        reads += 1
        time.sleep(0.01)
    print(reads, len(states), last)


{"write": write, "read": read}[sys.argv[1]](*sys.argv[2:])
