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

Evidently is imported here and nowhere else. What it is given has been cleaned first, because one infinite value,
one empty column or a label such as `</script>` would flip its verdict, end its report or run in its page.
"""

from __future__ import annotations

import html as markup
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, Literal
from zlib import crc32

import numpy as np
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.legacy.calculations.stattests.registry import StatTest, register_stattest
from evidently.legacy.core import ColumnType
from evidently.metrics import ValueDrift
from numpy.typing import NDArray
from scipy.special import rel_entr
from scipy.stats import gamma

from retrain.errors import DtypeChanged, InvalidSpec
from retrain.results import ColumnDrift, Decision

Kind = Literal["number", "category"]
Role = Literal["feature", "prediction", "target"]
TEST: dict[Kind, str] = {"number": "ks_distance", "category": "jensenshannon"}
LEVELS = 100  # the most frequent ones are compared by name, the rest together
SPLITS = 400
NAMED = 5
UNTELLABLE = 0.5  # a limit above this would call almost nothing drift


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


@dataclass(frozen=True)
class _Side:
    rows: int
    present: int
    sample: NDArray[Any]
    only: float | None
    """The one value of a constant column; of a category its code."""
    count: Callable[[float], int]


@dataclass(frozen=True)
class _Compared:
    kind: Kind
    reference: NDArray[Any]
    current: NDArray[Any]
    limit: float
    threshold: float


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
        raise InvalidSpec(f"a drift limit for {_bounded(unknown)}, which is not compared", do="remove the limit")
    if limits.sample < limits.min_rows:
        raise InvalidSpec(
            f"a drift sample of {limits.sample} below {limits.min_rows} rows", do="raise sample or lower min_rows"
        )
    alpha = limits.alarm / max(len(kinds), 1)
    small = _too_small(reference, current, limits.min_rows)
    said: dict[str, list[ColumnDrift]] = {}
    compared: dict[str, _Compared] = {}
    for column, kind in kinds.items():
        role = roles.get(column, "feature")
        absent = [name for name, table in (("reference", reference), ("batch", current)) if column not in table]
        if small or absent:
            why = small or f"not in the {' nor in the '.join(absent)}"
            said[column] = [_row(column, role, TEST[kind], why)]
        else:
            said[column], sampled = _column(
                reference[column], current[column], column, kind, role, limits, alpha, seed, known.get(column)
            )
            if sampled is not None:
                compared[column] = sampled
    scores, page = _evidently(compared, html)
    for column, score in scores.items():
        said[column].insert(0, _judged(column, roles.get(column, "feature"), compared[column], score))
    decision, share = _decide(said, small, limits)
    columns = tuple(row for rows in said.values() for row in rows)
    return decision, columns, share, _with_verdicts(page, decision, columns).encode() if html else None


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


# --- one column, all rows


def _column(
    before: pd.Series,
    now: pd.Series,
    column: str,
    kind: Kind,
    role: Role,
    limits: Limits,
    alpha: float,
    seed: int,
    known: Set[str] | None,
) -> tuple[list[ColumnDrift], _Compared | None]:
    draws = [np.random.default_rng([seed, crc32(column.encode()), side]) for side in range(3)]
    said: list[ColumnDrift] = []
    if kind == "number":
        ref, cur = (_numbers(s, column, limits.sample, rng) for s, rng in zip((before, now), draws, strict=False))
        levels: Sequence[str] = ()
    else:
        ref, cur, levels, counts = _categories(before, now, limits.sample, draws)
        if ref.present and cur.present:
            said += _new(column, role, levels, counts, limits.new, alpha, known)
    if role == "feature" and ref.present + cur.present < ref.rows + cur.rows:
        said.insert(0, _missing(column, role, ref, cur, limits.missing, alpha))
    empty = [name for name, side in (("reference", ref), ("batch", cur)) if not side.present]
    if empty:
        return [_row(column, role, TEST[kind], f"no values in the {' nor in the '.join(empty)}"), *said], None
    if ref.only is not None and ref.only == cur.only:
        return [_row(column, role, "constant", f"always {_value(ref.only, levels)} on both sides"), *said], None
    if (ref.only is None) != (cur.only is None):
        said.append(_constant(column, role, ref, cur, levels, limits.new, alpha))
    if min(ref.present, cur.present) < limits.min_rows:
        why = f"only {min(ref.present, cur.present)} values of at least {limits.min_rows} in a side"
        return [_row(column, role, TEST[kind], why), *said], None
    samples, labels = (ref.sample, cur.sample), [""]
    if kind == "category":
        samples, labels = _lumped(*samples, levels)
    limit = limits.per_column.get(column, limits.number if kind == "number" else limits.category)
    floor = chance(kind, *samples, alpha, draws[2])
    if floor > UNTELLABLE:
        why = f"chance alone gives a distance up to {floor:.2f}: too few values for so many levels"
        return [_row(column, role, TEST[kind], why), *said], None
    if kind == "category":
        names = np.array(_harmless(labels), dtype=object)
        samples = names[samples[0]], names[samples[1]]
    else:
        samples = _plottable(*samples)
    return said, _Compared(kind, samples[0], samples[1], limit, round(max(limit, floor), 6))


def _numbers(series: pd.Series, column: str, size: int, rng: np.random.Generator) -> _Side:
    types = pd.api.types
    if not (types.is_numeric_dtype(series.dtype) or types.is_bool_dtype(series.dtype)):
        raise DtypeChanged(
            f"{column} is compared as a number and is {series.dtype}", do="declare its type, or ignore it"
        )
    values: NDArray[np.float64] = series.to_numpy(dtype="float64", na_value=np.nan)
    finite = np.isfinite(values)
    sample = values[_draw(finite, size, rng)]
    only = None
    if sample.size and (sample == sample[0]).all() and (values[finite] == sample[0]).all():
        only = float(sample[0])
    return _Side(len(values), int(finite.sum()), sample, only, lambda value: int((values == value).sum()))


def _categories(
    before: pd.Series, now: pd.Series, size: int, draws: Sequence[np.random.Generator]
) -> tuple[_Side, _Side, list[str], list[NDArray[np.intp]]]:
    """Both sides under one coding; a whole float and an integer are the same category."""
    codes, used = zip(*(_coded(series) for series in (before, now)), strict=True)
    joint: dict[str, int] = {}
    lookups = [np.array([joint.setdefault(label, len(joint)) for label in labels] or [0]) for labels in used]
    sides, counts = [], []
    for code, lookup, rng in zip(codes, lookups, draws, strict=False):
        filled = code >= 0
        per_code = np.bincount(code[filled], minlength=len(lookup))
        count = np.bincount(lookup, weights=per_code, minlength=len(joint)).astype(np.intp)
        present = np.flatnonzero(count)
        only = float(present[0]) if len(present) == 1 else None
        sample = lookup[code[_draw(filled, size, rng)]]
        sides.append(_Side(len(code), int(count.sum()), sample, only, lambda v, c=count: int(c[int(v)])))  # type: ignore[misc]
        counts.append(count)
    return sides[0], sides[1], list(joint), counts


def _coded(series: pd.Series) -> tuple[NDArray[Any], list[str]]:
    """Integer codes, -1 where missing, and the label of each code that occurs (unused categories are no levels)."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        codes, levels = series.cat.codes.to_numpy(), series.cat.categories
        seen = np.bincount(codes[codes >= 0], minlength=len(levels)) > 0
        if not seen.all():
            position = np.cumsum(seen) - 1
            codes, levels = np.where(codes >= 0, position[codes], -1), levels[seen]
    else:
        codes, levels = pd.factorize(series)
    return codes, [_label(value) for value in levels]


