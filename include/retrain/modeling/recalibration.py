"""Recalibration: a fitted estimator keeps what it has learnt, and its answers are moved as recent labels ask.

Where outcomes have become more frequent and all else holds, a shift of the log odds is the whole answer, and some
hundred rows are enough to find it. A classifier's log probabilities get an intercept per class, numbers get one; where
recent rows show that the answers are also too sure or too timid, a slope as well (Cox, "Two further applications of a
model for binary regression", 1958; of several classes a temperature, Guo et al. 2017). Both are fitted by maximum
likelihood, of numbers by least squares.

Which of the two is needed, or neither, says a closed test (Vergouwe et al., "A closed testing procedure to select an
appropriate method for updating prediction models", 2017): neither where the answers may be calibrated as they are, the
intercept alone where the slope may be 1. The tests are of Wald's kind; rows of a block count as one (Liang and Zeger,
"Longitudinal data analysis using generalized linear models", 1986; F for few blocks).

scikit-learn's calibrators are not used: they are fitted on probabilities or decision values as they come, have no
intercept without a slope, and no standard errors. This file travels with a recalibrated model; it imports numpy, scipy,
scikit-learn and the errors only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np
from scipy import optimize, special, stats
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier

from retrain.errors import DegenerateTraining

Array = np.ndarray[Any, np.dtype[Any]]
Method = Literal["intercept", "intercept and slope"]

FLOOR = 1e-9
"""Probabilities below it count as it: the logarithm of none would weigh more than all other rows."""
FEWEST, FEWEST_OF_CLASS = 100, 10
"""Rows, and rows of each class, from which a calibration can be learnt."""
LEVEL = 0.01
"""How often a model that is calibrated may be recalibrated."""


class RecalibratedClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted classifier whose log probabilities are stretched and shifted.

    Args:
        estimator: fitted; it stays as it is.
        stretch: whether there is a slope beside the intercepts.

    Attributes:
        slope_: of the log probabilities.
        intercept_: (k,) of each class that the estimator knows; the first is 0.

    >>> from sklearn.dummy import DummyClassifier
    >>> rare = DummyClassifier(strategy="prior").fit(np.zeros((100, 1)), [0] * 90 + [1] * 10)
    >>> now = RecalibratedClassifier(rare).fit(np.zeros((100, 1)), np.array([0, 1] * 50))
    >>> now.predict_proba(np.zeros((1, 1))).round(6).tolist()
    [[0.5, 0.5]]
    """

    def __init__(self, estimator: Any, stretch: bool = False) -> None:
        self.estimator = estimator
        self.stretch = stretch

    def fit(self, X: Any, y: Array) -> Self:
        """Fit intercepts, and slope, on rows that the estimator was not fitted on."""
        log, place = _log_probabilities(self.estimator, X), _places(self.estimator, y)
        self.slope_, self.intercept_ = _fit_classes(log, place, self.stretch)
        return self

    @property
    def classes_(self) -> Array:
        """The classes that the estimator knows."""
        return np.asarray(self.estimator.classes_)

    def predict_proba(self, X: Any) -> Array:
        """The recalibrated probabilities, (n, k)."""
        log = _log_probabilities(self.estimator, X)
        return np.asarray(special.softmax(self.slope_ * log + self.intercept_, axis=1))

    def predict(self, X: Any) -> Array:
        """The likeliest class of each row."""
        return np.asarray(self.classes_[self.predict_proba(X).argmax(axis=1)])


class RecalibratedRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted regressor whose numbers are stretched and shifted.

    Args:
        estimator: fitted; it stays as it is.
        stretch: whether there is a slope beside the intercept.

    Attributes:
        slope_: of the numbers.
        intercept_: added to them.
    """

    def __init__(self, estimator: Any, stretch: bool = False) -> None:
        self.estimator = estimator
        self.stretch = stretch

    def fit(self, X: Any, y: Array) -> Self:
        """Fit the intercept, and the slope, on rows that the estimator was not fitted on."""
        number = np.asarray(self.estimator.predict(X), dtype=np.float64)
        self.slope_, self.intercept_ = _fit_numbers(number, y, self.stretch)
        return self

    def predict(self, X: Any) -> Array:
        """The recalibrated numbers."""
        return np.asarray(self.slope_ * np.asarray(self.estimator.predict(X), dtype=np.float64) + self.intercept_)


def recalibrate(last: Any, encoded: Any, y: Array, method: Method) -> Any:
    """The estimator with its answers recalibrated on these rows; one that is recalibrated gets another calibration.

    Args:
        last: a fitted classifier or regressor, or one that this function has returned.
        encoded: (n, columns) rows that it was not fitted on, as it reads them.
        y: (n,) class codes, or numbers.
        method: what is fitted.

    Raises:
        DegenerateTraining: too few rows, or of a class, or the answers do not rank these rows any more.
    """
    kind: Any = RecalibratedClassifier if is_classifier(last) else RecalibratedRegressor
    fitted = kind(last, stretch=method != "intercept").fit(encoded, y)
    if isinstance(last, (RecalibratedClassifier, RecalibratedRegressor)):
        # Two straight lines, one after the other, are one: calibrations never pile up.
        fitted.estimator = last.estimator
        fitted.intercept_ = fitted.slope_ * last.intercept_ + fitted.intercept_
        fitted.slope_ = fitted.slope_ * last.slope_
    return fitted


def needed(last: Any, encoded: Any, y: Array, block: Array) -> tuple[Method | None, str]:
    """What recent rows ask for: an intercept, slope as well, or nothing that is more than chance.

    Args:
        last: a fitted classifier or regressor.
        encoded: (n, columns) rows that it was not fitted on, as it reads them.
        y: (n,) class codes, or numbers.
        block: (n,) codes 0 … b-1 of rows that may hang together.

    Returns:
        The method, or None, and why in words.

    Raises:
        DegenerateTraining: too few rows, or of a class, or the answers do not rank these rows any more.
    """
    moved, scores, information = (_evidence_of_classes if is_classifier(last) else _evidence_of_numbers)(
        last, encoded, y
    )
    both = _chance(scores, information, moved, block, slice(None))
    rows = f"{len(y):,} rows in {block.max() + 1} blocks"
    if not both < LEVEL:
        return None, f"its calibration on {rows} is within chance (p {both:.2g}, {LEVEL:g} asks for another)"
    alone = _chance(scores, information, moved, block, slice(-1, None)) if len(moved) > 1 else 1.0
    method: Method = "intercept and slope" if alone < LEVEL else "intercept"
    return method, f"{method}, on {rows} (p {both:.2g}, of the slope {alone:.2g})"


def _chance(scores: Array, information: Array, moved: Array, block: Array, which: slice) -> float:
    """The p-value of the parameters `which` being where they were; 1 where blocks are too few to tell."""
    count, size = int(block.max()) + 1, len(moved[which])
    if count <= size + 1:
        return 1.0
    sums = np.stack([np.bincount(block, weights=column, minlength=count) for column in scores.T], axis=1)
    bread = np.linalg.pinv(information)
    covariance = (bread @ (sums.T @ sums) @ bread)[which, which] * count / (count - 1)
    wald = float(moved[which] @ np.linalg.pinv(covariance) @ moved[which])
    return float(stats.f.sf(wald * (count - size) / (size * (count - 1)), size, count - size))


# --- classes


def _log_probabilities(estimator: Any, encoded: Any) -> Array:
    return np.asarray(np.log(np.clip(np.asarray(estimator.predict_proba(encoded), dtype=np.float64), FLOOR, 1)))


def _places(estimator: Any, y: Array) -> Array:
    """The column of each row's class.

    Raises:
        DegenerateTraining: too few rows, or a class that the estimator does not know or these rows hardly have.
    """
    classes = np.asarray(estimator.classes_)
    counts = [int((y == code).sum()) for code in classes]
    if sum(counts) < len(y):
        raise _too_few(f"{len(y) - sum(counts)} rows are of a class that the model has not met")
    if len(y) < FEWEST or min(counts) < FEWEST_OF_CLASS:
        raise _too_few(
            f"{len(y)} recent rows, {min(counts)} of the rarest class: {FEWEST} and {FEWEST_OF_CLASS} needed"
        )
    return np.searchsorted(classes, y)


def _fit_classes(log: Array, place: Array, stretch: bool) -> tuple[float, Array]:
    """Slope and intercepts of greatest likelihood; the slope is 1 unless it may stretch and the rows have one."""
    count, at = log.shape[1], np.arange(len(place))
    stretch = stretch and _varies(log)

    def parts(moved: Array) -> tuple[float, Array]:
        return (float(moved[-1]) if stretch else 1.0), np.concatenate([[0.0], moved[: count - 1]])

    def loss(moved: Array) -> float:
        slope, intercept = parts(moved)
        stretched = slope * log + intercept
        return float((special.logsumexp(stretched, axis=1) - stretched[at, place]).sum())

    def curvature(moved: Array) -> tuple[Array, Array]:
        scores, information = _curvature_of_classes(log, place, *parts(moved))
        kept = len(moved)
        return scores[:, :kept].sum(axis=0), information[:kept, :kept]

    begin = np.append(np.zeros(count - 1), [1.0] * stretch)
    slope, intercept = parts(_minimise(loss, curvature, begin))
    return _ranks(slope), intercept


def _evidence_of_classes(last: Any, encoded: Any, y: Array) -> tuple[Array, Array, Array]:
    """How far the best intercepts and slope lie from those that change nothing, (m,), and the curvature there."""
    log, place = _log_probabilities(last, encoded), _places(last, y)
    slope, intercept = _fit_classes(log, place, True)
    scores, information = _curvature_of_classes(log, place, slope, intercept)
    kept = len(intercept) if _varies(log) else len(intercept) - 1
    return np.append(intercept[1:], slope - 1)[:kept], scores[:, :kept], information[:kept, :kept]


def _curvature_of_classes(log: Array, place: Array, slope: float, intercept: Array) -> tuple[Array, Array]:
    """Of the negative log likelihood, by the intercepts but the first and the slope.

    Returns:
        (n, k) its gradient of each row, and (k, k) the sum of its second derivatives.
    """
    p = special.softmax(slope * log + intercept, axis=1)
    error = p.copy()
    error[np.arange(len(place)), place] -= 1
    mean = (p * log).sum(axis=1, keepdims=True)
    scores = np.column_stack([error[:, 1:], (error * log).sum(axis=1)])
    rest = p[:, 1:]
    mixed = (rest * (log[:, 1:] - mean)).sum(axis=0)
    information = np.empty((p.shape[1], p.shape[1]))
    information[:-1, :-1] = np.diag(rest.sum(axis=0)) - rest.T @ rest
    information[:-1, -1] = information[-1, :-1] = mixed
    information[-1, -1] = (p * (log - mean) ** 2).sum()
    return scores, information


def _minimise(loss: Callable[[Array], float], curvature: Callable[[Array], tuple[Array, Array]], begin: Array) -> Array:
    best = optimize.minimize(
        loss,
        begin,
        jac=lambda at: curvature(at)[0],
        hess=lambda at: curvature(at)[1],
        method="trust-exact",
        options={"gtol": 1e-6},
    )
    return np.asarray(best.x)


def _varies(answers: Array) -> bool:
    """Whether there is more than one answer: one alone has no slope."""
    return bool(np.ptp(answers, axis=0).max() > 0)


# --- numbers


def _fit_numbers(number: Array, y: Array, stretch: bool) -> tuple[float, float]:
    """Slope and intercept of the least squared error."""
    if len(y) < FEWEST:
        raise _too_few(f"{len(y)} recent rows, {FEWEST} needed")
    if not stretch or not _varies(number):
        return 1.0, float((y - number).mean())
    centred = number - number.mean()
    slope = float(centred @ (y - y.mean()) / (centred @ centred))
    return _ranks(slope), float(y.mean() - slope * number.mean())


def _evidence_of_numbers(last: Any, encoded: Any, y: Array) -> tuple[Array, Array, Array]:
    """As of classes."""
    number = np.asarray(last.predict(encoded), dtype=np.float64)
    slope, intercept = _fit_numbers(number, y, True)
    design = np.stack([np.ones(len(y)), number], axis=1)[:, : 1 + _varies(number)]
    scores = design * (slope * number + intercept - y)[:, None]
    return np.array([intercept, slope - 1])[: design.shape[1]], scores, design.T @ design


def _ranks(slope: float) -> float:
    if slope <= 0:
        raise DegenerateTraining(
            f"on recent rows greater answers do not go with greater outcomes (slope {slope:.2g})",
            do="look at the labels; a calibration does not turn a model round",
        )
    return slope


def _too_few(why: str) -> DegenerateTraining:
    return DegenerateTraining(why, do="wait for more labels")
