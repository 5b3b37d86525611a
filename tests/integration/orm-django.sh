#!/usr/bin/env bash
# A Django project with live.db as its database, Django's settings otherwise: tables by migrations, the second of which
# makes one anew that has rows and is being read; then four processes at once. In the rollback mode that Django finds, and in
# WAL mode, switched on as Django programs do it. No process sees "database is locked", no increment is lost, and the rows
# are in the bucket.
# level: long
# time: 300
# plain: the libraries wait 5 s for a lock, whatever slows the daemon down
# buckets: file
. "$(dirname "${BASH_SOURCE[0]}")/orm/common.sh" || exit 1

python_has django

manage() {
    must python3 manage.py "$@"
}

models() { # VERSION
    cat <<END_OF_MODELS
from django.db import models
from django.utils import timezone

class Account(models.Model):
    name = models.CharField(max_length=$(($1 * 20)), unique=$([ "$1" = 1 ] && echo False || echo True))
    n = models.IntegerField(default=0)

class Entry(models.Model):
    account = models.ForeignKey(Account, on_delete=models.CASCADE)
    client = models.IntegerField()
    seq = models.IntegerField()
    n = models.IntegerField()
END_OF_MODELS
    [ "$1" = 1 ] || cat <<'END_OF_MODELS'
    at = models.DateTimeField(default=timezone.now, db_index=True)
    note = models.TextField(default="")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["client", "seq"], name="once")]
END_OF_MODELS
}

project() { # MODE: a new project of that name, as Django makes it
    mkdir "$T/$1"
    cd "$T/$1"
    must python3 -m django startproject shop .
    manage startapp ledger
    sed -i "s|BASE_DIR / 'db.sqlite3'|'$DB'|; s|^INSTALLED_APPS = \[|&'ledger', |" shop/settings.py
    grep -q "$DB" shop/settings.py && grep -q "'ledger', " shop/settings.py || fail "unknown settings: $(cat shop/settings.py)"
    models 1 >ledger/models.py
    [ "$1" != wal ] || cat >>shop/settings.py <<'END_OF_SETTINGS'

from django.db.backends.signals import connection_created

def write_ahead(connection, **kwargs):
    connection.cursor().execute("PRAGMA journal_mode=WAL")

connection_created.connect(write_ahead)
END_OF_SETTINGS
}

whole='SELECT coalesce(sum(a.n <> (SELECT count(*) FROM ledger_entry WHERE account_id = a.id)), 0) FROM ledger_account a'
for mode in delete wal; do
    echo "$mode"
    pace $mode
    mount_bh
    project $mode
    manage makemigrations ledger
    manage migrate
    manage shell -c "from ledger.models import Account; Account.objects.create(name='by F'); Account.objects.create(name='by hand')"
    mode_is $mode
    must python3 "$ORM/django_load.py" add 0 $((COUNT / 10)) "$PAUSE"
    watching python3 "$ORM/django_load.py" watch "$T/enough"
    sleep 1
    models 2 >ledger/models.py
    manage makemigrations ledger
    assert_eq "$(find ledger/migrations -name '000*.py' | wc -l)" 2 'migrations'
    manage migrate
    assert_match "$(sql "SELECT sql FROM sqlite_schema WHERE name = 'ledger_entry'")" 'CONSTRAINT "once" UNIQUE' 'the altered table'
    watching flushing "$whole"
    for ((client = 1; client <= CLIENTS; client++)); do
        beside python3 "$ORM/django_load.py" add $client "$COUNT" "$PAUSE"
    done
    together
    assert_eq "$(sql "$whole")" 0 'accounts whose n is not the number of their entries'
    assert_eq "$(sql 'SELECT sum(n) FROM ledger_account')" $((CLIENTS * COUNT + COUNT / 10)) 'what all accounts say'
    assert_eq "$(sql "SELECT count(DISTINCT account_id || '/' || n) FROM ledger_entry")" $((CLIENTS * COUNT + COUNT / 10)) \
        'different numbers that the transactions saw'
    manage check
    cd "$T"
    same_elsewhere $mode 'SELECT name, n FROM ledger_account ORDER BY id; SELECT count(*), sum(seq), max(at) FROM ledger_entry;
        SELECT group_concat(name) FROM django_migrations'
done
