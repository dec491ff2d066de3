"""The gain of one model over another on the same draws, with a bound that is wrong no more often than its level says.

That bound is to hold also where losses are skewed, blocks are few and days follow each other. The gain is cut into one
value per block by leaving each block out in turn (jackknife, Tukey 1958; of the area under the curve with rows as
blocks, this is the variance of DeLong et al. 1988), the values are resampled and studentized (bootstrap-t, Efron 1981;
Hall 1988), and the bound is the wider of that and Student's t. Neighbouring blocks that are still alike widen it as
they would an AR(1) mean, by their correlation without its small-sample bias (Marriott and Pope 1954). A few blocks
hardly show how skewed losses are; so where there are few, parts of blocks are left out too, and the bound is no nearer
than their skewness, error and tails would have it; heavy tails take degrees of freedom as in Satterthwaite (1946).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import stats

from retrain.errors import NonFiniteMetric
from retrain.modeling.metrics import Array
from retrain.modeling.resampling import EPSILON, UNDEFINED_DRAWS, Draws, draw_counts, steps
from retrain.results import PairedGain
from retrain.spec import METRICS

_CELLS = 1 << 20
_PER_TAIL, _MOST = 40, 10_000
"""Draws beyond a studentized bound; beyond `_MOST` in all, Student's t holds it."""
_LEAST_ERROR, _MOST_ALIKE = 0.1, 0.8
"""The least standard error of a draw, as a share of that of the sample, and the highest correlation assumed."""


def paired_gain(
    task: str, model: tuple[str, Draws], against: tuple[str, Draws], level: float, *, margin: float = 0.0, seed: int = 0
) -> PairedGain:
    """Bound the gain of one model over another on the same rows, turned so that above zero is better.

    `low` and `high` are each a one-sided bound at `level`: `low > 0` is a test at that level that the model
    is better. Together they are an interval of coverage 1 - 2·level. `within_low` and `within_high` bound
    gain + margin·|score of `against`|, the uncertainty of that score included.

    Args:
        task: the spec's.
        model: name and draws of the one whose gain it is.
        against: name and draws of the other, of the same rows, metric and seed.
        level: how often each bound may be wrong.
        margin: a share of the other's score that a loss may cost.
        seed: of the studentized draws.

    Raises:
        NonFiniteMetric: the metric is undefined in more than 1 % of the draws, or without some block.
        ValueError: the draws were made without `leave_out`.
    """
    (name, draws), (other, other_draws) = model, against
    sign = 1.0 if METRICS[task][draws.metric] else -1.0
    gain = sign * (draws.value - other_draws.value)
    left, finer = sign * (draws.without - other_draws.without), sign * (draws.finer - other_draws.finer)
    if len(left) != draws.blocks:
        raise ValueError("a pair needs draws made with leave_out")
    defined = np.isfinite(draws.drawn - other_draws.drawn)
    if draws.blocks < 2 or defined.mean() < 1 - UNDEFINED_DRAWS or not np.isfinite(left).all():
        raise NonFiniteMetric(
            f"{draws.metric} has no interval: {draws.blocks} block(s), and undefined in too many draws of them",
            do="judge on more intervals (evaluation.holdout) or smaller blocks, or by a metric that is always defined",
        )
    resamples = min(max(len(draws.drawn), round(_PER_TAIL / level)), _MOST)
    low, high = within = _studentized(gain, left, finer, level, resamples, seed)
    if margin:
        granted = [margin * np.abs(score) for score in (other_draws.value, other_draws.without, other_draws.finer)]
        within = _studentized(gain + float(granted[0]), left + granted[1], finer + granted[2], level, resamples, seed)
    return PairedGain(
        model=name,
        against=other,
        metric=draws.metric,
        gain=gain,
        low=low,
        high=high,
        within_low=within[0],
        within_high=within[1],
        level=level,
        blocks=draws.blocks,
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
    if spread <= (EPSILON * count) ** 2 * max(value**2, float(without @ without)):
        return value, value
    neighbours = float(each[1:] @ each[:-1]) / spread
    alike = min(max(neighbours + (1 + 4 * max(neighbours, 0.0)) / count, 0.0), _MOST_ALIKE)
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
    """The share of each block in each draw, (count, resamples); every pair is compared on the same draws."""
    rng = np.random.default_rng(seed)
    parts = [draw_counts(rng, count, size) for size in steps(resamples, max(_CELLS // count, 1))]
    return np.concatenate(parts, axis=1) / count
