"""What resampling whole blocks of rows says about a metric and about the gain of one model over another.

Neighbouring rows are not independent (one storm delays a day of flights), so whole blocks of time or of a
group are drawn with replacement (Carlstein 1986 for blocks that do not overlap, after Künsch 1989; Field
and Welsh 2007 for groups). Models are compared on the same draws, so that what moves both cancels out.

Few blocks make percentile intervals too narrow. The quantiles are therefore moved outwards as Student's t
asks (the expanded percentile interval, Hesterberg 2015, "What Teachers Should Know About the Bootstrap").
BCa corrects skewness and leaves that narrowness; bootstrap-t needs a standard error in every draw, which
rank metrics do not have in closed form. Below some ten blocks the interval is still too narrow, which is
what `gate.min_blocks` is for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse, stats

from retrain.errors import NonFiniteMetric
from retrain.metrics import Array, checked, score
from retrain.results import Measured, Paired
from retrain.spec import METRICS, Spec

MAX_BLOCKS = 1_000
"""More blocks are joined with their neighbours; that costs no validity, and resampling stays cheap."""

UNDEFINED_DRAWS = 0.01
"""Share of draws in which a metric may be undefined (a rare class was not drawn)."""

_STEP = 32
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


@dataclass(frozen=True)
class Draws:
    """A metric on the rows as they are, and on every draw of their blocks (NaN where undefined)."""

    metric: str
    value: float
    drawn: Array
    blocks: int


def draw(task: str, metric: str, y: Array, prediction: Array, block: Array, *, resamples: int, seed: int) -> Draws:
    """Resample a metric over blocks; the same seed draws the same blocks for every model and metric.

    No draw passes over the rows again: a metric is a function of sums per block, or of counts per block
    between the distinct scores of the positives.

    Args:
        block: (n,) codes 0 … k-1.

    Raises:
        NonFiniteMetric: the metric is undefined on the rows themselves.
    """
    value = score(task, metric, y, prediction)
    y, prediction = checked(task, y, prediction)
    count = int(block.max()) + 1
    ranks = metric in ("roc_auc", "average_precision")
    statistic = (_ranked if ranks else _summed)(task, metric, y, prediction, block, count)
    rng = np.random.default_rng(seed)
    drawn = []
    with np.errstate(all="ignore"):
        for begin in range(0, resamples, _STEP):
            size = min(_STEP, resamples - begin)
            chosen = rng.integers(0, count, size=(count, size)) * size + np.arange(size)
            times = np.bincount(chosen.ravel(), minlength=count * size).reshape(count, size)
            drawn.append(statistic(times.astype(float)))
    return Draws(metric, value, np.concatenate(drawn), count)


Statistic = Callable[[Array], Array]
"""From how often each block was drawn, (blocks, draws), to the metric of each draw."""


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


def paired(task: str, model: tuple[str, Draws], against: tuple[str, Draws], level: float) -> Paired:
    """The gain of one model over another from the same draws, turned so that above zero is better.

    `low` and `high` are each a one-sided bound at `level`: `low > 0` is a test at that level that the model
    is better. Together they are an interval of coverage 1 - 2·level.

    Raises:
        NonFiniteMetric: the metric is undefined in more than 1 % of the draws.
    """
    (name, mine), (other, theirs) = model, against
    sign = 1.0 if METRICS[task][mine.metric] else -1.0
    bounds = _bounds(sign * (mine.drawn - theirs.drawn), mine.blocks, level)
    if bounds is None:
        raise NonFiniteMetric(
            f"{mine.metric} has no interval: {mine.blocks} block(s), and undefined in too many draws of them",
            do="judge on more intervals (evaluation.sealed) or smaller blocks, or by a metric that is always defined",
        )
    return Paired(
        model=name,
        against=other,
        metric=mine.metric,
        gain=sign * (mine.value - theirs.value),
        low=bounds[0],
        high=bounds[1],
        level=level,
        blocks=mine.blocks,
        resamples=len(mine.drawn),
    )


def _bounds(drawn: Array, count: int, level: float) -> tuple[float, float] | None:
    kept = drawn[np.isfinite(drawn)]
    if count < 2 or len(kept) < (1 - UNDEFINED_DRAWS) * len(drawn):
        return None
    outer = float(stats.norm.cdf(np.sqrt(count / (count - 1)) * stats.t.ppf(level, count - 1)))
    low, high = np.quantile(kept, [outer, 1 - outer])
    return float(low), float(high)
