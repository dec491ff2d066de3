"""The bounds of a confidence sequence: what they say of blocks, and how often they fail at any interim analysis."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import numpy as np
import pytest
from scipy import stats

from retrain.monitoring.confidence_sequence import MIN_BLOCKS, bounds

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

WORLDS: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "heavy tails": lambda rng, shape: rng.standard_t(3, size=shape),
    "skewed to one side": lambda rng, shape: 1 - rng.exponential(size=shape),
    "skewed to the other": lambda rng, shape: rng.exponential(size=shape) - 1,
    "rare and large": lambda rng, shape: np.exp(0.5) - np.exp(rng.normal(size=shape)),
}


@pytest.mark.parametrize("world", WORLDS)
def test_the_level_holds_at_all_analyses_together(world: str) -> None:
    """Three interim analyses of thirty blocks each; a t-test at each of them is beyond the level."""
    level, streams = 0.05, 400
    drawn = WORLDS[world](np.random.default_rng(3), (streams, 90))
    fails = {"ours": 0, "t-test": 0}
    for values in drawn:
        analyses = [bounds(values[:count], np.arange(count), level) for count in (30, 60, 90)]
        fails["ours"] += any(analysis.low > 0 or analysis.high < 0 for analysis in analyses)
        fails["t-test"] += any(stats.ttest_1samp(values[:count], 0).pvalue < level for count in (30, 60, 90))
    assert fails["ours"] <= level * streams
    assert fails["t-test"] > level * streams


def test_what_hangs_together_within_a_block_is_one_observation() -> None:
    """With an effect per block, rows taken as independent are sure of what is chance."""
    rng, wrong = np.random.default_rng(4), {"blocks": 0, "rows": 0}
    for _ in range(100):
        values = np.repeat(rng.normal(size=30), 20) + rng.normal(size=600)
        for name, block in {"blocks": np.repeat(np.arange(30), 20), "rows": np.arange(600)}.items():
            result = bounds(values, block, 0.05)
            wrong[name] += result.low > 0 or result.high < 0
    assert wrong["blocks"] <= 5 < wrong["rows"]


def test_a_true_difference_is_found_and_the_more_the_sooner() -> None:
    rng = np.random.default_rng(5)
    needed = {}
    for effect in (0.3, 1.0):
        values = rng.normal(effect, 1, size=(50, 300))
        needed[effect] = [
            next((n for n in range(10, 301, 10) if bounds(stream[:n], np.arange(n), 0.01).low > 0), inf)
            for stream in values
        ]
    assert np.median(needed[1.0]) < np.median(needed[0.3]) < inf


def test_the_mean_is_over_rows_whatever_the_size_of_blocks() -> None:
    rng = np.random.default_rng(6)
    block = np.repeat(np.arange(20), rng.integers(1, 50, 20))
    values = rng.normal(size=len(block))
    plain = bounds(values, block, 0.05)
    assert plain.mean == pytest.approx(values.mean())
    assert (plain.blocks, plain.low < plain.mean < plain.high) == (20, True)
    shuffled = rng.permutation(len(block))
    again = bounds(values[shuffled], block[shuffled], 0.05)
    assert (again.low, again.high) == pytest.approx((plain.low, plain.high)), "the order of rows says nothing"
    scaled = bounds(7 * values + 3, block, 0.05)
    assert (scaled.low, scaled.high) == pytest.approx((7 * plain.low + 3, 7 * plain.high + 3))


def test_skewness_moves_the_bound_that_it_endangers_and_no_other() -> None:
    values = 1 - np.random.default_rng(7).exponential(size=40)
    left, right = bounds(values, np.arange(40), 0.05), bounds(-values, np.arange(40), 0.05)
    assert (left.low, left.high) == pytest.approx((-right.high, -right.low))
    assert left.mean - left.low > 1.2 * (left.high - left.mean)
    plain = bounds(np.concatenate([values, -values]), np.arange(80), 0.05)
    assert plain.high - plain.mean == pytest.approx(plain.mean - plain.low), "no skewness, no correction"


def test_few_blocks_say_nothing_and_equal_ones_all() -> None:
    values = np.random.default_rng(8).normal(9, 1, MIN_BLOCKS)
    few = bounds(values[:-1], np.arange(MIN_BLOCKS - 1), 0.05)
    assert (few.low, few.high) == (-inf, inf)
    assert bounds(values, np.arange(MIN_BLOCKS), 0.05).low > 0
    same = bounds(np.zeros(60), np.arange(60), 0.05)
    assert (same.low, same.mean, same.high) == (0, 0, 0)


def test_a_single_enormous_block_proves_nothing() -> None:
    values = np.append(np.full(29, 0.001), 100.0)
    assert bounds(values, np.arange(30), 0.05).low < 0
