"""Drift of one batch against a reference, one judge per column: Evidently's `ValueDrift`.

Numbers are judged by the Kolmogorov-Smirnov distance (the largest difference of the two cumulative shares),
categories by the Jensen-Shannon distance, both on a bounded, seeded sample of each side. They are effect sizes:
more rows do not turn a small change into drift, as a p-value would. Evidently's own `ks` is a p-value, and its
Wasserstein distance moves with one outlier; so the plain distance is registered with Evidently by its own door.

A limit is never below what chance alone does between two samples of that size (`chance`): for numbers the
Kolmogorov bound, for categories the quantile of random splits of the pooled sample. The chance of a false alarm is
shared by all columns (Bonferroni), after which the batch has to show drift in `share` of its features.

Beside it stand facts of the whole table, on all rows: the share of missing (or infinite) values, categories that
the reference never had, columns that became constant. They yield a `ColumnDrift` of their own where there is
something to tell. The target has no missing test: a label that is missing is not there yet.

False alarms on identical independent rows, 25 columns (10 log-normal numbers, 5 each of 3, 20 and 100 levels), all
tests together, 150 repetitions (50 where a side has 5,000 rows): any of the 25 columns in 1.3, 1.3, 0.7 and 0 % of the
batches with 200, 500, 2,000 and 5,000 rows a side, in none for 200 or 500 rows against 5,000; the batch, by share,
never. A fixed limit of 0.1 gave an alarm in every batch below 5,000 rows. Of the 25 columns, two of 100 even levels
cannot be told at 200 rows a side: undetermined.
Rows that hang together (a day's weather) vary more than independent ones; the limits of 0.1 leave room for it.

Evidently is imported in `page` and nowhere else. What it is given has been cleaned first, because one infinite value,
one empty column or a label such as `</script>` would flip its verdict, end its report or run in its page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set

import pandas as pd

from retrain.errors import InvalidSpec
from retrain.results import ColumnDrift, Decision
from retrain.tools.drift.columns import bounded, judge, judged, undetermined
from retrain.tools.drift.limits import TEST, Kind, Limits, Role, chance
from retrain.tools.drift.page import Compared, distances, with_verdicts

__all__ = ["Kind", "Limits", "Role", "chance", "compare"]


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
) -> tuple[Decision, tuple[ColumnDrift, ...], float | None, bytes | None]:
    """Compare `current` with `reference` in the columns of `kinds`; other columns are not read.

    Args:
        kinds: column → how it is compared. A dictionary-encoded category is counted by its codes, so that ten
            million rows cost no more than their integers.
        roles: column → role; a column without one is a feature. A drifted prediction or target makes the batch
            drifted by itself.
        seed: of the samples and of the random splits. Same inputs and seed, same verdicts.
        html: whether to render the page.
        known: category column → every category of the training rows, where `reference` is only a sample of them.

    Returns:
        The decision (drift, stable or undetermined), a verdict or more per column in the order of `kinds`, the
        share of drifted features among the determined ones (None where there are none), and the page in UTF-8.

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
        raise InvalidSpec(f"a drift limit for {bounded(unknown)}, which is not compared", do="remove the limit")
    if limits.sample < limits.min_rows:
        raise InvalidSpec(
            f"a drift sample of {limits.sample} below {limits.min_rows} rows", do="raise sample or lower min_rows"
        )
    alpha = limits.alarm / max(len(kinds), 1)
    small = _too_small(reference, current, limits.min_rows)
    said: dict[str, list[ColumnDrift]] = {}
    compared: dict[str, Compared] = {}
    for column, kind in kinds.items():
        role = roles.get(column, "feature")
        absent = [name for name, table in (("reference", reference), ("batch", current)) if column not in table]
        if small or absent:
            why = small or f"not in the {' nor in the '.join(absent)}"
            said[column] = [undetermined(column, role, TEST[kind], why)]
        else:
            said[column], sampled = judge(
                reference[column], current[column], column, kind, role, limits, alpha, seed, known.get(column)
            )
            if sampled is not None:
                compared[column] = sampled
    scores, page = distances(compared, html)
    for column, score in scores.items():
        said[column].insert(0, judged(column, roles.get(column, "feature"), compared[column], score))
    decision, share = _decide(said, small, limits)
    columns = tuple(row for rows in said.values() for row in rows)
    return decision, columns, share, with_verdicts(page, decision, columns).encode() if html else None


def _too_small(reference: pd.DataFrame, current: pd.DataFrame, least: int) -> str:
    few = [
        f"{len(table):,} rows in the {name}"
        for name, table in (("reference", reference), ("batch", current))
        if len(table) < least
    ]
    return f"{' and '.join(few)}, at least {least:,} are needed" if few else ""


def _decide(said: Mapping[str, Sequence[ColumnDrift]], small: str, limits: Limits) -> tuple[Decision, float | None]:
    if small:
        return Decision(verdict="undetermined", reasons=(small,)), None
    verdicts = {column: _verdict(rows) for column, rows in said.items()}
    features = {c: v for c, v in verdicts.items() if said[c][0].role == "feature"}
    determined = [c for c, v in features.items() if v != "undetermined"]
    drifted = _strongest(said, [c for c in determined if features[c] == "drift"])
    alone = _strongest(said, [c for c, v in verdicts.items() if v == "drift" and c not in features])
    share = len(drifted) / len(determined) if determined else None
    reasons = [f"the {said[c][0].role} drifted: {_why(said[c])}" for c in alone]
    if share is not None:
        text = f"{len(drifted)} of {len(determined)} features drifted ({share:.0%}, limit {limits.share:.0%})"
        reasons.append(text + (f": {bounded([_why(said[c]) for c in drifted])}" if drifted else ""))
    unknown = [c for c, v in verdicts.items() if v == "undetermined"]
    if unknown:
        reasons.append(f"undetermined: {bounded([f'{c} ({said[c][0].reason})' for c in unknown])}")
    if alone or (share is not None and drifted and share >= limits.share):
        verdict = "drift"
    elif len(determined) * 2 < len(features) or len(unknown) == len(verdicts):
        verdict = "undetermined"
    else:
        verdict = "stable"
    return Decision(verdict=verdict, reasons=tuple(reasons or ["no column to compare"])), share


def _verdict(rows: Sequence[ColumnDrift]) -> str:
    return "drift" if any(row.verdict == "drift" for row in rows) else rows[0].verdict


def _strength(row: ColumnDrift) -> float:
    if row.verdict != "drift" or row.statistic is None or not row.threshold:
        return 0.0
    return row.statistic / row.threshold


def _strongest(said: Mapping[str, Sequence[ColumnDrift]], columns: Iterable[str]) -> list[str]:
    return sorted(columns, key=lambda column: -max(map(_strength, said[column])))


def _why(rows: Sequence[ColumnDrift]) -> str:
    row = max(rows, key=_strength)
    return f"{row.column} ({row.test} {row.statistic:.3g}, limit {row.threshold:.3g})"
