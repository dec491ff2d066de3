"""Whether a spec can ever promote a model: intervals, rows and blocks of a holdout against what the gate asks for.

Only what is certain counts. A first model and a new configuration need `gate.min_blocks`; a refresh does not, but
without a first model there is none. Where a group makes the blocks, or each row is its own, nobody knows their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from retrain.spec import Spec

Problem = tuple[tuple[Any, ...], str]
"""The path to a key of the spec, and what is wrong there."""

MOST = 12
"""Intervals that `evaluation.holdout` may name, and starts of a holdout that are tried."""
MONDAY = datetime(1970, 1, 5, tzinfo=UTC)
WIDTH = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(weeks=1)}


def never_promoted(spec: Spec) -> Iterator[Problem]:
    """Why no model would ever be promoted, each with what to write instead."""
    yield from _too_few_blocks(spec)
    yield from _too_few_rows(spec)
    yield from _too_few_intervals(spec)


def _too_few_blocks(spec: Spec) -> Iterator[Problem]:
    evaluation, needed = spec.evaluation, spec.gate.min_blocks
    if spec.training.group or evaluation.block == "row":
        return
    count = max(blocks_of(spec, evaluation.holdout, evaluation.block))
    if count >= needed:
        return
    mends = [
        f"holdout: {holdout}"
        for holdout in range(evaluation.holdout + 1, MOST + 1)
        if min(blocks_of(spec, holdout, evaluation.block)) >= needed
    ][:1]
    shorter = [block for block in ("day", "hour") if WIDTH[block] < WIDTH[evaluation.block]]
    mends += [f"block: {block}" for block in shorter if min(blocks_of(spec, evaluation.holdout, block)) >= needed][:1]
    mends += ["block: row"] if not mends else []
    yield (
        ("evaluation", "holdout"),
        f"no first model and no new configuration can be promoted: {evaluation.holdout} {spec.interval.every}(s) have"
        f" {count} block(s) by {evaluation.block}, gate.min_blocks is {needed}; write evaluation:"
        f" {{{'} or {'.join(mends)}}}",
    )


def _too_few_rows(spec: Spec) -> Iterator[Problem]:
    most, needed, holdout = spec.quality.max_rows, spec.gate.min_rows, spec.evaluation.holdout
    if most is not None and most * holdout < needed:
        yield ("gate", "min_rows"), too_few(f"quality.max_rows lets {most:,} in", most, spec)


def too_few(rows: str, each: int, spec: Spec) -> str:
    """What to write where the holdout has fewer rows than the gate asks for.

    Args:
        rows: where the number of rows is known from.
        each: rows of an interval.
        spec: the spec.
    """
    needed, holdout = spec.gate.min_rows, spec.evaluation.holdout
    enough = -(-needed // max(each, 1))
    mend = f"evaluation: {{holdout: {enough}}} or " if enough <= MOST else ""
    return (
        f"nothing can be promoted: {rows} an interval, {holdout} interval(s) judge, gate.min_rows is {needed:,};"
        f" write {mend}gate: {{min_rows: {max(20, each * holdout * 4 // 5)}}}"
    )


def _too_few_intervals(spec: Spec) -> Iterator[Problem]:
    needed = max(spec.training.first_after, spec.evaluation.holdout + 1)
    count = sum(1 for _ in spec.intervals_until(spec.interval.end)) if spec.interval.end else needed
    if count < needed:
        yield (
            ("interval", "end"),
            f"there will be {count} interval(s), the first model needs {needed} with mature labels"
            " (training.first_after, evaluation.holdout)",
        )


def blocks_of(spec: Spec, holdout: int, block: str) -> list[int]:
    """How many blocks of time so many intervals touch, from each of the first dozen on.

    >>> from retrain.spec import EXAMPLE, parse
    >>> spec = parse(EXAMPLE.replace("every: month", "every: week"), "churn")
    >>> max(blocks_of(spec, 2, "day")), max(blocks_of(spec, 1, "week")), max(blocks_of(spec, 1, "hour"))
    (14, 1, 168)
    """
    starts = [spec.interval.start]
    for _ in range(MOST + holdout):
        starts.append(spec.interval.end_of(starts[-1]))

    def number(moment: datetime) -> int:
        return (moment - MONDAY) // WIDTH[block]

    spans = zip(starts, starts[holdout:], strict=False)
    return [number(end - timedelta(microseconds=1)) - number(start) + 1 for start, end in spans]
