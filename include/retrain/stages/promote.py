"""A version that passed gate and smoke test comes to serve: at once, after a person's word, or after scoring beside.

What moves the champion is `retrain.registry.promotion`; here it is decided whether this run may ask for it now.
"""

from __future__ import annotations

from datetime import UTC, datetime

from retrain.errors import MissingInput, NotApproved
from retrain.registry import approval, promotion
from retrain.registry.promotion import Change
from retrain.results import Champion, Context, Decision, GateReport, PromoteReport, RegisterReport, SmokeTestReport
from retrain.state.run import Run


def promote(run: Run) -> PromoteReport:
    """Make this run's version the champion, or set out on the way there that the spec asks for.

    Raises:
        StaleRun: a newer run has promoted since.
        ModelBlocked: the model was put back before.
        PromotionConflict: the champion is another than the gate compared with, or changed at this very moment.
        OutOfBandChange: the alias was moved by hand; nothing is overwritten.
        ArtifactMissing: the version was deleted meanwhile.
    """
    registered = run.read(RegisterReport, "register")
    if registered.version is None:
        return _report(run, Decision(verdict="kept", reasons=registered.decision.reasons))
    tested = run.read(SmokeTestReport, "smoke_test")
    if tested.version != registered.version:
        raise MissingInput(
            f"version {tested.version} was smoke-tested, version {registered.version} is to be promoted",
            do="run smoke_test again",
        )
    gate, context = run.read(GateReport, "gate"), run.read(Context, "context")
    target = promotion.facts(run, registered.version, registered.run_id)
    made = promotion.history(run)
    if not any(one.key == run.key for one in made):
        promotion.refuse(run, made, target, run.as_of)
        if run.spec.promotion.mode != "auto":
            # A word may come days later: of several first versions that waited only one may serve.
            promotion.same_champion(context.champion, made, first=False)
        if wait := _way(run, gate, target, context.champion):
            return wait
    reference_champion = (
        target if gate.becomes_reference or context.reference_champion is None else context.reference_champion
    )
    more = {"checks": [check.model_dump(mode="json") for check in tested.checks]}
    change = Change(
        "promote",
        target,
        gate.kind or "new",
        gate.decision.reasons,
        reference_champion,
        run.as_of,
        more,
        context.champion,
    )
    record, newest = promotion.move(run, change)
    if not newest:
        return promotion.told(run, record, "promoted before; the champion has changed since")
    previous = f", was version {record.body['previous']}" if record.body["previous"] else ""
    return promotion.told(run, record, f"version {target.version} serves{previous}")


def _way(run: Run, gate: GateReport, target: Champion, champion: Champion | None) -> PromoteReport | None:
    """The report of a version that does not serve yet; None where it may."""
    rules, version = run.spec.promotion, target.version
    if rules.mode == "approve":
        proposal = approval.propose(run, target, gate)
        if proposal.body["digest"] != target.digest:
            raise NotApproved(
                f"version {version} has other files than version {proposal.body['version']}, which this run proposed",
                do="start a new run: a word counts for the very files that were proposed",
            )
        said, why = approval.word(run, proposal, datetime.now(UTC))
        if said == "approve":
            return None
        verdict = "waiting" if said == "wait" else "kept"
        return _report(run, Decision(verdict=verdict, reasons=(f"version {version}: {why}",)), version)
    if rules.mode == "auto" or champion is None:
        return None
    share = rules.steps[0] if rules.mode == "canary" else 0.0
    promotion.begin(
        run, rules.mode, target, champion.version, gate.kind or "new", share, becomes_reference=gate.becomes_reference
    )
    shown = f", answering {share:.0%} of the rows" if share else ""
    why = f"version {version} scores beside version {champion.version}{shown}, for {rules.intervals} intervals at least"
    return _report(run, Decision(verdict=rules.mode, reasons=(why,)), version)


def _report(run: Run, decision: Decision, version: int | None = None) -> PromoteReport:
    return PromoteReport(
        model=run.model, interval=run.interval, effective_at=run.as_of, decision=decision, version=version
    )
