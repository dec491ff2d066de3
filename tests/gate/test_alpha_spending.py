"""What interim analyses of holdout rows may spend, by the ledger's records."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pytest

from retrain.gate.alpha_spending import levels_spent
from retrain.state.ledger import Record

NOW = datetime(2024, 1, 1, tzinfo=UTC)


def record(number: int, batches: str, expected: int = 1, level: float = 0.05) -> Record:
    body = {"batches": list(batches), "level": level, "expected": expected}
    return Record(number, "churn", "interim_analysis", f"{number}", None, "", NOW, NOW, body)


def levels(*batches: str, expected: int = 1) -> list[float]:
    records = [record(number, each, expected) for number, each in enumerate(batches)]
    return [analysis.level / 0.05 for _, analysis in levels_spent(records)]


def test_a_fresh_window_has_most_of_the_level_and_each_analysis_leaves_a_fifth() -> None:
    assert levels("a", "a", "a", "b") == pytest.approx([0.8, 0.16, 0.032, 0.8])


def test_windows_that_share_intervals_share_what_these_have() -> None:
    """Three holdout intervals: each run sees one new one, and each interval is expected in three runs."""
    steady = levels("abc", "bcd", "cde", "def", "efg", expected=3)
    assert steady == pytest.approx([0.8 / 3] * 5)
    assert levels("ab", "bc", "ab", expected=2) == pytest.approx([0.4, 0.4, 0.8 * 0.2])


def test_earlier_analyses_are_those_of_any_of_the_rows() -> None:
    analyses = levels_spent(record(number, batches, 2) for number, batches in enumerate(["ab", "bc", "cd", "bc"]))
    assert [analysis.earlier for _, analysis in analyses] == [0, 1, 1, 3]


def test_no_interval_ever_spends_more_than_its_level() -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        records = []
        for number in range(30):
            first, width = rng.integers(0, 12), rng.integers(1, 4)
            batches = "abcdefghijklmno"[first : first + width]
            records.append(record(number, batches, int(rng.integers(1, 4)), float(rng.choice([0.01, 0.05]))))
        used: dict[str, float] = defaultdict(float)
        for written, analysis in levels_spent(records):
            for batch in written.body["batches"]:
                used[batch] += analysis.level
        assert max(used.values()) < 0.05


def test_what_is_too_little_to_be_met_is_nothing() -> None:
    shares = levels(*["a"] * 20)
    assert shares[-1] == 0
    assert all(later < earlier or later == 0 for earlier, later in pairwise(shares))
    lowered = levels_spent([record(0, "a"), record(1, "a", level=0.01)])
    assert lowered[1][1].level == 0, "0.04 were spent when the level was 0.05"
