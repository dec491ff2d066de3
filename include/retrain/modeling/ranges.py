"""Whether a configuration leaves the range of the rows that it was fitted on, and what it answers there.

A linear model goes on in a straight line where no row ever was, and may be certain of it: under a loss without a bound
one such interval costs more than all that it won before. On validation rows outside the range of the fold's training
rows its answers are held against knowing nothing, the mean outcome, by a loss that a few enormous errors cannot decide.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from retrain.modeling.metrics import Array

FEWEST = 30
"""Rows outside the range that tell whether a configuration extrapolates badly."""


@dataclass
class Outside:
    """The validation rows of all folds, as one configuration answers them.

    Attributes:
        rows: how many there are.
        outside: how many of them lie outside the range of the rows that were learnt from.
        loss: of its answers to those, added up: squared errors of probabilities, of numbers absolute errors.
        of_mean: of the mean outcome of the training rows, the same.
    """

    rows: int = 0
    outside: int = 0
    loss: float = 0.0
    of_mean: float = 0.0

    @property
    def share(self) -> float:
        """Of the validation rows that lie outside."""
        return self.outside / max(self.rows, 1)

    @property
    def extrapolates(self) -> bool:
        """Whether its answers outside are worse than the mean outcome's."""
        return self.outside >= FEWEST and self.loss > self.of_mean

    def add(self, task: str, known: Array, y: Array, prediction: Array, outside: Array) -> None:
        """Count the validation rows of a fold.

        Args:
            task: the spec's.
            known: (m,) outcomes of the training rows.
            y: (n,) outcomes of the validation rows.
            prediction: (n,) or (n, k) answers to them.
            outside: (n,) whether each lies outside.
        """
        self.rows, self.outside = self.rows + len(y), self.outside + int(outside.sum())
        y, prediction = y[outside], prediction[outside]
        if task == "regression":
            self.loss += float(np.abs(y - prediction).sum())
            self.of_mean += float(np.abs(y - known.mean()).sum())
            return
        p = prediction if prediction.ndim == 2 else np.column_stack([1 - prediction, prediction])
        true = np.eye(p.shape[1])
        prior = true[known.astype(int)].mean(axis=0)
        self.loss += float(((true[y.astype(int)] - p) ** 2).sum())
        self.of_mean += float(((true[y.astype(int)] - prior) ** 2).sum())


def outside_range(frame: pd.DataFrame, columns: Sequence[str], train: Array, valid: Array) -> Array:
    """Which validation rows, (n,), have a number below the least or above the greatest of the training rows.

    A missing number is outside nothing, and a column without a number in the training rows has no range.

    >>> outside_range(pd.DataFrame({"a": [1.0, 2.0, 1.5, 3.0, None]}), ["a"], np.arange(2), np.arange(2, 5)).tolist()
    [False, True, False]
    """
    numbers = frame[list(columns)].to_numpy(dtype=float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        low, high = np.nanmin(numbers[train], axis=0), np.nanmax(numbers[train], axis=0)
    return np.asarray(((numbers[valid] < low) | (numbers[valid] > high)).any(axis=1))
