"""One column: the distance of its samples, tests of all its rows, and the verdict on each."""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

import numpy as np
import pandas as pd
from scipy.spatial.distance import jensenshannon

from retrain.monitoring.drift.blocks import Array, Codes, dependent_blocks
from retrain.monitoring.drift.limits import DISTANCE, Kind, Limits, Role
from retrain.monitoring.drift.null_distribution import MIN_FREEDOM, jensen_shannon_null, ks_null
from retrain.monitoring.drift.page import ColumnSamples, harmless
from retrain.monitoring.drift.samples import categories, ks_distance, lumped, numbers, plottable
from retrain.monitoring.drift.whole_column_tests import FAMILY, ColumnPair, DriftTest, missing_values, value_text
from retrain.results import ColumnDrift

MAX_CHANCE = 0.5
"""The largest distance that chance may give: a limit above it would call almost nothing drift."""


@dataclass(frozen=True)
class TestedColumn:
    """The tests of one column, not judged yet.

    Attributes:
        distance: the test of its samples; a text says why there is none.
        name: of that test.
        others: tests of all rows.
        idle: tests that had nothing to test. They count among all tests: in another batch they would have.
        samples: as the page shows them.
    """

    distance: DriftTest | str
    name: str
    others: tuple[DriftTest, ...] = ()
    idle: int = 0
    samples: ColumnSamples | None = None

    @property
    def tests(self) -> list[DriftTest]:
        """All tests that there are."""
        return [test for test in (self.distance, *self.others) if isinstance(test, DriftTest)]


def run_tests(
    before: pd.Series,
    now: pd.Series,
    column: str,
    kind: Kind,
    role: Role,
    limits: Limits,
    seed: int,
    known: Set[str] | None,
    codes: Codes | None,
) -> TestedColumn:
    """Run every test of one column.

    Args:
        before: (n,) the column of the reference.
        now: (m,) that of the batch.
        column: its name.
        kind: how it is compared.
        role: a feature, a prediction or the target.
        limits: floors, and the size of samples.
        seed: of the samples and of the random splits.
        known: every category of the training rows; None where they are not known.
        codes: the block of every row; None where rows are independent.

    Raises:
        DtypeChanged: a number that does not hold numbers.
    """
    draws = [np.random.default_rng([seed, crc32(column.encode()), side]) for side in range(3)]
    if kind == "number":
        ref, cur = (numbers(s, column, limits.sample, rng) for s, rng in zip((before, now), draws, strict=False))
        pair = ColumnPair(kind, role, ref, cur, (), (), limits, known, codes, draws)
    else:
        ref, cur, labels, counts = categories(before, now, limits.sample, draws)
        pair = ColumnPair(kind, role, ref, cur, labels, counts, limits, known, codes, draws)
    results = [test(pair) for test in FAMILY[kind]]
    others = tuple(test for test in (missing_values(pair), *results) if test is not None)
    distance, name, samples = _distance(pair, column)
    return TestedColumn(distance, name, others, results.count(None), samples)


def _distance(pair: ColumnPair, column: str) -> tuple[DriftTest | str, str, ColumnSamples | None]:
    """The test of the samples' distance or why there is none, its name, and the samples."""
    kind, ref, cur, levels, limits = pair.kind, pair.reference, pair.current, pair.labels, pair.limits
    name = DISTANCE[kind]
    if empty := [side for side, values in (("reference", ref), ("batch", cur)) if not values.present]:
        return f"no values in the {' nor in the '.join(empty)}", name, None
    if ref.only is not None and ref.only == cur.only:
        return f"always {value_text(ref.only, levels)} on both sides", "constant", None
    if min(ref.present, cur.present) < limits.min_rows:
        fewest = min(ref.present, cur.present)
        return f"only {fewest} values of at least {limits.min_rows} in a side", name, None
    samples, labels = (ref.sample, cur.sample), [""]
    if kind == "category":
        samples, labels = lumped(*samples, levels)
    blocks = dependent_blocks(pair.codes, (ref.at, cur.at))
    if blocks and blocks.freedom < MIN_FREEDOM:
        needed = MIN_FREEDOM + 2
        return f"its values lie in {blocks.count} blocks of both sides, at least {needed} are needed", name, None
    distance = (ks_distance if kind == "number" else _jensenshannon)(*samples)
    null = ks_null(*samples, blocks) if kind == "number" else jensen_shannon_null(*samples, blocks, pair.draws[2])
    if (usual := null.critical(limits.false_alarms)) > MAX_CHANCE:
        why = "too few values for so many levels" if blocks is None and kind == "category" else "too few blocks or rows"
        return f"chance alone gives a distance up to {usual:.2f}: {why}", name, None
    reason = f"{len(samples[0]):,} against {len(samples[1]):,} values"
    reason += f" in {blocks.count} blocks" if blocks else ""
    test = DriftTest(name, distance, limits.per_column.get(column, limits.effect), null, reason)
    if kind == "category":
        names = np.array(harmless(labels), dtype=object)
        return test, name, ColumnSamples(kind, names[samples[0]], names[samples[1]])
    return test, name, ColumnSamples(kind, *plottable(*samples))


def _jensenshannon(reference: Array, current: Array) -> float:
    size = int(max(reference.max(), current.max())) + 1
    return float(jensenshannon(*(np.bincount(side, minlength=size) for side in (reference, current))))


def column_verdicts(
    column: str, role: Role, tested: TestedColumn, level: float, weight: float | None
) -> list[ColumnDrift]:
    """The verdict on each test of a column, that of the distance first.

    Args:
        column: its name.
        role: a feature, a prediction or the target.
        tested: its tests.
        level: at which every test is judged.
        weight: the feature's importance; None where it was not measured.
    """
    if isinstance(tested.distance, DriftTest):
        first = _verdict(column, role, tested.distance, level, weight)
    else:
        first = ColumnDrift(
            column=column,
            role=role,
            test=tested.name,
            verdict="undetermined",
            weight=_rounded(weight),
            reason=tested.distance,
        )
    return [first, *(_verdict(column, role, test, level, weight) for test in tested.others)]


def _verdict(column: str, role: Role, test: DriftTest, level: float, weight: float | None) -> ColumnDrift:
    """Drift where the change is surer than chance at this level, and as large as the floor."""
    p = min(max(test.null.p_value(test.statistic), 0.0), 1.0)
    sure = p <= level
    verdict: Literal["drift", "stable"] = "drift" if sure and test.statistic >= test.floor else "stable"
    threshold = max(test.floor, min(test.null.critical(level), 1.0))
    if verdict == "stable" and test.statistic >= threshold:
        threshold = math.nextafter(test.statistic, math.inf)
    of = "distance" if test.name in DISTANCE.values() else "share"
    weighs = "" if sure else f", chance gives up to {threshold:.3f}"
    reason = f"{of} {test.statistic:.3f}, floor {test.floor:g}, p {p:.2g} at level {level:.2g}{weighs}; {test.reason}"
    return ColumnDrift(
        column=column,
        role=role,
        test=test.name,
        verdict=verdict,
        statistic=round(test.statistic, 6),
        threshold=round(threshold, 6),
        p_value=float(f"{p:.4g}"),
        weight=_rounded(weight),
        reason=reason,
    )


def _rounded(weight: float | None) -> float | None:
    return None if weight is None else round(weight, 6)
