"""What a run knows of the world, written down before anything is decided.

One file makes a run repeatable: given the same `context.json`, decide, evaluate and gate say the same in
Airflow and on a laptop. Only what was effective by the run's as-of time is in it, so that a backfill sees
the past as it was.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from datetime import datetime

from retrain.errors import MissingInput
from retrain.results import HELD, AcceptedBatch, Alert, Champion, Context, LabelBatch, Signal
from retrain.state import projections
from retrain.state.ledger import Record
from retrain.state.run import Run

SIGNALS = 500
"""More than any policy reads."""


def context(run: Run) -> Context:
    """Gather the accepted batches, the champion, the earlier trainings and what the monitor said from the ledger.

    Raises:
        MissingInput: the run was started by a decision of the monitor that is not on record.
    """
    # A retry of this very run must see what its first attempt saw.
    records = run.ledger.records(run.model)
    others = [record for record in records if record.run != run.key]
    known = {
        kind: [record for record in records if record.kind == kind and record.effective_at <= run.as_of]
        for kind in ("snapshot", "labels", "batch", "release")
    }

    accepted = _accepted(known["snapshot"], known["labels"], run)
    # The monitor asks anew what was found at this very moment, perhaps by the retraining, and comes to the same.
    before = [record for record in others if record.effective_at < run.as_of] if run.loop == "monitor" else others
    held = _held(before, known["release"], accepted, run.as_of)
    quarantined = {record.body["interval"] for record in known["batch"] if record.body["verdict"] == "quarantine"}
    promotions = [record for record in others if record.kind == "promotion"]
    trainings = sorted(
        record.effective_at for record in others if _trains(record, run) and record.effective_at <= run.as_of
    )
    # The monitor looks at who served until then, not at who was promoted at that very moment, perhaps just now; a
    # retraining is up against who serves.
    served = promotions
    if run.loop == "monitor":
        served = [record for record in promotions if record.effective_at < run.as_of]
    champion = projections.champion_at(served, datetime.max.replace(tzinfo=run.as_of.tzinfo))
    rollouts = [record for record in others if record.kind == "rollout"]
    lineage = projections.lineage(served, champion)
    return Context(
        model=run.model,
        interval=run.interval,
        effective_at=run.as_of,
        spec_digest=run.spec.digest,
        trigger=run.trigger,
        accepted=tuple(batch for name, batch in sorted(accepted.items()) if name not in held),
        quarantined=tuple(sorted(quarantined - set(accepted))),
        held=tuple(sorted(held)),
        doubtful=tuple(batch for name, batch in sorted(accepted.items()) if held.get(name)),
        champion=champion,
        reference_champion=projections.reference_champion(served),
        blocklist=projections.blocklist(record for record in others if record.kind in ("promotion", "rollout")),
        rollout=projections.rollout_at(served, rollouts, run.as_of) if champion else None,
        last_training_at=trainings[-1] if trainings else None,
        newest_promotion_at=max((record.effective_at for record in promotions), default=None),
        trainings=tuple(trainings),
        lineage=lineage,
        signals=_signals(others, champion, lineage, run.as_of, held),
        measured=_measured(others, run.as_of),
        alert=_alert(run, others) if run.trigger.kind == "alert" else None,
    )


def _trains(record: Record, run: Run) -> bool:
    """A training; or, to the monitor, one that the loop has decided on for this very moment and that is under way."""
    if record.kind != "decision" or run.loop != "monitor":
        return record.kind == "training"
    return record.body["by"] == "retrain" and record.body["verdict"] == "retrain" and record.effective_at == run.as_of


def _accepted(snapshots: Iterable[Record], labels: Iterable[Record], run: Run) -> dict[str, AcceptedBatch]:
    """Interval → its accepted batch, with its labels where they came apart; a later revision wins."""
    by_interval: dict[str, AcceptedBatch] = {}
    for record in snapshots:
        accepted = AcceptedBatch.model_validate(record.body["accepted"])
        if accepted.batch.interval.end <= run.as_of:
            by_interval[accepted.batch.interval.name] = accepted
    for record in labels:
        name = record.body["interval"]
        if name in by_interval and record.body["batch"] == by_interval[name].batch.sha256:
            # Labels of a batch that was revised since are joined anew.
            joined = LabelBatch.model_validate(record.body["labels"])
            by_interval[name] = by_interval[name].model_copy(update={"labels": joined})
    return by_interval


def _held(
    records: Iterable[Record], releases: Iterable[Record], accepted: dict[str, AcceptedBatch], moment: datetime
) -> dict[str, bool]:
    """Interval that is held → whether later intervals may answer it.

    Its data look broken, or its labels look wrong, no person has released it, and no later interval has shown that the
    world had changed there.
    """
    released = {record.key for record in releases}
    held: dict[str, bool] = {}
    for record in sorted(records, key=lambda record: (record.effective_at, record.id)):
        if record.kind != "signal" or record.body["question"] != "kind" or record.effective_at > moment:
            continue
        name, doubt = record.body["interval"], record.body["signal"].get("doubt", "")
        if record.body["verdict"] in HELD:
            held[name] = held.get(name, True) and doubt == "open"
        elif doubt == "answered" and held.get(name):
            del held[name]
    return {
        name: open_
        for name, open_ in held.items()
        if name in accepted and f"{name}/{accepted[name].batch.sha256}" not in released
    }


def _signals(
    records: Iterable[Record],
    champion: Champion | None,
    lineage: tuple[int, ...],
    moment: datetime,
    held: Container[str],
) -> tuple[Signal, ...]:
    """The newest signals about the champion, oldest first; realised performance is its lineage's too.

    Regret also of the champions before it, for the record of the windows, but of no interval that is held.
    """
    if champion is None:
        return ()
    signals = [
        Signal.model_validate(record.body["signal"])
        for record in records
        if record.kind == "signal"
        and record.effective_at <= moment
        and (
            record.body["champion"] == champion.version
            or record.body["question"] == "regret"
            or (record.body["question"] == "realised" and record.body["champion"] in lineage)
        )
        and not (record.body["question"] == "regret" and record.body["interval"] in held)
    ]
    signals.sort(key=lambda signal: (signal.effective_at, signal.question, signal.interval.start))
    return tuple(signals[-SIGNALS:])


def _measured(records: Iterable[Record], moment: datetime) -> tuple[str, ...]:
    """The intervals that were measured at an earlier moment; what could not be told is asked again."""
    return tuple(
        sorted(
            {
                record.body["interval"]
                for record in records
                if record.kind == "signal"
                and record.body["question"] == "realised"
                and record.body["verdict"] != "undetermined"
                and record.effective_at < moment
            }
        )
    )


def _alert(run: Run, records: Iterable[Record]) -> Alert:
    """What started the run: a decision of the monitor on record, or an alert from outside, which is put there."""
    decisions = [record for record in records if record.kind == "decision" and record.key == run.trigger.id]
    if decisions:
        return Alert(
            id=run.trigger.id,
            origin="monitor",
            verdict=decisions[0].body["verdict"],
            reason="; ".join(decisions[0].body["reasons"]),
            effective_at=decisions[0].effective_at,
        )
    if run.trigger.id.startswith("monitor"):
        raise MissingInput(
            f"no decision {run.trigger.id!r} is on record",
            do="an alert from outside takes an id that does not begin with 'monitor'",
        )
    reason = run.trigger.reason or "no reason given"
    body = {"reason": reason, "interval": run.interval.name}
    run.ledger.append(run.model, "alert", run.trigger.id, body, effective_at=run.as_of, run=run.key)
    return Alert(id=run.trigger.id, origin="outside", verdict="retrain", reason=reason, effective_at=run.as_of)
