"""The append-only history: batches, stages, decisions, promotions and rollbacks.

SQLite by default, PostgreSQL in production, through SQLAlchemy. A record is one row that is written once;
its `key` makes a second writing of the same thing find the first, and its `sequence` lets exactly one of
several racing promoters win. Every record has two times: `effective_at`, the data's clock, which policies
read, and `recorded_at`, the wall's, which auditors read.

The records of a model are a hash chain: each has its `place` (1, 2, 3, …), the hash of the one before, and a
SHA-256 over that and all it says (S. Haber and W. S. Stornetta, How to time-stamp a digital document, 1991). The
database itself refuses UPDATE and DELETE; whoever takes that guard away breaks the chain, which `verify` shows. A
tail that was cut off, or a chain that was computed anew, is still a chain: the anchors in the data registry show
those (`DataRegistry.anchor`, `retrain.reporting.verify`).

    >>> ledger = Ledger("sqlite://")
    >>> when = datetime(2024, 2, 1, tzinfo=UTC)
    >>> ledger.append("churn", "batch", "2024-01-01/abc", {"verdict": "accept"}, effective_at=when).place
    1
    >>> ledger.append("churn", "batch", "2024-01-01/abc", {"verdict": "other"}, effective_at=when).body
    {'verdict': 'accept'}
    >>> second = ledger.append("churn", "batch", "2024-02-01/def", {}, effective_at=when)
    >>> ledger.verify("churn") == (second.previous, second.hash)
    True
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from retrain.errors import ChainBroken, InvalidSpec, LedgerBusy, LedgerNewer, PromotionConflict
from retrain.state.former import KINDS, current_body, kinds_of

BUSY_SECONDS = 30

REVISIONS = ("1", "2", "3")
"""Of the tables, oldest first; `retrain.state.migrations` leads from each to the next."""

_metadata = sa.MetaData()
_records = sa.Table(
    "retrain_records",
    _metadata,
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
_version = sa.Table(  # as alembic makes it
    "retrain_version",
    _metadata,
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


@dataclass(frozen=True)
class Record:
    """A row of the ledger.

    Attributes:
        run: the key of the run that wrote it.
        by: who or what asked for it: a user of Airflow or of the machine; empty for the loop itself.
        place: in the model's chain, from 1 on.
        previous: `hash` of the record before; empty of the first.
        hash: see `hash_of`.
    """

    id: int
    model: str
    kind: str
    key: str
    sequence: int | None
    run: str
    effective_at: datetime
    recorded_at: datetime
    body: dict[str, Any]
    by: str = ""
    place: int = 0
    previous: str = ""
    hash: str = ""


_HASHED = ("previous", "place", "model", "kind", "key", "sequence", "run", "by", "effective_at", "recorded_at", "body")


def hash_of(row: Mapping[Any, Any]) -> str:
    """SHA-256, in hexadecimal, over a JSON list of what a row says, as it is stored: the body and the times as text."""
    return hashlib.sha256(json.dumps([row[name] for name in _HASHED], separators=(",", ":")).encode()).hexdigest()


class Ledger:
    """The history of all models of one installation.

    Raises:
        InvalidSpec: a database that is neither SQLite nor PostgreSQL.
        LedgerBusy: it does not answer.
        LedgerNewer: its tables were made by a newer Retrain.
    """

    def __init__(self, url: str) -> None:
        address = sa.make_url(url)
        backend = address.get_backend_name()
        options: dict[str, Any]
        if backend == "sqlite":
            if address.database:
                Path(address.database).parent.mkdir(parents=True, exist_ok=True)
            pool = sa.NullPool if address.database else sa.StaticPool
            options = {"poolclass": pool, "connect_args": {"timeout": BUSY_SECONDS}}
        elif backend == "postgresql":
            # A writer that has waited for the lock must see what was written meanwhile, whatever the server's default.
            options = {"isolation_level": "READ COMMITTED", "connect_args": {"connect_timeout": BUSY_SECONDS}}
        else:
            raise InvalidSpec(f"the ledger cannot live in {backend}", do="set RETRAIN_LEDGER to SQLite or PostgreSQL")
        self.engine = sa.create_engine(address, **options)
        with self._guard():
            self._open()

    def append(
        self,
        model: str,
        kind: str,
        key: str,
        body: dict[str, Any],
        *,
        effective_at: datetime,
        run: str = "",
        sequence: int | None = None,
        by: str = "",
    ) -> Record:
        """Write a record, or find the one that was written under this key before.

        Raises:
            PromotionConflict: another key took `sequence` first.
            LedgerBusy: the database stayed locked; nothing was written.
        """
        row: dict[str, Any] = {
            "model": model,
            "kind": kind,
            "key": key,
            "sequence": sequence,
            "run": run,
            "by": by,
            "effective_at": effective_at.isoformat(),
            "body": json.dumps(body, sort_keys=True, allow_nan=False),
        }
        with self._guard():
            try:
                with self._alone(model) as connection:
                    if former := self._former(connection, model, kind, key):
                        return former
                    place, previous = self._head(connection, model)
                    row |= {"place": place + 1, "previous": previous, "recorded_at": datetime.now(UTC).isoformat()}
                    row["hash"] = hash_of(row)
                    (row["id"],) = connection.execute(_records.insert(), row).inserted_primary_key or (0,)
                return _record(row)
            except IntegrityError:
                found = self.find(model, kind, key)
        if found is None:
            raise PromotionConflict(
                f"somebody else wrote {kind} {sequence} of {model} first",
                do="run the stage again: it reads the newer state",
            )
        return found

    def find(self, model: str, kind: str, key: str) -> Record | None:
        found = self.records(model, kind, key=key)
        return found[-1] if found else None

    def models(self) -> list[str]:
        """Every model with a record."""
        with self._guard(), self.engine.connect() as connection:
            return list(connection.scalars(sa.select(_records.c.model).distinct().order_by(_records.c.model)))

    def records(
        self, model: str, kind: str | None = None, *, key: str | None = None, run: str | None = None
    ) -> list[Record]:
        """The records of a model in the order they were written.

        Raises:
            ChainBroken: one of them is no longer what `append` writes.
        """
        query = _chain(model)
        if kind is not None:
            query = query.where(_records.c.kind.in_(kinds_of(kind)))
        for column, value in ((_records.c.key, key), (_records.c.run, run)):
            if value is not None:
                query = query.where(column == value)
        with self._guard(), self.engine.connect() as connection:
            return [_record(row) for row in connection.execute(query).mappings()]

    def verify(self, model: str) -> tuple[str, ...]:
        """The hashes of a model's records in their order, once each has shown to follow from the one before.

        Raises:
            ChainBroken: names the first record that was altered, is missing or out of place.
        """
        chain: list[str] = []
        last = 0
        with self._guard(), self.engine.connect() as connection:
            for row in connection.execute(_chain(model), execution_options={"yield_per": 1000}).mappings():
                place = len(chain) + 1
                if row["place"] != place:
                    raise _broken(model, f"record {place} is missing, {_named(row)} comes in its stead")
                if row["hash"] != hash_of(row):
                    raise _broken(model, f"{_named(row)} was altered: its hash is not that of what it says")
                if row["previous"] != (chain[-1] if chain else ""):
                    raise _broken(
                        model, f"{_named(row)} does not follow record {place - 1}, which is another than it was"
                    )
                if row["id"] <= last:
                    raise _broken(model, f"{_named(row)} is out of place: it has the id {row['id']}, after {last}")
                last = row["id"]
                chain.append(row["hash"])
        return tuple(chain)

    def _former(self, connection: sa.Connection, model: str, kind: str, key: str) -> Record | None:
        """The record of this key that was written when the kind had another name."""
        former = kinds_of(kind)[1:]
        if not former:
            return None
        query = _chain(model).where(_records.c.kind.in_(former), _records.c.key == key)
        row = connection.execute(query).mappings().first()
        return _record(row) if row else None

    def _head(self, connection: sa.Connection, model: str) -> tuple[int, str]:
        """Place and hash of the newest record."""
        query = sa.select(_records.c.place, _records.c.hash).where(_records.c.model == model)
        found = connection.execute(query.order_by(_records.c.place.desc()).limit(1)).first()
        return (found.place, found.hash) if found else (0, "")

    def _open(self) -> None:
        """Make the tables where there are none, and bring older ones to today's; one query where all is well."""
        try:
            with self.engine.connect() as connection:
                found = connection.scalar(sa.select(_version.c.version_num))
        except (OperationalError, ProgrammingError) as error:
            if _version.name not in str(error.orig):
                raise
            found = None
        if found == REVISIONS[-1]:
            return
        with self._alone("") as connection:
            tables = sa.inspect(connection)
            if tables.has_table(_version.name):
                found = connection.scalar(sa.select(_version.c.version_num))
            elif tables.has_table(_records.name):  # revision 1 was made before there were revisions
                found = REVISIONS[0]
            if found is None:
                _metadata.create_all(connection, checkfirst=False)
                for statement in GUARDS[connection.dialect.name]:
                    connection.exec_driver_sql(statement)
                connection.execute(_version.insert(), {"version_num": REVISIONS[-1]})
            elif found not in REVISIONS:
                raise LedgerNewer(
                    f"the ledger's tables are of revision {found}, this Retrain knows {REVISIONS[-1]}",
                    do="use the version of Retrain that the rest of the installation runs",
                )
            elif found != REVISIONS[-1]:
                from retrain.state.migrations import upgrade

                upgrade(connection, found)

    @contextmanager
    def _alone(self, model: str) -> Iterator[sa.Connection]:
        """A transaction that shares its model with no other writer; an empty model stands for the tables."""
        with self.engine.begin() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                lock = int.from_bytes(hashlib.sha256(f"retrain {model}".encode()).digest()[:8], signed=True)
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(BUSY_SECONDS * 1000)}")
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(lock)))
            yield connection

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except OperationalError as error:
            if not any(word in str(error).lower() for word in ("locked", "connect", "lock timeout")):
                raise
            raise LedgerBusy(
                f"the ledger did not answer within {BUSY_SECONDS} s ({error.orig})",
                do="see what holds its database, then retry",
            ) from None


def _chain(model: str) -> sa.Select[Any]:
    return _records.select().where(_records.c.model == model).order_by(_records.c.place)


def _record(row: Mapping[Any, Any]) -> Record:
    try:
        times = {name: datetime.fromisoformat(row[name]) for name in ("effective_at", "recorded_at")}
        kind = KINDS.get(row["kind"], row["kind"])
        return Record(**{**row, **times, "kind": kind, "body": current_body(kind, json.loads(row["body"]))})
    except ValueError as error:
        raise _broken(row["model"], f"{_named(row)} was altered: {error}") from None


def _named(row: Mapping[Any, Any]) -> str:
    return f"record {row['place']} ({row['kind']} {row['key']}, written {row['recorded_at']})"


def _broken(model: str, found: str) -> ChainBroken:
    return ChainBroken(
        f"the ledger of {model}: {found}",
        do="find out who wrote to its database, and restore it from a backup that verifies",
    )
