"""A champion that a label shift has recalibrated: it is promoted, scores, is explained, made again and refreshed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from retrain import pipeline
from retrain.reporting.explain import explain
from retrain.rerun.reproduce import reproduce
from retrain.results import Champion, GateReport
from retrain.state.ledger import Ledger
from retrain.state.projections import known_versions
from tests.conftest import Model, churn_rows, churn_spec, enter_home, lay_mlflow

MONTHS = ["2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01", "2024-05-01"]


def spec() -> dict[str, Any]:
    more = {
        "gate": {"min_rows": 100, "margin": 0.05},
        "drift": {"min_rows": 100},
        "evaluation": {"resamples": 200},
        "policy": {"schedule": 1},
    }
    data = churn_spec() | more
    data["training"] |= {"candidates": [{"estimator": "linear"}]}
    return data


def delivered(month: str) -> pd.DataFrame:
    """From March on most rows without the outcome stay away, and in May even more."""
    frame, share = churn_rows(month, 600), {"2024-03": 0.3, "2024-04": 0.3, "2024-05": 0.1}.get(month[:7], 1.0)
    return frame[frame["churned"].astype(bool) | (np.random.default_rng(int(month[5:7])).random(len(frame)) < share)]


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Path:
    """A home that has seen the months."""
    root = tmp_path_factory.mktemp("recalibrated")
    with pytest.MonkeyPatch.context() as patch:
        model = Model(enter_home(root, patch))
        lay_mlflow(model.home, empty_mlflow)
        model.write_spec(spec())
        for month in MONTHS:
            model.deliver(month, delivered(month))
            for _ in pipeline.run_all(model.run(month)):
                pass
    return root


@pytest.fixture
def model(year: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    return Model(enter_home(year, monkeypatch))


def champions(model: Model) -> dict[int, Champion]:
    known = known_versions(Ledger(model.home.ledger).records("churn"))
    return {version: version_known.champion for version, version_known in known.items()}


def test_a_shift_promotes_the_recalibrated_champion(model: Model) -> None:
    run = model.run("2024-03-01")
    gate = run.read(GateReport, "gate")
    assert (gate.decision.verdict, gate.chosen, gate.kind) == ("promote", "recalibrated", "recalibrated")
    first, second = champions(model)[1], champions(model)[2]
    origin = second.configuration.recalibrated
    assert origin is not None
    assert (origin.version, origin.digest, origin.trained_until) == (1, first.digest, first.trained_until)
    assert second.trained_until > first.trained_until
    assert champions(model)[3].configuration == second.configuration, "another calibration, the same estimator"


def test_it_is_made_again_to_the_byte(model: Model) -> None:
    for version, champion in champions(model).items():
        if champion.configuration.recalibrated:
            again = reproduce(model.home, model.run(MONTHS[0]).spec, version)
            assert again.same, list(again.lines())


def test_it_is_explained(model: Model) -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(explain(model.home, model.run(MONTHS[0]).spec, 2))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "linear, all, version 1 with another intercept" in text
    assert "against version 1: the estimator of version 1 with another intercept" in text
    assert "recalibrated: intercept, on " in text
