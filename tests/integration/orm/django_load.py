"""The load of orm-django.sh, as a Django program would write it. In the directory of the project:

    django_load.py add ID N PAUSE    N transactions of two kinds, at most PAUSE ms between them, each an entry and one more in
                                     its account; ID tells the processes apart. "database is locked" is an error, except
                                     in a transaction that reads before it writes: that one begins anew
    django_load.py watch FILE        reads until FILE is there: every account says how many entries it has
"""
import os
import random
import sys
import time

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
sys.path.insert(0, os.getcwd())
django.setup()

from django.db import OperationalError, transaction  # noqa: E402
from django.db.models import Count, F  # noqa: E402
from ledger.models import Account, Entry  # noqa: E402


def increment(client, seq):
    """The database adds: an UPDATE, so the transaction writes from the start and waits for the lock."""
    with transaction.atomic():
        Account.objects.filter(name="by F").update(n=F("n") + 1)
        account = Account.objects.get(name="by F")
        Entry.objects.create(account=account, client=client, seq=seq, n=account.n)


def add_by_hand(client, seq):
    """The program adds. What it read may be old when it wants to write: SQLite then says so at once."""
    again = 0
    while True:
        try:
            with transaction.atomic():
                account = Account.objects.get(name="by hand")
                account.n += 1
                account.save()
                Entry.objects.create(account=account, client=client, seq=seq, n=account.n)
            return again
        except OperationalError as e:
            if "locked" not in str(e):
                raise
        again += 1
        time.sleep(random.uniform(0, 0.02))


def add(client, count, pause):
    again, slowest, began = 0, 0.0, time.monotonic()
    for seq in range(count):
        start = time.monotonic()
        if seq % 4 == 3:
            again += add_by_hand(client, seq)
        else:
            increment(client, seq)
        slowest = max(slowest, time.monotonic() - start)
        time.sleep(random.uniform(0, pause / 1000))
    print(f"client {client}: {count} transactions in {time.monotonic() - began:.1f} s, the slowest {slowest * 1000:.0f} ms, "
          f"{again} begun anew")


def watch(enough):
    count = 0
    while not os.path.exists(enough):
        for name, n, entries in Account.objects.annotate(c=Count("entry")).values_list("name", "n", "c"):
            if n != entries:
                sys.exit(f"account {name}: n is {n}, but it has {entries} entries")
        count += 1
        time.sleep(0.01)
    print(f"watched {count} times")


if sys.argv[1] == "add":
    add(*map(int, sys.argv[2:5]))
else:
    watch(sys.argv[2])
