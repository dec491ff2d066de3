"""What a column's contract should say: what was seen, with some slack."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd


def bounds(values: pd.Series[Any], *, whole: bool) -> dict[str, Any]:
    """Half the seen range as slack on both sides; counts and amounts stay above zero, a share stays a share."""
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
    return {"min": short(least), "max": short(most)}


def _outward(value: float, way: Any) -> float:
    """Two digits of a number, away from what was seen.

    >>> _outward(123.4, math.ceil), _outward(-0.0312, math.floor)
    (130.0, -0.032)
    """
    if value == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    return float(f"{way(round(value / unit, 6)) * unit:.2g}")


def missing(values: pd.Series[Any], of: pd.Series[Any]) -> float:
    """The largest empty share of an interval, half as much again and a point."""
    empty = values.isna()
    if not empty.any():
        return 0.01 if len(values) >= 1000 else 0.05
    worst = float(empty.groupby(of).mean().max())
    return min(1.0, math.ceil(worst * 150 + 1) / 100)


def values(values: pd.Series[Any], keys: dict[str, Any], listed: list[Any] | None) -> str:
    """A small set whose values are all well known is closed; another one stays open."""
    counts = values.value_counts()
    if listed is not None or (2 <= len(counts) <= 12 and counts.min() >= max(5, len(values) / 1000)):
        keys["values"] = listed or sorted(counts.index)
        return f"{len(counts)} values"
    shown = ", ".join(str(value)[:20] for value in counts.index[:5])
    return f"{len(counts)} value{'s' if len(counts) > 1 else ''}, open: {shown}{', …' if len(counts) > 5 else ''}"


def short(value: Any) -> Any:
    """A number as a person writes it."""
    number = float(f"{float(value):.6g}")
    return int(number) if number.is_integer() and abs(number) < 1e15 else number


def percent(share: float) -> str:
    return "under 1%" if 0 < share < 0.01 else f"{share:.0%}"


def plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
