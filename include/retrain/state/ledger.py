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
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, NoSuchModuleError

from retrain.errors import ChainBroken, InvalidName, InvalidSpec, LedgerBusy, PromotionConflict
from retrain.state.failures import naming_failures, refusal_of
from retrain.state.former import KINDS, current_body, kinds_of
from retrain.state.ledger_tables import RECORDS, are_current, bring_up_to_date, hash_of
from retrain.state.private import private_file
from retrain.state.settings import database_url

BUSY_SECONDS = 30

Kind = Literal[
    "ingest",
    "batch",
    "snapshot",
    "labels",
    "data restored",
    "release",
    "stage",
    "score stage",
    "monitor stage",
    "signal",
    "decision",
    "alert",
    "training",
    "evidence",
    "interim_analysis",
    "score",
    "proposal",
    "approval",
    "access",
    "promotion",
    "completed",
    "rollout",
    "reconciled",
    "notice",
]
"""The kinds of records; docs/glossary.md says what each records."""


@dataclass(frozen=True)
class Record:
    """One entry of the ledger.

    Attributes:
        run: the key of the run that wrote it.
        by: who or what asked for it: a user of Airflow or of the machine; empty for the loop itself.
        place: in the model's chain, from 1 on.
        previous: `hash` of the record before; empty of the first.
        hash: see `hash_of`.
    """

    id: int
    model: str
    kind: Kind
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


