"""Broken data, told from a changed world: columns that look like a fault of a sensor, a unit or a pipeline.

A world changes by degrees, or keeps its values while it changes their shares. A fault is abrupt and extreme: against
the reference and against the interval before, a column lost its values, stands still, or speaks of nothing that was
known; or its numbers lie on another range, most plainly where one factor puts them back. A column of which the
reference's own intervals did the like (a week's number, a campaign's name) is no fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from zlib import crc32

import numpy as np
import pandas as pd

from retrain.monitoring.drift.blocks import Array
from retrain.monitoring.drift.limits import Kind
from retrain.monitoring.drift.samples import as_text, ks_distance
from retrain.monitoring.drift.whole_column_tests import bounded_list

LOST = 0.3
"""Share of the rows by which more are missing than before, of a column that lost its values."""
UNKNOWN = 0.5
"""Share of the rows in unseen categories."""
APART = 0.8
"""The Kolmogorov-Smirnov distance of ranges that hardly meet."""
MOVED = 0.3
"""The distance from which a factor or another range is looked for."""
FITS = 0.15
"""The distance that undoing a change may leave."""
CLEAR_FACTOR = 7.0
"""A factor from which a change of unit is plain, without the interval before."""
TIE = 0.02
"""Changes whose distances differ by no more are as likely."""
HABIT = 0.5
"""The part of the way that the reference's own intervals may have gone."""
MIN_VALUES = 20
"""Values of an interval below which it shows no habit."""

_UNITS = (10, 100, 1000, 1e6, 60, 3600, 24, 25.4, 2.54, 3.28084, 1.609344, 2.204623, 1.943844)
CHANGES: dict[str, tuple[float, float]] = {
    **{f"× {unit:g}": (unit, 0.0) for unit in _UNITS},
    **{f"÷ {unit:g}": (1 / unit, 0.0) for unit in _UNITS},
    "× −1": (-1.0, 0.0),
    "°C → °F": (1.8, 32.0),
    "°F → °C": (1 / 1.8, -32 / 1.8),
    "°C → K": (1.0, 273.15),
    "K → °C": (1.0, -273.15),
}
"""What people do to a column unawares: x became a·x + b."""

History = Sequence[tuple[pd.Series, pd.Series, pd.Series]]
"""Of each interval of the reference: its values, its neighbour's, and those of all the others."""


def broken_columns(
    reference: pd.DataFrame,
    previous: pd.DataFrame | None,
    current: pd.DataFrame,
    kinds: Mapping[str, Kind],
    *,
    seed: int,
    sample: int = 5_000,
    intervals: Array | None = None,
    known: Mapping[str, Set[str]] = {},
) -> tuple[str, ...]:
    """Find the columns of `kinds` that look broken: one sentence for each, with the evidence.

    Args:
        reference: n rows.
        previous: the batch of the interval before, or a sample of it. Without it only a factor is found.
        current: m rows.
        kinds: column → how it is compared.
        seed: of the samples.
        sample: rows of each table that are read; of the reference four times as many.
        intervals: (n,) the interval of each reference row as ascending integers. Without it the column's habits are
            not known: numbers are judged by a factor only, new categories not at all.
        known: category column → every category of the training rows.

    >>> metres = pd.DataFrame({"height": np.arange(600) / 6})
    >>> feet = metres.assign(height=metres["height"] * 25.4)
    >>> broken_columns(metres, metres, feet, {"height": "number"}, seed=0, intervals=np.arange(600) % 3)[0][:60]
    'height: its values look × 25.4 (distance 0.960 to the refere'
    """
    tables = [
        _sample(table, sample * 4 if place == 0 else sample, seed + place)
        for place, table in enumerate((reference, previous, current))
    ]
    (before, at), (last, _), (now, _) = tables
    of = None if intervals is None or at is None else intervals[at]
    assert before is not None
    assert now is not None
    faults = []
    for column, kind in kinds.items():
        if column not in before or column not in now:
            continue
        sides = [before[column], None if last is None or column not in last else last[column], now[column]]
        values = [None if side is None else _values(side, kind) for side in sides]
        if fault := _fault(values, kind, _by_interval(values[0], of), known.get(column)):
            faults.append(f"{column}: {fault}")
    return tuple(faults)


def _sample(table: pd.DataFrame | None, size: int, seed: int) -> tuple[pd.DataFrame | None, Array | None]:
    if table is None:
        return None, None
    if len(table) <= size:
        return table, np.arange(len(table))
    at = np.sort(np.random.default_rng([seed, crc32(b"broken")]).choice(len(table), size, replace=False, shuffle=False))
    return table.iloc[at], at


