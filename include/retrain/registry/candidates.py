"""A candidate: fitted, and laid in the store as a model folder."""

from __future__ import annotations

import tempfile
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from retrain.data import dataset
from retrain.modeling import packaging, trainer
from retrain.modeling.folds import Rows
from retrain.registry.mlflow import save_model
from retrain.results import AcceptedBatch, CandidateKind, Configuration, FittedModel, Interval
from retrain.spec import Spec
from retrain.state.run import Run
from retrain.state.store import json_digest


def fit_candidate(
    run: Run,
    key: str,
    name: str,
    kind: CandidateKind,
    configuration: Configuration,
    accepted: tuple[AcceptedBatch, ...],
    known: Rows,
    inner_score: float | None = None,
    *,
    until: datetime | None = None,
) -> tuple[Pipeline, FittedModel]:
    """Fit a configuration on its training window, and lay the model in the store.

    Up to a cut inside an interval, a window of k intervals reaches back from the cut as far as k intervals do: so the
    model that is judged has learnt from as many rows as the refit that serves.

    Args:
        run: whose spec and store are used.
        key: of the model's folder in the store.
        name: of the candidate in this run.
        kind: of the candidate.
        configuration: estimator, parameters and training window.
        accepted: the batches that the labelled rows are from, oldest first.
        known: labelled rows, oldest first.
        inner_score: mean of the primary metric over the folds of the search, where it was searched for.
        until: a cut: only the rows before it are learnt from; None learns from all.

    Returns:
        The fitted pipeline, and what is on record of it.

    Raises:
        DegenerateTraining: nothing can be learnt from the rows.
        EstimatorRefused: the estimator is not on the list, or cannot be stored without pickle.
        FeatureCodeRefused: the model's feature function breaks its promise.
    """
    reach = configuration
    if until is not None:
        accepted, known, reach = _before(run.spec, until, configuration, accepted, known)
    model, rows = trainer.fit_on_window(run.spec, reach, known)
    digest = lay_model(run, key, model, rows.frame)
    batches = trainer.batches_in_window(accepted, reach)
    training, intervals = until_cut(dataset.training_digest(batches), dataset.intervals(batches), until)
    return model, FittedModel(
        name=name,
        kind=kind,
        configuration=configuration,
        training=training,
        intervals=intervals,
        rows=len(rows.y),
        key=key,
        digest=digest,
        inner_score=inner_score,
    )


def until_cut(
    training: str, intervals: tuple[Interval, ...], until: datetime | None
) -> tuple[str, tuple[Interval, ...]]:
    """The digest and the intervals of training rows that end at a cut inside the last interval; else as they are."""
    if until is None or until >= intervals[-1].end:
        return training, intervals
    last = Interval(start=intervals[-1].start, end=until)
    return json_digest([training, until.isoformat()]), (*intervals[:-1], last)


def lay_model(run: Run, key: str, model: Pipeline, frame: pd.DataFrame, *code: str) -> str:
    """Lay a fitted pipeline in the store as a model folder, and return its digest.

    Args:
        run: whose spec and store are used.
        key: of the folder.
        model: the fitted pipeline.
        frame: rows as it takes them, for an example.
        code: files of `modeling` that it needs beside those that every model needs.

    Raises:
        EstimatorRefused: the estimator cannot be stored without pickle.
    """
    with tempfile.TemporaryDirectory(prefix="retrain-") as temporary:
        folder = Path(temporary)
        digest = save_model(
            model,
            folder / "model",
            example=frame[list(run.spec.inputs)],
            requirements=packaging.requirements(),
            code=[packaging.carry(folder, *code)],
        )
        run.store.put_folder(key, folder / "model")
    return digest


def _before(
    spec: Spec, until: datetime, configuration: Configuration, accepted: tuple[AcceptedBatch, ...], known: Rows
) -> tuple[tuple[AcceptedBatch, ...], Rows, Configuration]:
    """The batches and rows before a cut, and the configuration with the window that they span."""
    when = known.frame[spec.source.time]
    accepted = tuple(batch for batch in accepted if batch.batch.interval.start < until)
    begin, window, newest = when.min(), configuration.window, accepted[-1].batch.interval
    if window and until < newest.end and len(accepted) > window:
        begin = accepted[-window - 1].batch.interval.start + (until - newest.start)
        configuration = configuration.model_copy(update={"window": window + 1})
    return accepted, known.take(np.flatnonzero((when >= begin) & (when < until))), configuration
