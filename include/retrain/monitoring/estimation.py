"""How good a model is on rows whose labels are not there yet, and whether that estimate can be believed.

Classification: the model's probabilities are calibrated on rows with labels that it was not fitted on, and the
labels of the new rows are taken as drawn from them. This is confidence-based performance estimation, CBPE
(Kivimäki, Białek, Kuberski and Nurminen 2025, arXiv 2505.05295). The labelled rows are weighted to look like the
new ones, as in PAPE (Białek, Kivimäki, Kuberski and Perrakis, NeurIPS 2025, arXiv 2401.08348): a model that is
calibrated over all rows need not be so on those that have become frequent. The weights are relative density ratios
(Yamada et al. 2011), which are bounded, from a classifier that tells the two sets apart.

Regression: a second model learns the loss of each row from its features and prediction, direct loss estimation, DLE
(NannyML's documentation, "How it works: Direct Loss Estimation"). The same weights correct its level: trees do not
follow rows beyond those they know, so a strong shift is still estimated too mildly.

An interval is meant to hold the metric of these very rows once their labels land. It covers the noise of labels,
with its dependence within blocks, and what is uncertain about the calibration, or about the second model. It does
not cover a change in how outcomes hang on the features (concept drift): neither method can see one. So an estimate
may raise an alarm and never veto one, `surprise` looks for such a change in the first labels that land, and
`backtest` says when estimates are no longer to be relied on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.isotonic import isotonic_regression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mean_poisson_deviance
from sklearn.model_selection import GroupKFold, StratifiedKFold
from sklearn.preprocessing import OrdinalEncoder
from xgboost import XGBClassifier, XGBRegressor

from retrain.errors import DegenerateTraining, SchemaChanged
from retrain.modeling.metrics import Array, checked
from retrain.modeling.resampling import UNDEFINED_DRAWS, Draws, interval

ROWS = 20_000
"""Rows to learn from, and rows to estimate on: more are sampled, which keeps an estimate below some seconds."""

FEWEST = 200
"""Rows below which nothing is learnt."""

FEWEST_OF_A_CLASS = 10
"""Rows of a class below which its probabilities are not calibrated."""

ISOTONIC = 1_000
"""Rows from which isotonic regression is the better calibration (Niculescu-Mizil and Caruana 2005)."""

REFITS = 30
"""Calibrations on other draws of the labelled blocks, which show how sure the calibration is."""

FOLDS = 6
"""Second models, each without one part of the labelled blocks."""

LEVELS = 60
"""Categories of a column that the helping models tell apart, the rarest put together."""

LOSS = {
    **dict.fromkeys(("log_loss", "roc_auc", "average_precision", "balanced_accuracy", "f1_macro"), "log_loss"),
    "brier": "brier",
    **dict.fromkeys(("rmse", "r2"), "squared error"),
    "mae": "absolute error",
}
"""The loss per row that goes with a metric: its own, or for one that is no mean over rows a proper one beside it."""

MEANS = ("log_loss", "brier", "mae", "rmse")
"""Metrics that are a mean of losses over rows, or its root."""

ENOUGH = 5
"""Intervals with labels from which a backtest can say that estimates are reliable."""

_BLEND = 0.1
_FLOOR = 0.02
_DOUBT = 0.05
_STEP = 32
_EPS = float(np.finfo(np.float64).eps)
# One thread: the answer is then the same to the last digit on every machine, and a busy one does not slow it.
_TREES = {"n_estimators": 40, "learning_rate": 0.15, "max_depth": 3, "max_bin": 64, "reg_lambda": 5.0, "n_jobs": 1}


@dataclass(frozen=True)
class Estimate:
    """A metric estimated without labels; without a value there is a reason."""

    value: float | None
    low: float | None
    high: float | None
    rows: int
    reason: str = ""


@dataclass(frozen=True)
class Surprise:
    """Realised over expected loss, means over rows; `low` and `high` are None with fewer than two blocks."""

    loss: str
    realised: float
    expected: float
    excess: float
    low: float | None
    high: float | None
    rows: int
    blocks: int

    @property
    def relative(self) -> float:
        """The excess as a share of what was expected."""
        return self.excess / max(abs(self.expected), _EPS)

    @property
    def worse(self) -> bool:
        """The rows were harder than they look, beyond chance."""
        return self.low is not None and self.low > 0

    @property
    def better(self) -> bool:
        """They were easier than they look, beyond chance."""
        return self.high is not None and self.high < 0


@dataclass(frozen=True)
class Past:
    """An estimate of an interval, and what its labels said later."""

    value: float
    low: float
    high: float
    realised: float


@dataclass(frozen=True)
class Backtest:
    """Whether estimates for this champion may be relied on: reliable, undetermined (too few so far) or unreliable."""

    verdict: str
    reason: str
    missed: int
    of: int

    @property
    def reliable(self) -> bool:
        """Usable: nothing speaks against it."""
        return self.verdict != "unreliable"


# --- learning


def learn(
    task: str,
    metric: str,
    y: Array,
    prediction: Array,
    frame: pd.DataFrame,
    block: Array,
    *,
    seed: int = 0,
) -> Estimator:
    """What the champion's predictions are worth, learnt from labelled rows that it was not fitted on.

    Args:
        task, metric: a primary metric of `spec.METRICS`.
        y: (n,) class codes or numbers.
        prediction: (n,) probability of the last class, (n, k) probabilities, or (n,) numbers.
        frame: n rows of features; numeric and category columns are used, both may have gaps.
        block: (n,) codes of `resampling.blocks`; whole blocks are drawn and left out.

    Raises:
        DegenerateTraining: fewer than 200 rows, fewer than two blocks, one class only, or no error at all.
        NonFiniteMetric: labels or predictions that are not finite, or no probabilities.
    """
    y, prediction = checked(task, y, prediction)
    chosen = _sample(len(y), seed)
    y, prediction, frame = y[chosen], prediction[chosen], frame.iloc[chosen]
    block = np.unique(np.asarray(block)[chosen], return_inverse=True)[1]
    do = "wait for more labels; until then drift is watched without an estimate"
    if len(y) < FEWEST or block.max() < 1:
        raise DegenerateTraining(
            f"{len(y)} labelled rows in {block.max() + 1} block(s), {FEWEST} rows in two blocks needed", do=do
        )
    if task == "regression":
        if np.allclose(y, prediction):
            raise DegenerateTraining(f"no error in {len(y)} labelled rows", do="look for the target among the features")
        return _Direct(task, metric, y, prediction, frame, block, seed)
    counts = np.bincount(y.astype(int), minlength=2)
    if np.sum(counts >= FEWEST_OF_A_CLASS) < 2:
        raise DegenerateTraining(
            f"{len(y)} labelled rows have {int(np.sort(counts)[-2])} outcomes besides the most frequent one,"
            f" {FEWEST_OF_A_CLASS} needed",
            do=do,
        )
    return _Calibrated(task, metric, y, prediction, frame, block, seed)


def _sample(rows: int, seed: int) -> Array:
    if rows <= ROWS:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, size=ROWS, replace=False))


class Estimator(ABC):
    """Made by `learn`: the labelled rows, and what was learnt from them."""

    def __init__(
        self, task: str, metric: str, y: Array, prediction: Array, frame: pd.DataFrame, block: Array, seed: int
    ) -> None:
        self.task, self.metric, self.seed = task, metric, seed
        self._y, self._prediction, self._block = y, prediction, block
        self._features = _Features(frame)
        self._x = self._features(frame, prediction)
        self._loss = loss_of(task, metric)
        count = int(block.max()) + 1
        self._times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=REFITS)
        self._noise: Array

    @abstractmethod
    def _believe(self, prediction: Array, frame: pd.DataFrame, refits: bool) -> Array:
        """What is believed of each row: (1, n, …), or with each refit after it, (1 + j, n, …)."""

    @abstractmethod
    def _expect(self, prediction: Array, belief: Array) -> Array:
        """(…, n) loss of each row under a belief."""

    @abstractmethod
    def _labels(self, prediction: Array, belief: Array, noise: Array) -> Array:
        """(n, r) labels, from (r, n, …) beliefs and (n, r) noise."""

    def expected(self, prediction: Array, frame: pd.DataFrame) -> Array:
        """(n,) loss that each row should have, of the kind that `LOSS` names for the metric.

        Args:
            prediction: (n,) or (n, k), as in `learn`.
            frame: n rows with the columns of `learn`.

        Raises:
            NonFiniteMetric: predictions that are not finite, or no probabilities.
            SchemaChanged: a column of `learn` is not there.
        """
        prediction = self._checked(prediction)
        return np.asarray(self._expect(prediction, self._believe(prediction, frame, refits=False))[0])

    def estimate(
        self,
        prediction: Array,
        frame: pd.DataFrame,
        block: Array,
        *,
        resamples: int = 500,
        level: float = 0.05,
        seed: int = 0,
    ) -> Estimate:
        """The metric that these rows will have, with the interval of coverage 1 - 2·level for it.

        The value of a mean over rows is that of their expected losses, of any other metric the median over the
        draws. Of more than 20,000 rows that many are sampled: their noise is greater than that of all, so the
        interval is then on the wide side.

        Args:
            prediction, frame: as in `expected`.
            block: (n,) codes of `resampling.blocks`.
            resamples: draws of the labels.

        Raises:
            NonFiniteMetric, SchemaChanged: as `expected`.
        """
        prediction = self._checked(prediction)
        chosen = _sample(len(prediction), seed)
        prediction, frame, block = prediction[chosen], frame.iloc[chosen], np.asarray(block)[chosen]
        belief = self._believe(prediction, frame, refits=True)
        statistic, refits = _statistic(self.task, self.metric, prediction), len(belief) - 1
        drawn, begin = [], 0
        with np.errstate(all="ignore"):
            for noise in self._laid(block, resamples, seed):
                refit = 1 + (begin + np.arange(noise.shape[1])) % refits
                drawn.append(statistic(self._labels(prediction, belief[refit], noise)))
                begin += noise.shape[1]
        values = np.concatenate(drawn)
        undefined = float(np.mean(~np.isfinite(values)))
        if undefined > UNDEFINED_DRAWS:
            said = f"{self.metric} is undefined in {undefined:.0%} of the labels drawn for {len(prediction)} rows"
            return Estimate(None, None, None, len(prediction), said)
        value = middle = float(np.nanmedian(values))
        if self.metric in MEANS:
            value = float(self._expect(prediction, belief[:1]).mean())
            value = float(np.sqrt(value)) if self.metric == "rmse" else value
        # Calibrations of drawn rows lie a little off that of all rows; only their spread is wanted.
        values = values + (value - middle)
        bounds = interval(Draws(self.metric, value, values, int(self._block.max()) + 1), level)
        return Estimate(value, bounds.low, bounds.high, len(prediction))

    def surprise(
        self,
        y: Array,
        prediction: Array,
        frame: pd.DataFrame,
        block: Array,
        *,
        resamples: int = 1_000,
        level: float = 0.05,
    ) -> Surprise | None:
        """How much more these rows lose than rows like them should: a test for concept drift.

        Hard rows are no surprise, so that a change of the rows alone does not raise it. Each row's loss is held
        against its own expectation; blocks are drawn with replacement, and with each draw another refit is the
        expectation. `low` and `high` are each a one-sided bound at `level`.

        Args:
            y: (n,) labels, NaN where there is none yet: those rows are left out. More than 20,000 are sampled.
            prediction, frame, block: as in `estimate`.

        Returns:
            None where no row has a label.

        Raises:
            NonFiniteMetric, SchemaChanged: as `expected`.
        """
        there = np.flatnonzero(np.isfinite(np.asarray(y, dtype=np.float64)))
        if not len(there):
            return None
        there = there[_sample(len(there), self.seed)]
        y, prediction = checked(self.task, np.asarray(y)[there], np.asarray(prediction)[there])
        block = np.unique(np.asarray(block)[there], return_inverse=True)[1]
        realised = self._loss(y, prediction)
        expected = self._expect(prediction, self._believe(prediction, frame.iloc[there], refits=True))
        count, excess = int(block.max()) + 1, realised - expected
        sums = np.stack([np.bincount(block, weights=one, minlength=count) for one in excess[1:]])
        rows = np.bincount(block, minlength=count)
        times = np.random.default_rng(self.seed).multinomial(count, np.full(count, 1 / count), size=resamples)
        drawn = (times * sums[np.arange(resamples) % len(sums)]).sum(axis=1) / (times @ rows)
        value = float(excess[0].mean())
        bounds = interval(Draws(LOSS[self.metric], value, drawn, count), level)
        return Surprise(
            loss=LOSS[self.metric],
            realised=float(realised.mean()),
            expected=float(expected[0].mean()),
            excess=value,
            low=bounds.low,
            high=bounds.high,
            rows=len(y),
            blocks=count,
        )

    def _checked(self, prediction: Array) -> Array:
        return checked(self.task, np.zeros(len(prediction)), prediction)[1]

    def _laid(self, block: Array, resamples: int, seed: int) -> Iterator[Array]:
        """The noise of whole labelled blocks laid onto the new rows' blocks, (n, some draws) at a time.

        So noise keeps its dependence within a block. A block that is larger than the typical labelled one is
        filled from several of them.
        """
        noise = self._noise[np.argsort(self._block, kind="stable")]
        sizes = np.bincount(self._block)
        starts = np.cumsum(sizes) - sizes
        typical = max(int(np.median(sizes)), 1)
        rank = pd.Series(block).groupby(block).cumcount().to_numpy()
        piece = pd.factorize(np.asarray(block).astype(np.int64) * (len(block) + 1) + rank // typical)[0]
        rank = rank % typical
        rng = np.random.default_rng(seed)
        for begin in range(0, resamples, _STEP):
            drawn = rng.integers(0, len(sizes), (int(piece.max()) + 1, min(_STEP, resamples - begin)))
            shift = rng.integers(0, sizes.max(), drawn.shape)
            of = drawn[piece]
            yield noise[starts[of] + (rank[:, None] + shift[piece]) % sizes[of]]


# --- classification


class _Calibrated(Estimator):
    """Labels are drawn from calibrated probabilities; noise is where in [0, 1] each known label's draw fell."""

    def __init__(
        self, task: str, metric: str, y: Array, prediction: Array, frame: pd.DataFrame, block: Array, seed: int
    ) -> None:
        super().__init__(task, metric, y, prediction, frame, block, seed)
        rng = np.random.default_rng(seed)
        upper = np.cumsum(_each(self._calibrate(prediction, np.ones(len(y)))), axis=1)
        lower = np.column_stack([np.zeros(len(y)), upper[:, :-1]])
        at = np.arange(len(y)), y.astype(int)
        self._noise = lower[at] + rng.random(len(y)) * (upper[at] - lower[at])

    def _calibrate(self, prediction: Array, weight: Array) -> Array:
        """Calibrated probabilities of new rows from weighted labelled ones; classes one by one, then normalised."""
        if self.task == "binary":
            return _calibrated(self._prediction, self._y == 1, weight, prediction)
        each = [
            _calibrated(self._prediction[:, k], self._y == k, weight, prediction[:, k])
            if np.sum(self._y == k) >= FEWEST_OF_A_CLASS
            else prediction[:, k]
            for k in range(prediction.shape[1])
        ]
        made = np.column_stack(each)
        return np.asarray(made / made.sum(axis=1, keepdims=True))

    def _believe(self, prediction: Array, frame: pd.DataFrame, refits: bool) -> Array:
        weight = _ratio(self._x, self._features(frame, prediction), self.seed)
        drawn = [weight * times[self._block] for times in self._times] if refits else []
        return np.stack([self._calibrate(prediction, one) for one in (weight, *drawn)])

    def _expect(self, prediction: Array, belief: Array) -> Array:
        each = np.stack([1 - belief, belief], axis=-1) if belief.ndim == 2 else belief
        return np.asarray((each * _losses(self.metric, prediction)).sum(axis=-1))

    def _labels(self, prediction: Array, belief: Array, noise: Array) -> Array:
        if belief.ndim == 2:
            return np.asarray(noise > 1 - belief.T, dtype=np.float64)
        upper = np.cumsum(belief[:, :, :-1], axis=2)
        return np.asarray((noise.T[:, :, None] > upper).sum(axis=2).T)


