"""What scores beside the champion is judged: go on, take the next step, promote, stop, or put the predecessor back.

The evidence is `retrain.monitoring.paired_evidence`'s, the rules are `retrain.registry.rollout_rules`'s, and what they
ask for is done by `retrain.registry.rollout_actions`.
"""

from __future__ import annotations

from retrain.monitoring import estimation, paired_evidence
from retrain.monitoring.paired_evidence import PairedEvidence
from retrain.registry.rollout_actions import carry_out, overtaken
from retrain.registry.rollout_rules import judge_challenger, judge_watch
from retrain.rendering import html, monitoring_plots
from retrain.results import Context, Decision, MeasureReport, Rollout, RolloutReport
from retrain.state.run import Run

PAGE = "rollout.html"


def rollout(run: Run) -> RolloutReport:
    """Judge what scores beside the champion, and do what follows; a rehearsal does nothing.

    Raises:
        ArtifactMissing, DigestMismatch, SmokeTestFailed: the predecessor to put back is not what it was.
        PromotionConflict: somebody else changed the champion at this very moment.
        OutOfBandChange: the alias was moved by hand.
    """
    context = run.read(Context, "context")
    current = context.rollout
    if current is None or not run.home.mlflow:
        return _idle(run, "nothing scores beside the champion")
    if why := overtaken(run, current):
        return _idle(run, why)
    evidence = paired_evidence.paired_evidence(run, context, current)
    if current.purpose == "watch":
        verdict = judge_watch(run.spec, current, evidence, _alarm(run))
    else:
        verdict = judge_challenger(run.spec, current, evidence)
    decision = carry_out(run, context, current, verdict, evidence)
    if run.trigger.dry_run:
        decision = decision.model_copy(update={"reasons": (*decision.reasons, "a rehearsal: nothing was changed")})
    report = RolloutReport.model_validate(
        {
            "model": run.model,
            "interval": run.interval,
            "effective_at": run.as_of,
            "decision": decision,
            "purpose": current.purpose,
            "version": current.shadow.version,
            "champion": current.champion,
            **paired_evidence.figures(evidence),
        }
    )
    return report.model_copy(update={"html": _page(run, decision, current, evidence)}) if run.pages else report


def _idle(run: Run, why: str) -> RolloutReport:
    return RolloutReport(
        model=run.model,
        interval=run.interval,
        effective_at=run.as_of,
        decision=Decision(verdict="idle", reasons=(why,)),
    )


def _alarm(run: Run) -> str:
    """Why the champion's realised performance is an alarm; empty if it is none or was not measured."""
    if not run.store.exists(f"{run.folder}/measure.json"):
        return ""
    decision = run.read(MeasureReport, "measure").decision
    return decision.reasons[0] if decision.verdict == "alarm" else ""


def _page(run: Run, decision: Decision, current: Rollout, evidence: PairedEvidence) -> str:
    """Write the page for people; its key in the store."""
    table, loss = paired_evidence.table(evidence), estimation.LOSS[run.spec.gate.metric]
    figures = {}
    if len(table):
        figures["Loss of the newer above the older"] = monitoring_plots.paired_differences(table, loss)
    title = f"{run.model}: version {current.shadow.version} beside version {current.champion} ({current.purpose})"
    key = run.path("rollout", PAGE)
    run.store.write(key, html.page(title, decision, {f"Mean {loss}": table}, figures))
    return key
