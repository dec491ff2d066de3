"""The monitor's stages on a real champion: three months to a first model, then a fourth month in several versions."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from retrain import pipeline
from retrain.cli import app
from retrain.errors import MissingInput
from retrain.reporting import status
from retrain.results import (
    Context,
    DecideReport,
    DiagnoseReport,
    DriftReport,
    EstimateReport,
    EvaluateReport,
    GateReport,
    MeasureReport,
    PromoteReport,
    RefitReport,
    RolloutReport,
    TrainReport,
    Trigger,
)
from retrain.state.run import Run
from retrain.state.settings import Home
from tests.conftest import Model, churn_rows, churn_spec, enter_home, lay_mlflow

FIRST, MONTH, NEXT = ("2024-01-01", "2024-02-01", "2024-03-01"), "2024-04-01", "2024-05-01"
ROWS = 900


def rows(start: str) -> pd.DataFrame:
    return churn_rows(start, ROWS)


def spec() -> dict[str, Any]:
    return {
        **churn_spec(),
        "policy": {"schedule": 0, "drift": False, "performance": True},
        "training": {
            "candidates": [{"estimator": "linear"}],
            "min_rows": 100,
            "first_after": 3,
            "windows": ["all", "change"],
        },
        "evaluation": {"slices": ["plan"]},
        "gate": {"min_rows": 100},
    }


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Iterator[Home]:
    """A home in which the first model serves from April on."""
    root = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch:
        home = enter_home(root, patch)
        lay_mlflow(home, empty_mlflow)
        model = Model(home)
        model.write_spec(spec())
        for month in FIRST:
            model.deliver(month, rows(month))
            reports = dict(pipeline.run_all(model.run(month)))
        assert isinstance(reports["promote"], PromoteReport)
        assert reports["promote"].version == 1
        yield home


@pytest.fixture
def model(begun: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A copy of that home of one's own."""
    shutil.copytree(begun.root, tmp_path / "copy", symlinks=True)
    return Model(enter_home(tmp_path / "copy", monkeypatch))


def loop(model: Model, start: str, loop: Any, **trigger: Any) -> Run:
    run = model.run(start, key=f"{loop}-{start}", **trigger)
    return replace(run, loop=loop)


def month(model: Model, start: str, frame: pd.DataFrame) -> Run:
    """The month is delivered, taken in, scored and looked at."""
    model.deliver(start, frame)
    for name in ("retrain", "score", "monitor"):
        run = loop(model, start, name)
        dict(pipeline.run_all(run))
    return run


def verdicts(run: Run) -> tuple[str, str, str, str, str]:
    return (
        run.read(DriftReport, "drift").decision.verdict,
        run.read(EstimateReport, "estimate").decision.verdict,
        run.read(MeasureReport, "measure").decision.verdict,
        run.read(DiagnoseReport, "diagnose").decision.verdict,
        run.read(DecideReport, "decide").decision.verdict,
    )


def world(change: Callable[[pd.DataFrame, np.random.Generator], None], start: str = MONTH) -> pd.DataFrame:
    frame = rows(start)
    change(frame, np.random.default_rng(5))
    return frame


def concept(frame: pd.DataFrame, rng: np.random.Generator) -> None:
    """The plan is now what decides, and the visits hardly."""
    risk = np.where(frame["plan"] == "basic", 0.85, 0.1)
    frame["churned"] = rng.random(len(frame)) < risk


def flipped(frame: pd.DataFrame, rng: np.random.Generator) -> None:
    frame["churned"] = ~frame["churned"]


def richer(frame: pd.DataFrame, rng: np.random.Generator) -> None:
    """Other rows, the same world: visitors come twice as often, and their risk follows."""
    visits = rng.integers(0, 110, len(frame))
    risk = 1 / (1 + np.exp(0.08 * (visits - 20) - 0.8 * (frame["plan"] == "basic") + 0.3))
    frame["visits"] = pd.array(visits, dtype="Int64")
    frame["churned"] = rng.random(len(frame)) < risk


def test_a_calm_month_starts_nothing_and_says_its_figures(model: Model) -> None:
    run = month(model, MONTH, rows(MONTH))
    assert verdicts(run) == ("stable", "calm", "calm", "sound", "skip")
    estimated, measured = run.read(EstimateReport, "estimate"), run.read(MeasureReport, "measure").realised[-1]
    assert estimated.low is not None
    assert estimated.high is not None
    assert measured.value is not None
    assert estimated.low - 0.02 <= measured.value <= estimated.high + 0.02, "two thirds of a month have set it"
    assert measured.coverage == 1
    assert {part.value for part in measured.slices} == {"basic", "plus", "pro"}
    champion = run.read(Context, "context").champion
    assert champion is not None
    assert champion.expected_score == estimated.expected_score
    assert champion.rows == 3 * ROWS
    for name in ("estimate/estimate.html", "measure/measure.html", "diagnose/diagnose.html", "drift/recent.html"):
        assert run.store.exists(f"{run.folder}/{name}"), name
    decided = run.ledger.records("churn", "decision")[-1].body
    assert (decided["verdict"], decided["by"]) == ("skip", "monitor")
    assert decided["evidence"]["performance"].startswith("performance: 2024-04-01: log_loss")


