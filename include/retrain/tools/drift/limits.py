"""What counts as drift: the limits that are set, and what chance alone does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr
from scipy.stats import gamma

Kind = Literal["number", "category"]
Role = Literal["feature", "prediction", "target"]
TEST: dict[Kind, str] = {"number": "ks_distance", "category": "jensenshannon"}
SPLITS = 400


@dataclass(frozen=True)
class Limits:
    """What counts as drift.

    `number` and `category` are distances between 0 and 1 (0.83 for Jensen-Shannon); 0.1 is a shift by a quarter of
    a standard deviation, or of a binary share from 50 % to 64 %. `per_column` replaces them for one column.
    """

    min_rows: int = 200
    """Rows on either side below which nothing is said."""
    sample: int = 5_000
    """Values per column and side that the distance is taken of."""
    number: float = 0.1
    category: float = 0.1
    missing: float = 0.1
    """Absolute change of the share of missing values."""
    new: float = 0.005
    """Share of rows with a category that the reference never had, or that a constant column has lost."""
    share: float = 0.3
    """Drifted among the determined features."""
    alarm: float = 0.01
    """Chance that any column of an unchanged batch is called drifted, per kind of test."""
    per_column: Mapping[str, float] = field(default_factory=dict)


def chance(kind: Kind, reference: NDArray[Any], current: NDArray[Any], alpha: float, rng: np.random.Generator) -> float:
    """The distance that two samples of one distribution exceed with a chance of `alpha` at most.

    Numbers: the asymptotic bound of Kolmogorov and Smirnov, conservative for ties. Categories: the divergence of
    `SPLITS` random splits of the pooled codes, its tail a gamma of the same mean and variance; the quick
    chi-square formula gives 7 % instead of 0.04 % at 200 rows and 100 levels.

    >>> rng = np.random.default_rng(0)
    >>> round(chance("number", np.zeros(5000), np.zeros(200), 0.001, rng), 3)
    0.141
    """
    n, m = len(reference), len(current)
    if kind == "number":
        return math.sqrt(-math.log(alpha / 2) / 2 * (1 / n + 1 / m))
    pooled = np.bincount(np.concatenate([reference, current]))
    split = rng.multivariate_hypergeometric(pooled, m, size=SPLITS, method="marginals")
    p, q = split / m, (pooled - split) / n
    middle = (p + q) / 2
    divergence = (rel_entr(p, middle) + rel_entr(q, middle)).sum(axis=1) / 2
    mean, variance = float(divergence.mean()), float(divergence.var(ddof=1))
    if not variance:
        return math.sqrt(max(mean, 0.0))
    return math.sqrt(float(gamma.isf(alpha, mean**2 / variance, scale=variance / mean)))


def spread(share: float, per_row: float, alpha: float) -> float:
    """How far chance moves a share, two-sided, in the normal approximation."""
    return NormalDist().inv_cdf(1 - alpha / 2) * math.sqrt(share * (1 - share) * per_row)
