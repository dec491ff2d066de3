"""Published batches and a context without the data stages: what train and refit read."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from retrain.data.dataset import arrow_schema
from retrain.results import AcceptedBatch, Batch, Champion, Context
from retrain.spec import Spec, parse
from retrain.state.run import Run
from retrain.state.settings import Home
from retrain.state.store import sha256_of


def spec_from(data: dict[str, Any], code: str = "") -> Spec:
    """The spec of a dict, as if it had been written to a file."""
    return parse(yaml.safe_dump(data, sort_keys=False), data["model"], code=code)


def publish(home: Home, spec: Spec, months: dict[str, pd.DataFrame], folder: Path) -> tuple[AcceptedBatch, ...]:
    """Each month's rows as an accepted batch in the store."""
    accepted = []
    run = Run(home, spec, spec.at(next(iter(months))), "publish")
    for start, frame in months.items():
        interval = spec.at(start)
        frame = frame.assign(**{spec.source.time: pd.to_datetime(frame[spec.source.time], utc=True)})
        file = folder / f"{interval.name}.parquet"
        table = pa.Table.from_pandas(frame[list(spec.columns)], schema=arrow_schema(spec), preserve_index=False)
        pq.write_table(table, file)
        key = f"{spec.model}/batches/{interval.name}.parquet"
        run.store.put(key, file)
        batch = Batch(interval=interval, sha256=sha256_of(file), rows=len(frame), bytes=file.stat().st_size, key=key)
        mature = interval.end + spec.labels.mature_after
        accepted.append(AcceptedBatch(batch=batch, md5="0" * 32, commit="0" * 40, mature_at=mature))
    return tuple(accepted)


def begun(
    home: Home, spec: Spec, accepted: tuple[AcceptedBatch, ...], *, key: str = "run", champion: Champion | None = None
) -> Run:
    """A run of the newest interval, its context written."""
    run = Run(home, spec, accepted[-1].batch.interval, key)
    context = Context(
        model=spec.model,
        interval=run.interval,
        effective_at=run.as_of,
        spec_digest=spec.digest,
        trigger=run.trigger,
        accepted=accepted,
        champion=champion,
    )
    run.write(context, "context")
    return run


def champion_of(fitted: Any, *, training: str | None = None) -> Champion:
    """A fitted model as if it served."""
    end = fitted.intervals[-1].end
    return Champion(
        version=1,
        run_id="run",
        digest=fitted.digest,
        configuration=fitted.configuration,
        training=training or fitted.training,
        reference="reference",
        trained_until=end,
        effective_at=end + timedelta(0),
    )
