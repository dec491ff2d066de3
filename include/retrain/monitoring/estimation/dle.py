"""DLE, direct loss estimation: regression without labels.

A second model learns the loss of each row from its features and prediction (NannyML's documentation, "How it works:
Direct Loss Estimation"). The weights of `importance_weighting` correct its level: trees do not follow rows beyond
those they know, so a strong shift is still estimated too mildly.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.metrics import mean_poisson_deviance
from sklearn.model_selection import GroupKFold
from xgboost import XGBRegressor

from retrain.modeling.metrics import Array
from retrain.monitoring.estimation.estimator import PerformanceEstimator
from retrain.monitoring.estimation.importance_weighting import TREES, density_ratio, leaf_rows

FOLDS = 6
"""Loss models, each without one part of the labelled blocks."""

_FLOOR = 0.02


class DirectLossEstimator(PerformanceEstimator):
    """DLE of a regression; a belief is the expected loss of each row, (n,).

    The loss models are each fitted without a fold of blocks. Noise is an error over its expected size.
    """

    def __init__(
        self, task: str, metric: str, y: Array, prediction: Array, frame: pd.DataFrame, block: Array, seed: int
    ) -> None:
        super().__init__(task, metric, y, prediction, frame, block, seed)
        loss = self._loss(y, prediction)
        self._level = float(loss.mean())
        # A Poisson loss needs something to divide in every fold.
        loss = loss.clip(1e-6 * self._level)
        folds = list(GroupKFold(min(FOLDS, int(block.max()) + 1)).split(self._x, groups=block))
        self._means = np.array([loss[fitted].mean() for fitted, _ in folds])
        self._models = [
            XGBRegressor(**TREES, objective="count:poisson", min_child_weight=leaf_rows(len(y)), random_state=seed).fit(
                self._x[fitted], loss[fitted] / self._level
            )
            for fitted, _ in folds
        ]
        out_of_fold, constant = np.empty(len(y)), np.empty(len(y))
        for model, mean, (_, held_out) in zip(self._models, self._means, folds, strict=True):
            out_of_fold[held_out], constant[held_out] = model.predict(self._x[held_out]) * self._level, mean
        out_of_fold = out_of_fold.clip(_FLOOR * self._level)
        if mean_poisson_deviance(loss, out_of_fold) >= mean_poisson_deviance(loss, constant):
            # The features say nothing of the loss: it is the same everywhere.
            self._models, out_of_fold = [], constant
        self._known_loss, self._out_of_fold = loss, out_of_fold
        error = (y - prediction) / self._error_size(out_of_fold)
        self._noise = error / (np.abs(error).mean() if metric == "mae" else np.sqrt(np.mean(error**2)))

    def _error_size(self, loss: Array) -> Array:
        return loss if self.metric == "mae" else np.sqrt(loss)

    def _beliefs(self, prediction: Array, frame: pd.DataFrame, refits: bool) -> Array:
        x = self._encode(frame, prediction)
        per_model = np.stack(
            [model.predict(x) * self._level for model in self._models]
            or [np.full(len(x), mean) for mean in self._means]
        )
        mean = per_model.mean(axis=0)
        # What the loss models got wrong on known rows like the new ones is put right as a factor.
        weight = density_ratio(self._x, x, self.seed)
        beliefs = [mean * self._correction(weight)]
        if refits:
            # Spread so that the variance between them is that of the jackknife over groups of blocks.
            spread = mean + np.sqrt(len(per_model) - 1) * (per_model - mean)
            beliefs += [
                spread[n % len(per_model)] * self._correction(weight * times[self._block])
                for n, times in enumerate(self._times)
            ]
        return np.stack(beliefs).clip(_FLOOR * self._level)

    def _correction(self, weight: Array) -> float:
        return float((weight @ self._known_loss) / (weight @ self._out_of_fold))

    def _expected_losses(self, prediction: Array, belief: Array) -> Array:
        return belief

    def _draw_labels(self, prediction: Array, belief: Array, noise: Array) -> Array:
        return np.asarray(prediction[:, None] + noise * self._error_size(belief).T)
