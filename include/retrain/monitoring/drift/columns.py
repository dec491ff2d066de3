"""One column: what is said of all its rows, and what is compared of its samples."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.stats import binom, gamma

from retrain.monitoring.drift.chance import FEWEST, Array, Blocks, Null, of_categories, of_numbers, of_share
from retrain.monitoring.drift.limits import TEST, Kind, Limits, Role
from retrain.monitoring.drift.page import Compared, harmless
from retrain.monitoring.drift.samples import Side, categories, ks_distance, lumped, numbers, plottable, some
from retrain.results import ColumnDrift

NAMED = 5
UNTELLABLE = 0.5  # a limit above this would call almost nothing drift

Codes = tuple[NDArray[np.int64], NDArray[np.int64]]
"""The block of every row of the reference, and of the batch."""


@dataclass(frozen=True)
class Test:
    """A statistic that waits for the level at which it is judged, which hangs on all the others."""

    name: str
    statistic: float
    floor: float
    null: Null
    reason: str


@dataclass(frozen=True)
class Judged:
    """What is known of one column: the test of its values or why there is none, tests of the whole table, samples."""

    main: Test | str
    """A text says why nothing can be told of the values."""
    name: str
    others: tuple[Test, ...] = ()
    idle: int = 0
    """Tests that had nothing to tell. They count among all tests: in another batch they would have."""
    compared: Compared | None = None


def judge(
    before: pd.Series,
    now: pd.Series,
    column: str,
    kind: Kind,
    role: Role,
    limits: Limits,
    seed: int,
    known: Set[str] | None,
    codes: Codes | None,
) -> Judged:
    draws = [np.random.default_rng([seed, crc32(column.encode()), side]) for side in range(3)]
    others: list[Test] = []
    if kind == "number":
        ref, cur = (numbers(s, column, limits.sample, rng) for s, rng in zip((before, now), draws, strict=False))
        levels: Sequence[str] = ()
    else:
        ref, cur, levels, counts = categories(before, now, limits.sample, draws)
        if ref.present and cur.present:
            others += _new(ref, cur, levels, counts, limits.new, known, codes)
    if role == "feature" and ref.present + cur.present < ref.rows + cur.rows:
        others.insert(0, _missing(ref, cur, limits, codes, draws))
    if ref.present and cur.present and (ref.only is None) != (cur.only is None):
        others.append(_constant(ref, cur, levels, limits.new, codes))
    idle = (2 if kind == "category" else 1) - sum(one.name != "missing" for one in others)

    def untold(why: str, name: str = TEST[kind]) -> Judged:
        return Judged(why, name, tuple(others), idle)

    if empty := [name for name, side in (("reference", ref), ("batch", cur)) if not side.present]:
        return untold(f"no values in the {' nor in the '.join(empty)}")
    if ref.only is not None and ref.only == cur.only:
        return untold(f"always {_value(ref.only, levels)} on both sides", "constant")
    if min(ref.present, cur.present) < limits.min_rows:
        return untold(f"only {min(ref.present, cur.present)} values of at least {limits.min_rows} in a side")
    samples, labels = (ref.sample, cur.sample), [""]
    if kind == "category":
        samples, labels = lumped(*samples, levels)
    blocks = Blocks(codes[0][ref.at], codes[1][cur.at]) if codes else None
    blocks = None if blocks and blocks.alone else blocks
    if blocks and blocks.freedom < FEWEST:
        return untold(f"its values lie in {blocks.count} blocks of both sides, at least {FEWEST + 2} are needed")
    distance = (ks_distance if kind == "number" else _jensenshannon)(*samples)
    null = of_numbers(*samples, blocks) if kind == "number" else of_categories(*samples, blocks, draws[2])
    if (usual := null.critical(limits.false_alarms)) > UNTELLABLE:
        why = "too few values for so many levels" if blocks is None and kind == "category" else "too few blocks or rows"
        return untold(f"chance alone gives a distance up to {usual:.2f}: {why}")
    reason = f"{len(samples[0]):,} against {len(samples[1]):,} values"
    reason += f" in {blocks.count} blocks" if blocks else ""
    floor = limits.per_column.get(column, limits.effect)
    test = Test(TEST[kind], distance, floor, null, reason)
    if kind == "category":
        names = np.array(harmless(labels), dtype=object)
        compared = Compared(kind, names[samples[0]], names[samples[1]])
    else:
        compared = Compared(kind, *plottable(*samples))
    return Judged(test, TEST[kind], tuple(others), idle, compared)


def undetermined(column: str, role: Role, test: str, why: str, weight: float | None) -> ColumnDrift:
    return ColumnDrift(column=column, role=role, test=test, verdict="undetermined", weight=_rounded(weight), reason=why)


def verdict(column: str, role: Role, test: Test, level: float, weight: float | None) -> ColumnDrift:
    """Drift where the change is surer than chance at this level, and as large as the floor."""
    p = min(max(test.null.p_value(test.statistic), 0.0), 1.0)
    sure = p <= level
    said: Literal["drift", "stable"] = "drift" if sure and test.statistic >= test.floor else "stable"
    threshold = max(test.floor, min(test.null.critical(level), 1.0))
    if said == "stable" and test.statistic >= threshold:
        threshold = math.nextafter(test.statistic, math.inf)
    of = "distance" if test.name in TEST.values() else "share"
    weighs = "" if sure else f", chance gives up to {threshold:.3f}"
    reason = f"{of} {test.statistic:.3f}, floor {test.floor:g}, p {p:.2g} at level {level:.2g}{weighs}; {test.reason}"
    return ColumnDrift(
        column=column,
        role=role,
        test=test.name,
        verdict=said,
        statistic=round(test.statistic, 6),
        threshold=round(threshold, 6),
        p_value=float(f"{p:.4g}"),
        weight=_rounded(weight),
        reason=reason,
    )


def _rounded(weight: float | None) -> float | None:
    return None if weight is None else round(weight, 6)


def _jensenshannon(reference: Array, current: Array) -> float:
    size = int(max(reference.max(), current.max())) + 1
    return float(jensenshannon(*(np.bincount(side, minlength=size) for side in (reference, current))))


def _missing(ref: Side, cur: Side, limits: Limits, codes: Codes | None, draws: Sequence[np.random.Generator]) -> Test:
    before, now = 1 - ref.present / ref.rows, 1 - cur.present / cur.rows
    pooled = 1 - (ref.present + cur.present) / (ref.rows + cur.rows)
    blocks, marked = None, np.empty(0)
    if codes:
        at = [some(side.rows, limits.sample, rng) for side, rng in zip((ref, cur), draws, strict=False)]
        blocks = Blocks(codes[0][at[0]], codes[1][at[1]])
        marked = np.concatenate([~ref.usable[at[0]], ~cur.usable[at[1]]])
    blocks = None if blocks and blocks.alone else blocks
    null = of_share(pooled, 1 / ref.rows + 1 / cur.rows, blocks, marked)
    reason = f"{before:.1%} of the reference and {now:.1%} of the batch are missing or infinite"
    return Test("missing", abs(now - before), limits.missing, null, reason)


def _new(
    ref: Side,
    cur: Side,
    levels: Sequence[str],
    counts: Sequence[NDArray[np.intp]],
    limit: float,
    known: Set[str] | None,
    codes: Codes | None,
) -> list[Test]:
    """Unseen categories, where they are more than a long tail always has.

    Against how many rows random splits of the same levels would put there, a level's blocks being dealt as wholes;
    where the categories of all training rows are known, and the rows independent, also against the limit itself.
    """
    past, new = counts
    unseen = np.flatnonzero((past == 0) & (new > 0))
    if known is not None:
        unseen = unseen[[levels[int(code)] not in known for code in unseen]]
    if not len(unseen):
        return []
    rows = int(new.sum())
    share = float(new[unseen].sum()) / rows
    pooled = (past + new).astype(float)
    here = (rows / pooled.sum()) ** pooled
    if codes and share >= limit:
        rare = here > 1e-12
        rare[unseen] = True
        here = np.maximum(here, np.where(rare, _dealt(ref, cur, rare, codes), 0))
    here, pooled = here[pooled > 0], pooled[pooled > 0]
    mean, variance = float((pooled * here).sum()), float((pooled**2 * here * (1 - here)).sum())
    strict = known is not None and codes is None

    def p_value(share: float) -> float:
        chance = float(gamma.sf(share * rows, mean**2 / variance, scale=variance / mean)) if variance > 1e-12 else 0.0
        return min(chance, float(binom.sf(round(share * rows) - 1, rows, limit))) if strict else chance

    def critical(level: float) -> float:
        usual = float(gamma.isf(level, mean**2 / variance, scale=variance / mean)) if variance > 1e-12 else 0.0
        return (min(usual, float(binom.isf(level, rows, limit)) + 1) if strict else usual) / rows

    names = bounded([repr(levels[code][:40]) for code in unseen[np.argsort(-new[unseen], kind="stable")]])
    reason = f"{share:.2%} of the batch in categories that the reference never had: {names}"
    return [Test("new categories", share, limit, Null(p_value, critical), reason)]


def _dealt(ref: Side, cur: Side, rare: NDArray[np.bool_], codes: Codes) -> Array:
    """The chance of each rare level that all of its blocks fall to the batch when blocks are dealt."""
    lies, blocks = np.zeros(len(rare)), []
    for side, code in zip((ref, cur), codes, strict=True):
        assert side.find is not None
        at, level = side.find(rare)
        first, width = int(code.min()), int(np.ptp(code)) + 1
        pairs = pd.unique(level * width + (code[at] - first))  # hashing: sorting ten million pairs costs seconds
        lies += np.bincount(pairs // width, minlength=len(rare))
        blocks.append(len(np.unique(code[side.at])))
    return np.asarray((blocks[1] / sum(blocks)) ** lies)


def _constant(ref: Side, cur: Side, levels: Sequence[str], limit: float, codes: Codes | None) -> Test:
    sides = ((cur, "batch"), (ref, "reference"))
    (still, where), (moving, _) = sides if ref.only is None else sides[::-1]
    assert still.only is not None
    others = 1 - moving.count(still.only) / moving.present
    dealt = 0.0
    if codes:
        mine, theirs = codes[::-1] if still is cur else codes
        block, place = np.unique(theirs[moving.at], return_inverse=True)
        moves = np.bincount(place, moving.sample != still.only, minlength=len(block)) > 0
        dealt = ((len(block) - moves.sum() + 0.5) / (len(block) + 1)) ** len(np.unique(mine[still.at]))
    null = Null(
        lambda share: max((1 - share) ** still.present, dealt),
        lambda level: 1 - level ** (1 / still.present) if dealt <= level else 1.0,
    )
    reason = f"always {_value(still.only, levels)} in the {where}, other values in {others:.2%} of the other side"
    return Test("constant", others, limit, null, reason)


def _value(value: float, levels: Sequence[str]) -> str:
    return repr(levels[int(value)][:40]) if levels else f"{value:g}"


def bounded(names: Sequence[str], limit: int = NAMED) -> str:
    more = f", … and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
