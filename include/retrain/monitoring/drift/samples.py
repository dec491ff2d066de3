"""A column of both tables as numbers or codes: the whole counted, a bounded part drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from retrain.errors import DtypeChanged

LEVELS = 100  # the most frequent ones are compared by name, the rest together


@dataclass(frozen=True)
class Side:
    """A column of one table: what its n rows hold, and a sample of the values.

    Attributes:
        rows: n.
        present: rows that hold a value.
        usable: (n,) which rows those are.
        at: the rows of the sample, ascending.
        sample: (k,) numbers, or codes of a category.
        only: the single value of a constant column; of a category its code.
        count: from a value, or a code, to the rows that hold it.
        find: from (levels,) which categories are wanted to their rows, and the code of each; None of a number.
    """

    rows: int
    present: int
    usable: NDArray[np.bool_]
    at: NDArray[np.intp]
    sample: NDArray[Any]
    only: float | None
    count: Callable[[float], int]
    find: Callable[[NDArray[np.bool_]], tuple[NDArray[np.intp], NDArray[np.intp]]] | None = None


def numbers(series: pd.Series, column: str, size: int, rng: np.random.Generator) -> Side:
    """A column of numbers; a missing or infinite one is no value.

    Args:
        series: (n,) of any numeric or boolean type.
        column: its name.
        size: of the sample.
        rng: draws it.

    Raises:
        DtypeChanged: it does not hold numbers.
    """
    types = pd.api.types
    if not (types.is_numeric_dtype(series.dtype) or types.is_bool_dtype(series.dtype)):
        raise DtypeChanged(
            f"{column} is compared as a number and is {series.dtype}", do="declare its type, or ignore it"
        )
    values: NDArray[np.float64] = series.to_numpy(dtype="float64", na_value=np.nan)
    finite = np.isfinite(values)
    at = draw_usable(finite, size, rng)
    sample = values[at]
    only = None
    if sample.size and (sample == sample[0]).all() and (values[finite] == sample[0]).all():
        only = float(sample[0])
    return Side(len(values), int(finite.sum()), finite, at, sample, only, lambda value: int((values == value).sum()))


def categories(
    before: pd.Series, now: pd.Series, size: int, draws: Sequence[np.random.Generator]
) -> tuple[Side, Side, list[str], list[NDArray[np.intp]]]:
    """Both sides of a category under one coding, its labels, and the rows of each label on each side.

    A whole float and an integer are the same category.

    Args:
        before: (n,) of any type.
        now: (m,) of any type.
        size: of each sample.
        draws: a generator for each side.
    """
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
        at = draw_usable(filled, size, rng)
        rows, find = partial(_rows, count), partial(_find, code, filled, lookup)
        sides.append(Side(len(code), int(count.sum()), filled, at, lookup[code[at]], only, rows, find))
        counts.append(count)
    return sides[0], sides[1], list(joint), counts


def _rows(count: NDArray[np.intp], code: float) -> int:
    return int(count[int(code)])


def _find(
    code: NDArray[Any], filled: NDArray[np.bool_], lookup: NDArray[np.intp], wanted: NDArray[np.bool_]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    at = np.flatnonzero(filled & wanted[lookup][code])
    return at, lookup[code[at]]


def _coded(series: pd.Series) -> tuple[NDArray[Any], list[str]]:
    """Integer codes, -1 where missing, and the label of each code that occurs (unused categories are no levels)."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        codes, levels = series.cat.codes.to_numpy(), series.cat.categories
        used = np.bincount(codes[codes >= 0], minlength=len(levels)) > 0
        if not used.all():
            position = np.cumsum(used) - 1
            codes, levels = np.where(codes >= 0, position[codes], -1), levels[used]
    else:
        codes, levels = pd.factorize(series)
    return codes, [_label(value) for value in levels]


def as_text(series: pd.Series) -> NDArray[Any]:
    """(n,) the label of each row's category, None where there is no value."""
    codes, labels = _coded(series)
    texts: NDArray[Any] = np.array([*labels, None], dtype=object)[codes]
    return texts


def _label(value: object) -> str:
    return str(int(value)) if isinstance(value, float | np.floating) and float(value).is_integer() else str(value)


def draw_usable(usable: NDArray[np.bool_], size: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Draw at most `size` of the usable rows, in their order, each set as likely as any other."""
    rows, count = len(usable), int(usable.sum())
    if count <= size:
        return np.flatnonzero(usable)
    if count == rows:
        return draw_rows(rows, size, rng)
    if count * 10 > rows > 10 * size:  # drawing and dropping: naming every usable row costs more than all else here
        drawn = rng.choice(rows, min(rows, int(1.2 * size * rows / count) + 100), replace=False)
        kept = drawn[usable[drawn]][:size]
        if len(kept) == size:
            return np.asarray(np.sort(kept))
    return np.flatnonzero(usable)[draw_rows(count, size, rng)]


def draw_rows(rows: int, size: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Draw at most `size` of so many rows, in their order."""
    return np.sort(rng.choice(rows, min(rows, size), replace=False, shuffle=False))


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


def ks_distance(reference: NDArray[Any], current: NDArray[Any]) -> float:
    """The largest difference of the two cumulative shares (Kolmogorov-Smirnov).

    >>> ks_distance(np.arange(4), np.arange(4) + 1)
    0.25
    """
    ref, cur = np.sort(reference), np.sort(current)
    points = np.concatenate([ref, cur])
    shares = (np.searchsorted(side, points, side="right") / len(side) for side in (ref, cur))
    return round(float(np.abs(next(shares) - next(shares)).max()), 12)
