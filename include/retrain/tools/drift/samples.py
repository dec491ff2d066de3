"""A column of both tables as numbers or codes: the whole counted, a bounded part drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from retrain.errors import DtypeChanged

LEVELS = 100  # the most frequent ones are compared by name, the rest together


@dataclass(frozen=True)
class Side:
    rows: int
    present: int
    sample: NDArray[Any]
    only: float | None
    """The one value of a constant column; of a category its code."""
    count: Callable[[float], int]


def numbers(series: pd.Series, column: str, size: int, rng: np.random.Generator) -> Side:
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
    return Side(len(values), int(finite.sum()), sample, only, lambda value: int((values == value).sum()))


def categories(
    before: pd.Series, now: pd.Series, size: int, draws: Sequence[np.random.Generator]
) -> tuple[Side, Side, list[str], list[NDArray[np.intp]]]:
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
        sides.append(Side(len(code), int(count.sum()), sample, only, lambda v, c=count: int(c[int(v)])))  # type: ignore[misc]
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


def lumped(
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


def plottable(ref: NDArray[np.float64], cur: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The samples, or their joint ranks where a histogram would fail: the distance is the same."""
    for side in (ref, cur):
        size, span = np.abs(side).max(), np.ptp(side)
        if size > 1e15 or 0 < span < max(1e-9 * size, 1e-100):
            ranks = np.unique(np.concatenate([ref, cur]), return_inverse=True)[1].astype(float)
            return ranks[: len(ref)], ranks[len(ref) :]
    return ref, cur
