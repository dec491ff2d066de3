"""The whole loop in this process, with the real libraries on small data: from deliveries to a champion, and back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import yaml

from retrain import pipeline
from retrain.errors import Quarantined
from retrain.registry.mlflow import Registry
from retrain.reporting.status import rows as status_rows
from retrain.results import Context, DriftReport, GateReport, RegisterReport
from retrain.state.ledger import Ledger
from retrain.state.run import Run
from retrain.state.settings import Home
from tests.conftest import INCLUDE, Model, churn_rows, churn_spec, enter_home, lay_mlflow, put_back

MONTHS = ["2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01"]
ROWS = 400
LOOPS: tuple[Any, Any] = ("score", "monitor")


def spec() -> dict[str, Any]:
    small = {"gate": {"min_rows": 100, "margin": 0.05}, "drift": {"min_rows": 100}}
    return {**churn_spec(), **small, "evaluation": {"resamples": 200, "slices": ["plan"]}}


def went(run: Run) -> dict[str, str]:
    """Stage → verdict of one run."""
    return {
        name: decision.verdict if (decision := getattr(report, "decision", None)) else "done"
        for name, report in pipeline.run_all(run)
    }


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Path:
    """A home in which three months have run; every test works on a copy."""
    root = tmp_path_factory.mktemp("year")
    with pytest.MonkeyPatch.context() as patch:
        model = Model(enter_home(root, patch))
        lay_mlflow(model.home, empty_mlflow)
        model.write_spec(spec())
        for month in MONTHS[:3]:
            model.deliver(month, rows=ROWS)
            went(model.run(month))
    return root


@pytest.fixture
def model(year: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    # MLflow keeps absolute artifact addresses, so a test gets the very folder, put back afterwards.
    return Model(enter_home(year, monkeypatch))


@pytest.fixture(autouse=True)
def _put_back(year: Path, tmp_path: Path) -> Any:
    with put_back(year, tmp_path / "kept"):
        yield


def test_three_months_make_a_champion(model: Model) -> None:
    rows = status_rows(Ledger(model.home.ledger), "churn")
    assert [row.verdict("decide") for row in rows] == ["skip", "retrain", "retrain"]
    assert [row.outcome for row in rows] == ["", "promote", "promote"]
    assert [row.champion for row in rows] == [None, 1, 2]
    assert rows[0].reason.startswith("waiting: the first model needs 2 intervals")
    assert Registry(model.home.mlflow).alias("churn", "champion") == 2


def test_the_same_rows_judge_both(model: Model) -> None:
    report = model.run(MONTHS[2]).read(GateReport, "gate")
    assert report.challenger_score is not None
    assert report.champion_score is not None
    assert {check.name for check in report.checks} >= {"rows", "finite", "naive", "simple", "champion", "companion"}


def test_mlflow_holds_the_run_and_its_lineage(model: Model) -> None:
    run = model.run(MONTHS[2])
    report, context = run.read(RegisterReport, "register"), run.read(Context, "context")
    client = mlflow.MlflowClient(model.home.mlflow, model.home.mlflow)
    found = client.get_run(report.run_id)
    assert found.data.metrics["log_loss"] == run.read(GateReport, "gate").challenger_score
    assert {"champion.log_loss", "naive.log_loss", "simple.log_loss"} <= set(found.data.metrics)
    wanted = {
        "data.training", "data.holdout", "data.dvc_md5", "data.commit", "code.commit", "spec.digest", "lock.digest",
        "model.digest", "seed", "trigger", "effective_at", "interval", "verdict", "owner",
    }  # fmt: skip
    version = client.get_model_version("churn", str(report.version))
    assert wanted <= set(found.data.tags)
    assert wanted <= set(version.tags)
    assert version.tags["data.dvc_md5"] == context.accepted[-1].md5
    assert version.tags["data.commit"] == context.accepted[-1].commit
    assert {"evaluate", "reports", "model"} <= {one.path for one in client.list_artifacts(report.run_id)}


def test_a_second_try_of_every_stage_changes_nothing(model: Model) -> None:
    run = model.run(MONTHS[2])
    names = [name for name in pipeline.NAMES if name != "smoke_test"]  # which measures time
    before = {name: run.store.read(f"{run.folder}/{name}.json") for name in names}
    assert went(run)["promote"] == "promoted"
    after = {name: run.store.read(f"{run.folder}/{name}.json") for name in names}
    assert after == before
    client = mlflow.MlflowClient(model.home.mlflow, model.home.mlflow)
    assert len(client.search_model_versions("name='churn'")) == 2
    assert len(run.ledger.records("churn", "promotion")) == 2


def test_a_rejected_candidate_leaves_a_run_and_no_version(model: Model) -> None:
    model.write_spec({**spec(), "gate": {"min_rows": 5000}})
    model.deliver(MONTHS[3], rows=ROWS)
    run = model.run(MONTHS[3])
    verdicts = went(run)
    assert (verdicts["gate"], verdicts["register"]) == ("inconclusive", "recorded")
    assert not {"refit", "promote"} & set(verdicts)
    report = run.read(RegisterReport, "register")
    client = mlflow.MlflowClient(model.home.mlflow, model.home.mlflow)
    assert client.get_run(report.run_id).data.tags["verdict"] == "inconclusive"
    assert len(client.search_model_versions("name='churn'")) == 2
    assert Registry(model.home.mlflow).alias("churn", "champion") == 2


def test_a_dry_run_registers_nothing_and_counts_for_no_policy(model: Model) -> None:
    model.deliver(MONTHS[3], rows=ROWS)
    verdicts = went(model.run(MONTHS[3], key="looking", dry_run=True))
    assert verdicts["register"] == "recorded"
    assert "promote" not in verdicts
    assert went(model.run(MONTHS[3]))["promote"] == "promoted"


def test_a_changed_world_is_drift_and_a_broken_batch_is_not(model: Model) -> None:
    world = churn_rows(MONTHS[3], ROWS)
    model.deliver(MONTHS[3], world.assign(visits=world["visits"] + 25, spend=world["spend"] * 2.5))
    run = model.run(MONTHS[3])
    went(run)
    report = run.read(DriftReport, "drift")
    assert report.decision.verdict == "drift"
    assert {one.column for one in report.columns if one.verdict == "drift"} >= {"visits", "spend"}
    assert run.store.exists(run.path("drift", "drift.html"))
    model.deliver("2024-05-01", churn_rows("2024-05-01", ROWS).assign(visits=-1))
    with pytest.raises(Quarantined):
        went(model.run("2024-05-01"))
    assert not model.run("2024-05-01").store.exists(f"{model.run('2024-05-01').folder}/snapshot.json")


def test_the_champion_is_scored_by_its_own_code(year: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Today's feature file may say anything: yesterday's champion keeps answering as it did."""
    model = Model(enter_home(year, monkeypatch))
    file = model.home.models / "features.py"
    file.write_text("def build(frame):\n    return frame.assign(busy=frame['visits'] > 20)\n")
    own = spec()
    own["training"] = {**own["training"], "features": {"file": "features.py", "adds": {"busy": "number"}}}
    model.write_spec(own)
    model.deliver(MONTHS[3], rows=ROWS)
    assert went(model.run(MONTHS[3]))["gate"] in ("promote", "keep", "inconclusive")
    model.deliver("2024-05-01", rows=ROWS)
    went(model.run("2024-05-01", force=True))
    file.write_text("def build(frame):\n    raise ValueError('broken today')\n")
    shutil.rmtree(model.home.state / "models", ignore_errors=True)
    registry = Registry(model.home.mlflow)
    promoted = model.run(MONTHS[3]).ledger.records("churn", "promotion")[-1].body["champion"]
    from retrain.registry.mlflow import load_model

    folder = registry.fetch("churn", promoted["version"], promoted["digest"], year / "again")
    assert len(load_model(folder, promoted["digest"]).predict(churn_frame())) == ROWS


