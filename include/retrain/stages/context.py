"""What a run knows of the world, written down before anything is decided.

One file makes a run repeatable: given the same `context.json`, decide, evaluate and gate say the same in
Airflow and on a laptop. Only what was effective by the run's as-of time is in it, so that a backfill sees
the past as it was.
"""

from __future__ import annotations

from retrain.ledger import Record
from retrain.results import Accepted, Champion, Context
from retrain.run import Run


def context(run: Run) -> Context:
    """Gather the accepted batches, the champion and the earlier trainings from the ledger."""
    ledger, model = run.ledger, run.model

    accepted: dict[str, Accepted] = {}
    for record in ledger.records(model, "snapshot"):
        one = Accepted.model_validate(record.body["accepted"])
        if one.batch.interval.end <= run.as_of:
            accepted[one.batch.interval.name] = one  # a later revision of the interval wins
    quarantined = sorted(
        {
            record.body["interval"]
            for record in ledger.records(model, "batch")
            if record.body["verdict"] == "quarantine" and record.effective_at <= run.as_of
        }
        - set(accepted)
    )
    # A retry of this very run must see what its first attempt saw.
    others = [record for record in ledger.records(model) if record.run != run.key]
    trainings = [one.effective_at for one in others if one.kind == "training" and one.effective_at <= run.as_of]
    promotions = [one for one in others if one.kind == "promotion"]
    return Context(
        model=model,
        interval=run.interval,
        effective_at=run.as_of,
        spec_digest=run.spec.digest,
        trigger=run.trigger,
        accepted=tuple(sorted(accepted.values(), key=lambda one: one.batch.interval.start)),
        quarantined=tuple(quarantined),
        champion=_champion(promotions[-1]) if promotions else None,
        last_training_at=max(trainings, default=None),
        newest_promotion_at=max((one.effective_at for one in promotions), default=None),
    )


def _champion(record: Record) -> Champion | None:
    return Champion.model_validate(record.body["champion"])
