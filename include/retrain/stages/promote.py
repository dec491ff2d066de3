"""The champion changes here and nowhere else, once, on record.

The ledger is the truth and the MLflow alias its projection. A promotion is one record under the next sequence
number, so that of several racing promoters exactly one wins; then the alias follows. A process killed between
the two is completed by its retry, because the record is found again by the run's key.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from retrain.errors import NothingToRollBack, OutOfBandChange, StaleRun
from retrain.ledger import Record
from retrain.results import (
    Champion,
    Context,
    Decision,
    GateReport,
    PromoteReport,
    RefitReport,
    RegisterReport,
)
from retrain.run import Run
from retrain.tools.registry import Registry

CHAMPION = "champion"
CHALLENGER = "challenger"


def promote(run: Run) -> PromoteReport:
    """Make this run's version the champion.

    Raises:
        StaleRun: a newer run has promoted since.
        PromotionConflict: somebody else promoted at this very moment.
        OutOfBandChange: the alias was moved by hand; nothing is overwritten.
    """
    registered = run.read(RegisterReport, "register")
    if registered.version is None:
        return _report(run, Decision(verdict="kept", reasons=registered.decision.reasons))
    registry = Registry(run.home.mlflow)
    history = run.ledger.records(run.model, "promotion")
    mine = next((one for one in history if one.key == run.key), None)
    if mine is None:
        head = history[-1] if history else None
        if newer := [one for one in history if one.effective_at > run.as_of]:
            raise StaleRun(
                f"this run is as of {run.as_of:%Y-%m-%d}, version {newer[-1].body['version']} was promoted"
                f" as of {newer[-1].effective_at:%Y-%m-%d}",
                do="nothing: the newer champion keeps serving",
            )
        _untouched(run, registry, head)
        gate = run.read(GateReport, "gate")
        mine = run.ledger.append(
            run.model,
            "promotion",
            run.key,
            {
                "action": "promote",
                "version": registered.version,
                "previous": head.body["version"] if head else None,
                "kind": gate.kind,
                "reasons": list(gate.decision.reasons),
                "trigger": run.trigger.model_dump(mode="json"),
                "champion": champion(run, registered.version, registered.run_id).model_dump(mode="json"),
            },
            effective_at=run.as_of,
            run=run.key,
            sequence=_next(history),
        )
    elif mine is not history[-1]:
        return _told(run, mine, "promoted before; the champion has changed since")
    registry.point(run.model, CHAMPION, registered.version)
    if registry.alias(run.model, CHALLENGER) == registered.version:
        registry.clear(run.model, CHALLENGER)
    previous = f", was version {mine.body['previous']}" if mine.body["previous"] else ""
    return _told(run, mine, f"version {registered.version} serves{previous}")


def rollback(run: Run, reason: str) -> PromoteReport:
    """Put the predecessor of the champion back.

    Args:
        run: names the model; its key makes a repeated call the same rollback.
        reason: why, for the record.

    Raises:
        NothingToRollBack: there is no champion, or it had no predecessor.
        OutOfBandChange: the alias was moved by hand.
        ArtifactMissing, DigestMismatch: the predecessor's files are not what they were.
    """
    registry = Registry(run.home.mlflow)
    history = run.ledger.records(run.model, "promotion")
    mine = next((one for one in history if one.key == run.key), None)
    if mine is None:
        head = history[-1] if history else None
        _untouched(run, registry, head)
        target = _predecessor(run, history)
        _loads(run, registry, target)
        mine = run.ledger.append(
            run.model,
            "promotion",
            run.key,
            {
                "action": "rollback",
                "version": target.body["version"],
                "previous": history[-1].body["version"],
                "kind": "rollback",
                "reasons": [reason],
                "trigger": run.trigger.model_dump(mode="json"),
                "champion": target.body["champion"],
            },
            # On the data's clock the rollback stands where the bad promotion stood: a later run may promote again.
            effective_at=history[-1].effective_at,
            run=run.key,
            sequence=_next(history),
        )
    elif mine is not history[-1]:
        return _told(run, mine, "rolled back before; the champion has changed since")
    registry.point(run.model, CHAMPION, mine.body["version"])
    return _told(
        run, mine, f"version {mine.body['version']} serves again, was version {mine.body['previous']}: {reason}"
    )


def _next(history: list[Record]) -> int:
    return (history[-1].sequence or 0) + 1 if history else 1


def _predecessor(run: Run, history: list[Record]) -> Record:
    """The record that made the champion's predecessor champion."""
    if history:
        serving = history[-1].body["version"]
        came = next(
            one for one in reversed(history) if one.body["version"] == serving and one.body["action"] == "promote"
        )
        for one in reversed(history):
            if one.body["version"] == came.body["previous"] and one.body["action"] == "promote":
                return one
    raise NothingToRollBack(
        f"{run.model} has no earlier champion on record", do="promote a version first; see python -m retrain status"
    )


def _loads(run: Run, registry: Registry, target: Record) -> None:
    """The target's files are there and are what they were."""
    champion = Champion.model_validate(target.body["champion"])
    with tempfile.TemporaryDirectory(prefix="retrain-") as folder:
        registry.fetch(run.model, champion.version, champion.digest, Path(folder) / "model")


def _untouched(run: Run, registry: Registry, head: Record | None) -> None:
    """The alias is where the ledger left it.

    A promoter that was killed after its record and before the alias leaves the alias at the predecessor; that
    is not a hand's work, and whoever comes next completes it.
    """
    found, wanted = registry.alias(run.model, CHAMPION), head.body["version"] if head else None
    if found == wanted:
        return
    if head is not None and found == head.body["previous"]:
        registry.point(run.model, CHAMPION, head.body["version"])
        return
    raise OutOfBandChange(
        f"the champion alias points at version {found or 'none'}, the ledger says {wanted or 'none'}",
        do=f"put the alias back to {wanted or 'none'} in MLflow, or roll back with python -m retrain rollback",
    )


def champion(run: Run, version: int, run_id: str) -> Champion:
    """What this run's refit is as a champion."""
    context, refit = run.read(Context, "context"), run.read(RefitReport, "refit")
    return Champion(
        version=version,
        run_id=run_id,
        digest=refit.fitted.digest,
        configuration=refit.fitted.configuration,
        training=refit.fitted.training,
        reference=run.path("refit"),
        trained_until=refit.fitted.intervals[-1].end,
        rows=refit.fitted.rows,
        promised=run.read(GateReport, "gate").challenger_score,
        effective_at=context.effective_at,
    )


def _report(run: Run, decision: Decision) -> PromoteReport:
    return PromoteReport(model=run.model, interval=run.interval, effective_at=run.as_of, decision=decision)


def _told(run: Run, record: Record, reason: str) -> PromoteReport:
    verdict = "promoted" if record.body["action"] == "promote" else "rolled back"
    return PromoteReport(
        model=run.model,
        interval=run.interval,
        effective_at=run.as_of,
        decision=Decision(verdict=verdict, reasons=(reason,)),
        version=record.body["version"],
        previous=record.body["previous"],
        sequence=record.sequence,
    )