def _label(value: object) -> str:
    return str(int(value)) if isinstance(value, float | np.floating) and float(value).is_integer() else str(value)


def _draw(usable: NDArray[np.bool_], size: int, rng: np.random.Generator) -> NDArray[np.intp]:
    count = int(usable.sum())
    if count <= size:
        return np.flatnonzero(usable)
    drawn = np.sort(rng.choice(count, size, replace=False, shuffle=False))
    return drawn if count == len(usable) else np.flatnonzero(usable)[drawn]


def _lumped(
    ref: NDArray[np.intp], cur: NDArray[np.intp], levels: Sequence[str]
) -> tuple[tuple[NDArray[np.intp], NDArray[np.intp]], list[str]]:
    """The samples coded 0, 1, …: the most frequent levels of both, then all others as one."""
    codes, dense, count = np.unique(np.concatenate([ref, cur]), return_inverse=True, return_counts=True)
    labels = [levels[code] for code in codes[:LEVELS]]
    if len(codes) > LEVELS:
        kept = np.argsort(-count, kind="stable")[:LEVELS]
        lookup = np.full(len(codes), LEVELS)
        lookup[kept] = np.arange(LEVELS)
        dense, labels = lookup[dense], [*(levels[code] for code in codes[kept]), "(other)"]
    return (dense[: len(ref)], dense[len(ref) :]), labels


