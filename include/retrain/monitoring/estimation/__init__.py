"""Performance estimation: how good a model is on rows whose labels are not there yet, and whether that holds.

`cbpe`: classifiers, confidence-based performance estimation. `dle`: regression, direct loss estimation. Both weight
the labelled rows to look like the new ones (`importance_weighting`); `losses` has the metrics. `holdout` learns from
the rows that a champion was gated on, `backtest` says whether earlier estimates held.

An interval is meant to hold the metric of these very rows once their labels land. It covers the noise of labels,
with its dependence within blocks, and what is uncertain about the calibration, or about the loss models. It does
not cover a change in how outcomes depend on the features (concept drift): neither method can see one. So an estimate
may raise an alarm and never veto one, `excess_loss` looks for such a change in the first labels that land, and
`backtest` says when estimates are no longer to be relied on.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from retrain.errors import DegenerateTraining
from retrain.modeling.metrics import Array, checked
from retrain.monitoring.estimation.backtest import Backtest, PastEstimate, backtest, past_estimates
from retrain.monitoring.estimation.cbpe import MIN_CLASS_ROWS, CalibratedEstimator
from retrain.monitoring.estimation.dle import DirectLossEstimator
from retrain.monitoring.estimation.estimator import Estimate, ExcessLoss, PerformanceEstimator
from retrain.monitoring.estimation.importance_weighting import MIN_ROWS, sample_rows
from retrain.monitoring.estimation.losses import LOSS, MEANS, loss_of

__all__ = [
    "LOSS",
    "MEANS",
    "Backtest",
    "Estimate",
    "ExcessLoss",
    "PastEstimate",
    "PerformanceEstimator",
    "backtest",
    "learn",
    "loss_of",
    "past_estimates",
]


def learn(
    task: str,
    metric: str,
    y: Array,
    prediction: Array,
    frame: pd.DataFrame,
    block: Array,
    *,
    seed: int = 0,
) -> PerformanceEstimator:
    """Learn what the champion's predictions are worth, from labelled rows that it was not fitted on.

    Args:
        task: binary, multiclass or regression.
        metric: a primary metric of `spec.METRICS` for that task.
        y: (n,) class codes or numbers.
        prediction: (n,) probability of the last class, (n, k) probabilities, or (n,) numbers.
        frame: n rows of features; numeric and category columns are used, both may have gaps.
        block: (n,) codes of `resampling.blocks`; whole blocks are drawn and left out.
        seed: of the sample of rows, the draws of blocks and the helping models.

    Raises:
        DegenerateTraining: fewer than 200 rows, fewer than two blocks, one class only, or no error at all.
        NonFiniteMetric: labels or predictions that are not finite, or no probabilities.
    """
    y, prediction = checked(task, y, prediction)
    chosen = sample_rows(len(y), seed)
    y, prediction, frame = y[chosen], prediction[chosen], frame.iloc[chosen]
    block = np.unique(np.asarray(block)[chosen], return_inverse=True)[1]
    do = "wait for more labels; until then drift is watched without an estimate"
    if len(y) < MIN_ROWS or block.max() < 1:
        raise DegenerateTraining(
            f"{len(y)} labelled rows in {block.max() + 1} block(s), {MIN_ROWS} rows in two blocks needed", do=do
        )
    if task == "regression":
        if np.allclose(y, prediction):
            raise DegenerateTraining(f"no error in {len(y)} labelled rows", do="look for the target among the features")
        return DirectLossEstimator(task, metric, y, prediction, frame, block, seed)
    counts = np.bincount(y.astype(int), minlength=2)
    if np.sum(counts >= MIN_CLASS_ROWS) < 2:
        raise DegenerateTraining(
            f"{len(y)} labelled rows have {int(np.sort(counts)[-2])} outcomes besides the most frequent one,"
            f" {MIN_CLASS_ROWS} needed",
            do=do,
        )
    return CalibratedEstimator(task, metric, y, prediction, frame, block, seed)
