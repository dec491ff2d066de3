"""The gated configuration on all mature rows, and what must hold before it goes on."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from retrain.data import dataset
from retrain.errors import MissingInput, SameModel
from retrain.modeling import pipelines
from retrain.registry.mlflow import load_model
from retrain.results import Champion, Context, Decision, GateReport, RefitReport, TrainReport
from retrain.stages.refit import refit
from retrain.stages.train import train
from retrain.state.run import Run
from retrain.state.settings import Home
from tests.trained import begun, champion_of, publish, spec_from

MONTHS = ("2024-01-01", "2024-02-01", "2024-03-01")
Data = dict[str, Any]


@pytest.fixture
def gated(
    home: Home, tmp_path: Path, spec_of: Callable[[], Data], rows_of: Callable[..., pd.DataFrame]
) -> Callable[..., Run]:
    """A run of March that has trained, and whose gate said promote."""

    def make(
        *,
        verdict: str = "promote",
        key: str = "run",
        champion: Champion | None = None,
        data: Data | None = None,
        change: Callable[[str, pd.DataFrame], pd.DataFrame] = lambda _, frame: frame,
        chosen: str = "new",
        **training: Any,
    ) -> Run:
        data = data or spec_of()
        data["training"] |= training
        spec = spec_from(data)
        accepted = publish(home, spec, {month: change(month, rows_of(month)) for month in MONTHS}, tmp_path)
        run = begun(home, spec, accepted, key=key, champion=champion)
        run.write(train(run), "train")
        gate = GateReport(
            model=run.model,
            interval=run.interval,
            effective_at=run.as_of,
            decision=Decision(verdict=verdict, reasons=("so it was",)),
            chosen=chosen,
        )
        run.write(gate, "gate")
        return run

    return make


def candidate(run: Run, name: str = "new") -> Any:
    return next(fitted for fitted in run.read(TrainReport, "train").fitted if fitted.name == name)


def loaded(run: Run, report: RefitReport) -> Any:
    with run.store.local(report.fitted.key) as folder:
        return load_model(folder, report.fitted.digest)


def test_all_mature_rows_are_fitted_with_the_gated_configuration(gated: Callable[..., Run]) -> None:
    xgboost = {"estimator": "xgboost", "parameters": {"n_estimators": 80, "max_depth": 2}}
    run = gated(candidates=[xgboost])
    report = refit(run)
    before = candidate(run)
    assert report.decision.verdict == "refit"
    assert [interval.name for interval in report.fitted.intervals] == list(MONTHS)
    assert (before.rows, report.fitted.rows) == (400, 600)
    assert report.fitted.configuration == before.configuration
    assert report.fitted.digest != before.digest
    count = before.configuration.parameters["n_estimators"]
    assert loaded(run, report)[-1].get_booster().num_boosted_rounds() == count
    assert all(check.passed for check in report.checks)
    assert report.fitted.training == dataset.training_digest(run.read(Context, "context").accepted)


def test_a_window_moves_on(gated: Callable[..., Run]) -> None:
    report = refit(gated(windows=[1]))
    assert [interval.name for interval in report.fitted.intervals] == [MONTHS[-1]]


def test_the_golden_rows_are_answered_from_json(gated: Callable[..., Run]) -> None:
    run = gated(date_parts={"signup": ["weekday", "hour"]})
    report = refit(run)
    golden = json.loads(run.store.read(report.golden))
    assert len(golden["rows"]) == 20
    answers = pipelines.predict(loaded(run, report), "binary", pd.DataFrame(golden["rows"]))
    assert np.array_equal(answers, golden["predictions"])
    stored = dataset.read(run, run.read(Context, "context").accepted[-1:])
    kept = stored[stored["signup"].isin(pd.to_datetime([row["signup"] for row in golden["rows"]], utc=True))]
    assert np.allclose(sorted(pipelines.predict(loaded(run, report), "binary", kept)), sorted(answers))


def test_a_refit_that_moves_too_far_gives_way_to_the_gated_model(
    gated: Callable[..., Run], spec_of: Callable[[], Data]
) -> None:
    data = spec_of()
    data["gate"] = {"refit_bound": 0.02}

    def turn(month: str, frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(churned=True) if month == MONTHS[-1] else frame

    run = gated(data=data, change=turn)
    report = refit(run)
    assert report.decision.verdict == "gated"
    assert any("mean prediction moved" in reason for reason in report.decision.reasons)
    assert report.fitted.digest == candidate(run).digest
    assert report.fitted.training == candidate(run).training
    assert report.fitted.key == run.path("refit", "model")
    golden = json.loads(run.store.read(report.golden))
    answers = pipelines.predict(loaded(run, report), "binary", pd.DataFrame(golden["rows"]))
    assert np.array_equal(answers, golden["predictions"])


def test_the_reference_has_predictions_for_holdout_rows_only(gated: Callable[..., Run]) -> None:
    first = champion_of(candidate(gated(key="before")))
    of_another_pipeline = first.configuration.model_copy(update={"pipeline": "another"})
    run = gated(champion=first.model_copy(update={"configuration": of_another_pipeline}))
    refit(run)
    reference = pd.read_parquet(io.BytesIO(run.store.read(run.path("refit", "reference.parquet"))))
    assert list(reference.columns) == [*run.spec.inputs, "target", "prediction", "__time", "__interval"]
    assert reference["__interval"].value_counts().to_dict() == dict.fromkeys(pd.to_datetime(MONTHS, utc=True), 200)
    assert (reference["__time"].dt.strftime("%Y-%m-01") == reference["__interval"].dt.strftime("%Y-%m-%d")).all()
    judged = reference["__time"] >= run.read(TrainReport, "train").judged_from
    assert (len(reference), int(judged.sum())) == (600, 123)
    assert (reference["prediction"].notna() == judged).all()
    gated_model = candidate(run)
    holdout = dataset.read(run, run.read(Context, "context").accepted[-1:])
    for key, digest, part in (
        (gated_model.chain[0].key, gated_model.chain[0].digest, holdout["signup"] < gated_model.intervals[-1].end),
        (gated_model.key, gated_model.digest, holdout["signup"] >= gated_model.intervals[-1].end),
    ):
        with run.store.local(key) as folder:
            model = load_model(folder, digest)
        rows = holdout[part & (holdout["signup"] >= gated_model.answers_from)]
        own = reference.loc[reference["__time"].isin(rows["signup"]), "prediction"]
        assert np.allclose(sorted(own), sorted(pipelines.predict(model, "binary", rows)))

    facts = json.loads(run.store.read(run.path("refit", "reference.json")))
    assert facts["rows"] == 600
    plan = facts["columns"]["plan"]
    assert (sorted(plan["categories"]), sum(plan["categories"].values()), plan["capped"]) == (
        ["basic", "plus", "pro"],
        600,
        False,
    )
    assert facts["columns"]["visits"]["min"] >= 0
    assert facts["columns"]["visits"]["missing"] == 0


def test_a_baseline_is_refitted_like_any_other(gated: Callable[..., Run]) -> None:
    run = gated(chosen="naive")
    report = refit(run)
    assert (report.decision.verdict, report.fitted.kind, report.fitted.rows) == ("refit", "baseline", 600)
    assert len(set(json.loads(run.store.read(report.golden))["predictions"])) == 1


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_other_tasks(gated: Callable[..., Run], spec_of: Callable[[], Data], task: str) -> None:
    data = spec_of()
    data["task"] = task
    if task == "multiclass":
        data["columns"]["churned"] = {"type": "category"}
        data["target"] = {"column": "churned", "classes": ["no", "yes", "perhaps"]}
    else:
        data["columns"]["churned"] = {"type": "number"}

    def change(_: str, frame: pd.DataFrame) -> pd.DataFrame:
        if task == "regression":
            return frame.assign(churned=frame["visits"].astype(float) * 2 + frame["spend"])
        named = np.where(frame["churned"], "yes", "no")
        return frame.assign(churned=np.where(frame["visits"] > 50, "perhaps", named))

    run = gated(data=data, change=change)
    report = refit(run)
    assert report.decision.verdict == "refit"
    assert len(report.mean_prediction) == (3 if task == "multiclass" else 1)
    reference = pd.read_parquet(io.BytesIO(run.store.read(run.path("refit", "reference.parquet"))))
    names = [name for name in reference if name.startswith("prediction")]
    assert names == ([f"prediction_{place}" for place in range(3)] if task == "multiclass" else ["prediction"])


def test_it_can_be_run_again(gated: Callable[..., Run]) -> None:
    run = gated()
    first = refit(run)
    files = {key: run.store.read(key) for key in run.store.keys(run.path("refit"))}
    assert refit(run) == first
    assert {key: run.store.read(key) for key in run.store.keys(run.path("refit"))} == files


def test_the_same_model_again_goes_no_further(gated: Callable[..., Run]) -> None:
    earlier = gated(key="earlier")
    report = refit(earlier)
    serving = champion_of(report.fitted)
    with pytest.raises(SameModel, match="version 1"):
        refit(gated(champion=serving, chosen="refresh"))


@pytest.mark.parametrize("verdict", ["keep", "inconclusive"])
def test_nothing_to_refit(gated: Callable[..., Run], verdict: str) -> None:
    with pytest.raises(MissingInput, match=verdict):
        refit(gated(verdict=verdict))
