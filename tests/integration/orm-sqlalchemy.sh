#!/usr/bin/env bash
# A program with SQLAlchemy on live.db, with the defaults of both, a connection for every session among them; its tables change
# by Alembic's migrations, the second of which makes one anew that has rows and is being read; then four processes at
# once, one of two threads. In the rollback mode that it finds, and in WAL mode, switched on as such programs do it. Nobody
# sees "database is locked", no increment is lost, and the rows are in the bucket.
# level: full
# time: 600
# plain: the libraries wait 5 s for a lock, whatever slows the daemon down
# buckets: file
. "$(dirname "${BASH_SOURCE[0]}")/orm/common.sh" || exit 1

python_has sqlalchemy alembic
url=sqlite:///$DB

alembic() {
    must python3 -m alembic "$@"
}

load() {
    python3 "$ORM/sqlalchemy_load.py" "$url" "$@"
}

models() { # VERSION MODE
    cat <<'END_OF_MODELS'
from sqlalchemy import Column, DateTime, ForeignKey, Integer, String, Text, UniqueConstraint, event, func
from sqlalchemy.engine import Engine
from sqlalchemy.orm import declarative_base, relationship

Base = declarative_base()

class Account(Base):
    __tablename__ = "account"
    id = Column(Integer, primary_key=True)
    name = Column(String(20), nullable=False)
    n = Column(Integer, nullable=False, default=0)
    version = Column(Integer, nullable=False)
    __mapper_args__ = {"version_id_col": version}

class Entry(Base):
    __tablename__ = "entry"
    id = Column(Integer, primary_key=True)
    account_id = Column(ForeignKey(Account.id), nullable=False)
    client = Column(Integer, nullable=False)
    seq = Column(Integer, nullable=False)
    n = Column(Integer, nullable=False)
    account = relationship(Account)
END_OF_MODELS
    [ "$1" = 1 ] || cat <<'END_OF_MODELS'
    at = Column(DateTime, server_default=func.now(), index=True)
    note = Column(Text, nullable=False, server_default="")
    __table_args__ = (UniqueConstraint("client", "seq", name="once"),)
END_OF_MODELS
    [ "$2" != wal ] || cat <<'END_OF_MODELS'

@event.listens_for(Engine, "connect")
def write_ahead(connection, record):
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.close()
END_OF_MODELS
}

project() { # MODE: a directory of that name with migrations as Alembic sets them up, and the changes that its manual says
    mkdir "$T/$1"
    cd "$T/$1"
    models 1 "$1" >models.py
    alembic init migrations
    sed -i "s|^sqlalchemy.url = .*|sqlalchemy.url = $url|" alembic.ini
    sed -i 's|^target_metadata = None|from models import Base\ntarget_metadata = Base.metadata|
        s|target_metadata=target_metadata$|&, render_as_batch=True|' migrations/env.py
    grep -q 'connection, target_metadata=target_metadata, render_as_batch=True' migrations/env.py ||
        fail "unknown env.py: $(cat migrations/env.py)"
}

whole='SELECT coalesce(sum(a.n <> (SELECT count(*) FROM entry WHERE account_id = a.id)), 0) FROM account a'
for mode in delete wal; do
    echo "$mode"
    pace $mode
    mount_bh
    project $mode
    # The first revision finds no tables yet; create_all makes them for the program, so that is where they come from.
    alembic revision --autogenerate -m first
    if [ $mode = delete ]; then
        alembic upgrade head
    else
        must load create
        alembic stamp head
    fi
    sql "INSERT INTO account(name, n, version) VALUES('by SQL', 0, 1), ('by hand', 0, 1)"
    mode_is $mode
    must load add 0 $((COUNT / 10)) "$PAUSE" 1
    watching load watch "$T/enough"
    sleep 1
    models 2 $mode >models.py
    alembic revision --autogenerate -m second
    alembic upgrade head
    alembic upgrade head
    assert_match "$(sql "SELECT sql FROM sqlite_schema WHERE name = 'entry'")" 'CONSTRAINT once UNIQUE' 'the altered table'
    watching flushing "$whole"
    for ((client = 1; client <= CLIENTS; client++)); do
        beside load add $client "$COUNT" "$PAUSE" $((client == CLIENTS ? 2 : 1))
    done
    together
    assert_eq "$(sql "$whole")" 0 'accounts whose n is not the number of their entries'
    assert_eq "$(sql 'SELECT sum(n) FROM account')" $((CLIENTS * COUNT + COUNT / 10)) 'what all accounts say'
    assert_eq "$(sql "SELECT count(DISTINCT account_id || '/' || n) FROM entry")" $((CLIENTS * COUNT + COUNT / 10)) \
        'different numbers that the transactions saw'
    alembic current
    assert_match "$OUT" '\(head\)' 'what Alembic finds'
    cd "$T"
    same_elsewhere $mode 'SELECT name, n FROM account ORDER BY id; SELECT count(*), sum(seq), max(at) FROM entry;
        SELECT * FROM alembic_version'
done
