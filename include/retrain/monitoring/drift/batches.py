"""The two batches that drift reads: the run's, and a sample of the newest sound one before it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from retrain.data import dataset
from retrain.results import AcceptedBatch, Context
from retrain.state.run import Run

PREVIOUS_ROWS = 20_000
"""Rows of the previous batch that are read."""


def read_current(run: Run, batch: AcceptedBatch, *, mature: bool) -> pd.DataFrame:
    """Read the run's batch, with the column `target`: its labels if they are mature, else NaN."""
    spec = run.spec
    target = [spec.target.column] if mature else []
    group = [spec.training.group] if spec.training.group else []
    frame = dataset.read(run, [batch], [*spec.inputs, *target, spec.source.time, *group], ordered=False)
    frame["target"] = dataset.outcome(spec, frame) if mature else np.nan
    return frame


def sample_previous(run: Run, context: Context, columns: Iterable[str]) -> pd.DataFrame | None:
    """Sample the newest batch before this one that nobody found broken, read a piece at a time.

    Args:
        run: whose interval is the current one.
        context: names the accepted batches, and those that are held back.
        columns: the features to read.

    Returns:
        None where there is no such batch, or it is empty.
    """
    spec, held = run.spec, set(context.held)
    before = [accepted for accepted in context.accepted if accepted.batch.interval.start < run.interval.start]
    before = [accepted for accepted in before if accepted.batch.interval.name not in held]
    if not before:
        return None
    batch, schema = before[-1].batch, dataset.arrow_schema(spec)
    wanted = {*columns, spec.source.time, spec.training.group}
    pieces, start = [], 0
    with run.store.verified(batch.key, batch.sha256) as path:
        names = [name for name in pq.read_schema(path).names if name in wanted]
        encoded = [name for name in names if pa.types.is_dictionary(schema.field(name).type)]
        with pq.ParquetFile(path, read_dictionary=encoded) as file:
            count = file.metadata.num_rows
            rng = np.random.default_rng(spec.training.seed)
            drawn = np.sort(rng.choice(count, min(PREVIOUS_ROWS, count), replace=False, shuffle=False))
            for group in range(file.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                inside = drawn[(drawn >= start) & (drawn < end)] - start
                pieces.append(file.read_row_group(group, columns=names).take(pa.array(inside)))
                start = end
    return dataset.to_frame(pa.concat_tables(pieces, promote_options="permissive")) if pieces else None
