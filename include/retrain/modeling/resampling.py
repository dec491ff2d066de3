"""What resampling whole blocks of rows says about a metric and about the gain of one model over another.

Neighbouring rows are not independent (one storm delays a day of flights), so whole blocks of time or of a
group are drawn with replacement (Carlstein 1986 for blocks that do not overlap, after Künsch 1989; Field
and Welsh 2007 for groups). Models are compared on the same draws, so that what moves both cancels out.

The interval of one metric is the expanded percentile interval (Hesterberg 2015, "What Teachers Should Know About the
Bootstrap"): few blocks make percentiles too narrow, so they are moved outwards as Student's t asks.

What promotes a model needs more: a bound that is wrong no more often than its level says, also where losses are
skewed, blocks are few and days follow each other. The gain is cut into one value per block by leaving each block out in
turn (jackknife, Tukey 1958; of the area under the curve with rows as blocks, this is the variance of DeLong et al.
1988), the values are resampled and studentized (bootstrap-t, Efron 1981; Hall 1988), and the bound is the wider of that
and Student's t. Neighbouring blocks that are still alike widen it as they would an AR(1) mean, by their correlation
without its small-sample bias (Marriott and Pope 1954). A few blocks hardly show how skewed losses are; so where there
are few, parts of blocks are left out too, and the bound is no nearer than their skewness, error and tails would have
it; heavy tails take degrees of freedom as in Satterthwaite (1946).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse, stats

from retrain.errors import NonFiniteMetric
from retrain.modeling.metrics import Array, checked, score
from retrain.results import Measured, Paired
from retrain.spec import METRICS, Spec

MAX_BLOCKS = 1_000
"""More blocks are joined with their neighbours; that costs no validity, and resampling stays cheap."""

UNDEFINED_DRAWS = 0.01
"""Share of draws in which a metric may be undefined (a rare class was not drawn)."""

_STEP = 32
_CELLS = 1 << 20
_PER_TAIL, _MOST = 40, 10_000
"""Draws beyond a studentized bound; beyond `_MOST` in all, Student's t holds it."""
_PARTS = 150
"""Fewer blocks are cut into parts, so many in all, to see how skewed losses are."""
_LEAST_ERROR, _MOST_ALIKE = 0.1, 0.8
"""The least standard error of a draw, as a share of that of the sample, and the highest correlation assumed."""
_EPS = np.finfo(np.float64).eps


