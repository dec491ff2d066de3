"""The ledger's tables: their columns, the hash of a row, the triggers that guard them, and their revisions.

A fresh database is made at the newest revision; an older one is brought there by `retrain.state.migrations`, which is
imported only then, and alembic with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError, ProgrammingError

from retrain.errors import LedgerNewer

REVISIONS = ("1", "2", "3")
"""Of the tables, oldest first; `retrain.state.migrations` leads from each to the next."""

METADATA = sa.MetaData()
RECORDS = sa.Table(
    "retrain_records",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("model", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("key", sa.String(500), nullable=False),
    sa.Column("sequence", sa.Integer),
    sa.Column("run", sa.String(300), nullable=False),
    sa.Column("effective_at", sa.String(40), nullable=False),
    sa.Column("recorded_at", sa.String(40), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("by", sa.String(300), nullable=False),
    sa.Column("place", sa.Integer, nullable=False),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.UniqueConstraint("model", "kind", "key"),
    sa.UniqueConstraint("model", "kind", "sequence"),
    sa.UniqueConstraint("model", "place", name="retrain_records_chain"),
)
VERSION = sa.Table(  # as alembic makes it
    "retrain_version",
    METADATA,
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="retrain_version_pkc"),
)
GUARDS = {
    "sqlite": tuple(
        f"CREATE TRIGGER retrain_records_no_{verb.lower()} BEFORE {verb} ON retrain_records "
        "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
        for verb in ("UPDATE", "DELETE")
    ),
    "postgresql": (
        "CREATE FUNCTION retrain_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$",
        "CREATE TRIGGER retrain_records_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON retrain_records "
        "EXECUTE FUNCTION retrain_append_only()",
    ),
}
"""The statements that make the database refuse to change a record."""

_HASHED = ("previous", "place", "model", "kind", "key", "sequence", "run", "by", "effective_at", "recorded_at", "body")


def hash_of(row: Mapping[Any, Any]) -> str:
    """SHA-256, in hexadecimal, over a JSON list of what a row says, as it is stored: the body and the times as text."""
    return hashlib.sha256(json.dumps([row[name] for name in _HASHED], separators=(",", ":")).encode()).hexdigest()


def are_current(engine: sa.Engine) -> bool:
    """Whether the database has the tables of the newest revision: one query."""
    try:
        with engine.connect() as connection:
            return bool(connection.scalar(sa.select(VERSION.c.version_num)) == REVISIONS[-1])
    except (OperationalError, ProgrammingError) as error:
        if VERSION.name not in str(error.orig):
            raise
        return False


def bring_up_to_date(connection: sa.Connection) -> None:
    """Make the tables where there are none, and bring older ones to the newest revision.

    Args:
        connection: in a transaction that no other process shares.

    Raises:
        LedgerNewer: a newer Retrain made them.
    """
    existing = sa.inspect(connection)
    revision = None
    if existing.has_table(VERSION.name):
        revision = connection.scalar(sa.select(VERSION.c.version_num))
    elif existing.has_table(RECORDS.name):  # revision 1 was made before there were revisions
        revision = REVISIONS[0]
    if revision is None:
        METADATA.create_all(connection, checkfirst=False)
        for statement in GUARDS[connection.dialect.name]:
            connection.exec_driver_sql(statement)
        connection.execute(VERSION.insert(), {"version_num": REVISIONS[-1]})
    elif revision not in REVISIONS:
        raise LedgerNewer(
            f"the ledger's tables are of revision {revision}, this Retrain knows {REVISIONS[-1]}",
            do="use the version of Retrain that the rest of the installation runs",
        )
    elif revision != REVISIONS[-1]:
        from retrain.state.migrations import upgrade

        upgrade(connection, revision)
