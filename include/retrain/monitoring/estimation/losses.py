"""Losses per row, and metrics of many draws of the labels at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from retrain.modeling.metrics import Array

LOSS = {
    **dict.fromkeys(("log_loss", "roc_auc", "average_precision", "balanced_accuracy", "f1_macro"), "log_loss"),
    "brier": "brier",
    **dict.fromkeys(("rmse", "r2"), "squared error"),
    "mae": "absolute error",
}
"""The loss per row that goes with a metric: its own, or for a metric that is no mean over rows a proper score."""

MEANS = ("log_loss", "brier", "mae", "rmse")
"""Metrics that are a mean of losses over rows, or its root."""

_EPS = float(np.finfo(np.float64).eps)


def loss_of(task: str, metric: str) -> Callable[[Array, Array], Array]:
    """The function from labels and predictions to the realised loss of each row, of the kind that `LOSS` names.

    >>> loss_of("regression", "mae")(np.array([1.0, 2.0]), np.array([3.0, 2.0])).tolist()
    [2.0, 0.0]
    """
    if task == "regression":
        return lambda y, p: np.asarray(np.abs(y - p) if metric == "mae" else (y - p) ** 2)
    return lambda y, p: np.asarray(class_losses(metric, p)[np.arange(len(y)), y.astype(int)])


def class_losses(metric: str, prediction: Array) -> Array:
    """(n, k) losses: what a row loses if its label is that class."""
    p = class_probabilities(prediction)
    return np.asarray((1 - p) ** 2 if metric == "brier" else -np.log(p.clip(_EPS, 1 - _EPS)))


def class_probabilities(probability: Array) -> Array:
    """(n, k) probabilities of each class, of two as well.

    >>> class_probabilities(np.array([0.25, 1.0])).tolist()
    [[0.75, 0.25], [0.0, 1.0]]
    """
    return np.column_stack([1 - probability, probability]) if probability.ndim == 1 else probability


def metric_of_draws(task: str, metric: str, p: Array) -> Callable[[Array], Array]:
    """The function from (n, r) labels to (r,) metrics, as `metrics.metric_value` has them; NaN where undefined.

    Args:
        task: binary, multiclass or regression.
        metric: a primary metric of `spec.METRICS` for that task.
        p: (n,) or (n, k) predictions.
    """
    if task == "regression":
        return lambda y: _error_metric(metric, y, p[:, None])
    if metric in ("roc_auc", "average_precision"):
        return _ranking_metric(metric, p)
    if metric in ("balanced_accuracy", "f1_macro"):
        return lambda y: _class_metric(metric, y, p)
    losses = class_losses(metric, p)
    rows = np.arange(len(p))[:, None]
    return lambda y: np.asarray(losses[rows, y.astype(np.intp)].mean(axis=0))


def _error_metric(metric: str, y: Array, p: Array) -> Array:
    if metric == "mae":
        return np.asarray(np.abs(y - p).mean(axis=0))
    squared = ((y - p) ** 2).mean(axis=0)
    return np.asarray(np.sqrt(squared) if metric == "rmse" else 1 - squared / y.var(axis=0))


def _class_metric(metric: str, y: Array, p: Array) -> Array:
    named, per_class = p.argmax(axis=1), []
    for k in range(p.shape[1]):
        true = y == k
        hits, actual, predicted = true[named == k].sum(axis=0), true.sum(axis=0), np.sum(named == k)
        per_class.append(hits / actual if metric == "balanced_accuracy" else 2 * hits / (actual + predicted))
    # A class that is absent does not count, as in scikit-learn.
    return np.asarray(np.nanmean(per_class, axis=0))


def _ranking_metric(metric: str, p: Array) -> Callable[[Array], Array]:
    order = np.argsort(-p, kind="stable")
    starts = np.flatnonzero(np.diff(p[order], prepend=np.inf))
    sizes = np.diff(np.append(starts, len(p)))[:, None]

    def statistic(y: Array) -> Array:
        true = np.add.reduceat(y[order], starts, axis=0)
        above, positives = np.cumsum(true, axis=0), true.sum(axis=0)
        if metric == "average_precision":
            return np.asarray((true * above / np.cumsum(sizes, axis=0)).sum(axis=0) / positives)
        false = sizes - true
        return np.asarray((false * (above - true / 2)).sum(axis=0) / (positives * (len(p) - positives)))

    return statistic
