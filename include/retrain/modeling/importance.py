"""What each feature is worth to a fitted model: permutation importance (Breiman 2001, "Random Forests")."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from retrain.data import dataset
from retrain.modeling import metrics, pipelines
from retrain.modeling.metrics import Array
from retrain.spec import Spec

ROWS, CELLS, REPEATS = 2_000, 200_000, 2
"""Rows of the sample, rows of all its shuffled copies together, and how often each column is shuffled."""


def permutation_importance(spec: Spec, model: Pipeline, frame: pd.DataFrame, y: Array) -> dict[str, float]:
    """Measure how much of the primary metric is lost when a column is shuffled, on a sample of the rows.

    Every shuffled copy is in one frame: a pipeline's steps cost far more per call than per row.

    Args:
        spec: the inputs, the primary metric and the seed.
        model: a fitted pipeline.
        frame: (n) labelled rows with the inputs, which the model was not fitted on; its index is 0 … n-1.
        y: (n,) outcomes.

    Returns:
        input → mean loss, in units of the metric; empty where the outcomes of the sample do not differ.
    """
    inputs = list(spec.inputs)
    sample = dataset.sample(frame, min(ROWS, CELLS // len(inputs)), spec.training.seed)
    outcome = y[sample.index]
    if len(np.unique(outcome)) < 2:
        return {}
    rng = np.random.default_rng(spec.training.seed)
    size, sign = len(sample), 1.0 if spec.greater_is_better else -1.0

    def score(prediction: Array) -> float:
        return sign * metrics.metric_value(spec.task, spec.gate.metric, outcome, prediction)

    intact = score(pipelines.predict(model, spec.task, sample))
    copies = pd.concat([sample[inputs]] * len(inputs), ignore_index=True)
    loss = np.zeros(len(inputs))
    for _ in range(REPEATS):
        places = {name: np.arange(len(copies)) for name in inputs}
        for n, name in enumerate(inputs):
            places[name][n * size : (n + 1) * size] = n * size + rng.permutation(size)
        shuffled = pd.DataFrame({name: copies[name].array.take(places[name]) for name in inputs})
        predictions = pipelines.predict(model, spec.task, shuffled)
        loss += [intact - score(predictions[n * size : (n + 1) * size]) for n in range(len(inputs))]
    return {name: float(total) / REPEATS for name, total in zip(inputs, loss, strict=True)}
