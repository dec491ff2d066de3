"""The registered version in a fresh process, before anything points at it."""

from __future__ import annotations

from retrain.errors import MissingInput
from retrain.registry.champion import refit_as_champion
from retrain.registry.smoke_test import run_smoke_test
from retrain.results import Decision, RegisterReport, SmokeTestReport
from retrain.state.run import Run


def smoke_test(run: Run) -> SmokeTestReport:
    """Show that this run's version loads, answers as training did and fits its budgets.

    The figures are of this machine and this moment: a second smoke test of the same version tells others.

    Raises:
        MissingInput: the run has registered no version.
        ArtifactMissing, DigestMismatch, InvalidName, ModelFormatRefused, EstimatorRefused: nothing was loaded.
        SmokeTestFailed: it does not serve.
    """
    registered = run.read(RegisterReport, "register")
    if registered.version is None:
        reasons = "; ".join(registered.decision.reasons)
        raise MissingInput(f"there is no version to smoke test: {reasons}", do="read the reasons in register.json")
    checks = run_smoke_test(run, refit_as_champion(run, registered.version, registered.run_id))
    return SmokeTestReport(
        model=run.model,
        interval=run.interval,
        effective_at=run.as_of,
        decision=Decision(verdict="serves", reasons=tuple(check.reason for check in checks)),
        version=registered.version,
        checks=checks,
    )
