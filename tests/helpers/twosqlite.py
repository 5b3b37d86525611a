"""twosqlite.py DATABASE MODE N: two processes work on a SQLite database at once, in that journal mode: each adds N rows, one a
transaction, and moves money between two accounts; readers never see a sum that is not 1000. At the end everything is there."""
import multiprocessing
import sqlite3
import sys


def open_it(path):
    db = sqlite3.connect(path, timeout=60, isolation_level=None)
    db.execute("PRAGMA synchronous=NORMAL")
    return db


def work(path, who, count, wrong):
    db = open_it(path)
    for i in range(count):
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO log VALUES(?, ?, ?)", (who, i, "x" * (i * 37 % 900)))
        db.execute("UPDATE account SET sum = sum - ? WHERE id = 1", (i % 7,))
        db.execute("UPDATE account SET sum = sum + ? WHERE id = 2", (i % 7,))
        db.execute("COMMIT")
        if db.execute("SELECT sum(sum) FROM account").fetchone()[0] != 1000:
            wrong.value += 1
    db.close()


path, mode, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
db = open_it(path)
got = db.execute(f"PRAGMA journal_mode={mode}").fetchone()[0]
if got != mode:
    sys.exit(f"the journal mode is {got}")
db.executescript("CREATE TABLE log(who, n, text, PRIMARY KEY(who, n)); CREATE TABLE account(id INTEGER PRIMARY KEY, sum);"
                 "INSERT INTO account VALUES(1, 600), (2, 400)")
wrong = multiprocessing.Value("i", 0)
workers = [multiprocessing.Process(target=work, args=(path, who, count, wrong)) for who in (1, 2)]
for w in workers:
    w.start()
for w in workers:
    w.join()
    if w.exitcode:
        sys.exit(f"a worker ended with {w.exitcode}")
if wrong.value:
    sys.exit(f"{wrong.value} sums were wrong")
for who in (1, 2):
    n = db.execute("SELECT count(*) FROM log WHERE who = ?", (who,)).fetchone()[0]
    if n != count:
        sys.exit(f"{n} rows of {who}, wanted {count}")
if db.execute("PRAGMA integrity_check").fetchone()[0] != "ok":
    sys.exit("the database is damaged")
db.close()