class Ledger:
    """The history of all models of one installation.

    Raises:
        InvalidSpec: a database that is neither SQLite nor PostgreSQL, or no address of one.
        LedgerBusy: it does not answer.
        LedgerNewer: its tables were made by a newer Retrain.
        DiskFull, AccessDenied, DatabaseCorrupt: the disk or the database, by name; these of every method too.
    """

    def __init__(self, url: str) -> None:
        try:
            address = database_url(url)
            backend = address.get_backend_name()
        except (ValueError, NoSuchModuleError) as error:
            raise InvalidSpec(
                f"RETRAIN_LEDGER is no address of a database: {error}", do="set it to an SQLAlchemy URL"
            ) from None
        options: dict[str, Any]
        if backend == "sqlite":
            if address.database:
                with naming_failures(str(address.database)):
                    private_file(Path(address.database))
            pool = sa.NullPool if address.database else sa.StaticPool
            options = {"poolclass": pool, "connect_args": {"timeout": BUSY_SECONDS}}
        elif backend == "postgresql":
            # A writer that has waited for the lock must see what was written meanwhile, whatever the server's default.
            options = {"isolation_level": "READ COMMITTED", "connect_args": {"connect_timeout": BUSY_SECONDS}}
        else:
            raise InvalidSpec(f"the ledger cannot live in {backend}", do="set RETRAIN_LEDGER to SQLite or PostgreSQL")
        self.engine = sa.create_engine(address, **options)
        with self._refuse_when_busy():
            if not are_current(self.engine):
                with self._exclusive("") as connection:
                    bring_up_to_date(connection)

    def append(
        self,
        model: str,
        kind: Kind,
        key: str,
        body: dict[str, Any],
        *,
        effective_at: datetime,
        run: str = "",
        sequence: int | None = None,
        by: str = "",
    ) -> Record:
        """Write a record, or find the one that was written under this key before.

        Args:
            model: whose history it belongs to.
            kind: of the record, like `batch` or `promotion`.
            key: one a kind; a second writing finds the first.
            body: what is on record, JSON without NaN.
            effective_at: the data's clock.
            run: the key of the run that writes it.
            sequence: a number that only one record of the kind may have.
            by: who or what asked for it.

        Raises:
            InvalidName: a name is longer than its column, whatever the database makes of it.
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
        for name in ("model", "kind", "key", "run", "by"):
            if len(row[name]) > (most := RECORDS.c[name].type.length):  # type: ignore[attr-defined]
                raise InvalidName(
                    f"{name} has {len(row[name])} characters: {row[name][:80]}…", do=f"use at most {most}"
                )
        with self._refuse_when_busy():
            try:
                with self._exclusive(model) as connection:
                    if earlier := self._under_former_kind(connection, model, kind, key):
                        return earlier
                    place, previous = self._head(connection, model)
                    row |= {"place": place + 1, "previous": previous, "recorded_at": datetime.now(UTC).isoformat()}
                    row["hash"] = hash_of(row)
                    (row["id"],) = connection.execute(RECORDS.insert(), row).inserted_primary_key or (0,)
                return _record(row)
            except IntegrityError:
                earlier = self.find(model, kind, key)
        if earlier is None:
            raise PromotionConflict(
                f"somebody else wrote {kind} {sequence} of {model} first",
                do="run the stage again: it reads the newer state",
            )
        return earlier

    def find(self, model: str, kind: str, key: str) -> Record | None:
        """The record of a key; None where there is none."""
        records = self.records(model, kind, key=key)
        return records[-1] if records else None

    def models(self) -> list[str]:
        """Every model with a record."""
        with self._refuse_when_busy(), self.engine.connect() as connection:
            return list(connection.scalars(sa.select(RECORDS.c.model).distinct().order_by(RECORDS.c.model)))

    def records(
        self, model: str, kind: str | None = None, *, key: str | None = None, run: str | None = None
    ) -> list[Record]:
        """The records of a model in the order they were written.

        Args:
            model: whose.
            kind: only these, whatever they were called when they were written.
            key: only those of this key.
            run: only those that this run wrote.

        Raises:
            ChainBroken: one of them is no longer what `append` writes.
        """
        query = _chain(model)
        if kind is not None:
            query = query.where(RECORDS.c.kind.in_(kinds_of(kind)))
        for column, value in ((RECORDS.c.key, key), (RECORDS.c.run, run)):
            if value is not None:
                query = query.where(column == value)
        with self._refuse_when_busy(), self.engine.connect() as connection:
            return [_record(row) for row in connection.execute(query).mappings()]

    def hash_at(self, model: str, place: int) -> str:
        """The hash of a model's record at a place; empty where there is none."""
        query = sa.select(RECORDS.c.hash).where(RECORDS.c.model == model, RECORDS.c.place == place)
        with self._refuse_when_busy(), self.engine.connect() as connection:
            return connection.scalar(query) or ""

    def verify(self, model: str) -> tuple[str, ...]:
        """The hashes of a model's records in their order, once each has shown to follow from the one before.

        Raises:
            ChainBroken: names the first record that was altered, is missing or out of place.
        """
        chain: list[str] = []
        last = 0
        with self._refuse_when_busy(), self.engine.connect() as connection:
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

    def _under_former_kind(self, connection: sa.Connection, model: str, kind: str, key: str) -> Record | None:
        """The record of this key that was written when the kind had another name."""
        former_kinds = kinds_of(kind)[1:]
        if not former_kinds:
            return None
        query = _chain(model).where(RECORDS.c.kind.in_(former_kinds), RECORDS.c.key == key)
        row = connection.execute(query).mappings().first()
        return _record(row) if row else None

    def _head(self, connection: sa.Connection, model: str) -> tuple[int, str]:
        """Place and hash of the newest record; 0 and nothing before the first."""
        query = sa.select(RECORDS.c.place, RECORDS.c.hash).where(RECORDS.c.model == model)
        newest = connection.execute(query.order_by(RECORDS.c.place.desc()).limit(1)).first()
        return (newest.place, newest.hash) if newest else (0, "")

    @contextmanager
    def _exclusive(self, model: str) -> Iterator[sa.Connection]:
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
    def _refuse_when_busy(self) -> Iterator[None]:
        """Turn a lock, an outage or a fault of the database into our own refusal."""
        try:
            yield
        except DBAPIError as error:
            place = self.engine.url.database if self.engine.dialect.name == "sqlite" else self.engine.url.host
            if refusal := refusal_of(error, f"the ledger at {place}"):
                raise refusal from None
            if not any(word in str(error.orig).lower() for word in ("locked", "connect", "lock timeout")):
                raise
            raise LedgerBusy(
                f"the ledger did not answer within {BUSY_SECONDS} s ({error.orig})",
                do="see what holds its database, then retry",
            ) from None


def _chain(model: str) -> sa.Select[Any]:
    return RECORDS.select().where(RECORDS.c.model == model).order_by(RECORDS.c.place)


def _record(row: Mapping[Any, Any]) -> Record:
    try:
        times = {name: datetime.fromisoformat(row[name]) for name in ("effective_at", "recorded_at")}
        kind = KINDS.get(row["kind"], row["kind"])
        return Record(**{**row, **times, "kind": kind, "body": current_body(kind, json.loads(row["body"]))})
    except ValueError as error:
        raise _broken(row["model"], f"{_named(row)} was altered: {error}") from None


def _named(row: Mapping[Any, Any]) -> str:
    return f"record {row['place']} ({row['kind']} {row['key']}, written {row['recorded_at']})"


def _broken(model: str, what: str) -> ChainBroken:
    return ChainBroken(
        f"the ledger of {model}: {what}",
        do="find out who wrote to its database, and restore it from a backup that verifies",
    )
