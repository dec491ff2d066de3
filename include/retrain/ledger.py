"""The append-only history: batches, stages, decisions, promotions and rollbacks.

SQLite by default, PostgreSQL in production, through SQLAlchemy. A record is one row that is written once;
its `key` makes a second writing of the same thing find the first, and its `sequence` lets exactly one of
several racing promoters win. Every record has two times: `effective_at`, the data's clock, which policies
read, and `recorded_at`, the wall's, which auditors read.

    >>> ledger = Ledger("sqlite://")
    >>> when = datetime(2024, 2, 1, tzinfo=UTC)
    >>> ledger.append("churn", "batch", "2024-01-01/abc", {"verdict": "accept"}, effective_at=when).id
    1
    >>> ledger.append("churn", "batch", "2024-01-01/abc", {"verdict": "other"}, effective_at=when).body
    {'verdict': 'accept'}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, OperationalError

from retrain.errors import LedgerBusy, PromotionConflict
from retrain.results import Champion

BUSY_SECONDS = 30

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
    sa.UniqueConstraint("model", "kind", "key"),
    sa.UniqueConstraint("model", "kind", "sequence"),
)


@dataclass(frozen=True)
class Record:
    id: int
    model: str
    kind: str
    key: str
    sequence: int | None
    run: str
    effective_at: datetime
    recorded_at: datetime
    body: dict[str, Any]


class Ledger:
    """The history of all models of one installation."""

    def __init__(self, url: str) -> None:
        address = sa.make_url(url)
        options: dict[str, Any] = {}
        if address.get_backend_name() == "sqlite":
            if address.database:
                Path(address.database).parent.mkdir(parents=True, exist_ok=True)
                options["poolclass"] = sa.NullPool
            else:
                options["poolclass"] = sa.StaticPool
            options["connect_args"] = {"timeout": BUSY_SECONDS}
        self.engine = sa.create_engine(address, **options)
        with self._guard(), self.engine.begin() as connection:
            connection.execute(sa.schema.CreateTable(_records, if_not_exists=True))

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
    ) -> Record:
        """Write a record, or find the one that was written under this key before.

        Raises:
            PromotionConflict: another key took `sequence` first.
            LedgerBusy: the database stayed locked; nothing was written.
        """
        row = {
            "model": model,
            "kind": kind,
            "key": key,
            "sequence": sequence,
            "run": run,
            "effective_at": effective_at.isoformat(),
            "recorded_at": datetime.now(UTC).isoformat(),
            "body": json.dumps(body, sort_keys=True, allow_nan=False),
        }
        with self._guard():
            try:
                with self.engine.begin() as connection:
                    connection.execute(_records.insert(), row)
            except IntegrityError:
                pass
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

    def records(
        self, model: str, kind: str | None = None, *, key: str | None = None, run: str | None = None
    ) -> list[Record]:
        """The records of a model in the order they were written."""
        query = _records.select().where(_records.c.model == model).order_by(_records.c.id)
        for column, value in ((_records.c.kind, kind), (_records.c.key, key), (_records.c.run, run)):
            if value is not None:
                query = query.where(column == value)
        with self._guard(), self.engine.connect() as connection:
            return [
                Record(
                    id=row.id,
                    model=row.model,
                    kind=row.kind,
                    key=row.key,
                    sequence=row.sequence,
                    run=row.run,
                    effective_at=datetime.fromisoformat(row.effective_at),
                    recorded_at=datetime.fromisoformat(row.recorded_at),
                    body=json.loads(row.body),
                )
                for row in connection.execute(query)
            ]

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except OperationalError as error:
            if "locked" not in str(error).lower() and "connect" not in str(error).lower():
                raise
            raise LedgerBusy(
                f"the ledger did not answer within {BUSY_SECONDS} s ({error.orig})",
                do="see what holds its database, then retry",
            ) from None


def champion_at(promotions: Iterable[Record], moment: datetime) -> Champion | None:
    """The champion as of a moment of the data's clock; None before the first.

    An interval that begins at `moment` is scored by it: it was promoted by then, so it was fitted on no row of the
    interval, however late the scores are made.

    Args:
        promotions: the ledger's promotions and rollbacks, in the order they were written.
    """
    made = [record for record in promotions if record.effective_at <= moment]
    return Champion.model_validate(made[-1].body["champion"]) if made else None