def _each(probability: Array) -> Array:
    """(n, k) probabilities of each class, of two as well."""
    return np.column_stack([1 - probability, probability]) if probability.ndim == 1 else probability


def _calibrated(p: Array, y: Array, weight: Array, new: Array) -> Array:
    """Isotonic regression (Zadrozny and Elkan 2002), or with few rows a logistic one on the log odds (Platt 1999).

    No row is certain: n rows cannot show a probability below 1 / (n + 2).
    """
    used = weight > 0
    p, y, weight = p[used], y[used].astype(np.float64), weight[used]
    bound = 1 / (weight.sum() ** 2 / np.sum(weight**2) + 2)
    if len(np.unique(y)) < 2:
        found = np.full(len(new), y[0])
    elif len(used) >= ISOTONIC:
        levels, place = np.unique(p, return_inverse=True)
        mass = np.bincount(place, weights=weight)
        steps = isotonic_regression(np.bincount(place, weights=weight * y) / mass, sample_weight=mass)
        found = np.interp(new, levels, steps)
    else:
        model = LogisticRegression(C=1e3, solver="newton-cholesky").fit(_log_odds(p)[:, None], y, weight)
        found = model.predict_proba(_log_odds(new)[:, None])[:, 1]
    return np.asarray(found).clip(bound, 1 - bound)


