"""The metrics of predictions: one of them, or all those of a task.

scikit-learn's metrics; what it leaves undefined or warns about is None in a table and an error where one
number was asked for, never NaN.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from sklearn import metrics as sk

from retrain.errors import NonFiniteMetric

Array = np.ndarray[Any, np.dtype[Any]]

BANDS = 12
"""More distinct numbers are cut into quarters; of more distinct words the rarest are put together."""

Table = dict[str, Callable[[], Any]]


def metric_value(task: str, metric: str, y: Array, prediction: Array, weight: Array | None = None) -> float:
    """Compute one metric of predictions.

    Args:
        task: binary, multiclass or regression.
        metric: the name of one of the task's.
        y: (n,) class codes, or numbers for regression.
        prediction: (n,) probability of the last class, (n, k) probabilities, or (n,) numbers.
        weight: (n,) row weights.

    Raises:
        NonFiniteMetric: it is undefined here (one class, constant outcome), or an input is not finite.

    >>> metric_value("binary", "brier", np.array([0, 1]), np.array([0.0, 0.5]))
    0.125
    """
    value = metric_values(task, y, prediction, weight, only=metric)[metric]
    if value is None:
        raise NonFiniteMetric(
            f"{metric} is undefined on {len(y)} rows with {len(np.unique(y))} distinct outcomes",
            do="wait for rows with more than one outcome, or judge by another metric",
        )
    return value


def metric_values(
    task: str, y: Array, prediction: Array, weight: Array | None = None, *, only: str | None = None
) -> dict[str, float | None]:
    """Compute every metric of the task, or `only` one; None where it is undefined.

    A class is predicted at probability 0.5 or more (binary), or as the most probable one.

    Args:
        task: binary, multiclass or regression.
        y: (n,) class codes, or numbers for regression.
        prediction: (n,) probability of the last class, (n, k) probabilities, or (n,) numbers.
        weight: (n,) row weights.
        only: the name of the one that is wanted.

    Raises:
        NonFiniteMetric: no rows, or an input that is not finite or not a probability.
    """
    y, prediction = checked(task, y, prediction)
    table = {"binary": _binary, "multiclass": _multiclass, "regression": _regression}[task](y, prediction, weight)
    values: dict[str, float | None] = {}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # scikit-learn warns about what is undefined; here that is None.
        warnings.simplefilter("ignore")
        for name, compute in table.items():
            if only is None or name == only:
                value = float(compute())
                values[name] = value if np.isfinite(value) else None
    return values


def checked(task: str, y: Array, prediction: Array) -> tuple[Array, Array]:
    """Outcomes and predictions as finite float64 of matching shapes; rows of probabilities sum to one.

    Raises:
        NonFiniteMetric: no rows, shapes that do not match, or a value that is not finite or not a probability.
    """
    y, prediction = np.asarray(y, dtype=np.float64), np.asarray(prediction, dtype=np.float64)
    wrong = None
    if len(y) == 0 or len(y) != len(prediction) or prediction.ndim != (2 if task == "multiclass" else 1):
        wrong = f"{y.shape} outcomes and {prediction.shape} predictions"
    elif bad := int(np.sum(~np.isfinite(y))):
        wrong = f"{bad} of {len(y)} outcomes are not finite"
    elif bad := int(np.sum(~np.isfinite(prediction))):
        wrong = f"{bad} of {prediction.size} predictions are not finite"
    elif task != "regression" and (prediction.min() < -1e-6 or prediction.max() > 1 + 1e-6):
        wrong = f"probabilities from {prediction.min():.6g} to {prediction.max():.6g}"
    elif task == "multiclass" and prediction.sum(axis=1).min() <= 0:
        wrong = "rows of probabilities that sum to nothing"
    if wrong:
        raise NonFiniteMetric(wrong, do="look at the model's predictions on these rows; nothing was judged by them")
    if task == "multiclass":
        prediction = prediction / prediction.sum(axis=1, keepdims=True)
    return y, prediction if task == "regression" else prediction.clip(0, 1)


def _binary(y: Array, p: Array, w: Array | None) -> Table:
    predicted, both = (p >= 0.5).astype(float), len(np.unique(y)) == 2
    some = bool(np.any(y == 1))

    def recall(of: int) -> float:
        return float(sk.recall_score(y, predicted, pos_label=of, sample_weight=w, zero_division=np.nan))

    return {
        "log_loss": lambda: sk.log_loss(y, p, sample_weight=w, labels=[0, 1]),
        "brier": lambda: np.average((p - y) ** 2, weights=w),
        "roc_auc": lambda: sk.roc_auc_score(y, p, sample_weight=w) if both else np.nan,
        "average_precision": lambda: sk.average_precision_score(y, p, sample_weight=w) if some else np.nan,
        "balanced_accuracy": lambda: (recall(0) + recall(1)) / 2,
        "precision": lambda: sk.precision_score(y, predicted, sample_weight=w, zero_division=np.nan),
        "recall": lambda: recall(1),
        "specificity": lambda: recall(0),
        "f1": lambda: sk.f1_score(y, predicted, sample_weight=w, zero_division=np.nan),
        "accuracy": lambda: sk.accuracy_score(y, predicted, sample_weight=w),
        "ece": lambda: _calibration_error(calibration(y, p, w)),
        "positive_rate": lambda: np.average(y, weights=w),
        "mean_prediction": lambda: np.average(p, weights=w),
    }


def _multiclass(y: Array, p: Array, w: Array | None) -> Table:
    predicted, classes = p.argmax(axis=1).astype(float), list(range(p.shape[1]))
    every = len(np.unique(y)) == len(classes)

    def ranked() -> float:
        # One column at a time: scikit-learn would need the rows to sum to one more closely than floats do.
        return float(np.mean([sk.roc_auc_score(y == code, p[:, code], sample_weight=w) for code in classes]))

    return {
        "log_loss": lambda: sk.log_loss(y, p, sample_weight=w, labels=classes),
        "balanced_accuracy": lambda: sk.balanced_accuracy_score(y, predicted, sample_weight=w),
        "f1_macro": lambda: sk.f1_score(y, predicted, average="macro", sample_weight=w, zero_division=0),
        "accuracy": lambda: sk.accuracy_score(y, predicted, sample_weight=w),
        "roc_auc_ovr": lambda: ranked() if every else np.nan,
    }


def _regression(y: Array, p: Array, w: Array | None) -> Table:
    # A relative error means little where the outcome passes near zero.
    relative = np.abs(y).min() > 1e-3 * np.median(np.abs(y))
    return {
        "rmse": lambda: sk.root_mean_squared_error(y, p, sample_weight=w),
        "mse": lambda: sk.mean_squared_error(y, p, sample_weight=w),
        "mae": lambda: sk.mean_absolute_error(y, p, sample_weight=w),
        "median_ae": lambda: sk.median_absolute_error(y, p, sample_weight=w),
        "r2": lambda: sk.r2_score(y, p, sample_weight=w, force_finite=False) if len(y) > 1 else np.nan,
        "mape": lambda: sk.mean_absolute_percentage_error(y, p, sample_weight=w) if relative else np.nan,
        "bias": lambda: np.average(p - y, weights=w),
    }


def calibration(y: Array, p: Array, weight: Array | None = None, bins: int = 10) -> pd.DataFrame:
    """Compare predicted and observed frequency in bins of equal mass: columns predicted, observed, share, rows.

    Equal predictions stay in one bin, so a constant model has one bin. The expected calibration error is the
    mean of |observed - predicted| weighted by share (Naeini, Cooper and Hauskrecht 2015).
    """
    w = np.ones(len(y)) if weight is None else np.asarray(weight, dtype=float)
    bin_ = equal_mass(p, w, bins)
    total = np.bincount(bin_, weights=w, minlength=bins)
    used = total > 0
    return pd.DataFrame(
        {
            "predicted": np.bincount(bin_, weights=w * p, minlength=bins)[used] / total[used],
            "observed": np.bincount(bin_, weights=w * y, minlength=bins)[used] / total[used],
            "share": total[used] / total.sum(),
            "rows": np.bincount(bin_, minlength=bins)[used],
        }
    )


def equal_mass(p: Array, weight: Array, bins: int = 10) -> Array:
    """The bin of each row, 0 … bins - 1, of equal mass; equal values stay in one bin.

    >>> equal_mass(np.array([0.1, 0.9, 0.1, 0.8]), np.ones(4), 2).tolist()
    [0, 1, 0, 1]
    """
    _, place = np.unique(p, return_inverse=True)
    mass = np.bincount(place, weights=weight)
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    return np.asarray(np.minimum((middle * bins).astype(int), bins - 1)[place])


def _calibration_error(bins: pd.DataFrame) -> float:
    return float((bins["share"] * (bins["observed"] - bins["predicted"]).abs()).sum())


def bands(column: pd.Series[Any], kind: str) -> pd.Series[str]:
    """Name the band of each row's value: numbers in quarters, words apart, rare ones put together.

    Args:
        column: (n,) values.
        kind: the column's declared type.

    >>> bands(pd.Series([0.0, None, 1.0]), "boolean").tolist()
    ['false', '(missing)', 'true']
    """
    if kind == "boolean":
        named = column.map({0.0: "false", 1.0: "true"})
    elif kind in ("integer", "number", "datetime") and column.nunique() > BANDS:
        quarter = pd.qcut(column, 4, duplicates="drop")
        bound = "{:%Y-%m-%d %H:%M}" if kind == "datetime" else "{:.6g}"
        names = [f"Q{n + 1}: {bound} to {bound}".format(i.left, i.right) for n, i in enumerate(quarter.cat.categories)]
        named = quarter.cat.rename_categories(names)
    elif kind in ("integer", "number"):
        named = column.map("{:g}".format, na_action="ignore")
    else:
        common = column.astype(object).value_counts().sort_index().nlargest(BANDS).index
        named = column.astype(object).where(column.isin(common) | column.isna(), "(others)")
    return named.astype(object).where(column.notna(), "(missing)").astype(str)