def blocks(spec: Spec, frame: pd.DataFrame) -> Array:
    """The block of each row as codes 0 … k-1: the group if the spec declares one, else a span of time or the row.

    >>> from retrain.spec import EXAMPLE, parse
    >>> times = pd.to_datetime(["2024-01-01T05:00Z", "2024-01-01T23:00Z", "2024-01-02T00:00Z"])
    >>> blocks(parse(EXAMPLE, "churn"), pd.DataFrame({"signup": times})).tolist()
    [0, 0, 1]
    """
    if spec.training.group is not None:
        code = pd.factorize(frame[spec.training.group], use_na_sentinel=False)[0]
    elif spec.evaluation.block == "row":
        code = np.arange(len(frame))
    else:
        monday = pd.Timestamp("1970-01-05", tz="UTC")
        width = {"hour": pd.Timedelta(hours=1), "day": pd.Timedelta(days=1), "week": pd.Timedelta(weeks=1)}
        code = pd.factorize((frame[spec.source.time] - monday) // width[spec.evaluation.block])[0]
    count = int(code.max(initial=0)) + 1
    return np.asarray(code * MAX_BLOCKS // count if count > MAX_BLOCKS else code)


Statistic = Callable[[Array], Array]
"""From how often each block was drawn, (blocks, draws), to the metric of each draw."""


@dataclass(frozen=True)
class Draws:
    """A metric on the rows as they are, on every draw of their blocks, and without each block in turn.

    Where it is undefined it is NaN. `without` and `finer`, the same for parts of blocks, are empty where nobody asked
    for them.
    """

    metric: str
    value: float
    drawn: Array
    blocks: int
    without: Array = field(default_factory=lambda: np.empty(0))
    finer: Array = field(default_factory=lambda: np.empty(0))


def draw(
    task: str,
    metric: str,
    y: Array,
    prediction: Array,
    block: Array,
    *,
    resamples: int,
    seed: int,
    leave_out: bool = False,
) -> Draws:
    """Resample a metric over blocks; the same seed draws the same blocks for every model and metric.

    No draw passes over the rows again: a metric is a function of sums per block, or of counts per block
    between the distinct scores of the positives.

    Args:
        block: (n,) codes 0 … k-1.
        leave_out: also measure without each block in turn, which `paired` needs.

    Raises:
        NonFiniteMetric: the metric is undefined on the rows themselves.
    """
    value = score(task, metric, y, prediction)
    y, prediction = checked(task, y, prediction)
    count = int(block.max()) + 1
    make = _ranked if metric in ("roc_auc", "average_precision") else _summed
    statistic = make(task, metric, y, prediction, block, count)
    rng = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        drawn = np.concatenate([statistic(_times(rng, count, size)) for size in _steps(resamples, _STEP)])
        if not leave_out:
            return Draws(metric, value, drawn, count)
        without = finer = _without(statistic, count)
        if count < _PARTS:
            part, parts = _cut(block, -(-_PARTS // count))
            finer = _without(make(task, metric, y, prediction, part, parts), parts)
    return Draws(metric, value, drawn, count, without, finer)


def _without(statistic: Statistic, count: int) -> Array:
    """The metric without each block in turn."""
    each = np.arange(count)
    parts = [each[begin : begin + _STEP] for begin in range(0, count, _STEP)]
    return np.concatenate([statistic((each[:, None] != part).astype(float)) for part in parts])


def _cut(block: Array, into: int) -> tuple[Array, int]:
    """Every block cut into so many parts of neighbouring rows, or its rows: the code of each row's part, and how many.

    >>> _cut(np.array([0, 0, 0, 0, 1]), 2)[0].tolist()
    [0, 0, 1, 1, 2]
    """
    order = np.argsort(block, kind="stable")
    sizes = np.bincount(block)
    place = np.empty(len(block), dtype=int)
    place[order] = np.arange(len(block)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    found, code = np.unique(block * into + place * into // sizes[block], return_inverse=True)
    return code, len(found)


def _steps(total: int, step: int) -> list[int]:
    return [min(step, total - begin) for begin in range(0, total, step)]


def _times(rng: np.random.Generator, count: int, size: int) -> Array:
    """How often each block is in each draw, (count, size)."""
    chosen = rng.integers(0, count, size=(count, size)) * size + np.arange(size)
    return np.bincount(chosen.ravel(), minlength=count * size).reshape(count, size).astype(float)


def _summed(task: str, metric: str, y: Array, p: Array, block: Array, count: int) -> Statistic:
    """A metric as a function of sums per block."""
    parts, combine = (_sums_of_classes if metric in ("balanced_accuracy", "f1_macro") else _sums)(task, metric, y, p)
    sums = np.stack([np.bincount(block, weights=part, minlength=count) for part in parts])
    return lambda times: combine(sums @ times)


def _sums(task: str, metric: str, y: Array, p: Array) -> tuple[list[Array], Statistic]:
    one = np.ones(len(y))
    if metric == "r2":
        centred = y - y.mean()
        return [one, (y - p) ** 2, centred, centred**2], lambda s: 1 - s[1] / (s[3] - s[2] ** 2 / s[0])
    if metric == "log_loss":
        chance = np.where(y == 1, p, 1 - p) if task == "binary" else p[np.arange(len(y)), y.astype(int)]
        loss = -np.log(chance.clip(_EPS, 1 - _EPS))
    else:
        loss = np.abs(y - p) if metric == "mae" else (y - p) ** 2
    if metric == "rmse":
        return [one, loss], lambda s: np.sqrt(s[1] / s[0])
    return [one, loss], lambda s: s[1] / s[0]


def _sums_of_classes(task: str, metric: str, y: Array, p: Array) -> tuple[list[Array], Statistic]:
    said, k = p.argmax(axis=1), p.shape[1]
    true = [(y == one).astype(float) for one in range(k)]
    given = [(said == one).astype(float) for one in range(k)]
    hit = [a * b for a, b in zip(true, given, strict=True)]

    def combine(s: Array) -> Array:
        hits, actual, predicted = s[:k], s[k : 2 * k], s[2 * k :]
        each = hits / actual if metric == "balanced_accuracy" else 2 * hits / (actual + predicted)
        # A class that is absent from a draw does not count there, as in scikit-learn.
        there = np.isfinite(each)
        return np.asarray(np.where(there, each, 0).sum(axis=0) / there.sum(axis=0))

    return [*hit, *true, *given], combine


def _ranked(task: str, metric: str, y: Array, p: Array, block: Array, count: int) -> Statistic:
    """A rank metric as a function of counts at the positives' distinct scores, ties counted half."""
    positive = y == 1
    levels, place = np.unique(p[positive], return_inverse=True)
    rest, others = p[~positive], block[~positive]
    total = np.bincount(others, minlength=count)

    def counts(at: Array, where: Array) -> Any:
        shape = (len(levels) + 1, count)
        return sparse.coo_matrix((np.ones(len(at)), (at, where)), shape=shape).tocsr()[:-1]

    hits = counts(place, block[positive])
    below = counts(np.searchsorted(levels, rest, side="right"), others)
    halves = below + counts(np.searchsorted(levels, rest, side="left"), others)

    def area(times: Array) -> Array:
        at, under = hits @ times, np.cumsum(halves @ times, axis=0)
        return np.asarray((at * under).sum(axis=0) / (2 * at.sum(axis=0) * (total @ times)))

    def precision(times: Array) -> Array:
        at = hits @ times
        true = np.cumsum(at[::-1], axis=0)[::-1]
        false = total @ times - np.cumsum(below @ times, axis=0)
        return np.asarray((at * (true / np.maximum(true + false, 1))).sum(axis=0) / at.sum(axis=0))

    return area if metric == "roc_auc" else precision


# --- intervals


def interval(draws: Draws, level: float) -> Measured:
    """A metric with the interval of coverage 1 - 2·level; no interval where too many draws are undefined."""
    bounds = _bounds(draws.drawn, draws.blocks, level)
    return Measured(value=draws.value, low=bounds and bounds[0], high=bounds and bounds[1])


def paired(
    task: str, model: tuple[str, Draws], against: tuple[str, Draws], level: float, *, margin: float = 0.0, seed: int = 0
) -> Paired:
    """The gain of one model over another on the same rows, turned so that above zero is better.

    `low` and `high` are each a one-sided bound at `level`: `low > 0` is a test at that level that the model
    is better. Together they are an interval of coverage 1 - 2·level. `within_low` and `within_high` bound
    gain + margin·|score of `against`|, the uncertainty of that score included.

    Raises:
        NonFiniteMetric: the metric is undefined in more than 1 % of the draws, or without some block.
        ValueError: the draws were made without `leave_out`.
    """
    (name, mine), (other, theirs) = model, against
    sign = 1.0 if METRICS[task][mine.metric] else -1.0
    gain = sign * (mine.value - theirs.value)
    left, finer = sign * (mine.without - theirs.without), sign * (mine.finer - theirs.finer)
    if len(left) != mine.blocks:
        raise ValueError("a pair needs draws made with leave_out")
    defined = np.isfinite(mine.drawn - theirs.drawn)
    if mine.blocks < 2 or defined.mean() < 1 - UNDEFINED_DRAWS or not np.isfinite(left).all():
        raise NonFiniteMetric(
            f"{mine.metric} has no interval: {mine.blocks} block(s), and undefined in too many draws of them",
            do="judge on more intervals (evaluation.holdout) or smaller blocks, or by a metric that is always defined",
        )
    resamples = min(max(len(mine.drawn), round(_PER_TAIL / level)), _MOST)
    low, high = within = _studentized(gain, left, finer, level, resamples, seed)
    if margin:
        granted = [margin * np.abs(one) for one in (theirs.value, theirs.without, theirs.finer)]
        within = _studentized(gain + float(granted[0]), left + granted[1], finer + granted[2], level, resamples, seed)
    return Paired(
        model=name,
        against=other,
        metric=mine.metric,
        gain=gain,
        low=low,
        high=high,
        within_low=within[0],
        within_high=within[1],
        level=level,
        blocks=mine.blocks,
        resamples=resamples,
    )


def _studentized(
    value: float, without: Array, finer: Array, level: float, resamples: int, seed: int
) -> tuple[float, float]:
    """One-sided bounds of a statistic from its values without each block in turn, and without each part of one.

    >>> _studentized(0.0, np.zeros(9), np.zeros(18), 0.05, 100, 0)
    (0.0, 0.0)
    """
    count = len(without)
    each = (count - 1) * (without.mean() - without)
    spread = float(each @ each)
    if spread <= (_EPS * count) ** 2 * max(value**2, float(without @ without)):
        return value, value
    found = float(each[1:] @ each[:-1]) / spread
    alike = min(max(found + (1 + 4 * max(found, 0.0)) / count, 0.0), _MOST_ALIKE)
    stretch = (1 + alike) / (1 - alike)
    # Rare great losses leave the error itself in doubt: the degrees of freedom match its variance.
    tails = max(float(stats.kurtosis(finer)), 0.0) * count / len(finer)
    student = float(stats.t.isf(level, max(count / (1 + tails / 2) / stretch - 1, 1)))
    error, below, above = _quantiles(without, level, resamples, seed)
    part_error, part_below, part_above = _quantiles(finer, level, resamples, seed)
    # Of the parts only the shape counts: how many there are says nothing where their rows depend on each other.
    skewed = student / float(stats.t.isf(level, len(finer) - 1))
    wide = max(error, part_error) * float(np.sqrt(stretch))
    return (
        value - max(above, part_above * skewed, student) * wide,
        value + max(-below, -part_below * skewed, student) * wide,
    )


def _quantiles(without: Array, level: float, resamples: int, seed: int) -> tuple[float, float, float]:
    """The standard error by leaving out, and the lower and upper quantile of the studentized draws."""
    count = len(without)
    each = (count - 1) * (without.mean() - without)
    error = np.sqrt(each @ each / (count * (count - 1)))
    times = _weights(count, resamples, seed)
    mean = each @ times
    errors = np.sqrt(np.maximum((each**2 @ times - mean**2) / (count - 1), (_LEAST_ERROR * error) ** 2))
    below, above = np.quantile(mean / errors, [level, 1 - level])
    return float(error), float(below), float(above)


@lru_cache(maxsize=4)
def _weights(count: int, resamples: int, seed: int) -> Array:
    """The share of each block in each draw, (count, resamples); every pair is asked by the same draws."""
    rng = np.random.default_rng(seed)
    return np.concatenate([_times(rng, count, n) for n in _steps(resamples, max(_CELLS // count, 1))], axis=1) / count


def _bounds(drawn: Array, count: int, level: float) -> tuple[float, float] | None:
    kept = drawn[np.isfinite(drawn)]
    if count < 2 or len(kept) < (1 - UNDEFINED_DRAWS) * len(drawn):
        return None
    outer = float(stats.norm.cdf(np.sqrt(count / (count - 1)) * stats.t.ppf(level, count - 1)))
    low, high = np.quantile(kept, [outer, 1 - outer])
    return float(low), float(high)
