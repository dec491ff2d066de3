"""Drift of one batch against a reference: Evidently's distances, calibrated so that a false alarm has a stated chance.

A new test goes to `whole_column_tests`, its floor to `limits`. `column_tests` runs them all on one column and judges
them, `null_distribution` says what chance does, `blocks` which rows depend, `samples` what is drawn of a column.

Numbers are judged by the Kolmogorov-Smirnov distance (the largest difference of the two cumulative shares),
categories by the Jensen-Shannon distance, both on a bounded, seeded sample of each side. Evidently's own `ks` is a
p-value, which any change reaches with enough rows, and its Wasserstein distance moves with one outlier; so the plain
distance is registered with Evidently by its own door.

Facts of whole columns are tested on all rows: the share of missing (or infinite) values, categories that the
reference never had, columns that became constant. Each yields a `ColumnDrift` of its own where there is something to
test. The target has no missing test: a label that is missing is not there yet.

Each of them is drift if it is surer than chance and at least as large as its floor (`Limits.effect`, `missing`, `new`).
The null distribution is known for independent rows and for blocks of rows that depend. All tests of all columns
are one family (Holm): `Limits.false_alarms` bounds the chance that any of them is called drift where nothing changed,
and so that of the whole check. The batch is drifted if the drifted features have `share` of the importance, or by a
drifted prediction or target. `benchmarks/alarms.py` measures both, false alarms and how soon a change is seen.

`broken_columns` tells data that broke (a unit, a sensor, a join) from a world that changed.

Evidently is imported in `page` and nowhere else. What it is given has been cleaned first, because one infinite value,
one empty column or a label such as `</script>` would flip its verdict, end its report or run in its page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set

import numpy as np
import pandas as pd

from retrain.errors import InvalidSpec
from retrain.monitoring.drift.blocks import Codes
from retrain.monitoring.drift.broken_data import broken_columns
from retrain.monitoring.drift.column_tests import TestedColumn, column_verdicts, run_tests
from retrain.monitoring.drift.limits import DISTANCE, Kind, Limits, Role
from retrain.monitoring.drift.null_distribution import MIN_FREEDOM, holm_level
from retrain.monitoring.drift.page import page_of, with_verdicts
from retrain.monitoring.drift.whole_column_tests import bounded_list
from retrain.results import ColumnDrift, Decision

__all__ = ["Codes", "Kind", "Limits", "Role", "broken_columns", "compare"]


def compare(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    kinds: Mapping[str, Kind],
    roles: Mapping[str, Role],
    limits: Limits,
    *,
    seed: int,
    html: bool = True,
    known: Mapping[str, Set[str]] = {},
    blocks: Codes | None = None,
    weights: Mapping[str, float] | None = None,
) -> tuple[Decision, tuple[ColumnDrift, ...], float | None, bytes | None]:
    """Compare `current` with `reference` in the columns of `kinds`; other columns are not read.

    Args:
        reference: n rows, of which the samples and shares are compared with those of `current`.
        current: m rows.
        kinds: column → how it is compared. A dictionary-encoded category is counted by its codes, so that ten
            million rows cost no more than their integers.
        roles: column → role; a column without one is a feature. A drifted prediction or target makes the batch
            drifted by itself.
        limits: what counts as drift, and the size of samples.
        seed: of the samples and of the random splits. Same inputs and seed, same verdicts.
        html: whether to render the page.
        known: category column → every category of the training rows, where `reference` is only a sample of them.
        blocks: the block of each row of `reference` and of `current`, (n,) and (m,) integers; rows of one block
            depend on each other. A code says nothing across the sides. Without it rows are independent.
        weights: feature → importance, at least 0; a feature without one has 0. Without any, all count alike.

    Returns:
        The decision (drift, stable or undetermined), a verdict or more per column in the order of `kinds`, the
        importance of the drifted among the determined features (None where there are none), the page in UTF-8.

    Raises:
        DtypeChanged: a `number` that does not hold numbers.
        InvalidSpec: a limit for a column that is not compared, or a sample smaller than `min_rows`.

    >>> before = pd.DataFrame({"price": range(500), "kind": ["a", "b"] * 250})
    >>> decision, columns, share, _ = compare(
    ...     before, before.assign(price=before["price"] + 200), {"price": "number", "kind": "category"}, {},
    ...     Limits(), seed=0, html=False)
    >>> decision.verdict, share, columns[0].statistic
    ('drift', 0.5, 0.4)
    """
    if unknown := sorted(set(limits.per_column) - set(kinds)):
        raise InvalidSpec(f"a drift limit for {bounded_list(unknown)}, which is not compared", do="remove the limit")
    if limits.sample < limits.min_rows:
        raise InvalidSpec(
            f"a drift sample of {limits.sample} below {limits.min_rows} rows", do="raise sample or lower min_rows"
        )
    role_of = {column: roles.get(column, "feature") for column in kinds}
    weight = _weights([c for c in kinds if role_of[c] == "feature"], weights)
    small = _too_small(reference, current, limits) or (_too_few(blocks, limits.sample, seed) if blocks else "")
    tested: dict[str, TestedColumn] = {}
    for column, kind in kinds.items():
        absent = [name for name, table in (("reference", reference), ("batch", current)) if column not in table]
        if small or absent:
            tested[column] = TestedColumn(small or f"not in the {' nor in the '.join(absent)}", DISTANCE[kind])
        else:
            tested[column] = run_tests(
                reference[column],
                current[column],
                column,
                kind,
                role_of[column],
                limits,
                seed,
                known.get(column),
                blocks,
            )
    level = _level(tested.values(), limits.false_alarms)
    verdicts = {
        name: column_verdicts(name, role_of[name], column, level, weight.get(name) if weights else None)
        for name, column in tested.items()
    }
    decision, share = _decide(verdicts, small, limits, weight)
    columns = tuple(row for rows in verdicts.values() for row in rows)
    return decision, columns, share, _page(tested, verdicts, decision, columns) if html else None


def _too_small(reference: pd.DataFrame, current: pd.DataFrame, limits: Limits) -> str:
    few = [
        f"{len(table):,} rows in the {name}"
        for name, table in (("reference", reference), ("batch", current))
        if len(table) < limits.min_rows
    ]
    return f"{' and '.join(few)}, at least {limits.min_rows:,} are needed" if few else ""


def _too_few(blocks: Codes, size: int, seed: int) -> str:
    """Why these blocks give no null distribution, if they do not; counted in a sample."""
    drawn = [side[np.random.default_rng(seed).integers(0, len(side), size)] for side in blocks]
    before, now = (len(np.unique(side)) for side in drawn)
    if before + now - 2 >= MIN_FREEDOM:
        return ""
    return f"{before} and {now} blocks in which rows depend, {MIN_FREEDOM + 2} in all are needed to tell chance"


def _weights(features: Sequence[str], weights: Mapping[str, float] | None) -> dict[str, float]:
    """Feature → its share of all importance."""
    raw = {name: max(float((weights or {}).get(name, 0.0)), 0.0) for name in features}
    total = sum(raw.values())
    return {name: weight / total if total else 1 / len(raw) for name, weight in raw.items()}


def _level(tested: Iterable[TestedColumn], false_alarms: float) -> float:
    p_values: list[float] = []
    for column in tested:
        p_values += [test.null.p_value(test.statistic) for test in column.tests] + [1.0] * column.idle
    return holm_level(p_values, false_alarms)


def _decide(
    rows: Mapping[str, Sequence[ColumnDrift]], small: str, limits: Limits, weight: Mapping[str, float]
) -> tuple[Decision, float | None]:
    if small:
        return Decision(verdict="undetermined", reasons=(small,)), None
    verdicts = {column: _verdict(of_column) for column, of_column in rows.items()}
    features = {c: v for c, v in verdicts.items() if rows[c][0].role == "feature"}
    determined = [c for c, v in features.items() if v != "undetermined"]
    drifted = _strongest(rows, [c for c in determined if features[c] == "drift"])
    alone = _strongest(rows, [c for c, v in verdicts.items() if v == "drift" and c not in features])
    determined_weight = sum(weight[c] for c in determined)
    share = round(sum(weight[c] for c in drifted) / determined_weight, 9) if determined_weight else None
    reasons = [f"the {rows[c][0].role} drifted: {_why(rows[c])}" for c in alone]
    if share is not None:
        text = f"{len(drifted)} of {len(determined)} features drifted ({share:.0%} of importance, limit"
        reasons.append(
            f"{text} {limits.share:.0%})" + (f": {bounded_list([_why(rows[c]) for c in drifted])}" if drifted else "")
        )
    unknown = [c for c, v in verdicts.items() if v == "undetermined"]
    if unknown:
        reasons.append(f"undetermined: {bounded_list([f'{c} ({rows[c][0].reason})' for c in unknown])}")
    if alone or (share and share >= limits.share):
        outcome = "drift"
    elif len(unknown) == len(verdicts) or (features and determined_weight < 0.5):
        outcome = "undetermined"
    else:
        outcome = "stable"
    return Decision(verdict=outcome, reasons=tuple(reasons or ["no column to compare"])), share


def _verdict(rows: Sequence[ColumnDrift]) -> str:
    return "drift" if any(row.verdict == "drift" for row in rows) else rows[0].verdict


def _strength(row: ColumnDrift) -> float:
    if row.verdict != "drift" or row.statistic is None or not row.threshold:
        return 0.0
    return row.statistic / row.threshold


def _strongest(rows: Mapping[str, Sequence[ColumnDrift]], columns: Iterable[str]) -> list[str]:
    return sorted(columns, key=lambda column: -max(map(_strength, rows[column])))


def _why(rows: Sequence[ColumnDrift]) -> str:
    row = max(rows, key=_strength)
    return f"{row.column} ({row.test} {row.statistic:.3g}, limit {row.threshold:.3g}, p {row.p_value:.2g})"


def _page(
    tested: Mapping[str, TestedColumn],
    verdicts: Mapping[str, Sequence[ColumnDrift]],
    decision: Decision,
    columns: Sequence[ColumnDrift],
) -> bytes:
    """Evidently's page; where a distance is as good as its threshold, rounding may not part the two verdicts."""
    samples = {name: column.samples for name, column in tested.items() if column.samples is not None}
    thresholds = {}
    for column in samples:
        row = verdicts[column][0]
        assert row.statistic is not None
        assert row.threshold is not None
        drift = row.verdict == "drift"
        thresholds[column] = (
            min(row.threshold, row.statistic - 1e-6) if drift else max(row.threshold, row.statistic + 1e-6)
        )
    return with_verdicts(page_of(samples, thresholds), decision, columns).encode()
