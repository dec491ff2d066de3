"""A version that passed gate and smoke test comes to serve: at once, once a person approves, or by way of a rollout.

What changes the champion is `retrain.registry.promotion`; here it is decided whether this run may ask for it now.
"""

from __future__ import annotations

from datetime import UTC, datetime

from retrain.errors import MissingInput, NotApproved
from retrain.registry import approval, promotion, rollouts
from retrain.registry.champion import refit_as_champion
from retrain.registry.promotion import ChampionChange
from retrain.results import Champion, Context, Decision, GateReport, PromoteReport, RegisterReport, SmokeTestReport
from retrain.state import evidence
from retrain.state.run import Run


def promote(run: Run) -> PromoteReport:
    """Make this run's version the champion, or begin the way there that the spec asks for.

    Raises:
        EvidenceChanged: what the version rests on is not what was registered and smoke-tested.
        MissingInput: another version than the registered one was smoke-tested.
        NotApproved: the version has other files than the one that this run proposed.
        StaleRun: a newer run has promoted since.
        ModelBlocked: the model is on the blocklist.
        PromotionConflict: the champion is another than the gate compared with, or changed at this very moment.
        OutOfBandChange: the alias was moved by hand; nothing is overwritten.
        ArtifactMissing: the version was deleted meanwhile.
    """
    registered = run.read(RegisterReport, "register")
    if registered.version is None:
        return _report(run, Decision(verdict="kept", reasons=registered.decision.reasons))
    evidence.check_files(run)
    evidence.check_reports(run, "register", "smoke_test")
    tested = run.read(SmokeTestReport, "smoke_test")
    if tested.version != registered.version:
        raise MissingInput(
            f"version {tested.version} was smoke-tested, version {registered.version} is to be promoted",
            do="run smoke_test again",
        )
    gate, context = run.read(GateReport, "gate"), run.read(Context, "context")
    target = refit_as_champion(run, registered.version, registered.run_id)
    changes = promotion.promotions(run)
    if promotion.own_change(run, changes, "promote") is None:
        promotion.check_promotable(run, changes, target, run.as_of)
        if run.spec.promotion.mode != "auto":
            # An approval may come days later: of several first versions that waited only one may serve.
            promotion.check_same_champion(context.champion, changes, first=False)
        if not_yet := _not_yet(run, gate, target, context.champion):
            return not_yet
    reference_champion = context.reference_champion
    if gate.becomes_reference or reference_champion is None:
        reference_champion = target
    change = ChampionChange(
        action="promote",
        target=target,
        kind=gate.kind or "new",
        reasons=gate.decision.reasons,
        reference_champion=reference_champion,
        effective_at=run.as_of,
        details={"checks": [check.model_dump(mode="json") for check in tested.checks]},
        compared_with=context.champion,
    )
    record, newest = promotion.change_champion(run, change)
    if not newest:
        return promotion.promote_report(run, record, "promoted before; the champion has changed since")
    previous = f", was version {record.body['previous']}" if record.body["previous"] else ""
    return promotion.promote_report(run, record, f"version {target.version} serves{previous}")


def _not_yet(run: Run, gate: GateReport, target: Champion, champion: Champion | None) -> PromoteReport | None:
    """The report of a version that does not serve yet; None where it may."""
    rules, version = run.spec.promotion, target.version
    if rules.mode == "approve":
        proposal = approval.propose(run, target, gate)
        if proposal.body["digest"] != target.digest:
            raise NotApproved(
                f"version {version} has other files than version {proposal.body['version']}, which this run proposed",
                do="start a new run: an approval counts for the very files that were proposed",
            )
        answer, why = approval.approval_at(run, proposal, datetime.now(UTC))
        if answer == "approve":
            return None
        verdict = "waiting" if answer == "wait" else "kept"
        return _report(run, Decision(verdict=verdict, reasons=(f"version {version}: {why}",)), version)
    if rules.mode == "auto" or champion is None:
        return None
    share = rules.steps[0] if rules.mode == "canary" else 0.0
    rollouts.begin_rollout(
        run, rules.mode, target, champion.version, gate.kind or "new", share, becomes_reference=gate.becomes_reference
    )
    answering = f", answering {share:.0%} of the rows" if share else ""
    why = (
        f"version {version} scores beside version {champion.version}{answering}, for {rules.intervals} intervals at"
        " least"
    )
    return _report(run, Decision(verdict=rules.mode, reasons=(why,)), version)


def _report(run: Run, decision: Decision, version: int | None = None) -> PromoteReport:
    return PromoteReport(
        model=run.model, interval=run.interval, effective_at=run.as_of, decision=decision, version=version
    )
