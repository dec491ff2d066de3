"""The rows of a batch that is to be scored, parted by the contract of their columns."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from retrain.data import dataset, row_contract
from retrain.errors import RowsRejected
from retrain.results import AcceptedBatch, Batch
from retrain.state.run import Run

NAMED = 8
"""Breaches that a message names."""


@dataclass(frozen=True)
class ScoringRows:
    """A batch, parted by the contract.

    Attributes:
        lead: (n) key and time of every row, as delivered.
        frame: the sound rows, as models read them.
        sound: (n,) which rows those are.
        reason: (n,) what a rejected row breaks; None of a sound one.
        breaches: rule → rows that break it.
    """

    lead: pa.Table
    frame: pd.DataFrame
    sound: NDArray[np.bool_]
    reason: NDArray[np.object_]
    breaches: Mapping[str, int]

    @property
    def rejected(self) -> int:
        """The number of rows that break the contract."""
        return int((~self.sound).sum())


def read_scoring_rows(run: Run, batch: Batch, columns: Iterable[str]) -> ScoringRows:
    """Read a batch and hold each row against the contract of its columns.

    Args:
        run: whose spec has the contract.
        batch: to be scored.
        columns: that the model reads.

    Raises:
        RowsRejected: rows break the contract where the spec says stop, or all of them do.
        SnapshotCorrupt, MissingInput: the batch is not the one on record, or gone.
    """
    spec = run.spec
    # A champion from before a change of the spec may read a column that is no input any more.
    reads = [name for name in columns if name in spec.delivered]
    accepted = AcceptedBatch(batch=batch, md5="", commit="", mature_at=batch.interval.end)
    own = list(dict.fromkeys([*spec.source.key, spec.source.time]))
    with run.store.verified(batch.key, batch.sha256) as path:
        lead = pq.read_table(path, columns=own)
    frame = dataset.read(run, [accepted], dict.fromkeys([*reads, *spec.inputs]), ordered=False)
    broken = row_contract.breaches(spec, lead, frame[reads])
    reason = np.full(len(frame), None, dtype=object)
    for rule, mask in broken.items():
        reason[mask] = [rule if known is None else f"{known}; {rule}" for known in reason[mask]]
    sound = pd.isna(reason)
    breaches = {rule: int(mask.sum()) for rule, mask in broken.items()}
    bad = int((~sound).sum())
    if bad and (bad == len(frame) or spec.scoring.rejected == "stop"):
        first = int(np.flatnonzero(~sound)[0])
        example = ", ".join(f"{name} {lead[name][first]}" for name in spec.source.key)
        raise RowsRejected(
            f"{'all' if bad == len(frame) else f'{bad:,} of'} {len(frame):,} rows of {run.interval} break the contract"
            f" of their columns: {name_breaches(breaches)}; the first is {example}: {reason[first]}",
            do="deliver the batch again"
            + ("" if bad == len(frame) else ", or set scoring.rejected to quarantine or abstain"),
        )
    return ScoringRows(lead, frame if not bad else frame.loc[sound].reset_index(drop=True), sound, reason, breaches)


def name_breaches(breaches: Mapping[str, int]) -> str:
    """Say which rules were broken by how many rows, the most frequent first.

    >>> name_breaches({"visits: below 0": 2, "plan: missing": 1_000})
    'plan: missing (1,000), visits: below 0 (2)'
    """
    most = sorted(breaches.items(), key=lambda pair: (-pair[1], pair[0]))
    more = f", and {len(most) - NAMED} more rules" if len(most) > NAMED else ""
    return ", ".join(f"{rule} ({count:,})" for rule, count in most[:NAMED]) + more


def write_rejected(run: Run, batch: Batch, rows: ScoringRows, folder: str) -> str:
    """Write the rejected rows as they were delivered, with their `reason`; gives the key of the file."""
    with run.store.verified(batch.key, batch.sha256) as path:
        table = pq.read_table(path)
    table = table.filter(pa.array(~rows.sound))
    if "reason" in table.column_names:
        table = table.rename_columns([f"{name}_" if name == "reason" else name for name in table.column_names])
    table = table.append_column("reason", pa.array(rows.reason[~rows.sound].tolist(), pa.string()))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    data = buffer.getvalue()
    key = f"{folder}/rejected-{hashlib.sha256(data).hexdigest()}.parquet"
    run.store.write(key, data)
    return key
