"""The checks of a refit, which no row is left to measure: finite, repeatable, and like the gated candidate."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from retrain.data import dataset
from retrain.modeling import pipelines
from retrain.modeling.folds import Rows
from retrain.modeling.metrics import Array
from retrain.results import GateCheck
from retrain.spec import Spec

Golden = list[dict[str, Any]]
"""Rows as JSON has them, so that a replay goes the way a request goes."""

SAMPLE = 20_000
SAME = 1e-9
"""Two answers to one row may differ by so much; the same files in the same versions differ by nothing."""


def refit_checks(
    spec: Spec, refitted: Pipeline, reloaded: Pipeline, golden: Golden, known: Rows, judged: pd.DataFrame, gated: Array
) -> tuple[GateCheck, ...]:
    """Check a refit: finite on a sample of all rows, the same answers from its files, and near the gated candidate.

    Args:
        spec: the task, and `gate.refit_bound`.
        refitted: the model that was fitted on all mature rows.
        reloaded: the same, loaded from its files.
        golden: the golden rows.
        known: the rows that it was fitted on.
        judged: (n) holdout rows.
        gated: (n,) or (n, k) predictions of the gated candidate for them.

    Raises:
        NonFiniteMetric: the refit answers with NaN.
    """
    sample = dataset.sample(known.frame, SAMPLE, spec.training.seed)
    pipelines.predict(refitted, spec.task, sample)
    finite = GateCheck(name="finite", model="refit", passed=True, reason=f"finite on {len(sample):,} rows")

    apart = float(np.abs(predict_golden(spec, reloaded, golden) - predict_golden(spec, refitted, golden)).max())
    repeats = GateCheck(
        name="golden",
        model="refit",
        passed=apart <= SAME,
        value=apart,
        bound=SAME,
        reason=f"its files repeat the answers to {len(golden)} golden rows within {apart:.1g}",
    )

    # Regression: in standard deviations of the target; probabilities: as they are, 0.1 is ten points.
    scale = float(np.std(known.y)) if spec.task == "regression" else 1.0
    means = mean_prediction(pipelines.predict(refitted, spec.task, judged)), mean_prediction(gated)
    moved = max(abs(new - old) for new, old in zip(*means, strict=True)) / scale
    unit = " target standard deviations" if spec.task == "regression" else ""
    near = GateCheck(
        name="mean prediction",
        model="refit",
        passed=math.isfinite(moved) and moved <= spec.gate.refit_bound,
        value=moved if math.isfinite(moved) else None,
        bound=spec.gate.refit_bound,
        reason=f"its mean prediction moved by {moved:.3g}{unit} on the holdout rows,"
        f" {spec.gate.refit_bound:g} is allowed",
    )
    return finite, repeats, near


def predict_golden(spec: Spec, model: Pipeline, golden: Golden) -> Array:
    """A model's answers to the golden rows, (n,) or (n, k)."""
    return pipelines.predict(model, spec.task, pd.DataFrame(golden, columns=list(spec.inputs)))


def mean_prediction(prediction: Array) -> tuple[float, ...]:
    """The mean of (n,) predictions, or of each of the k columns of (n, k).

    >>> mean_prediction(np.array([0.25, 0.75]))
    (0.5,)
    """
    return tuple(float(mean) for mean in np.atleast_1d(prediction.mean(axis=0)))