def _log_odds(p: Array) -> Array:
    bound = p.clip(1e-6, 1 - 1e-6)
    return np.asarray(np.log(bound / (1 - bound)))


def _ratio(known: Array, new: Array, seed: int) -> Array:
    """How much more frequent rows like each known one are among the new: relative density ratios, mean one.

    A classifier is asked about rows that it was not fitted on. The ratio is to a blend of both sets with a tenth of
    the new one, so that it stays below ten.
    """
    if len(new) < FEWEST:
        return np.ones(len(known))
    new = new[_sample(len(new), seed)]
    x, is_new = np.vstack([known, new]), np.repeat([0, 1], [len(known), len(new)])
    chance = np.empty(len(x))
    for fitted, asked in StratifiedKFold(2, shuffle=True, random_state=seed).split(x, is_new):
        model = XGBClassifier(**_TREES, min_child_weight=_leaf(len(x)) / 4, random_state=seed)
        chance[asked] = model.fit(x[fitted], is_new[fitted]).predict_proba(x[asked])[:, 1]
    odds = chance[is_new == 0] / (1 - chance[is_new == 0]).clip(_EPS) * len(known) / len(new)
    ratio = odds / (_BLEND * odds + 1 - _BLEND)
    return np.asarray(ratio / ratio.mean())


