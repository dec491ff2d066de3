"""Tests of all rows of a column: missing values, new categories, a column that became constant.

A test is a function from a `ColumnPair` to a `DriftTest`, or to None where it has nothing to test. A new one is written
here and entered in `FAMILY`; its floor goes to `limits.Limits`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binom, gamma

from retrain.monitoring.drift.blocks import Array, Codes, dependent_blocks
from retrain.monitoring.drift.limits import Kind, Limits, Role
from retrain.monitoring.drift.null_distribution import NullDistribution, share_null
from retrain.monitoring.drift.samples import Side, draw_rows

NAMED = 5
"""Names that a reason lists."""


@dataclass(frozen=True)
class DriftTest:
    """A statistic that waits for the level at which it is judged, which depends on all the other tests.

    Attributes:
        name: of the test, as reports have it.
        statistic: what was measured.
        floor: below it a change does not matter.
        null: the distribution of the statistic where nothing has changed.
        reason: what was measured, in words.
    """

    name: str
    statistic: float
    floor: float
    null: NullDistribution
    reason: str


@dataclass(frozen=True)
class ColumnPair:
    """A column of the reference and of the batch, and how it is judged.

    Attributes:
        reference, current: the two sides.
        labels: of a category, the text of each code.
        counts: of a category, the rows of each code on either side.
        known: of a category, every category of the training rows; None where they are not known.
        codes: the block of every row; None where rows are independent.
        draws: the random generators of the reference, of the batch, and of the null distribution.
    """

    kind: Kind
    role: Role
    reference: Side
    current: Side
    labels: Sequence[str]
    counts: Sequence[NDArray[np.intp]]
    limits: Limits
    known: Set[str] | None
    codes: Codes | None
    draws: Sequence[np.random.Generator]

    @property
    def filled(self) -> bool:
        """Whether both sides hold a value."""
        return bool(self.reference.present and self.current.present)


def missing_values(column: ColumnPair) -> DriftTest | None:
    """Test the share of missing or infinite values; of a feature that has any.

    A label that is missing is not there yet: the target has no such test.
    """
    ref, cur = column.reference, column.current
    if column.role != "feature" or ref.present + cur.present == ref.rows + cur.rows:
        return None
    before, now = 1 - ref.present / ref.rows, 1 - cur.present / cur.rows
    pooled = 1 - (ref.present + cur.present) / (ref.rows + cur.rows)
    blocks, marked = None, np.empty(0)
    if column.codes:
        sample = column.limits.sample
        at = [draw_rows(side.rows, sample, rng) for side, rng in zip((ref, cur), column.draws, strict=False)]
        blocks = dependent_blocks(column.codes, (at[0], at[1]))
        marked = np.concatenate([~ref.usable[at[0]], ~cur.usable[at[1]]])
    null = share_null(pooled, 1 / ref.rows + 1 / cur.rows, blocks, marked)
    reason = f"{before:.1%} of the reference and {now:.1%} of the batch are missing or infinite"
    return DriftTest("missing", abs(now - before), column.limits.missing, null, reason)


def new_categories(column: ColumnPair) -> DriftTest | None:
    """Test the share of rows in unseen categories, where they are more than a long tail always has.

    Against how many rows random splits of the same levels would put there, a level's blocks being dealt as wholes;
    where the categories of all training rows are known, and the rows independent, also against the limit itself.
    """
    if not column.filled:
        return None
    labels, known, codes, limit = column.labels, column.known, column.codes, column.limits.new
    past, new = column.counts
    unseen = np.flatnonzero((past == 0) & (new > 0))
    if known is not None:
        unseen = unseen[[labels[int(code)] not in known for code in unseen]]
    if not len(unseen):
        return None
    rows = int(new.sum())
    share = float(new[unseen].sum()) / rows
    pooled = (past + new).astype(float)
    here = (rows / pooled.sum()) ** pooled
    if codes and share >= limit:
        rare = here > 1e-12
        rare[unseen] = True
        here = np.maximum(here, np.where(rare, _dealt(column, rare, codes), 0))
    here, pooled = here[pooled > 0], pooled[pooled > 0]
    mean, variance = float((pooled * here).sum()), float((pooled**2 * here * (1 - here)).sum())
    strict = known is not None and codes is None

    def p_value(share: float) -> float:
        chance = float(gamma.sf(share * rows, mean**2 / variance, scale=variance / mean)) if variance > 1e-12 else 0.0
        return min(chance, float(binom.sf(round(share * rows) - 1, rows, limit))) if strict else chance

    def critical(level: float) -> float:
        usual = float(gamma.isf(level, mean**2 / variance, scale=variance / mean)) if variance > 1e-12 else 0.0
        return (min(usual, float(binom.isf(level, rows, limit)) + 1) if strict else usual) / rows

    names = bounded_list([repr(labels[code][:40]) for code in unseen[np.argsort(-new[unseen], kind="stable")]])
    reason = f"{share:.2%} of the batch in categories that the reference never had: {names}"
    return DriftTest("new categories", share, limit, NullDistribution(p_value, critical), reason)


def _dealt(column: ColumnPair, rare: NDArray[np.bool_], codes: Codes) -> Array:
    """The chance of each rare level that all of its blocks fall to the batch when blocks are dealt."""
    lies, blocks = np.zeros(len(rare)), []
    for side, code in zip((column.reference, column.current), codes, strict=True):
        assert side.find is not None
        at, level = side.find(rare)
        first, width = int(code.min()), int(np.ptp(code)) + 1
        pairs = pd.unique(level * width + (code[at] - first))  # hashing: sorting ten million pairs costs seconds
        lies += np.bincount(pairs // width, minlength=len(rare))
        blocks.append(len(np.unique(code[side.at])))
    return np.asarray((blocks[1] / sum(blocks)) ** lies)


def constant_column(column: ColumnPair) -> DriftTest | None:
    """Test whether a column that varies on one side is constant on the other."""
    ref, cur, codes, limit = column.reference, column.current, column.codes, column.limits.new
    if not column.filled or (ref.only is None) == (cur.only is None):
        return None
    sides = ((cur, "batch"), (ref, "reference"))
    (still, where), (moving, _) = sides if ref.only is None else sides[::-1]
    assert still.only is not None
    others = 1 - moving.count(still.only) / moving.present
    dealt = 0.0
    if codes:
        still_codes, moving_codes = codes[::-1] if still is cur else codes
        block, place = np.unique(moving_codes[moving.at], return_inverse=True)
        moves = np.bincount(place, moving.sample != still.only, minlength=len(block)) > 0
        dealt = ((len(block) - moves.sum() + 0.5) / (len(block) + 1)) ** len(np.unique(still_codes[still.at]))
    null = NullDistribution(
        lambda share: max((1 - share) ** still.present, dealt),
        lambda level: 1 - level ** (1 / still.present) if dealt <= level else 1.0,
    )
    reason = (
        f"always {value_text(still.only, column.labels)} in the {where}, other values in {others:.2%} of the other side"
    )
    return DriftTest("constant", others, limit, null, reason)


FAMILY: Mapping[Kind, Sequence[Callable[[ColumnPair], DriftTest | None]]] = {
    "number": (constant_column,),
    "category": (new_categories, constant_column),
}
"""The tests of each kind of column that count among all tests, also where they have nothing to test: in another batch
they would have."""


def value_text(value: float, labels: Sequence[str]) -> str:
    """A value as a reason names it; `labels` are those of a category, empty for a number."""
    return repr(labels[int(value)][:40]) if labels else f"{value:g}"


def bounded_list(names: Sequence[str], limit: int = NAMED) -> str:
    """The first names, and how many more there are.

    >>> bounded_list(["a", "b", "c"], 2)
    'a, b, … and 1 more'
    """
    more = f", … and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
