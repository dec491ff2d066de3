"""The registered version in a fresh process, before anything points at it."""

from __future__ import annotations

from retrain.errors import MissingInput
from retrain.registry import promotion, smoke_test
from retrain.results import Decision, ProbeReport, RegisterReport
from retrain.state.run import Run


def probe(run: Run) -> ProbeReport:
    """Show that this run's version loads, answers as training did and fits its budgets.

    The figures are of this machine and this moment: a second probe of the same version tells others.

    Raises:
        MissingInput: the run has registered no version.
        ArtifactMissing, DigestMismatch, InvalidName, ModelFormatRefused, EstimatorRefused: nothing was loaded.
        ProbeFailed: it does not serve.
    """
    registered = run.read(RegisterReport, "register")
    if registered.version is None:
        reasons = "; ".join(registered.decision.reasons)
        raise MissingInput(f"there is no version to probe: {reasons}", do="read the reasons in register.json")
    checks = smoke_test.probe(run, promotion.facts(run, registered.version, registered.run_id))
    return ProbeReport(
        model=run.model,
        interval=run.interval,
        effective_at=run.as_of,
        decision=Decision(verdict="serves", reasons=tuple(check.reason for check in checks)),
        version=registered.version,
        checks=checks,
    )
