"""Early stopping: the number of trees, found on the newest training rows and never on those that validate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit, StratifiedShuffleSplit

from retrain.errors import DegenerateTraining
from retrain.modeling import pipelines
from retrain.modeling.estimators import is_xgboost, unfitted
from retrain.modeling.folds import Fold, Rows, moments, usable
from retrain.modeling.metrics import Array
from retrain.results import Configuration
from retrain.spec import Spec

MAX_TREES = 500
"""The bound where a configuration sets none."""

WATCHED, PARTS = 0.15, 3
"""XGBoost's number of trees is found on the newest three stretches of 15 % of the training rows, each after a fit
on all before it: one stretch alone is a few days of weather. Inside the folds of the search one stretch has to do."""


def stops_early(spec: Spec, configuration: Configuration) -> bool:
    """Whether early stopping finds the number of trees of this configuration."""
    # XGBoost's random forests grow all of their trees at once.
    boosted = is_xgboost(configuration.estimator) and "XGBRF" not in configuration.estimator
    return boosted and spec.training.early_stopping > 0


def stretches(spec: Spec, rows: Rows, parts: int = PARTS) -> Iterator[Fold]:
    """Yield rows to fit and rows to count trees on, by place: stretch after stretch, or apart as the folds are.

    Rows that all share one moment are cut as those of folds without time.
    """
    n, share, seed = len(rows.y), WATCHED, spec.training.seed
    by_time, when = spec.training.search.split == "time", moments(spec, rows)
    if by_time and when[0] < when[-1]:
        cuts = [int(np.searchsorted(when, when[int(n * (1 - share * part))])) for part in range(parts, 0, -1)]
        for cut, end in zip(cuts, [*cuts[1:], n], strict=True):
            if usable(spec, rows.y[:cut], rows.y[cut:end], both=False):
                yield np.arange(cut), np.arange(cut, end)
        return
    groups = None
    splitter: Any = ShuffleSplit(1, test_size=share, random_state=seed)
    if spec.training.search.split == "group" or (by_time and spec.training.group):
        groups = rows.frame[spec.training.group].astype(str).to_numpy()
        splitter = GroupShuffleSplit(1, test_size=share, random_state=seed)
    elif spec.task != "regression" and np.unique(rows.y, return_counts=True)[1].min() > 1:
        splitter = StratifiedShuffleSplit(1, test_size=share, random_state=seed)
    fit, rest = next(splitter.split(np.zeros(n), rows.y, groups))
    yield np.sort(fit), np.sort(rest)


def loss_curve(
    spec: Spec,
    configuration: Configuration,
    encoded: Any,
    y: Array,
    recency: Array | None,
    watched: Any,
    watched_y: Array,
    patience: int,
) -> list[float]:
    """Fit XGBoost and return its loss on the watched rows after each tree, until `patience` more bring nothing.

    `n_estimators` of the configuration is the bound, by default 500. The loss forgives the level: a stretch of
    days differs from the next in its mean, which no number of trees can learn, and a plain log loss would stop
    at a handful of trees in one stretch and at hundreds in another. So predictions are shifted to the watched
    rows' mean first (calibration in the large; multiclass: plain log loss).

    Args:
        spec: the model's.
        configuration: of a boosted XGBoost.
        encoded: (n, columns) rows to fit on, as the steps before the estimator give them.
        y: (n,) their outcomes.
        recency: (n,) their weights, see `pipelines.recency_weight`.
        watched: (m, columns) rows to measure the loss on.
        watched_y: (m,) their outcomes.
        patience: trees without a lower loss after which it stops.
    """
    last = unfitted(spec, configuration)
    metric: Any = {"binary": recalibrated_log_loss, "multiclass": "mlogloss", "regression": error_deviation}[spec.task]
    bound = configuration.parameters.get("n_estimators", MAX_TREES)
    last.set_params(n_estimators=bound, early_stopping_rounds=patience, eval_metric=metric)
    pipelines.fit_last(spec, last, encoded, y, recency, watched=(watched, watched_y))
    results = last.evals_result()["validation_0"]
    return [float(loss) for loss in results[metric if isinstance(metric, str) else metric.__name__]]


def recalibrated_log_loss(y: Array, p: Array, sample_weight: Array | None = None) -> float:
    """Log loss of probabilities after the shift of their log odds that gives them the mean of `y`.

    >>> y = np.array([0, 0, 1, 1])
    >>> round(recalibrated_log_loss(y, np.array([0.1, 0.1, 0.1, 0.1])), 6) == round(float(np.log(2)), 6)
    True
    """
    weight = np.ones(len(y)) if sample_weight is None or len(sample_weight) == 0 else sample_weight
    bound = np.clip(p.astype(np.float64), 1e-9, 1 - 1e-9)
    odds = np.log(bound / (1 - bound))
    goal = float(np.clip(np.average(y, weights=weight), 1e-6, 1 - 1e-6))
    shift = 0.0
    for _ in range(8):
        q = 1 / (1 + np.exp(-(odds + shift)))
        step = (goal - np.average(q, weights=weight)) / max(float(np.average(q * (1 - q), weights=weight)), 1e-6)
        shift += float(np.clip(step, -2, 2))
    odds = odds + shift
    return float(np.average(np.logaddexp(0, odds) - y * odds, weights=weight))


def error_deviation(y: Array, prediction: Array, sample_weight: Array | None = None) -> float:
    """Standard deviation of the errors: the root mean squared error but for their mean."""
    return float(np.std(y - prediction))


def best_count(curves: list[list[float]]) -> int:
    """The number of trees with the least mean loss; a curve that stopped goes on as it ended.

    >>> best_count([[3.0, 2.0, 1.0, 1.5], [3.0, 1.0]])
    3
    """
    longest = max(len(curve) for curve in curves)
    mean = np.mean([curve + curve[-1:] * (longest - len(curve)) for curve in curves], axis=0)
    return int(np.argmin(mean)) + 1


def count_trees(spec: Spec, configuration: Configuration, rows: Rows) -> Configuration:
    """Count the trees that the newest stretches of these rows ask for, and return the configuration with so many.

    Raises:
        DegenerateTraining: too few rows to set a stretch apart.
    """
    curves, steps = [], pipelines.build(spec, configuration)[:-1]
    # The mean of three curves may still fall where one of them, by chance, does not.
    patience = spec.training.early_stopping * PARTS
    for fit, rest in stretches(spec, rows):
        frame = rows.frame.iloc[fit]
        encoded, recency = steps.fit_transform(frame, rows.y[fit]), pipelines.recency_weight(spec, configuration, frame)
        watched = steps.transform(rows.frame.iloc[rest])
        curve = loss_curve(spec, configuration, encoded, rows.y[fit], recency, watched, rows.y[rest], patience)
        curves.append(curve)
    if not curves:
        raise DegenerateTraining(
            f"{len(rows.y)} rows are too few to stop early on", do="set training.early_stopping: 0, or wait for more"
        )
    return with_trees(configuration, best_count(curves))


def without_trees(spec: Spec, configuration: Configuration) -> Configuration:
    """The configuration without a number of trees, where early stopping is to find it."""
    if not stops_early(spec, configuration):
        return configuration
    kept = {name: value for name, value in configuration.parameters.items() if name != "n_estimators"}
    return configuration.model_copy(update={"parameters": kept})


def same_except_trees(spec: Spec, configuration: Configuration, other: Configuration) -> bool:
    """Whether two configurations differ in nothing but a number of trees that early stopping finds."""
    return without_trees(spec, configuration) == without_trees(spec, other)


def with_trees(configuration: Configuration, count: int) -> Configuration:
    """The configuration with so many trees."""
    return configuration.model_copy(update={"parameters": {**configuration.parameters, "n_estimators": count}})
