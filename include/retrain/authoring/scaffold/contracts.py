"""Proposals for a column's contract: the range and the values of the profile, with some slack."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd


def value_bounds(values: pd.Series[Any], *, whole: bool) -> dict[str, Any]:
    """The keys `min` and `max`: half the range as slack on both sides.

    Counts and amounts stay above zero, a share stays a share.

    Args:
        values: (n,) floats.
        whole: whether the numbers are whole ones.

    >>> value_bounds(pd.Series([12.0, 20.0]), whole=True)
    {'min': 8, 'max': 24}
    """
    finite = values[values.abs() != math.inf].dropna()
    if finite.empty:
        return {}
    low, high = float(finite.min()), float(finite.max())
    if not whole and low >= 0 and high <= 1:
        return {"min": 0, "max": 1}
    slack = max((high - low) / 2, abs(high) / 10, 1.0 if whole else 0.0)
    least, most = _outward(low - slack, math.floor), _outward(high + slack, math.ceil)
    if whole:
        least, most = math.floor(least), math.ceil(most)
    if low >= 0 and (whole or low <= high / 50):
        least = max(least, 0.0)
    return {"min": rounded(least), "max": rounded(most)}


def _outward(value: float, way: Any) -> float:
    """Two digits of a number, away from what was seen.

    >>> _outward(123.4, math.ceil), _outward(-0.0312, math.floor)
    (130.0, -0.032)
    """
    if value == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    return float(f"{way(round(value / unit, 6)) * unit:.2g}")


def max_missing(values: pd.Series[Any], of: pd.Series[Any]) -> float:
    """The key `max_missing`: the largest missing share of an interval, half as much again and a point.

    Args:
        values: (n,) of a column.
        of: (n,) the interval of each row.
    """
    empty = values.isna()
    if not empty.any():
        return 0.01 if len(values) >= 1000 else 0.05
    worst = float(empty.groupby(of).mean().max())
    return min(1.0, math.ceil(worst * 150 + 1) / 100)


def allowed_values(values: pd.Series[Any], keys: dict[str, Any], listed: list[Any] | None) -> str:
    """A note on the values of a category; a small set of frequent values is closed: `keys` gets `values`.

    Args:
        values: (n,) of a column.
        keys: of the column; changed here.
        listed: the classes, where it is the target.
    """
    counts = values.value_counts()
    if listed is not None or (2 <= len(counts) <= 12 and counts.min() >= max(5, len(values) / 1000)):
        keys["values"] = listed or sorted(counts.index)
        return f"{len(counts)} values"
    examples = ", ".join(str(value)[:20] for value in counts.index[:5])
    return f"{len(counts)} value{'s' if len(counts) > 1 else ''}, open: {examples}{', …' if len(counts) > 5 else ''}"


def rounded(value: Any) -> Any:
    """A number as a person writes it."""
    number = float(f"{float(value):.6g}")
    return int(number) if number.is_integer() and abs(number) < 1e15 else number


def percent(share: float) -> str:
    """A share in percent, as a person says it."""
    return "under 1%" if 0 < share < 0.01 else f"{share:.0%}"


def without_fraction(value: Any) -> Any:
    """A whole number where a float holds one; another value as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