# --- regression


class _Direct(Estimator):
    """Second models of the loss, each fitted without a fold of blocks; noise is an error over its expected size."""

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
            XGBRegressor(**_TREES, objective="count:poisson", min_child_weight=_leaf(len(y)), random_state=seed).fit(
                self._x[fitted], loss[fitted] / self._level
            )
            for fitted, _ in folds
        ]
        held, flat = np.empty(len(y)), np.empty(len(y))
        for model, mean, (_, asked) in zip(self._models, self._means, folds, strict=True):
            held[asked], flat[asked] = model.predict(self._x[asked]) * self._level, mean
        held = held.clip(_FLOOR * self._level)
        if mean_poisson_deviance(loss, held) >= mean_poisson_deviance(loss, flat):
            # The features say nothing of the loss: it is the same everywhere.
            self._models, held = [], flat
        self._known, self._held = loss, held
        error = (y - prediction) / self._scale(held)
        self._noise = error / (np.abs(error).mean() if metric == "mae" else np.sqrt(np.mean(error**2)))

    def _scale(self, loss: Array) -> Array:
        return loss if self.metric == "mae" else np.sqrt(loss)

    def _believe(self, prediction: Array, frame: pd.DataFrame, refits: bool) -> Array:
        x = self._features(frame, prediction)
        each = np.stack(
            [model.predict(x) * self._level for model in self._models] or [np.full(len(x), one) for one in self._means]
        )
        mean = each.mean(axis=0)
        # What the second models got wrong on known rows like the new ones is put right as a factor.
        weight = _ratio(self._x, x, self.seed)
        found = [mean * self._factor(weight)]
        if refits:
            # Spread so that the variance between them is that of the jackknife over groups of blocks.
            spread = mean + np.sqrt(len(each) - 1) * (each - mean)
            found += [
                spread[n % len(each)] * self._factor(weight * times[self._block]) for n, times in enumerate(self._times)
            ]
        return np.stack(found).clip(_FLOOR * self._level)

    def _factor(self, weight: Array) -> float:
        return float((weight @ self._known) / (weight @ self._held))

    def _expect(self, prediction: Array, belief: Array) -> Array:
        return belief

    def _labels(self, prediction: Array, belief: Array, noise: Array) -> Array:
        return np.asarray(prediction[:, None] + noise * self._scale(belief).T)


