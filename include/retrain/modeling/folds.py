"""Labelled rows in memory, and how they are cut into rows to fit on and rows to validate on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from retrain.errors import DegenerateTraining
from retrain.modeling.metrics import Array
from retrain.spec import Spec

Fold = tuple[Array, Array]


@dataclass(frozen=True)
class Rows:
    """Labelled training rows, oldest first.

    Attributes:
        frame: the declared columns.
        y: (n,) class codes or numbers.
        interval: (n,) the place of each row's interval, 0 for the oldest.
    """

    frame: pd.DataFrame
    y: Array
    interval: Array

    def take(self, at: Array) -> Rows:
        """The rows at these places."""
        return Rows(self.frame.iloc[at], self.y[at], self.interval[at])

    def window(self, k: int | None) -> Rows:
        """The rows of the newest `k` intervals."""
        return self.take(in_window(self.interval, np.arange(len(self.y)), k))


def in_window(interval: Array, at: Array, k: int | None) -> Array:
    """Those of the rows at these places that lie in the newest `k` intervals up to the last of them; None takes all.

    >>> in_window(np.array([0, 1, 1, 2]), np.array([0, 1, 2]), 1).tolist()
    [1, 2]
    """
    if k is None or len(at) == 0:
        return at
    inside: Array = at[interval[at] > interval[at].max() - k]
    return inside


def folds(spec: Spec, rows: Rows) -> Iterator[Fold]:
    """Yield training and validation rows, by place.

    By time: train on the past, validate on the next interval; with too few intervals, on the next stretch of
    rows. By group or stratified: validate on the newest intervals that every window trains on. Rows that all share
    one moment have no past: they are cut by group where there is one, else stratified.

    Raises:
        DegenerateTraining: too few rows or groups for so many folds.
    """
    search, y, n = spec.training.search, rows.y, len(rows.y)
    groups = rows.frame[spec.training.group].astype(str).to_numpy() if spec.training.group else None
    if search.split == "time" and (cuts := _cuts(spec, rows)):
        for cut, end in zip(cuts, [*cuts[1:], n], strict=True):
            train, valid = np.arange(cut), np.arange(cut, end)
            yield (train if groups is None else train[~np.isin(groups[train], groups[valid])]), valid
        return
    if groups is not None and search.split != "stratified":
        splitter = (
            GroupKFold(search.folds)
            if spec.task == "regression"
            else StratifiedGroupKFold(search.folds, shuffle=True, random_state=spec.training.seed)
        )
    else:
        kind = KFold if spec.task == "regression" else StratifiedKFold
        splitter = kind(search.folds, shuffle=True, random_state=spec.training.seed)
    counts = [window for window in spec.training.windows if isinstance(window, int)]
    newest = set(in_window(rows.interval, np.arange(n), min(counts, default=None)).tolist())
    try:
        for train, valid in splitter.split(np.zeros(n), y, groups):
            yield train, np.asarray([row for row in valid.tolist() if row in newest], dtype=int)
    except ValueError as error:
        raise DegenerateTraining(
            f"the rows cannot be split into {search.folds} folds: {error}", do="lower training.search.folds"
        ) from None


def _cuts(spec: Spec, rows: Rows) -> list[int]:
    count, n = spec.training.search.folds, len(rows.y)
    starts = np.flatnonzero(np.diff(rows.interval, prepend=rows.interval[0])).tolist()
    if len(starts) >= count:
        return [int(start) for start in starts[-count:]]
    when = moments(spec, rows)
    # Rows of the same moment stay on one side.
    even = [int(np.searchsorted(when, when[n * part // (count + 1)])) for part in range(1, count + 1)]
    return sorted({cut for cut in even if cut > 0})


def moments(spec: Spec, rows: Rows) -> Array:
    """The time of each row as a whole number, (n,)."""
    return rows.frame[spec.source.time].astype("int64").to_numpy()


def usable(spec: Spec, train: Array, valid: Array, *, both: bool = True) -> bool:
    """Whether there are rows on both sides, with two outcomes to learn from and, if `both`, to score."""
    if len(train) == 0 or len(valid) == 0:
        return False
    return spec.task == "regression" or (len(np.unique(train)) > 1 and (len(np.unique(valid)) > 1 or not both))
