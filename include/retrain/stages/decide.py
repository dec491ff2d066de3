"""Retrain or not, and why: asks the policy, and writes its decision down, also when the answer is no."""

from __future__ import annotations

from retrain.monitoring.signals import with_own_signals
from retrain.policy.rules import PolicyDecision, decide_retraining
from retrain.results import (
    Context,
    DecideReport,
    Decision,
    DriftReport,
    RolloutReport,
)
from retrain.state.run import Run


def decide(run: Run) -> DecideReport:
    """Decide by the policy, and put the decision on record with its evidence; a rehearsal leaves no record.

    Raises:
        MissingInput: context or drift have not been written.
    """
    context, drift = run.read(Context, "context"), run.read(DriftReport, "drift")
    rule, decision, evidence = decide_retraining(run.spec, with_own_signals(run, context), drift)
    if reason := _rolled_back(run):
        rule, decision, evidence = PolicyDecision(
            "put back", Decision(verdict="skip", reasons=(reason,)), {"put back": reason}
        )
    if not run.trigger.dry_run:
        body = {
            "interval": run.interval.name,
            "by": run.loop,
            "verdict": decision.verdict,
            "policy": rule,
            "reasons": list(decision.reasons),
            "evidence": evidence,
            "champion": context.champion and context.champion.version,
            "alert": context.alert and context.alert.model_dump(mode="json"),
        }
        run.ledger.append(run.model, "decision", run.key, body, effective_at=run.as_of, run=run.key, by=run.trigger.by)
    return DecideReport(
        model=run.model,
        interval=run.interval,
        effective_at=run.as_of,
        decision=decision,
        policy=rule,
        evidence=evidence,
    )


def _rolled_back(run: Run) -> str:
    """Why this run's measurements count for nothing: they are of a champion that it has just taken out of service."""
    if not run.store.exists(f"{run.folder}/rollout.json"):
        return ""
    rollout = run.read(RolloutReport, "rollout")
    if rollout.decision.verdict != "rolled back":
        return ""
    return f"version {rollout.version} was put back: the next run of the monitor judges it"
