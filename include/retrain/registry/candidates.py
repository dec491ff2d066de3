"""A candidate: fitted, and laid in the store as a model folder."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

import pandas as pd
from sklearn.pipeline import Pipeline

from retrain.data import dataset
from retrain.modeling import packaging, trainer
from retrain.modeling.folds import Rows
from retrain.registry.mlflow import save_model
from retrain.results import AcceptedBatch, Configuration, FittedModel
from retrain.state.run import Run


def fit_candidate(
    run: Run,
    key: str,
    name: str,
    kind: Literal["recalibrated", "refresh", "new", "baseline"],
    configuration: Configuration,
    accepted: tuple[AcceptedBatch, ...],
    known: Rows,
    inner_score: float | None = None,
) -> tuple[Pipeline, FittedModel]:
    """Fit a configuration on its training window, and lay the model in the store.

    Args:
        run: whose spec and store are used.
        key: of the model's folder in the store.
        name: of the candidate in this run.
        kind: of the candidate.
        configuration: estimator, parameters and training window.
        accepted: the batches that the labelled rows are from, oldest first.
        known: labelled rows, oldest first.
        inner_score: mean of the primary metric over the folds of the search, where it was searched for.

    Returns:
        The fitted pipeline, and what is on record of it.

    Raises:
        DegenerateTraining: nothing can be learnt from the rows.
        EstimatorRefused: the estimator is not on the list, or cannot be stored without pickle.
        FeatureCodeRefused: the model's feature function breaks its promise.
    """
    model, rows = trainer.fit_on_window(run.spec, configuration, known)
    digest = lay_model(run, key, model, rows.frame)
    batches = trainer.batches_in_window(accepted, configuration)
    return model, FittedModel(
        name=name,
        kind=kind,
        configuration=configuration,
        training=dataset.training_digest(batches),
        intervals=dataset.intervals(batches),
        rows=len(rows.y),
        key=key,
        digest=digest,
        inner_score=inner_score,
    )


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
