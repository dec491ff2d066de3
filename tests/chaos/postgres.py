"""A ledger on PostgreSQL, where there is one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

URL = "postgresql+psycopg2://postgres@127.0.0.1:5432/test"


@contextmanager
def ledger_on_postgres() -> Iterator[str]:
    """An address with `{}` for the name of a schema to come; empty where no PostgreSQL answers.

    The schemas that were made under it are dropped at the end.
    """
    begin = f"chaos_{uuid.uuid4().hex[:8]}"
    server = sa.create_engine(URL, poolclass=sa.NullPool)
    try:
        server.connect().close()
    except sa.exc.OperationalError:
        yield ""
        return
    try:
        yield f"{URL}?options=-csearch_path%3D{begin}_{{}}"
    finally:
        with server.begin() as connection:
            for name in sa.inspect(connection).get_schema_names():
                if name.startswith(begin):
                    connection.execute(sa.schema.DropSchema(name, cascade=True))


def moved(url: str, source: str, number: str) -> str:
    """The ledger at SQLite `source` brought to a schema of its own; its address."""
    from retrain.state.ledger import Ledger

    address = url.format(number)
    schema = address.rpartition("%3D")[2]
    with sa.create_engine(URL, poolclass=sa.NullPool).begin() as connection:
        connection.execute(sa.schema.CreateSchema(schema))
    there = Ledger(address)
    table = sa.Table("retrain_records", sa.MetaData(), autoload_with=there.engine)
    with sa.create_engine(source, poolclass=sa.NullPool).connect() as old, there.engine.begin() as new:
        if rows := [dict(row) for row in old.execute(table.select().order_by(table.c.place)).mappings()]:
            new.execute(table.insert(), rows)
            new.execute(sa.text("SELECT setval('retrain_records_id_seq', (SELECT max(id) FROM retrain_records))"))
    there.engine.dispose()
    return address
