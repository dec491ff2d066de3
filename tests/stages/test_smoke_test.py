"""The stage between register and promote, after a real training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from retrain.errors import MissingInput, SmokeTestFailed
from retrain.registry.mlflow import Registry
from retrain.results import Decision, GateReport, RegisterReport, SmokeTestReport
from retrain.spec import Spec
from retrain.stages.refit import refit
from retrain.stages.smoke_test import smoke_test
from retrain.stages.train import train
from retrain.state.run import Run
from retrain.state.settings import Home
from tests.trained import begun, publish, spec_from

pytestmark = pytest.mark.usefixtures("mlflow")


@pytest.fixture
def spec(spec_of: Callable[[], dict[str, Any]]) -> Spec:
    data = spec_of()
    # One that asks the machine for its cores, by running a program: that is no attempt of the model.
    data["training"]["candidates"] = [{"estimator": "sklearn.ensemble.HistGradientBoostingClassifier"}]
    return spec_from(data)


@pytest.fixture
def run(home: Home, spec: Spec, tmp_path: Path, rows_of: Callable[..., pd.DataFrame]) -> Run:
    """A run whose version is registered."""
    months = ("2024-01-01", "2024-02-01", "2024-03-01")
    run = begun(home, spec, publish(home, spec, {month: rows_of(month) for month in months}, tmp_path))
    about: dict[str, Any] = {"model": run.model, "interval": run.interval, "effective_at": run.as_of}
    yes = Decision(verdict="promote", reasons=("better",))
    run.write(train(run), "train")
    run.write(GateReport(**about, decision=yes, chosen="new"), "gate")
    report = refit(run)
    run.write(report, "refit")
    registry = Registry(home.mlflow)
    run_id = registry.record(
        experiment="churn", key="run", name="run", description="", params={}, metrics={}, tags={}, files={}
    )
    with run.store.local(report.fitted.key) as folder:
        version = registry.register(
            model="churn", run_id=run_id, folder=folder, digest=report.fitted.digest, tags={}, description=""
        )
    registered = Decision(verdict="registered", reasons=("version 1",))
    run.write(
        RegisterReport(
            **about, decision=registered, run_id=run_id, version=version, digest=report.fitted.digest, key=""
        ),
        "register",
    )
    return run


def test_a_registered_version_serves(run: Run) -> None:
    report = smoke_test(run)
    assert (report.version, report.decision.verdict) == (1, "serves")
    assert [check.reason for check in report.checks] == list(report.decision.reasons)
    assert all(check.passed for check in report.checks)
    assert "it repeats its answers to 20 golden rows" in " ".join(report.decision.reasons)
    assert SmokeTestReport.from_json(report.to_json()) == report


def test_a_version_over_its_budget_does_not(run: Run) -> None:
    small = run.spec.model_copy(update={"serving": run.spec.serving.model_copy(update={"size_mb": 1e-6})})
    with pytest.raises(SmokeTestFailed, match="it was not loaded"):
        smoke_test(Run(run.home, small, run.interval, run.key))


def test_without_a_version_there_is_nothing_to_test(run: Run) -> None:
    registered = run.read(RegisterReport, "register")
    run.write(registered.model_copy(update={"version": None}), "register")
    with pytest.raises(MissingInput, match="no version to smoke test"):
        smoke_test(run)
