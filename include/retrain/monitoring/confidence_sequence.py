"""Confidence sequence: bounds of the mean of blocks of paired differences, valid at every interim analysis.

Each interim analysis is a new chance to be wrong: an ordinary test that is repeated twelve times raises many false
alarms. The bounds of a confidence sequence hold at all analyses together, and to stop because of a result costs
nothing. It is the sequential t-test's (T. L. Lai, On confidence sequences, Annals of Statistics 1976; H. Wang and A.
Ramdas, Anytime-valid t-tests and confidence sequences for Gaussian means with unknown variance, Sequential Analysis
2025): the capital of a bet whose stake on the standardised mean is spread as a Gaussian. It is exact for Gaussian
blocks however few there are, and asymptotically valid for others (I. Waudby-Smith et al., Time-uniform central limit
theory and asymptotic confidence sequences, Annals of Statistics 2024).

Losses are skewed, and a t-test of few skewed blocks errs to one side. N. J. Johnson's correction (Modified t tests and
confidence intervals for asymmetrical populations, JASA 1978) is applied where it moves a bound outwards, and is left
out where it would move it inwards. Without a bound on what a block may lose no test holds for every tail; how far this
one does is measured in `benchmarks/rollback.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log, sqrt

import numpy as np

from retrain.modeling.metrics import Array

MIN_BLOCKS = 12
"""Blocks below which there are no bounds."""
TIGHT_AT = 60
"""Blocks at which the bounds are about as narrow as they can be made: two months of days."""


@dataclass(frozen=True)
class Bounds:
    """A mean with its bounds from the blocks so far; an infinite bound is none.

    Attributes:
        blocks: the number of blocks so far.
        mean: over all rows.
        low, high: the chance that the true mean is ever outside, at any interim analysis, is at most the level.
    """

    blocks: int
    mean: float
    low: float
    high: float


def bounds(values: Array, block: Array, level: float) -> Bounds:
    """Compute the mean of n values that belong to blocks, with the bounds of the confidence sequence.

    The mean is a ratio of sums over blocks: blocks may differ in size (W. G. Cochran, Sampling Techniques, 1977, for
    the linearised residuals).

    Args:
        values: (n,) of all rows so far, from the first interim analysis to this one.
        block: (n,) codes 0 … k-1. Rows of a block may depend on each other in any way.
        level: the chance that a bound fails at some interim analysis.

    >>> rng = np.random.default_rng(0)
    >>> sure = bounds(rng.normal(0.5, 1, 3000), np.repeat(np.arange(30), 100), 0.01)
    >>> 0 < sure.low < sure.mean < sure.high
    True
    >>> bounds(np.ones(9), np.arange(9), 0.01).low
    -inf
    """
    size = np.bincount(block).astype(float)
    total = np.bincount(block, values)
    count, mean = len(size), float(total.sum() / size.sum())
    if count < MIN_BLOCKS:
        return Bounds(count, mean, -inf, inf)
    residual = total - mean * size
    spread = float(np.sqrt((residual**2).sum() / (count - 1)))
    if spread == 0:
        return Bounds(count, mean, mean, mean)
    skew, error = float((residual**3).mean() / spread**3), spread / float(size.mean()) / sqrt(count)
    far = _standard_errors(count, level)
    return Bounds(count, mean, mean - _skewed(far, -skew, count) * error, mean + _skewed(far, skew, count) * error)


def _standard_errors(count: int, level: float) -> float:
    """The distance of the bounds from the mean in standard errors: where the bet's capital is 1 / level."""
    stake = (-2 * log(level) + log(-2 * log(level)) + 1) / TIGHT_AT
    grown = 1 + count * stake
    capital = (sqrt(grown) / level) ** (2 / count)
    return sqrt((count - 1) * (capital - 1) / (1 - capital / grown)) if capital < grown else inf


def _skewed(far: float, against: float, count: int) -> float:
    """The same distance under skewness `against` the bound: t solves t - a (1 + 2 t²) = far; infinite if no t does."""
    if far == inf:
        return inf
    a = max(against, 0.0) / (6 * sqrt(count))
    root = 1 - 8 * a * (far + a)
    return 2 * (far + a) / (1 + sqrt(root)) if root >= 0 else inf
