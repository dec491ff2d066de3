"""What a look at holdout rows costs: alpha spending, per holdout interval.

Whoever asks the same rows again and again is told yes in the end. So every look is on record before the rows are
scored, and each holdout interval has `gate.level` to spend, once: the levels of all looks that share it add up to less
than that, so the chance that any of them promoted wrongly is below the level (Bonferroni over looks; spending a level
over looks whose number nobody knows in advance: Lan and DeMets 1983; as a share of what is left: Foster and Stine
2008).

A look spends `SHARE` of what is left of its most used interval, over the looks that the interval still expects: with
one holdout interval 0.8, then 0.16, then 0.032 of the level; with three, of which each is seen by three runs, about a
quarter of the level in every run. The same question again is the same look.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from retrain.results import Accepted, Context, TrainReport
from retrain.state.ledger import Record
from retrain.state.run import Run
from retrain.state.store import json_digest

SHARE = 0.8
NOTHING = 1e-9
"""A level that no rows could ever meet."""


class InterimAnalysis(NamedTuple):
    """The level that a look has for all of its candidates together, and how many looks shared its rows before."""

    level: float
    earlier: int


def begin_interim_analysis(
    run: Run, context: Context, train: TrainReport, holdout: Sequence[Accepted]
) -> InterimAnalysis:
    """Put on record that these holdout rows are about to be looked at, and say what that leaves.

    Raises:
        LedgerBusy: the database stayed locked; nothing was looked at.
    """
    spec = run.spec
    batches = sorted(one.batch.sha256 for one in holdout)
    asked = [one for one in train.fitted if one.kind != "baseline"]
    question = [
        [[one.batch.sha256, one.labels and one.labels.sha256] for one in holdout],
        train.judged_from,
        [[one.name, one.digest, one.configuration.model_dump(mode="json")] for one in asked],
        [one and one.digest for one in (context.champion, context.reference_champion)],
        [spec.gate.metric, spec.gate.margin, spec.gate.level, spec.evaluation.block, spec.training.group],
    ]
    mine = run.ledger.append(
        run.model,
        "interim_analysis",
        json_digest(question),
        {
            "intervals": [one.batch.interval.name for one in holdout],
            "batches": batches,
            "candidates": [one.name for one in asked],
            "level": spec.gate.level,
            "expected": spec.evaluation.holdout,
        },
        effective_at=run.as_of,
        run=run.key,
    )
    # Told from the records' order, not from what was there before: two runs at once do not spend the same twice.
    return next(
        one for record, one in levels_spent(run.ledger.records(run.model, "interim_analysis")) if record.id == mine.id
    )


def levels_spent(records: Iterable[Record]) -> list[tuple[Record, InterimAnalysis]]:
    """What each of a model's looks could spend; the records in the order in which they were written."""
    used: dict[str, float] = defaultdict(float)
    seen: Counter[str] = Counter()
    found: list[tuple[Record, InterimAnalysis]] = []
    for record in records:
        mine = record.body["batches"]
        level = min(
            SHARE * max(record.body["level"] - used[one], 0.0) / max(1, record.body["expected"] - seen[one])
            for one in mine
        )
        level = level if level > NOTHING else 0.0
        earlier = sum(not set(mine).isdisjoint(other.body["batches"]) for other, _ in found)
        found.append((record, InterimAnalysis(level, earlier)))
        for one in mine:
            used[one] += level
            seen[one] += 1
    return found
