"""Actions of a rollout: what its verdict asks for is done, each step once, on record; a rehearsal does nothing."""

from __future__ import annotations

import logging
from dataclasses import replace

from retrain.errors import (
    ArtifactMissing,
    DigestMismatch,
    EstimatorRefused,
    ModelBlocked,
    ModelFormatRefused,
    RetrainError,
    SmokeTestFailed,
    StaleRun,
)
from retrain.monitoring.paired_evidence import PairedEvidence, figures
from retrain.registry import promotion, restore, rollback, rollouts, smoke_test
from retrain.registry.mlflow import Registry
from retrain.registry.promotion import CHALLENGER, ChampionChange
from retrain.registry.rollout_rules import RolloutVerdict
from retrain.rendering.text import run_key_of
from retrain.results import Context, Decision, Rollout
from retrain.state import projections
from retrain.state.evidence import check_files
from retrain.state.run import Run

log = logging.getLogger(__name__)

NO_GOOD = (ArtifactMissing, DigestMismatch, EstimatorRefused, ModelFormatRefused, SmokeTestFailed)
"""Refusals that stop a challenger which was to serve."""


def overtaken(run: Run, rollout: Rollout) -> str:
    """How another run has changed something since this run's context was written; empty if none has."""
    changes = promotion.promotions(run)
    if promotion.own_change(run, changes) is None and changes[-1].body["version"] != rollout.champion:
        return f"version {changes[-1].body['version']} has come to serve since"
    others_changes = [record for record in changes if record.run != run.key]
    others_rollouts = [record for record in run.ledger.records(run.model, rollouts.ROLLOUT) if record.run != run.key]
    if projections.rollout_at(others_changes, others_rollouts, run.as_of) != rollout:
        return "another run has judged it since"
    return ""


def carry_out(
    run: Run, context: Context, rollout: Rollout, verdict: RolloutVerdict, evidence: PairedEvidence
) -> Decision:
    """Do what a verdict asks for, and tell what came of it.

    Raises:
        ArtifactMissing, DigestMismatch, SmokeTestFailed: the predecessor to put back is not what it was.
        PromotionConflict: somebody else changed the champion at this very moment.
        OutOfBandChange: the alias was moved by hand.
    """
    if verdict.action == "put back":
        return _put_back(run, rollout, verdict)
    if verdict.action == "stop":
        return _stop(run, rollout, verdict.reasons[0], blocks=verdict.blocks)
    if verdict.action == "promote":
        return _promote(run, context, rollout, verdict, evidence)
    if verdict.action == "end" and not run.trigger.dry_run:
        rollouts.record_rollout(run, run.key, None, "ended", verdict.reasons, was=rollout)
    if verdict.action == "advance" and not run.trigger.dry_run:
        next_step = {"step": rollout.step + 1, "share": verdict.share, "since": run.as_of}
        advanced = rollout.model_copy(update=next_step)
        rollouts.record_rollout(run, run.key, advanced, "advanced", verdict.reasons, was=rollout)
    return Decision(verdict=verdict.verdict, reasons=verdict.reasons)


def _put_back(run: Run, rollout: Rollout, verdict: RolloutVerdict) -> Decision:
    """The predecessor serves again."""
    if not run.trigger.dry_run:
        rollback.roll_back(run, verdict.reasons[0], to=rollout.shadow.version, effective_at=run.as_of)
        rollouts.record_rollout(run, run.key, None, "rolled back", verdict.reasons, was=rollout)
    serves = f"version {rollout.shadow.version} serves again from {run.as_of:%Y-%m-%d %H:%M} on"
    return Decision(verdict="rolled back", reasons=(*verdict.reasons, serves))


def _promote(
    run: Run, context: Context, rollout: Rollout, verdict: RolloutVerdict, evidence: PairedEvidence
) -> Decision:
    """The challenger comes to serve; stopped where it may not."""
    if run.trigger.dry_run:
        return Decision(verdict="promoted", reasons=verdict.reasons)
    target = rollout.shadow.model_copy(update={"effective_at": run.as_of})
    reference_champion = context.reference_champion
    if rollout.becomes_reference or reference_champion is None:
        reference_champion = target
    change = ChampionChange(
        action="promote",
        target=target,
        kind=rollout.kind,
        reasons=verdict.reasons,
        reference_champion=reference_champion,
        effective_at=run.as_of,
        details={"evidence": figures(evidence)},
        compared_with=context.champion,
    )
    changes = promotion.promotions(run)
    try:
        if promotion.own_change(run, changes, "promote") is None:
            promotion.check_promotable(run, changes, target, run.as_of)
            check_files(replace(run, key=run_key_of(target.reference)))
            try:
                smoke_test.run_smoke_test(run, target)
            except ArtifactMissing:  # MLflow may have lost it, the run's own files have not
                target = restore.register_again(run, target, "it was to serve")
                smoke_test.run_smoke_test(run, target)
                change = replace(change, target=target)
        record, _ = promotion.change_champion(run, change)
    except (StaleRun, ModelBlocked) as error:
        return _stop(run, rollout, error.found, blocks=False)
    except NO_GOOD as error:
        # Files that are gone say nothing against the model.
        blocks = not isinstance(error, ArtifactMissing)
        return _stop(run, rollout, f"{type(error).__name__}: {error.found}", blocks=blocks)
    watch = record.body.get("rollout")
    watch = Rollout.model_validate(watch) if watch else None
    rollouts.record_rollout(run, run.key, watch, "promoted", verdict.reasons, was=rollout)
    return Decision(verdict="promoted", reasons=(f"version {target.version} serves", *verdict.reasons))


def _stop(run: Run, rollout: Rollout, reason: str, *, blocks: bool) -> Decision:
    """The challenger scores no more; blocked where it was shown to be no good."""
    challenger = rollout.shadow
    if not run.trigger.dry_run:
        blocked = rollouts.block(challenger, reason) if blocks else None
        rollouts.record_rollout(run, run.key, None, "stopped", (reason,), was=rollout, blocked=blocked)
        try:
            registry = Registry(run.home.mlflow)
            if registry.alias(run.model, CHALLENGER) == challenger.version:
                registry.delete_alias(run.model, CHALLENGER)
        except RetrainError as error:  # the ledger has stopped it; the alias is for people
            log.warning("%s: the challenger alias was not cleared: %s", run.model, error.found)
    outcome = f"version {challenger.version} is blocked" if blocks else f"version {rollout.champion} keeps serving"
    return Decision(verdict="stopped", reasons=(reason, outcome))
