"""Target leakage: columns that know the answer make a model that shines on paper and fails in service.

A column is suspected when it tells the target almost by itself. That can be honest, so `new` only leaves it
out of the features and says why; a person decides.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

NEARLY = 0.98
MIN_ROWS = 50
BINS = 50


def suspected_leak(column: pd.Series[Any], target: pd.Series[Any], *, classes: bool) -> str | None:
    """Why a column may know the answer; None if nothing speaks for it.

    Args:
        column: float, text or time; missing is a value of its own.
        target: of the same rows; missing where there is no label.
        classes: whether the target is a class; else it is a number.

    >>> paid = pd.Series([0.0, 1.0] * 50)
    >>> suspected_leak(paid * 3 + 1, paid, classes=True)
    'it alone tells 100.0% of the targets'
    """
    known = target.notna()
    filled = column.notna()
    unknown = int((~known).sum())
    if unknown >= 20 and filled[~known].mean() <= 0.01 and filled[known].mean() >= 0.5:
        return "it is only filled where the target is known"
    column, target = column[known], target[known]
    if len(target) < MIN_ROWS or target.nunique() < 2:
        return None
    bins = _bins(column)
    if classes:
        if bins is None:
            return None
        table = pd.crosstab(bins, target.astype(str).to_numpy())
        base = float(table.sum().max()) / len(target)
        gained = (float(table.max(axis=1).sum()) / len(target) - base) / (1 - base)
        return f"it alone tells {base + gained * (1 - base):.1%} of the targets" if gained >= NEARLY else None
    numbers = target.astype(float)
    if column.dtype.kind == "f" and column.nunique() > 2:
        both = column.notna()
        rank = float(column[both].rank().corr(numbers[both].rank()))
        return f"it rises or falls with the target (rank correlation {rank:.3f})" if abs(rank) >= 0.99 else None
    if bins is None:
        return None
    within = float(((numbers - numbers.groupby(bins).transform("mean")) ** 2).sum())
    total = float(((numbers - numbers.mean()) ** 2).sum())
    return "its values tell the target almost exactly" if within <= (1 - NEARLY) * total else None


def _bins(column: pd.Series[Any]) -> np.ndarray[Any, Any] | None:
    """A code for each row's value, by quantiles where there are many; None where texts are too many to judge."""
    most = min(BINS, len(column) // 20)
    if column.nunique() > most:
        if column.dtype == object:
            return _bins(column.notna().astype(float)) if column.isna().any() else None
        ranks = column.rank(pct=True)
        return np.ceil(ranks.fillna(0).to_numpy() * most)
    return np.asarray(pd.factorize(column)[0])
