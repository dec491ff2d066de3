"""From accepted batches to labelled rows and a pipeline fitted on them: what train and refit share."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from retrain.data import dataset
from retrain.errors import DegenerateTraining
from retrain.modeling import pipelines
from retrain.modeling.folds import Rows
from retrain.results import AcceptedBatch, Configuration
from retrain.spec import Spec
from retrain.state.run import Run
from retrain.state.store import json_digest


def labelled_rows(run: Run, accepted: tuple[AcceptedBatch, ...], least: int | None = None) -> tuple[Rows, int]:
    """The labelled rows of batches, and how many rows have no label.

    Args:
        run: whose store holds the batches and their labels.
        accepted: the batches, oldest first.
        least: labelled rows that there must be, by default `training.min_rows`.

    Raises:
        DegenerateTraining: there are fewer.
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
    starts = pd.DatetimeIndex([batch.batch.interval.start for batch in accepted])
    place = starts.searchsorted(pd.DatetimeIndex(frame[spec.source.time]).as_unit(starts.unit), side="right") - 1
    kept = frame.loc[known].drop(columns=spec.target.column).reset_index(drop=True)
    return Rows(kept, y[known], np.asarray(place)[known]), int((~known).sum())


def batches_in_window(accepted: tuple[AcceptedBatch, ...], configuration: Configuration) -> tuple[AcceptedBatch, ...]:
    """The newest batches, those that a configuration trains on."""
    if configuration.since:
        return tuple(batch for batch in accepted if batch.batch.interval.start >= configuration.since)
    return accepted[-configuration.window :] if configuration.window else accepted


def unseen_batches(accepted: tuple[AcceptedBatch, ...], configuration: Configuration) -> tuple[AcceptedBatch, ...]:
    """The batches that a recalibrated configuration's estimator was not fitted on: its calibration is of their rows."""
    if configuration.recalibrated is None:
        return ()
    since = configuration.recalibrated.trained_until
    return tuple(batch for batch in accepted if batch.batch.interval.start >= since)


def training_digest(accepted: tuple[AcceptedBatch, ...], configuration: Configuration) -> str:
    """The digest of the rows that a configuration is fitted on, of all that there are.

    Of a recalibrated one it is of its estimator's rows and of those that its calibration may read.
    """
    if configuration.recalibrated is None:
        return dataset.training_digest(batches_in_window(accepted, configuration))
    unseen = dataset.training_digest(unseen_batches(accepted, configuration))
    return json_digest([configuration.recalibrated.training, unseen])


def fit_on_window(spec: Spec, configuration: Configuration, known: Rows) -> tuple[Pipeline, Rows]:
    """Fit a configuration on the rows of its training window, with its weights.

    Args:
        spec: names the features, the target and the seed.
        configuration: estimator, parameters, and which of the rows.
        known: labelled rows, oldest first.

    Returns:
        The fitted pipeline, and the rows that it was fitted on.

    Raises:
        DegenerateTraining: nothing can be learnt from the rows.
        EstimatorRefused: the estimator is not on the list.
        FeatureCodeRefused: the model's feature function breaks its promise.
    """
    rows = known.window(configuration.window)
    if configuration.since:
        rows = known.take(np.flatnonzero(known.frame[spec.source.time] >= configuration.since))
    return pipelines.fit(spec, configuration, rows.frame, rows.y), rows