def test_a_changed_world_is_measured_and_a_retraining_on_what_came_since_is_promoted(model: Model) -> None:
    monitored = month(model, MONTH, world(concept))
    assert verdicts(monitored)[2:] == ("alarm", "changed", "skip")
    assert monitored.read(DecideReport, "decide").policy == "answered", "the retraining loop came first, and saw it too"
    measured = monitored.read(MeasureReport, "measure").realised[-1]
    assert measured.excess is not None
    assert measured.excess > 0.1
    assert "concept drift" in monitored.read(DiagnoseReport, "diagnose").decision.reasons[0]

    run = loop(model, MONTH, "retrain")
    assert run.read(DecideReport, "decide").policy == "performance"
    train, evaluated = run.read(TrainReport, "train"), run.read(EvaluateReport, "evaluate")
    changed = next(candidate for candidate in train.fitted if candidate.name == "changed")
    assert (changed.configuration.since, changed.configuration.window) == (run.interval.start, None)
    assert train.judged_from is not None
    assert run.interval.start < train.judged_from < run.interval.end
    (link,) = changed.chain
    assert train.judged_from == link.until < changed.intervals[-1].end < run.interval.end
    assert ROWS * 0.2 < link.rows < changed.rows < ROWS * 0.8, "the rows since the change, up to each cut"
    assert ROWS * 0.5 < evaluated.rows < ROWS * 0.8
    assert run.read(GateReport, "gate").chosen == "changed"
    assert run.read(RefitReport, "refit").fitted.rows == ROWS, "the refit has all rows since the change"
    assert run.read(PromoteReport, "promote").version == 2

    again = replace(run, key="started-again", trigger=Trigger(kind="alert", id="somebody-else"))
    assert dict(pipeline.run_all(again))["decide"].policy == "answered"  # type: ignore[attr-defined]

    after = month(model, NEXT, world(concept, NEXT))
    assert verdicts(after)[2:4] != ("alarm", "changed"), "the new champion holds in the new world"


def test_the_retraining_loop_measures_as_the_monitor_does_and_needs_no_scores(model: Model) -> None:
    """Whoever runs first: the same figures, and one record of each fact."""
    run = month(model, MONTH, rows(MONTH))
    first = loop(model, MONTH, "retrain")
    (ours,), (theirs,) = (each.read(MeasureReport, "measure").realised for each in (first, run))
    assert (ours.recomputed, theirs.recomputed) == (True, False)
    assert ours.model_copy(update={"recomputed": False}) == theirs
    realised = [record for record in run.ledger.records("churn", "signal") if record.body["question"] == "realised"]
    assert [(record.run, record.body["champion"]) for record in realised] == [(first.key, 1)]
    assert first.read(DiagnoseReport, "diagnose").decision == run.read(DiagnoseReport, "diagnose").decision


def test_a_retraining_that_finds_its_newest_labels_suspect_does_not_train_on_them(model: Model) -> None:
    model.write_spec({**spec(), "policy": {"schedule": 1}})
    model.deliver(MONTH, world(flipped))
    reports = dict(pipeline.run_all(loop(model, MONTH, "retrain")))
    assert reports["diagnose"].decision.verdict == "suspect"  # type: ignore[attr-defined]
    assert reports["decide"].policy == "suspect labels"  # type: ignore[attr-defined]
    assert "train" not in reports


def test_flipped_labels_are_the_owners_to_look_at(model: Model) -> None:
    monitored = month(model, MONTH, world(flipped))
    assert verdicts(monitored)[3:] == ("suspect", "skip")
    assert status.rows(monitored.ledger, "churn")[-1].watched == "suspect"
    assert "flipped labels, or a world turned round" in monitored.read(DiagnoseReport, "diagnose").decision.reasons[0]
    assert monitored.read(DecideReport, "decide").policy == "suspect labels"
    # Until a person releases it, no later run learns from that month or is judged on it.
    later = month(model, NEXT, rows(NEXT))
    context = later.read(Context, "context")
    assert context.held == (MONTH,)
    assert MONTH not in {accepted.batch.interval.name for accepted in context.accepted}
    release = ["release", "churn", "--interval", MONTH, "--reason", "they are right"]
    assert CliRunner().invoke(app, release).exit_code == 0
    with pytest.raises(MissingInput, match="no quarantined or held batch"):
        CliRunner().invoke(app, [*release[:3], NEXT, *release[4:]], catch_exceptions=False)
    freed = replace(later, key="freed")
    pipeline.run_stage("context", freed)
    assert freed.read(Context, "context").held == ()


def noisy(frame: pd.DataFrame, rng: np.random.Generator) -> None:
    frame["churned"] ^= rng.random(len(frame)) < 0.2