# --- what helps


class _Features:
    """Features and predictions as numbers for the helping models: rare categories are one, unknown ones missing."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._words = [name for name in frame if isinstance(frame[name].dtype, pd.CategoricalDtype)]
        self._numbers = [name for name in frame if pd.api.types.is_numeric_dtype(frame[name].dtype)]
        self._codes = OrdinalEncoder(
            handle_unknown="use_encoded_value",
            unknown_value=np.nan,
            encoded_missing_value=np.nan,
            max_categories=LEVELS,
        )
        if self._words:
            self._codes.fit(frame[self._words].astype(object))

    def __call__(self, frame: pd.DataFrame, prediction: Array) -> Array:
        if missing := [str(name) for name in [*self._numbers, *self._words] if name not in frame]:
            raise SchemaChanged(
                f"no column {', '.join(missing[:5])} in the rows to estimate on", do="give the columns learnt from"
            )
        numbers = frame[self._numbers].to_numpy(dtype=np.float64)
        codes = [self._codes.transform(frame[self._words].astype(object))] if self._words else []
        return np.column_stack([prediction, numbers, *codes])


def _leaf(rows: int) -> int:
    return max(20, rows // 100)


def loss_of(task: str, metric: str) -> Callable[[Array, Array], Array]:
    """The realised loss of each row, of the kind that `LOSS` names for the metric.

    >>> loss_of("regression", "mae")(np.array([1.0, 2.0]), np.array([3.0, 2.0])).tolist()
    [2.0, 0.0]
    """
    if task == "regression":
        return lambda y, p: np.asarray(np.abs(y - p) if metric == "mae" else (y - p) ** 2)
    return lambda y, p: np.asarray(_losses(metric, p)[np.arange(len(y)), y.astype(int)])


def _losses(metric: str, prediction: Array) -> Array:
    """(n, k): what a row loses if its label is that class."""
    p = _each(prediction)
    return np.asarray((1 - p) ** 2 if metric == "brier" else -np.log(p.clip(_EPS, 1 - _EPS)))


def _statistic(task: str, metric: str, p: Array) -> Callable[[Array], Array]:
    """From (n, r) labels to (r,) metrics, as `metrics.score` has them; NaN where undefined."""
    if task == "regression":
        return lambda y: _of_errors(metric, y, p[:, None])
    if metric in ("roc_auc", "average_precision"):
        return _ranked(metric, p)
    if metric in ("balanced_accuracy", "f1_macro"):
        return lambda y: _of_classes(metric, y, p)
    losses = _losses(metric, p)
    rows = np.arange(len(p))[:, None]
    return lambda y: np.asarray(losses[rows, y.astype(np.intp)].mean(axis=0))


def _of_errors(metric: str, y: Array, p: Array) -> Array:
    if metric == "mae":
        return np.asarray(np.abs(y - p).mean(axis=0))
    squared = ((y - p) ** 2).mean(axis=0)
    return np.asarray(np.sqrt(squared) if metric == "rmse" else 1 - squared / y.var(axis=0))


def _of_classes(metric: str, y: Array, p: Array) -> Array:
    said, each = p.argmax(axis=1), []
    for k in range(p.shape[1]):
        true = y == k
        hits, actual, predicted = true[said == k].sum(axis=0), true.sum(axis=0), np.sum(said == k)
        each.append(hits / actual if metric == "balanced_accuracy" else 2 * hits / (actual + predicted))
    # A class that is absent does not count, as in scikit-learn.
    return np.asarray(np.nanmean(each, axis=0))


def _ranked(metric: str, p: Array) -> Callable[[Array], Array]:
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


# --- when the labels land


def backtest(
    past: Sequence[Past], newest: Surprise | None = None, *, level: float = 0.05, large: float = 0.1
) -> Backtest:
    """Whether this champion's estimates held once their labels landed.

    Unreliable where the newest surprise is beyond chance and greater than `large` as a share of the expected loss,
    or where the intervals missed more often than 2·level allows (a one-sided binomial test at 0.05). A surprise for
    the better counts as well: the estimate was as wrong. With fewer than five intervals and no such finding it is
    undetermined, which is usable.

    >>> backtest([Past(0.50, 0.48, 0.52, 0.51)] * 6).verdict
    'reliable'
    >>> backtest([Past(0.50, 0.48, 0.52, 0.60)] * 2).reason
    'the interval missed the realised value in 2 of 2 intervals, 10% expected (p = 0.01)'
    """
    missed, of = sum(not one.low <= one.realised <= one.high for one in past), len(past)
    if newest is not None and (newest.worse or newest.better) and abs(newest.relative) > large:
        said = (
            f"the newest labels cost {newest.relative:+.0%} against rows like them"
            f" ({newest.realised:.4g} realised, {newest.expected:.4g} expected)"
        )
        return Backtest("unreliable", said, missed, of)
    if missed:
        chance = float(stats.binomtest(missed, of, 2 * level, alternative="greater").pvalue)
        if chance < _DOUBT:
            said = f"the interval missed the realised value in {missed} of {of} intervals"
            return Backtest("unreliable", f"{said}, {2 * level:.0%} expected (p = {chance:.2g})", missed, of)
    if of < ENOUGH:
        return Backtest("undetermined", f"{of} interval(s) with labels so far, {ENOUGH} needed", missed, of)
    return Backtest("reliable", f"the interval held the realised value in {of - missed} of {of} intervals", missed, of)
