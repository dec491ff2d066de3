"""Broken data or a changed world: columns that look like a fault of a sensor, a unit or a pipeline.

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

from retrain.monitoring.drift.chance import Array
from retrain.monitoring.drift.columns import bounded
from retrain.monitoring.drift.limits import Kind
from retrain.monitoring.drift.samples import as_text, ks_distance

LOST = 0.3
"""More of the rows are missing than before."""
UNKNOWN = 0.5
"""Of the rows are in categories that nobody has seen."""
APART = 0.8
"""The Kolmogorov-Smirnov distance of ranges that hardly meet."""
SEEN, FITS, PLAIN, NEAR = 0.3, 0.15, 7.0, 0.02
"""A factor from `PLAIN` on is told from this distance on, if undoing it leaves less than that, or as near."""
HABIT = 0.5
"""The reference's own intervals may have gone this part of the way."""
FEW = 20
"""Values of an interval below which it says nothing of habits."""

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


def broken(
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
    """One sentence for each column of `kinds` that looks broken, with the evidence.

    Args:
        previous: the batch of the interval before, or a sample of it. Without it only a factor is told.
        sample: rows of each table that are looked at.
        intervals: (n,) the interval of each reference row as ascending integers. Without it nobody knows what
            the column has always done: numbers are told by a factor only, new categories not at all.
        known: category column → every category of the training rows.

    >>> metres = pd.DataFrame({"height": np.arange(600) / 6})
    >>> feet = metres.assign(height=metres["height"] * 25.4)
    >>> broken(metres, metres, feet, {"height": "number"}, seed=0, intervals=np.arange(600) % 3)[0][:60]
    'height: its values look × 25.4 (distance 0.960 to the refere'
    """
    tables = [
        _part(table, sample * 4 if place == 0 else sample, seed + place)
        for place, table in enumerate((reference, previous, current))
    ]
    (before, at), (last, _), (now, _) = tables
    of = None if intervals is None or at is None else intervals[at]
    assert before is not None
    assert now is not None
    said = []
    for column, kind in kinds.items():
        if column not in before or column not in now:
            continue
        sides = [before[column], None if last is None or column not in last else last[column], now[column]]
        values = [None if side is None else _values(side, kind) for side in sides]
        if found := _fault(values, kind, _by_interval(values[0], of), known.get(column)):
            said.append(f"{column}: {found}")
    return tuple(said)


def _part(table: pd.DataFrame | None, size: int, seed: int) -> tuple[pd.DataFrame | None, Array | None]:
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
    names = names[count >= FEW]
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
            and _habit(history, lambda one, near, rest: one.isna().mean() - rest.isna().mean()) < HABIT * LOST
        ):
            return (
                f"{now.isna().mean():.0%} of its values are missing, {last.isna().mean():.0%} in the interval before"
                f" and {before.isna().mean():.0%} in the reference"
            )
    present = [None if side is None else side.dropna() for side in values]
    if any(side is not None and len(side) < FEW for side in present):
        return ""
    past, near, new = present
    assert past is not None
    assert new is not None
    if near is not None and new.nunique() == 1 and past.nunique() > 1 and near.nunique() > 1:
        if _habit(history, lambda one, near, rest: float(one.nunique() == 1)):
            return ""
        return f"it stands still at {str(new.iloc[0])[:40]!r}, neither the reference nor the interval before does"
    return _strange(past, near, new, history, known) if kind == "category" else _moved(past, near, new, history)


def _strange(
    past: pd.Series,
    near: pd.Series | None,
    new: pd.Series,
    history: History,
    known: Set[str] | None,
) -> str:
    if near is None or not history:
        return ""
    unseen = ~(new.isin(past) | new.isin(near) | new.isin(known or ()))
    if unseen.mean() < UNKNOWN or _habit(history, lambda one, _, rest: (~one.isin(rest)).mean()) >= HABIT * UNKNOWN:
        return ""
    names = bounded([repr(name[:40]) for name in new[unseen].value_counts().index])
    return f"{unseen.mean():.0%} of its rows are in categories that were never seen: {names}"


def _moved(
    past: pd.Series,
    near: pd.Series | None,
    new: pd.Series,
    history: History,
) -> str:
    far = ks_distance(past.to_numpy(), new.to_numpy())
    close = None if near is None else ks_distance(near.to_numpy(), new.to_numpy())
    if far < SEEN:
        return ""
    habit = _habit(history, _least) if history else None
    if habit is not None and habit >= HABIT * far:
        return ""
    targets = [side.to_numpy() for side in (past, near) if side is not None]
    undone = {
        name: min(ks_distance(target, (new.to_numpy() - b) / a) for target in targets)
        for name, (a, b) in CHANGES.items()
    }
    left = min(undone.values())
    names = [name for name, distance in undone.items() if distance <= left + NEAR][:3]
    factor = min(max(CHANGES[name][0], 1 / CHANGES[name][0]) for name in names)
    fits = left <= FITS and left <= far / 2
    abrupt = far >= APART and close is not None and close >= APART
    if not (fits and (factor >= PLAIN or abrupt)) and not (abrupt and habit is not None):
        return ""
    before = "" if close is None else f", {close:.3f} to the interval before"
    evidence = f"distance {far:.3f} to the reference{before}"
    if fits:
        return f"its values look {' or '.join(names)} ({evidence}; {left:.3f} once that is undone)"
    return (
        f"its values lie on another range ({evidence}): median {new.median():.4g}, in the reference {past.median():.4g}"
    )


def _habit(history: History, jump: Callable[[pd.Series, pd.Series, pd.Series], float]) -> float:
    return max((float(jump(*one)) for one in history), default=0.0)


def _least(one: pd.Series, near: pd.Series, rest: pd.Series) -> float:
    """How far an interval lay from its neighbour and from all others, as a batch is judged by the smaller one."""
    sides = [side.dropna().to_numpy() for side in (one, near, rest)]
    if min(map(len, sides)) < FEW:
        return 0.0
    return min(ks_distance(sides[0], other) for other in sides[1:])
