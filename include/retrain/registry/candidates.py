"""From accepted batches to a fitted model in the run's folder: what train and refit share."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from retrain.data import dataset
from retrain.errors import DegenerateTraining
from retrain.modeling import estimators
from retrain.modeling.search import Rows
from retrain.registry.mlflow import save_model
from retrain.results import Accepted, Configuration, Fitted
from retrain.state.run import Run

EXAMPLE_ROWS = 100


def labelled(run: Run, accepted: tuple[Accepted, ...], least: int | None = None) -> tuple[Rows, int]:
    """The labelled rows of these batches, and how many have no label.

    Raises:
        DegenerateTraining: fewer labelled rows than `least`, by default `training.min_rows`.
    """
    spec = run.spec
    least = spec.training.min_rows if least is None else least
    group = (spec.training.group,) if spec.training.group else ()
    frame = dataset.read(run, accepted, (*spec.inputs, spec.target.column, *group))
    y = dataset.outcome(spec, frame).to_numpy()
    known = np.isfinite(y)
    if known.sum() < least:
        raise DegenerateTraining(
            f"{int(known.sum()):,} labelled rows in {len(accepted)} training intervals, training.min_rows is {least:,}",
            do="wait for more batches or labels, or lower training.min_rows",
        )
    starts = pd.DatetimeIndex([one.batch.interval.start for one in accepted])
    place = starts.searchsorted(pd.DatetimeIndex(frame[spec.source.time]).as_unit(starts.unit), side="right") - 1
    kept = frame.loc[known].drop(columns=spec.target.column).reset_index(drop=True)
    return Rows(kept, y[known], np.asarray(place)[known]), int((~known).sum())


def window(accepted: tuple[Accepted, ...], configuration: Configuration) -> tuple[Accepted, ...]:
    """The newest batches that the configuration trains on."""
    if configuration.since:
        return tuple(one for one in accepted if one.batch.interval.start >= configuration.since)
    return accepted[-configuration.window :] if configuration.window else accepted


def fit(
    run: Run,
    key: str,
    name: str,
    kind: Literal["refresh", "new", "baseline"],
    configuration: Configuration,
    accepted: tuple[Accepted, ...],
    known: Rows,
    inner_score: float | None = None,
) -> tuple[Pipeline, Fitted]:
    """Fit a configuration on its window of these rows, and lay the model in the store under `key`."""
    part = known.window(configuration.window)
    if configuration.since:
        part = known.take(np.flatnonzero(known.frame[run.spec.source.time] >= configuration.since))
    model = estimators.fit(run.spec, configuration, part.frame, part.y)
    with tempfile.TemporaryDirectory(prefix="retrain-") as temporary:
        folder = Path(temporary)
        digest = save_model(
            model,
            folder / "model",
            example=part.frame[list(run.spec.inputs)].head(EXAMPLE_ROWS),
            requirements=estimators.requirements(),
            code=[estimators.carry(folder)],
        )
        run.store.put_folder(key, folder / "model")
    batches = window(accepted, configuration)
    return model, Fitted(
        name=name,
        kind=kind,
        configuration=configuration,
        training=dataset.training_digest(batches),
        intervals=dataset.intervals(batches),
        rows=len(part.y),
        key=key,
        digest=digest,
        inner_score=inner_score,
    )
