"""What an interim analysis of holdout rows costs: alpha spending, per holdout interval.

Whoever asks the same rows again and again is told yes in the end. So every interim analysis is on record before the
rows are scored, and each holdout interval has `gate.level` to spend, once: the levels of all analyses that share it add
up to less than that, so the chance that any of them promoted wrongly is below the level (Bonferroni over analyses;
spending a level over analyses whose number nobody knows in advance: Lan and DeMets 1983; as a share of what is left:
Foster and Stine 2008).

An analysis spends `SHARE` of what is left of its most used interval, over the analyses that the interval still expects:
with one holdout interval 0.8, then 0.16, then 0.032 of the level; with three, of which each is seen by three runs,
about a quarter of the level in every run. The same question again is the same analysis.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from retrain.results import AcceptedBatch, Context, TrainReport
from retrain.state.ledger import Record
from retrain.state.run import Run
from retrain.state.store import json_digest

SHARE = 0.8
NOTHING = 1e-9
"""A level that no rows could ever meet."""


class InterimAnalysis(NamedTuple):
    """One time that holdout rows are scored.

    Attributes:
        level: chance of a wrong promotion that all of its candidates together may have.
        earlier: how many analyses shared some of its rows before.
    """

    level: float
    earlier: int

    def describe(self, candidates: int) -> str:
        """Say what the analysis may cost, for people.

        >>> InterimAnalysis(0.04, 0).describe(2)
        'the chance of a wrong promotion is held below 4.00%, 2.00% for each of 2 candidates'
        """
        each = f", {self.level / candidates:.2%} for each of {candidates} candidates" if candidates > 1 else ""
        chance = f"the chance of a wrong promotion is held below {self.level:.2%}{each}"
        times = "once" if self.earlier == 1 else f"{self.earlier} times"
        return f"these rows were looked at {times} before, which costs: {chance}" if self.earlier else chance


def begin_interim_analysis(
    run: Run, context: Context, train: TrainReport, holdout: Sequence[AcceptedBatch]
) -> InterimAnalysis:
    """Put on record that these holdout rows are about to be scored, and return the level that this leaves.

    Args:
        run: whose ledger the record goes to.
        context: the champion and the reference champion that are compared.
        train: the candidates.
        holdout: the batches whose rows judge.

    Raises:
        LedgerBusy: the database stayed locked; nothing was scored.
    """
    spec = run.spec
    batches = sorted(accepted.batch.sha256 for accepted in holdout)
    candidates = [fitted for fitted in train.fitted if fitted.kind != "baseline"]
    champions = (context.champion, context.reference_champion)
    question = [
        [[accepted.batch.sha256, accepted.labels and accepted.labels.sha256] for accepted in holdout],
        train.judged_from,
        [
            [
                candidate.name,
                candidate.digest,
                candidate.configuration.model_dump(mode="json"),
                *(link.digest for link in candidate.chain),
            ]
            for candidate in candidates
        ],
        [champion and champion.digest for champion in champions],
        [spec.gate.metric, spec.gate.margin, spec.gate.level, spec.evaluation.block, spec.training.group],
    ]
    own = run.ledger.append(
        run.model,
        "interim_analysis",
        json_digest(question),
        {
            "intervals": [accepted.batch.interval.name for accepted in holdout],
            "batches": batches,
            "candidates": [candidate.name for candidate in candidates],
            "level": spec.gate.level,
            "expected": spec.evaluation.holdout,
        },
        effective_at=run.as_of,
        run=run.key,
    )
    # Told from the records' order, not from what was there before: two runs at once do not spend the same twice.
    records = run.ledger.records(run.model, "interim_analysis")
    return next(analysis for record, analysis in levels_spent(records) if record.id == own.id)


def levels_spent(records: Iterable[Record]) -> list[tuple[Record, InterimAnalysis]]:
    """Work out what each of a model's interim analyses could spend.

    Args:
        records: `interim_analysis` of one model, in the order in which they were written.
    """
    used: dict[str, float] = defaultdict(float)
    analysed: Counter[str] = Counter()
    analyses: list[tuple[Record, InterimAnalysis]] = []
    for record in records:
        batches = record.body["batches"]
        level = min(
            SHARE * max(record.body["level"] - used[batch], 0.0) / max(1, record.body["expected"] - analysed[batch])
            for batch in batches
        )
        level = level if level > NOTHING else 0.0
        earlier = sum(not set(batches).isdisjoint(other.body["batches"]) for other, _ in analyses)
        analyses.append((record, InterimAnalysis(level, earlier)))
        for batch in batches:
            used[batch] += level
            analysed[batch] += 1
    return analyses