def test_labels_that_are_wrong_at_random_are_never_trained_on_by_the_schedule(model: Model) -> None:
    model.write_spec({**spec(), "policy": {"schedule": 1, "performance": True}})
    monitored = month(model, MONTH, world(noisy))
    assert verdicts(monitored)[3:] == ("suspect", "skip")
    assert "their labels may be wrong" in monitored.read(DiagnoseReport, "diagnose").decision.reasons[0]
    assert loop(model, MONTH, "retrain").read(DecideReport, "decide").policy == "suspect labels"
    later = month(model, NEXT, rows(NEXT))
    context = loop(model, NEXT, "retrain").read(Context, "context")
    assert context.held == (MONTH,)
    assert [batch.batch.interval.name for batch in context.doubtful] == [MONTH]
    trained = loop(model, NEXT, "retrain").read(TrainReport, "train")
    used = {span.name for fitted in trained.fitted for span in fitted.intervals} | {
        span.name for span in trained.holdout
    }
    assert MONTH not in used
    assert later.read(Context, "context").held == (MONTH,), "a calm month answers nothing"


def test_other_rows_in_the_same_world_are_no_fall(model: Model) -> None:
    monitored = month(model, MONTH, world(richer))
    drift, _, fall, kind, decided = verdicts(monitored)
    assert (drift, fall, kind, decided) == ("drift", "calm", "changed", "skip")
    assert "covariate shift" in monitored.read(DiagnoseReport, "diagnose").decision.reasons[0]
    estimated, measured = (
        monitored.read(EstimateReport, "estimate"),
        monitored.read(MeasureReport, "measure").realised[-1],
    )
    assert measured.value is not None
    assert estimated.expected_score is not None
    assert abs(measured.value - (measured.expected or 0)) < abs(measured.value - estimated.expected_score), (
        "it knew that these are easier"
    )


def test_without_enough_labels_nothing_is_said_of_performance(model: Model) -> None:
    frame = rows(MONTH)
    frame["churned"] = frame["churned"].astype("boolean")
    frame.loc[frame.index[100:], "churned"] = pd.NA
    model.home.models.joinpath("churn.yaml").write_text(
        model.home.models.joinpath("churn.yaml").read_text().replace("max_missing: 0.5", "max_missing: 1.0")
    )
    monitored = month(model, MONTH, frame)
    assert verdicts(monitored)[2] == "undetermined"
    measured = monitored.read(MeasureReport, "measure").realised[-1]
    assert (measured.rows, measured.value) == (100, None)
    assert measured.coverage == pytest.approx(100 / ROWS)
    assert monitored.read(EstimateReport, "estimate").value is not None, "for that it needs none"


def test_a_champion_outside_a_limit_is_an_alarm_though_it_is_as_good_as_expected(model: Model) -> None:
    limits = {"limits": {"recall": {"min": 0.99}, "accuracy": {"min": 0.5}}}
    model.write_spec({**spec(), "gate": {"min_rows": 100, **limits}})
    monitored = month(model, MONTH, rows(MONTH))
    assert verdicts(monitored)[2] == "alarm"
    measured = monitored.read(MeasureReport, "measure").realised[-1]
    assert measured.excess is not None
    assert abs(measured.excess) < 0.1, "as good as expected"
    assert len(measured.outside) == 1, "the other limit holds"
    assert measured.outside[0].startswith("recall 0.")
    assert not measured.fell
    assert verdicts(monitored)[3] == "sound", "the world did not change"
    assert f"outside gate.limits: {measured.outside[0]}" in monitored.read(MeasureReport, "measure").decision.reasons[0]
    decided = loop(model, MONTH, "retrain").read(DecideReport, "decide")
    assert decided.policy == "performance", "the policy sees it as any other alarm"


def test_before_any_champion_monitoring_is_calm(churn: Model, mlflow: Home) -> None:
    monitored = month(churn, "2024-01-01", rows("2024-01-01"))
    assert verdicts(monitored) == ("undetermined", "undetermined", "undetermined", "undetermined", "skip")
    assert monitored.read(DecideReport, "decide").policy == "waiting"
    assert not monitored.ledger.records("churn", "signal")


def test_a_challenger_in_shadow_is_judged_by_the_next_monitoring_run_and_then_watched(model: Model) -> None:
    model.write_spec({**spec(), "promotion": {"mode": "shadow", "intervals": 1}})
    monitored = month(model, MONTH, world(concept))
    assert monitored.read(RolloutReport, "rollout").decision.verdict == "waiting"
    assert loop(model, MONTH, "retrain").read(PromoteReport, "promote").decision.verdict == "shadow"

    after = month(model, NEXT, world(concept, NEXT))
    context = after.read(Context, "context")
    assert context.champion is not None
    assert context.rollout is not None
    assert (context.champion.version, context.rollout.shadow.version) == (1, 2)
    report = after.read(RolloutReport, "rollout")
    assert report.decision.verdict == "promoted"
    assert report.gain is not None
    assert report.gain > 0
    measured = after.read(MeasureReport, "measure").realised[-1]
    assert (measured.version, measured.verdict) == (1, "alarm"), "the champion is judged by its own answers"
    watch = after.ledger.records("churn", "rollout")[-1].body["rollout"]
    assert (watch["purpose"], watch["shadow"]["version"], watch["champion"]) == ("watch", 1, 2)
