"""Resampling of whole blocks of rows: the uncertainty of a metric.

Neighbouring rows are not independent (one storm delays a day of flights), so whole blocks of time or of a
group are drawn with replacement (Carlstein 1986 for blocks that do not overlap, after Künsch 1989; Field
and Welsh 2007 for groups). Models are compared on the same draws (`retrain.modeling.gains`), so that
what moves both cancels out.

The interval of one metric is the expanded percentile interval (Hesterberg 2015, "What Teachers Should Know About the
Bootstrap"): few blocks make percentiles too narrow, so they are moved outwards as Student's t asks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse, stats

from retrain.modeling.metrics import Array, checked, metric_value
from retrain.results import MetricEstimate
from retrain.spec import Spec

MAX_BLOCKS = 1_000
"""More blocks are joined with their neighbours; that costs no validity, and resampling stays cheap."""

UNDEFINED_DRAWS = 0.01
"""Share of draws in which a metric may be undefined (a rare class was not drawn)."""

_STEP = 32
_PARTS = 150
"""Fewer blocks are cut into parts, so many in all, to see how skewed losses are."""
EPSILON = np.finfo(np.float64).eps


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
        code = pd.factorize(block_starts(spec, frame))[0]
    count = int(code.max(initial=0)) + 1
    return np.asarray(code * MAX_BLOCKS // count if count > MAX_BLOCKS else code)


def block_starts(spec: Spec, frame: pd.DataFrame) -> pd.Series[pd.Timestamp]:
    """The start of the span of time that each row is in, (n,); where each row is a block, the row's own time."""
    if spec.evaluation.block == "row":
        return frame[spec.source.time]
    monday = pd.Timestamp("1970-01-05", tz="UTC")
    width = {"hour": pd.Timedelta(hours=1), "day": pd.Timedelta(days=1), "week": pd.Timedelta(weeks=1)}
    span = width[spec.evaluation.block]
    return monday + (frame[spec.source.time] - monday) // span * span


Statistic = Callable[[Array], Array]
"""From how often each block was drawn, (blocks, draws), to the metric of each draw."""


@dataclass(frozen=True)
class Draws:
    """A metric on the rows as they are, on every draw of their blocks, and without each block in turn.

    Where it is undefined it is NaN.

    Attributes:
        metric: its name.
        value: on the rows as they are.
        drawn: (resamples,) on each draw.
        blocks: how many blocks there are.
        without: (blocks,) without each block in turn; empty where nobody asked for it.
        finer: the same for parts of blocks.
    """

    metric: str
    value: float
    drawn: Array
    blocks: int
    without: Array = field(default_factory=lambda: np.empty(0))
    finer: Array = field(default_factory=lambda: np.empty(0))


def resample(
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
        task: the spec's.
        metric: one of the task's.
        y: (n,) class codes, or numbers for regression.
        prediction: (n,) probability of the last class, (n, k) probabilities, or (n,) numbers.
        block: (n,) codes 0 … k-1.
        resamples: how many draws.
        seed: of the draws.
        leave_out: also measure without each block in turn, which `gains.paired_gain` needs.

    Raises:
        NonFiniteMetric: the metric is undefined on the rows themselves.
    """
    value = metric_value(task, metric, y, prediction)
    y, prediction = checked(task, y, prediction)
    count = int(block.max()) + 1
    make = _ranked if metric in ("roc_auc", "average_precision") else _summed
    statistic = make(task, metric, y, prediction, block, count)
    rng = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        drawn = np.concatenate([statistic(draw_counts(rng, count, size)) for size in steps(resamples, _STEP)])
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
    distinct, code = np.unique(block * into + place * into // sizes[block], return_inverse=True)
    return code, len(distinct)


def steps(total: int, step: int) -> list[int]:
    """`total` as a sum of numbers of at most `step`.

    >>> steps(70, 32)
    [32, 32, 6]
    """
    return [min(step, total - begin) for begin in range(0, total, step)]


def draw_counts(rng: np.random.Generator, count: int, size: int) -> Array:
    """How often each block is in each draw, (count, size)."""
    chosen = rng.integers(0, count, size=(count, size)) * size + np.arange(size)
    return np.bincount(chosen.ravel(), minlength=count * size).reshape(count, size).astype(float)


def _summed(task: str, metric: str, y: Array, p: Array, block: Array, count: int) -> Statistic:
    """A metric as a function of sums per block."""
    parts, combine = (_sums_of_classes if metric in ("balanced_accuracy", "f1_macro") else _sums)(task, metric, y, p)
    sums = np.stack([np.bincount(block, weights=part, minlength=count) for part in parts])
    return lambda times: combine(sums @ times)


def _sums(task: str, metric: str, y: Array, p: Array) -> tuple[list[Array], Statistic]:
    ones = np.ones(len(y))
    if metric == "r2":
        centred = y - y.mean()
        return [ones, (y - p) ** 2, centred, centred**2], lambda s: 1 - s[1] / (s[3] - s[2] ** 2 / s[0])
    if metric == "log_loss":
        chance = np.where(y == 1, p, 1 - p) if task == "binary" else p[np.arange(len(y)), y.astype(int)]
        loss = -np.log(chance.clip(EPSILON, 1 - EPSILON))
    else:
        loss = np.abs(y - p) if metric == "mae" else (y - p) ** 2
    if metric == "rmse":
        return [ones, loss], lambda s: np.sqrt(s[1] / s[0])
    return [ones, loss], lambda s: s[1] / s[0]


def _sums_of_classes(task: str, metric: str, y: Array, p: Array) -> tuple[list[Array], Statistic]:
    likeliest, k = p.argmax(axis=1), p.shape[1]
    true = [(y == code).astype(float) for code in range(k)]
    given = [(likeliest == code).astype(float) for code in range(k)]
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


def confidence_interval(draws: Draws, level: float) -> MetricEstimate:
    """A metric with the interval of coverage 1 - 2·level; no interval where too many draws are undefined."""
    bounds = _bounds(draws.drawn, draws.blocks, level)
    return MetricEstimate(value=draws.value, low=bounds and bounds[0], high=bounds and bounds[1])


def _bounds(drawn: Array, count: int, level: float) -> tuple[float, float] | None:
    kept = drawn[np.isfinite(drawn)]
    if count < 2 or len(kept) < (1 - UNDEFINED_DRAWS) * len(drawn):
        return None
    outer = float(stats.norm.cdf(np.sqrt(count / (count - 1)) * stats.t.ppf(level, count - 1)))
    low, high = np.quantile(kept, [outer, 1 - outer])
    return float(low), float(high)