def _plottable(ref: NDArray[np.float64], cur: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The samples, or their joint ranks where a histogram would fail: the distance is the same."""
    for side in (ref, cur):
        size, span = np.abs(side).max(), np.ptp(side)
        if size > 1e15 or 0 < span < max(1e-9 * size, 1e-100):
            ranks = np.unique(np.concatenate([ref, cur]), return_inverse=True)[1].astype(float)
            return ranks[: len(ref)], ranks[len(ref) :]
    return ref, cur


# --- what is said of a column


def _row(column: str, role: Role, test: str, why: str) -> ColumnDrift:
    return ColumnDrift(column=column, role=role, test=test, verdict="undetermined", reason=why)


def _measured(column: str, role: Role, test: str, statistic: float, threshold: float, reason: str) -> ColumnDrift:
    statistic, threshold = round(statistic, 6), round(threshold, 6)
    verdict: Literal["drift", "stable"] = "drift" if statistic >= threshold else "stable"
    return ColumnDrift(
        column=column, role=role, test=test, verdict=verdict, statistic=statistic, threshold=threshold, reason=reason
    )


def _judged(column: str, role: Role, compared: _Compared, score: float) -> ColumnDrift:
    test = TEST[compared.kind]
    if not math.isfinite(score):
        return _row(column, role, test, f"the distance is {score}")
    raised = f", raised from {compared.limit:g} to what chance can give" if compared.threshold > compared.limit else ""
    sizes = f"{len(compared.reference):,} against {len(compared.current):,} values"
    reason = f"distance {score:.3f}, limit {compared.threshold:.3f}{raised}, {sizes}"
    return _measured(column, role, test, score, compared.threshold, reason)


def _missing(column: str, role: Role, ref: _Side, cur: _Side, limit: float, alpha: float) -> ColumnDrift:
    before, now = 1 - ref.present / ref.rows, 1 - cur.present / cur.rows
    pooled = 1 - (ref.present + cur.present) / (ref.rows + cur.rows)
    threshold = max(limit, _spread(pooled, 1 / ref.rows + 1 / cur.rows, alpha))
    reason = f"{before:.1%} of the reference and {now:.1%} of the batch are missing or infinite"
    return _measured(column, role, "missing", abs(now - before), threshold, reason)


def _new(
    column: str,
    role: Role,
    levels: Sequence[str],
    counts: Sequence[NDArray[np.intp]],
    limit: float,
    alpha: float,
    known: Set[str] | None,
) -> list[ColumnDrift]:
    """Unseen categories, where they are more than a long tail always has.

    Against how many rows random splits of the same levels would put there; where the categories of all training
    rows are known, and the reference is a sample of them, against the limit and its spread.
    """
    before, now = counts
    unseen = np.flatnonzero((before == 0) & (now > 0))
    if known is not None:
        unseen = unseen[[levels[int(code)] not in known for code in unseen]]
    if not len(unseen):
        return []
    rows = int(now.sum())
    pooled = (before + now)[before + now > 0].astype(float)
    here = (rows / pooled.sum()) ** pooled
    mean, variance = float((pooled * here).sum()), float((pooled**2 * here * (1 - here)).sum())
    usual = float(gamma.isf(alpha, mean**2 / variance, scale=variance / mean)) / rows if variance > 1e-12 else 0.0
    if known is not None:
        usual = min(usual, limit + _spread(limit, 1 / rows, alpha))
    share, threshold = float(now[unseen].sum()) / rows, max(limit, usual)
    names = _bounded([repr(levels[code][:40]) for code in unseen[np.argsort(-now[unseen], kind="stable")]])
    reason = f"{share:.2%} of the batch in categories that the reference never had: {names}"
    return [_measured(column, role, "new categories", share, threshold, reason)]


def _constant(
    column: str, role: Role, ref: _Side, cur: _Side, levels: Sequence[str], limit: float, alpha: float
) -> ColumnDrift:
    still, moving, where = (cur, ref, "batch") if ref.only is None else (ref, cur, "reference")
    assert still.only is not None
    others = 1 - moving.count(still.only) / moving.present
    threshold = max(limit, 1 - alpha ** (1 / still.present))
    reason = f"always {_value(still.only, levels)} in the {where}, other values in {others:.2%} of the other side"
    return _measured(column, role, "constant", others, threshold, reason)


def _spread(share: float, per_row: float, alpha: float) -> float:
    """How far chance moves a share, two-sided, in the normal approximation."""
    return NormalDist().inv_cdf(1 - alpha / 2) * math.sqrt(share * (1 - share) * per_row)


def _value(value: float, levels: Sequence[str]) -> str:
    return repr(levels[int(value)][:40]) if levels else f"{value:g}"


def _bounded(names: Sequence[str], limit: int = NAMED) -> str:
    more = f", … and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


# --- the batch


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
        reasons.append(text + (f": {_bounded([_why(said[c]) for c in drifted])}" if drifted else ""))
    unknown = [c for c, v in verdicts.items() if v == "undetermined"]
    if unknown:
        reasons.append(f"undetermined: {_bounded([f'{c} ({said[c][0].reason})' for c in unknown])}")
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


# --- Evidently


def _ks_distance(reference: pd.Series, current: pd.Series, _kind: ColumnType, threshold: float) -> tuple[float, bool]:
    """Kolmogorov-Smirnov distance, in the shape that Evidently asks of a custom test."""
    ref, cur = np.sort(reference.to_numpy()), np.sort(current.to_numpy())
    points = np.concatenate([ref, cur])
    shares = (np.searchsorted(side, points, side="right") / len(side) for side in (ref, cur))
    distance = round(float(np.abs(next(shares) - next(shares)).max()), 12)
    return distance, distance >= threshold


register_stattest(
    StatTest(TEST["number"], "K-S distance", allowed_feature_types=[ColumnType.Numerical], default_threshold=0.1),
    _ks_distance,
)


def _evidently(compared: Mapping[str, _Compared], html: bool) -> tuple[dict[str, float], str]:
    if not compared:
        return {}, "<!DOCTYPE html><html><head><meta charset='utf-8'></head><body></body></html>"
    names = dict(zip(compared, _harmless(list(compared)), strict=True))
    definition = DataDefinition(
        numerical_columns=[names[c] for c, it in compared.items() if it.kind == "number"],
        categorical_columns=[names[c] for c, it in compared.items() if it.kind == "category"],
    )
    tables = [
        pd.DataFrame({names[c]: pd.Series(it.reference if side == 0 else it.current) for c, it in compared.items()})
        for side in range(2)
    ]
    before, now = (Dataset.from_pandas(table, data_definition=definition) for table in tables)
    judges = [ValueDrift(column=names[c], method=TEST[it.kind], threshold=it.threshold) for c, it in compared.items()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's and plotly's own, about data that was judged all the same
        snapshot = Report(judges, include_tests=True).run(now, before)
        page = snapshot.get_html_str(as_iframe=False) if html else ""
    found = snapshot.metric_results
    return {c: float(found[judge.metric_id].value) for c, judge in zip(compared, judges, strict=True)}, page


def _harmless(names: Sequence[str]) -> list[str]:
    """Distinct short names without angle brackets: Evidently writes them into a script element as they are."""
    shown: dict[str, None] = {}
    for name in names:
        short = name.replace("<", "‹").replace(">", "›")[:80]
        while short in shown:
            short += "′"
        shown[short] = None
    return list(shown)


def _with_verdicts(page: str, decision: Decision, columns: Sequence[ColumnDrift]) -> str:
    """Evidently's page under our decision and every verdict, those of the whole table included."""
    cells = [
        (row.column, row.role, row.test, row.verdict, row.reason)
        for row in sorted(columns, key=lambda row: ("drift", "undetermined", "stable").index(row.verdict))
    ]
    body = "".join("<tr>" + "".join(f"<td>{markup.escape(cell)}</td>" for cell in line) + "</tr>" for line in cells)
    reasons = "".join(f"<li>{markup.escape(reason)}</li>" for reason in decision.reasons)
    ours = (
        '<section style="font-family:sans-serif;margin:1.5em"><style>section td,section th{padding:.2em .8em;'
        f"text-align:left}}</style><h1>Data drift: {markup.escape(decision.verdict)}</h1><ul>{reasons}</ul><details>"
        "<summary>Every verdict</summary><table><tr><th>column<th>role<th>test<th>verdict<th>reason</tr>"
        f"{body}</table></details></section>"
    )
    head, tag, rest = page.partition("<body>")
    return head + tag + ours + rest
