"""One column: what is said of all its rows, and what is compared of its samples."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from typing import Literal
from zlib import crc32

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import gamma

from retrain.results import ColumnDrift
from retrain.tools.drift.limits import TEST, Kind, Limits, Role, chance, spread
from retrain.tools.drift.page import Compared, harmless
from retrain.tools.drift.samples import Side, categories, lumped, numbers, plottable

NAMED = 5
UNTELLABLE = 0.5  # a limit above this would call almost nothing drift


def judge(
    before: pd.Series,
    now: pd.Series,
    column: str,
    kind: Kind,
    role: Role,
    limits: Limits,
    alpha: float,
    seed: int,
    known: Set[str] | None,
) -> tuple[list[ColumnDrift], Compared | None]:
    draws = [np.random.default_rng([seed, crc32(column.encode()), side]) for side in range(3)]
    said: list[ColumnDrift] = []
    if kind == "number":
        ref, cur = (numbers(s, column, limits.sample, rng) for s, rng in zip((before, now), draws, strict=False))
        levels: Sequence[str] = ()
    else:
        ref, cur, levels, counts = categories(before, now, limits.sample, draws)
        if ref.present and cur.present:
            said += _new(column, role, levels, counts, limits.new, alpha, known)
    if role == "feature" and ref.present + cur.present < ref.rows + cur.rows:
        said.insert(0, _missing(column, role, ref, cur, limits.missing, alpha))
    empty = [name for name, side in (("reference", ref), ("batch", cur)) if not side.present]
    if empty:
        return [undetermined(column, role, TEST[kind], f"no values in the {' nor in the '.join(empty)}"), *said], None
    if ref.only is not None and ref.only == cur.only:
        return [undetermined(column, role, "constant", f"always {_value(ref.only, levels)} on both sides"), *said], None
    if (ref.only is None) != (cur.only is None):
        said.append(_constant(column, role, ref, cur, levels, limits.new, alpha))
    if min(ref.present, cur.present) < limits.min_rows:
        why = f"only {min(ref.present, cur.present)} values of at least {limits.min_rows} in a side"
        return [undetermined(column, role, TEST[kind], why), *said], None
    samples, labels = (ref.sample, cur.sample), [""]
    if kind == "category":
        samples, labels = lumped(*samples, levels)
    limit = limits.per_column.get(column, limits.number if kind == "number" else limits.category)
    floor = chance(kind, *samples, alpha, draws[2])
    if floor > UNTELLABLE:
        why = f"chance alone gives a distance up to {floor:.2f}: too few values for so many levels"
        return [undetermined(column, role, TEST[kind], why), *said], None
    if kind == "category":
        names = np.array(harmless(labels), dtype=object)
        samples = names[samples[0]], names[samples[1]]
    else:
        samples = plottable(*samples)
    return said, Compared(kind, samples[0], samples[1], limit, round(max(limit, floor), 6))


def undetermined(column: str, role: Role, test: str, why: str) -> ColumnDrift:
    return ColumnDrift(column=column, role=role, test=test, verdict="undetermined", reason=why)


def _measured(column: str, role: Role, test: str, statistic: float, threshold: float, reason: str) -> ColumnDrift:
    statistic, threshold = round(statistic, 6), round(threshold, 6)
    verdict: Literal["drift", "stable"] = "drift" if statistic >= threshold else "stable"
    return ColumnDrift(
        column=column, role=role, test=test, verdict=verdict, statistic=statistic, threshold=threshold, reason=reason
    )


def judged(column: str, role: Role, compared: Compared, score: float) -> ColumnDrift:
    test = TEST[compared.kind]
    if not math.isfinite(score):
        return undetermined(column, role, test, f"the distance is {score}")
    raised = f", raised from {compared.limit:g} to what chance can give" if compared.threshold > compared.limit else ""
    sizes = f"{len(compared.reference):,} against {len(compared.current):,} values"
    reason = f"distance {score:.3f}, limit {compared.threshold:.3f}{raised}, {sizes}"
    return _measured(column, role, test, score, compared.threshold, reason)


def _missing(column: str, role: Role, ref: Side, cur: Side, limit: float, alpha: float) -> ColumnDrift:
    before, now = 1 - ref.present / ref.rows, 1 - cur.present / cur.rows
    pooled = 1 - (ref.present + cur.present) / (ref.rows + cur.rows)
    threshold = max(limit, spread(pooled, 1 / ref.rows + 1 / cur.rows, alpha))
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
        usual = min(usual, limit + spread(limit, 1 / rows, alpha))
    share, threshold = float(now[unseen].sum()) / rows, max(limit, usual)
    names = bounded([repr(levels[code][:40]) for code in unseen[np.argsort(-now[unseen], kind="stable")]])
    reason = f"{share:.2%} of the batch in categories that the reference never had: {names}"
    return [_measured(column, role, "new categories", share, threshold, reason)]


def _constant(
    column: str, role: Role, ref: Side, cur: Side, levels: Sequence[str], limit: float, alpha: float
) -> ColumnDrift:
    still, moving, where = (cur, ref, "batch") if ref.only is None else (ref, cur, "reference")
    assert still.only is not None
    others = 1 - moving.count(still.only) / moving.present
    threshold = max(limit, 1 - alpha ** (1 / still.present))
    reason = f"always {_value(still.only, levels)} in the {where}, other values in {others:.2%} of the other side"
    return _measured(column, role, "constant", others, threshold, reason)


def _value(value: float, levels: Sequence[str]) -> str:
    return repr(levels[int(value)][:40]) if levels else f"{value:g}"


def bounded(names: Sequence[str], limit: int = NAMED) -> str:
    more = f", … and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