def churn_frame() -> Any:
    import pandas as pd

    frame = churn_rows(MONTHS[3], ROWS)
    return frame.assign(
        visits=frame["visits"].astype(float),
        member=frame["member"].astype(float),
        signup=pd.to_datetime(frame["signup"]),
    )


def test_an_edited_spec_stops_a_run_under_way(model: Model) -> None:
    from retrain.errors import ConfigChanged

    model.deliver(MONTHS[3], rows=ROWS)
    run = model.run(MONTHS[3])
    pipeline.run_stage("ingest", run)
    model.write_spec({**spec(), "objective": "Something else entirely."})
    with pytest.raises(ConfigChanged):
        pipeline.run_stage("validate", model.run(MONTHS[3]))


def test_a_failed_stage_is_on_record(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match="BatchMissing"):
        pipeline.run_stage("ingest", model.run(MONTHS[3]))
    row = status_rows(Ledger(model.home.ledger), "churn")[-1]
    assert (row.interval, row.outcome) == ("2024-04-01", "ingest: not delivered")


def test_a_never_seen_spec_and_data_run_the_whole_chain(mlflow: Home, rows_of: Callable[..., Any]) -> None:
    """Promise 1: one file adds a model."""
    other = {**spec(), "model": "leavers", "source": {**spec()["source"], "path": "drop/{start:%Y-%m}.csv"}}
    (mlflow.models / "leavers.yaml").write_text(yaml.safe_dump(other))
    (mlflow.root / "drop").mkdir()
    for month in MONTHS[:2]:
        rows_of(month, ROWS).to_csv(mlflow.root / "drop" / f"{month[:7]}.csv", index=False)
    command = [sys.executable, "-m", "retrain", "run", "leavers", "--interval", MONTHS[1], "--history"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(INCLUDE)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "promote: promoted: version 1 serves" in done.stdout
    assert json.loads((mlflow.state / "store/leavers/runs/laptop-2024-02-01/gate.json").read_text())["kind"] == "first"


def test_a_baseline_may_come_to_serve_and_all_goes_on(model: Model) -> None:
    """Labels that hang on nothing any more: whoever still believes in the features loses to who knows nothing."""
    # Another pipeline, so that no calibration of the champion can take its belief back.
    model.write_spec({**spec(), "training": {**spec()["training"], "date_parts": {"signup": ["weekday"]}}})
    chance, gates = np.random.default_rng(0), []
    for month in (MONTHS[3], "2024-05-01"):
        model.deliver(month, churn_rows(month, ROWS).assign(churned=chance.random(ROWS) < 0.5))
        run = model.run(month, force=True)
        verdicts = went(run)
        gates.append(run.read(GateReport, "gate"))
        score, monitor = (Run(model.home, run.spec, run.interval, f"{loop}-{month}", loop=loop) for loop in LOOPS)
        assert went(score)["score"] == "scored"
        assert went(monitor)["measure"] in ("calm", "alarm")
    assert (gates[0].lost_to, gates[0].chosen, gates[0].kind) == ("naive", "naive", "baseline")
    assert verdicts["train"] == "done"
    champion = run.read(Context, "context").champion
    assert champion is not None
    assert (champion.version, champion.configuration.estimator) == (3, "naive")
    assert gates[1].decision.verdict == "promote"
    assert gates[1].chosen in ("refresh", "naive", "recalibrated"), "it is refreshed as any champion is"
    body = Ledger(model.home.ledger).records("churn", "promotion")[-1].body
    assert (body["version"], body["previous"]) == (4, 3)
