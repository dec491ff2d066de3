"""Blocks: rows that depend on each other, and how much more they vary together than independent rows do.

Rows of one block (a day's weather, one interval, one customer) move together, so that a distance varies more than
between independent rows. How much more is estimated from the blocks themselves: the variance between blocks beyond
that within them (analysis of variance, random effects; Searle, Casella and McCulloch 1992).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from retrain.monitoring.stored_reference import GROUP, INTERVAL, TIME
from retrain.spec import Spec

ERRORS = 2.0
"""Standard errors by which the variance between blocks is taken from above."""

Array = NDArray[Any]

Codes = tuple[NDArray[np.int64], NDArray[np.int64]]
"""The block of every row of the reference, and of the batch."""


class Blocks:
    """How the rows of two samples fall into blocks.

    Args:
        reference, current: (n,) and (m,) code of each row's block. A block that lies on both sides counts as two.
    """

    def __init__(self, reference: Array, current: Array) -> None:
        sides = [np.unique(codes, return_inverse=True) for codes in (reference, current)]
        first = len(sides[0][0])
        self.code = np.concatenate([sides[0][1], sides[1][1] + first])
        self.count = first + len(sides[1][0])
        self.side = (np.arange(self.count) >= first).astype(int)
        self.rows = np.bincount(self.code, minlength=self.count).astype(float)
        total = np.array([len(reference), len(current)], dtype=float)
        squares = np.bincount(self.side, self.rows**2, minlength=2) / total
        each = np.bincount(self.side, minlength=2)
        self.alone = self.count == len(self.code)
        """Every row is a block of its own: the rows are independent."""
        self.own = float((squares / total).sum())
        """What a variance of 1 between blocks adds to the variance of the difference of the sides."""
        informative = total > each  # where every row is a block of its own, its side says nothing of blocks
        self.freedom = max(int((each[informative] - 1).sum()), 1)
        self._total = total
        self._size = max(float((total - squares)[informative].sum()), 1.0)
        # Within and between are set against each other side by side: the variance of a share depends on the share.
        self._within = np.where(informative, (each - 1) / np.maximum(total - each, 1), 0.0)[self.side]
        self._among = np.where(informative, 1 + ERRORS * math.sqrt(2 / self.freedom), 0.0)[self.side]

    def _shares(self, counts: Array) -> tuple[Array, Array]:
        """(count, k) of rows per block → each block's shares, and how they lie off those of their side."""
        whole = np.stack([counts[self.side == side].sum(axis=0) for side in range(2)]) / self._total[:, None]
        share = counts / self.rows[:, None]
        return share, share - whole[self.side]

    def between(self, counts: Array) -> Array:
        """The variance between blocks of each of k shares, from above; counts: (count, k) rows per block."""
        share, off = self._shares(counts)
        among = (self.rows * self._among) @ off**2
        within = (self.rows * self._within) @ (share * (1 - share))
        return np.asarray(np.maximum(among - within, 0.0) / self._size)

    def effects(self, counts: Array) -> Array:
        """Eigenvalues of the variance between blocks in units of that of one row; counts: (count, k)."""
        share, off = self._shares(counts)
        scale = 1 / np.sqrt(counts.sum(axis=0) / len(self.code))
        weight = (self.rows * self._within)[:, None]
        within = np.diag((share * weight).sum(axis=0)) - (share * weight).T @ share
        apart = ((off * (self.rows * self._among)[:, None]).T @ off - within) / self._size
        return np.asarray(np.linalg.eigvalsh(apart * scale * scale[:, None]))


def dependent_blocks(codes: Codes | None, rows: tuple[Array, Array]) -> Blocks | None:
    """The blocks of these rows of the reference and of the batch; None where rows are independent.

    Args:
        codes: of all rows.
        rows: (n,) and (m,) places of the rows of a sample.
    """
    blocks = Blocks(codes[0][rows[0]], codes[1][rows[1]]) if codes else None
    return None if blocks and blocks.alone else blocks


def block_codes(spec: Spec, reference: pd.DataFrame, current: pd.DataFrame) -> tuple[Codes | None, str]:
    """The blocks that the spec names, of both tables' rows.

    Returns:
        The codes, None where rows are independent; and a note where the champion's reference has no such blocks.
    """
    group, time = spec.training.group, spec.source.time
    block: str = spec.drift.block or ("group" if group else spec.evaluation.block)
    if block == "row":
        return None, ""
    if block == "interval":
        codes = interval_codes(reference)
        if codes is not None:
            return (codes, np.zeros(len(current), dtype=np.int64)), ""
    elif block == "group":
        name = GROUP if GROUP in reference else group
        if name in reference:
            sides = [
                pd.factorize(values, use_na_sentinel=False)[0] for values in (reference[name], current[str(group)])
            ]
            return (sides[0], sides[1]), ""
    else:
        name = TIME if TIME in reference else time
        if name in reference:
            return (_spans(reference[name], block), _spans(current[time], block)), ""
    return None, f"the champion is older than blocks of drift: rows are taken as independent, not by {block}"


def _spans(times: pd.Series, block: str) -> NDArray[np.int64]:
    """The hour, day or week (from Monday) of each row as a number."""
    width = {"hour": 3600, "day": 86_400, "week": 7 * 86_400}[block]
    seconds = pd.DatetimeIndex(times).tz_localize(None).to_numpy().astype("datetime64[s]").astype(np.int64)
    return np.asarray((seconds - 4 * 86_400) // width)  # 1970-01-05 was a Monday


def interval_codes(reference: pd.DataFrame) -> NDArray[np.int64] | None:
    """The interval of each reference row as integers in the order of time; None of an older champion."""
    if INTERVAL not in reference:
        return None
    return np.asarray(pd.factorize(reference[INTERVAL], sort=True)[0])