def _values(series: pd.Series, kind: Kind) -> pd.Series:
    """Numbers with NaN where there is none, or texts with None."""
    if kind == "category":
        return pd.Series(as_text(series), dtype=object)
    values = series.to_numpy(dtype="float64", na_value=np.nan)
    return pd.Series(np.where(np.isfinite(values), values, np.nan))


def _by_interval(values: pd.Series | None, intervals: Array | None) -> History:
    """Each interval of the reference, its neighbour and all the others, as far as they have rows enough."""
    if values is None or intervals is None:
        return []
    names, count = np.unique(intervals, return_counts=True)
    names = names[count >= MIN_VALUES]
    if len(names) < 2:
        return []
    each = {name: values[intervals == name] for name in names}
    return [
        (each[name], each[names[place - 1] if place else names[1]], values[intervals != name])
        for place, name in enumerate(names)
    ]


def _fault(
    values: Sequence[pd.Series | None],
    kind: Kind,
    history: History,
    known: Set[str] | None,
) -> str:
    before, last, now = values
    assert before is not None
    assert now is not None
    if last is not None:
        lost = now.isna().mean() - max(before.isna().mean(), last.isna().mean())
        if (
            lost >= LOST
            and _habit(history, lambda own, near, rest: own.isna().mean() - rest.isna().mean()) < HABIT * LOST
        ):
            return (
                f"{now.isna().mean():.0%} of its values are missing, {last.isna().mean():.0%} in the interval before"
                f" and {before.isna().mean():.0%} in the reference"
            )
    present = [None if side is None else side.dropna() for side in values]
    if any(side is not None and len(side) < MIN_VALUES for side in present):
        return ""
    past, near, new = present
    assert past is not None
    assert new is not None
    if near is not None and new.nunique() == 1 and past.nunique() > 1 and near.nunique() > 1:
        if _habit(history, lambda own, near, rest: float(own.nunique() == 1)):
            return ""
        return f"it stands still at {str(new.iloc[0])[:40]!r}, neither the reference nor the interval before does"
    return (
        _unseen_categories(past, near, new, history, known)
        if kind == "category"
        else _other_range(past, near, new, history)
    )


def _unseen_categories(
    past: pd.Series,
    near: pd.Series | None,
    new: pd.Series,
    history: History,
    known: Set[str] | None,
) -> str:
    if near is None or not history:
        return ""
    unseen = ~(new.isin(past) | new.isin(near) | new.isin(known or ()))
    if unseen.mean() < UNKNOWN or _habit(history, lambda own, _, rest: (~own.isin(rest)).mean()) >= HABIT * UNKNOWN:
        return ""
    names = bounded_list([repr(name[:40]) for name in new[unseen].value_counts().index])
    return f"{unseen.mean():.0%} of its rows are in categories that were never seen: {names}"


def _other_range(
    past: pd.Series,
    near: pd.Series | None,
    new: pd.Series,
    history: History,
) -> str:
    far = ks_distance(past.to_numpy(), new.to_numpy())
    close = None if near is None else ks_distance(near.to_numpy(), new.to_numpy())
    if far < MOVED:
        return ""
    habit = _habit(history, _smaller_distance) if history else None
    if habit is not None and habit >= HABIT * far:
        return ""
    targets = [side.to_numpy() for side in (past, near) if side is not None]
    undone = {
        name: min(ks_distance(target, (new.to_numpy() - b) / a) for target in targets)
        for name, (a, b) in CHANGES.items()
    }
    left = min(undone.values())
    names = [name for name, distance in undone.items() if distance <= left + TIE][:3]
    factor = min(max(CHANGES[name][0], 1 / CHANGES[name][0]) for name in names)
    fits = left <= FITS and left <= far / 2
    abrupt = far >= APART and close is not None and close >= APART
    if not (fits and (factor >= CLEAR_FACTOR or abrupt)) and not (abrupt and habit is not None):
        return ""
    before = "" if close is None else f", {close:.3f} to the interval before"
    evidence = f"distance {far:.3f} to the reference{before}"
    if fits:
        return f"its values look {' or '.join(names)} ({evidence}; {left:.3f} once that is undone)"
    return (
        f"its values lie on another range ({evidence}): median {new.median():.4g}, in the reference {past.median():.4g}"
    )


def _habit(history: History, jump: Callable[[pd.Series, pd.Series, pd.Series], float]) -> float:
    return max((float(jump(*interval)) for interval in history), default=0.0)


def _smaller_distance(own: pd.Series, near: pd.Series, rest: pd.Series) -> float:
    """How far an interval lay from its neighbour and from all others, as a batch is judged by the smaller one."""
    sides = [side.dropna().to_numpy() for side in (own, near, rest)]
    if min(map(len, sides)) < MIN_VALUES:
        return 0.0
    return min(ks_distance(sides[0], other) for other in sides[1:])
