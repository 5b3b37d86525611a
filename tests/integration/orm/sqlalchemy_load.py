"""The load of orm-sqlalchemy.sh, as a program with SQLAlchemy's ORM would write it. In the directory with models.py:

    sqlalchemy_load.py URL create                  the tables
    sqlalchemy_load.py URL add ID N PAUSE THREADS  N transactions of two kinds, shared by so many threads, at most PAUSE ms
                                                   between them, each an entry and one more in its account; ID tells the
                                                   processes apart. "database is locked" is an error
    sqlalchemy_load.py URL watch FILE              reads until FILE is there: every account says how many entries it has

SQLAlchemy opens a connection for each session and closes it afterwards: that is how it treats files of SQLite.
"""
import os
import random
import sys
import threading
import time

from sqlalchemy import create_engine, func, select, update
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

sys.path.insert(0, os.getcwd())

from models import Account, Base, Entry  # noqa: E402

engine = create_engine(sys.argv[1])


def increment(client, seq):
    """The database adds."""
    with Session(engine) as session, session.begin():
        session.execute(update(Account).where(Account.name == "by SQL").values(n=Account.n + 1)
                        .execution_options(synchronize_session=False))
        account = session.execute(select(Account).where(Account.name == "by SQL")).scalar_one()
        session.add(Entry(account=account, client=client, seq=seq, n=account.n))


def add_by_hand(client, seq):
    """The program adds. The row has a version: who comes second with an old one is told so, and begins anew."""
    again = 0
    while True:
        try:
            with Session(engine) as session, session.begin():
                account = session.execute(select(Account).where(Account.name == "by hand")).scalar_one()
                account.n += 1
                session.flush()
                session.add(Entry(account=account, client=client, seq=seq, n=account.n))
            return again
        except StaleDataError:
            again += 1
            time.sleep(random.uniform(0, 0.02))


class Adder(threading.Thread):
    def __init__(self, client, seqs, pause):
        super().__init__()
        self.client, self.seqs, self.pause = client, seqs, pause
        self.again, self.slowest, self.done = 0, 0.0, False

    def run(self):
        for seq in self.seqs:
            start = time.monotonic()
            if seq % 4 == 3:
                self.again += add_by_hand(self.client, seq)
            else:
                increment(self.client, seq)
            self.slowest = max(self.slowest, time.monotonic() - start)
            time.sleep(random.uniform(0, self.pause / 1000))
        self.done = True


def add(client, count, pause, threads):
    began = time.monotonic()
    adders = [Adder(client, range(i, count, threads), pause) for i in range(threads)]
    for adder in adders:
        adder.start()
    for adder in adders:
        adder.join()
    if not all(adder.done for adder in adders):
        sys.exit(1)  # the thread has said why
    print(f"client {client}: {count} transactions, {threads} at once, in {time.monotonic() - began:.1f} s, "
          f"the slowest {max(a.slowest for a in adders) * 1000:.0f} ms, {sum(a.again for a in adders)} begun anew")


def watch(enough):
    count = 0
    sums = select(Account.name, Account.n, func.count(Entry.id)).outerjoin(Entry).group_by(Account.id)
    while not os.path.exists(enough):
        with Session(engine) as session:
            for name, n, entries in session.execute(sums):
                if n != entries:
                    sys.exit(f"account {name}: n is {n}, but it has {entries} entries")
        count += 1
        time.sleep(0.01)
    print(f"watched {count} times")


if sys.argv[2] == "create":
    Base.metadata.create_all(engine)
elif sys.argv[2] == "add":
    add(*map(int, sys.argv[3:7]))
else:
    watch(sys.argv[3])
