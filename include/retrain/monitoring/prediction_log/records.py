"""The ledger's records of scored batches, and the files that they speak of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from retrain.results import Batch, Interval, ScoreReport
from retrain.state.ledger import Record
from retrain.state.run import Run

KIND: Final = "score"
"""Of the ledger's records."""


def records(run: Run, interval: Interval) -> list[Record]:
    """The records of an interval's scores, oldest first: those of its first batch, then of each revision."""
    return [
        record
        for record in run.ledger.records(run.model, KIND)
        if record.key == interval.name or record.key.startswith(f"{interval.name}/")
    ]


def find(run: Run, interval: Interval, data: str) -> Record | None:
    """The record of this very batch, by its SHA-256; None if it has not been scored."""
    return next((record for record in records(run, interval) if record.body["data"] == data), None)


def append(run: Run, batch: Batch, report: ScoreReport, more: Mapping[str, Any]) -> Record:
    """Put scores on record; gives the record that another run wrote of this batch first, if one did.

    Args:
        run: that scored.
        batch: that was scored.
        report: names the file of the scores.
        more: what the record holds besides: `shadow`, `breach` and, where there is some, `library_skew`.
    """
    body = {
        "interval": run.interval.name,
        "version": report.version,
        "key": report.key,
        "sha256": report.sha256,
        "data": batch.sha256,
        "rows": report.rows,
        "scored": report.scored,
        "rejected": report.rejected,
        "mode": run.spec.scoring.rejected,
        "quarantined": report.quarantined,
        "answered": report.answered,
        **more,
    }

    def write(key: str) -> Record:
        return run.ledger.append(run.model, KIND, key, body, effective_at=run.as_of, run=run.key)

    record = write(run.interval.name)
    return record if record.body["data"] == batch.sha256 else write(f"{run.interval.name}/{batch.sha256[:12]}")


def read(run: Run, record: Record) -> pd.DataFrame:
    """The scores of a record, in the order of the batch.

    Raises:
        SnapshotCorrupt: the file is not the one on record.
        MissingInput: the file is gone.
    """
    frame: pd.DataFrame = read_table(run, record).to_pandas()
    return frame


def read_table(run: Run, record: Record) -> pa.Table:
    """The scores of a record as an Arrow table, its keys as they were delivered."""
    with run.store.verified(record.body["key"], record.body["sha256"]) as path:
        return pq.read_table(path)
