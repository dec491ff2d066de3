"""CBPE, confidence-based performance estimation: classifiers without labels.

The model's probabilities are calibrated on rows with labels that it was not fitted on, and the labels of the new rows
are taken as drawn from them (Kivimäki, Białek, Kuberski and Nurminen 2025, arXiv 2505.05295). The labelled rows are
weighted to look like the new ones (`importance_weighting`).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.isotonic import isotonic_regression
from sklearn.linear_model import LogisticRegression

from retrain.modeling.metrics import Array
from retrain.monitoring.estimation.estimator import PerformanceEstimator
from retrain.monitoring.estimation.importance_weighting import density_ratio
from retrain.monitoring.estimation.losses import class_losses, class_probabilities

MIN_CLASS_ROWS = 10
"""Rows of a class below which its probabilities are not calibrated."""

ISOTONIC_ROWS = 1_000
"""Rows from which isotonic regression is the better calibration (Niculescu-Mizil and Caruana 2005)."""

STRENGTH = 1e3
"""`C` of the logistic calibration: hardly any penalty."""


class CalibratedEstimator(PerformanceEstimator):
    """CBPE of a classifier; a belief is calibrated probabilities, (n,) of the last class or (n, k).

    Noise is where in [0, 1] each known label's draw fell.
    """

    def __init__(
        self, task: str, metric: str, y: Array, prediction: Array, frame: pd.DataFrame, block: Array, seed: int
    ) -> None:
        super().__init__(task, metric, y, prediction, frame, block, seed)
        rng = np.random.default_rng(seed)
        upper = np.cumsum(class_probabilities(self._calibrate(prediction, np.ones(len(y)))), axis=1)
        lower = np.column_stack([np.zeros(len(y)), upper[:, :-1]])
        at = np.arange(len(y)), y.astype(int)
        self._noise = lower[at] + rng.random(len(y)) * (upper[at] - lower[at])

    def _calibrate(self, prediction: Array, weight: Array) -> Array:
        """Calibrated probabilities of new rows from weighted labelled ones; classes one by one, then normalised."""
        if self.task == "binary":
            return calibrate(self._prediction, self._y == 1, weight, prediction)
        per_class = [
            calibrate(self._prediction[:, k], self._y == k, weight, prediction[:, k])
            if np.sum(self._y == k) >= MIN_CLASS_ROWS
            else prediction[:, k]
            for k in range(prediction.shape[1])
        ]
        joint = np.column_stack(per_class)
        return np.asarray(joint / joint.sum(axis=1, keepdims=True))

    def _beliefs(self, prediction: Array, frame: pd.DataFrame, refits: bool) -> Array:
        weight = density_ratio(self._x, self._encode(frame, prediction), self.seed)
        drawn = [weight * times[self._block] for times in self._times] if refits else []
        return np.stack([self._calibrate(prediction, weights) for weights in (weight, *drawn)])

    def _expected_losses(self, prediction: Array, belief: Array) -> Array:
        probability = np.stack([1 - belief, belief], axis=-1) if belief.ndim == 2 else belief
        return np.asarray((probability * class_losses(self.metric, prediction)).sum(axis=-1))

    def _draw_labels(self, prediction: Array, belief: Array, noise: Array) -> Array:
        if belief.ndim == 2:
            return np.asarray(noise > 1 - belief.T, dtype=np.float64)
        upper = np.cumsum(belief[:, :, :-1], axis=2)
        return np.asarray((noise.T[:, :, None] > upper).sum(axis=2).T)


def calibrate(p: Array, y: Array, weight: Array, new: Array) -> Array:
    """Calibrate new probabilities by weighted labelled ones.

    Isotonic regression (Zadrozny and Elkan 2002), or with few rows a logistic one on the log odds (Platt 1999).
    No row is certain: n rows cannot show a probability below 1 / (n + 2).

    Args:
        p: (n,) probabilities of the labelled rows.
        y: (n,) whether the class came.
        weight: (n,) not negative.
        new: (m,) probabilities to calibrate.

    Returns:
        (m,) calibrated probabilities.
    """
    used = weight > 0
    p, y, weight = p[used], y[used].astype(np.float64), weight[used]
    bound = 1 / (weight.sum() ** 2 / np.sum(weight**2) + 2)
    if len(np.unique(y)) < 2:
        calibrated = np.full(len(new), y[0])
    elif len(used) >= ISOTONIC_ROWS:
        levels, place = np.unique(p, return_inverse=True)
        mass = np.bincount(place, weights=weight)
        steps = isotonic_regression(np.bincount(place, weights=weight * y) / mass, sample_weight=mass)
        calibrated = np.interp(new, levels, steps)
    else:
        slope, intercept = _line(_log_odds(p), y, weight)
        calibrated = expit(slope * _log_odds(new) + intercept)
    return np.asarray(calibrated).clip(bound, 1 - bound)


def _line(x: Array, y: Array, weight: Array) -> tuple[float, float]:
    """Slope and intercept of a logistic regression on one column, by Newton's method: a fit costs microseconds.

    >>> x, y = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), np.array([0.0, 1.0, 0.0, 1.0, 1.0])
    >>> line = LogisticRegression(C=1e3, solver="newton-cholesky").fit(x[:, None], y, np.arange(1.0, 6.0))
    >>> np.allclose(_line(x, y, np.arange(1.0, 6.0)), (line.coef_[0, 0], line.intercept_[0]), rtol=1e-4)
    True
    """
    columns, penalty = np.column_stack([x, np.ones(len(x))]), np.diag([1 / STRENGTH, 0.0])
    at = np.zeros(2)
    for _ in range(50):
        p = expit(columns @ at)
        step = np.linalg.solve(
            (columns * (weight * p * (1 - p))[:, None]).T @ columns + penalty + 1e-12 * np.eye(2),
            columns.T @ (weight * (p - y)) + penalty @ at,
        )
        at = at - step * min(1.0, 5 / max(float(np.abs(step).max()), 1e-12))  # a full step may overshoot from afar
        if float(np.abs(step).max()) < 1e-8:
            return float(at[0]), float(at[1])
    model = LogisticRegression(C=STRENGTH, solver="newton-cholesky").fit(x[:, None], y, weight)
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def _log_odds(p: Array) -> Array:
    bound = p.clip(1e-6, 1 - 1e-6)
    return np.asarray(np.log(bound / (1 - bound)))
