"""A champion that grows stale: months of rows in a home, and a model that was fitted on the first of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from sklearn.pipeline import Pipeline

from retrain.data import dataset
from retrain.modeling import pipelines, trainer
from retrain.registry.candidates import fit_candidate
from retrain.results import AcceptedBatch, Batch, Champion, Configuration, Context, Trigger
from retrain.spec import Spec
from retrain.state.run import Run
from retrain.state.settings import Home
from retrain.state.store import sha256_of
from tests.conftest import churn_rows, churn_spec

ROWS = 300
CHANGE = 4
"""From this month on, 1 for the first, the plan decides and the visits hardly."""


def months(count: int, change: int = CHANGE) -> list[pd.DataFrame]:
    """A frame a month, of a world that changes."""
    frames = []
    for month in range(1, count + 1):
        frame = churn_rows(f"2024-{month:02d}-01", ROWS)
        if month >= change:
            risk = np.where(frame["plan"] == "basic", 0.85, 0.1)
            frame["churned"] = np.random.default_rng(month).random(ROWS) < risk
        frames.append(frame)
    return frames


class Stale:
    """A home with months of rows, and a champion of the first three of them."""

    def __init__(self, home: Home, count: int = 7, *, late: int = 0, change: int = CHANGE, **sections: Any) -> None:
        data = {**churn_spec(), "policy": {"schedule": 0, "regret": {"price": 0.05}}, "gate": {"metric": "log_loss"}}
        data["training"] = {**data["training"], "windows": ["all", 2]}
        (home.models / "churn.yaml").write_text(yaml.safe_dump({**data, **sections}, sort_keys=False))
        self.home, self.spec = home, home.spec("churn")
        self.accepted = tuple(
            self._lay(month, frame, late) for month, frame in enumerate(months(count, change), start=1)
        )

    def _lay(self, month: int, frame: pd.DataFrame, late: int) -> AcceptedBatch:
        span = self.spec.at(f"2024-{month:02d}-01")
        key = f"churn/batches/{span.name}.parquet"
        frame = frame.assign(signup=pd.to_datetime(frame["signup"], utc=True))
        file = Path(self.home.store) / key
        file.parent.mkdir(parents=True, exist_ok=True)
        schema = dataset.arrow_schema(self.spec)
        pq.write_table(pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False), file)
        batch = Batch(interval=span, sha256=sha256_of(file), rows=len(frame), bytes=file.stat().st_size, key=key)
        return AcceptedBatch(batch=batch, md5="", commit="", mature_at=span.end + timedelta(days=late))

    def champion(self, count: int = 3, window: int | None = None) -> tuple[Champion, Pipeline]:
        """A model of the first months, where the loop would look for it."""
        run, batches = self.run(count), self.accepted[:count]
        digest = pipelines.pipeline_digest(self.spec)
        configuration = Configuration(estimator="linear", parameters={"C": 1.0}, window=window, pipeline=digest)
        known = trainer.labelled_rows(run, batches)[0]
        model, fitted = fit_candidate(run, run.path("made"), "new", "new", configuration, batches, known)
        with run.store.local(fitted.key) as folder:
            shutil.copytree(folder, self.home.state / "models" / fitted.digest, dirs_exist_ok=True)
        until = batches[-1].batch.interval.end
        champion = Champion(
            version=1,
            run_id="r",
            digest=fitted.digest,
            configuration=configuration,
            training=fitted.training,
            reference="x",
            trained_until=until,
            rows=fitted.rows,
            effective_at=until,
        )
        return champion, model

    def run(self, month: int, key: str = "") -> Run:
        """A run of the monitor as of the end of a month."""
        span = self.spec.at(f"2024-{month:02d}-01")
        return Run(self.home, self.spec, span, key or f"monitor-{month}", loop="monitor")

    def write_context(self, run: Run, champion: Champion | None, **more: Any) -> Context:
        """What the run knows: the months up to its own, and the champion."""
        held = more.get("held", ())
        accepted = [batch for batch in self.accepted if batch.batch.interval.end <= run.as_of]
        context = Context(
            model="churn",
            interval=run.interval,
            effective_at=run.as_of,
            spec_digest="s",
            trigger=Trigger(),
            accepted=tuple(batch for batch in accepted if batch.batch.interval.name not in held),
            champion=champion,
            **{"last_training_at": champion and champion.effective_at, **more},
        )
        run.write(context, "context")
        return context


def counted(fits: list[str]) -> Callable[[Spec, Configuration, Any, Any], Pipeline]:
    """`pipelines.fit`, which notes what it fits."""
    fit = pipelines.fit

    def note(spec: Spec, configuration: Configuration, *rows: Any, **more: Any) -> Pipeline:
        fits.append(configuration.rows_label)
        return fit(spec, configuration, *rows, **more)

    return note


def names(batches: Sequence[AcceptedBatch]) -> list[str]:
    """The months of these batches."""
    return [batch.batch.interval.name for batch in batches]
