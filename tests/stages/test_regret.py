"""The stage: which intervals are measured, what adds up, what is on record, and what the policy makes of it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from retrain import pipeline
from retrain.modeling import pipelines
from retrain.results import Champion, DecideReport, Decision, DiagnoseReport, DriftReport, RegretReport, Signal
from retrain.stages.regret import regret
from retrain.state.run import Run
from retrain.state.settings import Home
from tests.conftest import enter_home
from tests.monitoring.stale import Stale, counted
from tests.trained import spec_from


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Champion]:
    """A home with a champion of three months, and all of its shadows."""
    root = tmp_path_factory.mktemp("stale")
    with pytest.MonkeyPatch.context() as patch:
        home = enter_home(root, patch)
        return home, Stale(home).champion()[0]


@pytest.fixture
def world(made: tuple[Home, Champion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stale:
    shutil.copytree(made[0].root, tmp_path / "copy", symlinks=True)
    return Stale(enter_home(tmp_path / "copy", monkeypatch))


@pytest.fixture
def champion(made: tuple[Home, Champion]) -> Champion:
    return made[1]


def signals(run: Run) -> tuple[Signal, ...]:
    """What is on record of regret."""
    records = run.ledger.records("churn", "signal")
    return tuple(Signal.model_validate(record.body["signal"]) for record in records)


def look(world: Stale, champion: Champion | None, month: int, **more: Any) -> RegretReport:
    run = world.run(month)
    world.write_context(run, champion, **{"signals": signals(run), **more})
    pipeline.run_stage("regret", run)
    return run.read(RegretReport, "regret")


def decided(world: Stale, month: int) -> DecideReport:
    run = world.run(month)
    calm = Decision(verdict="stable", reasons=("it is",))
    run.write(DriftReport(model="churn", interval=run.interval, effective_at=run.as_of, decision=calm), "drift")
    pipeline.run_stage("decide", run)
    return run.read(DecideReport, "decide")


def test_month_by_month_it_adds_up_until_a_training_pays(world: Stale, champion: Champion) -> None:
    fits: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipelines, "fit", counted(fits))
        first = look(world, champion, 4)
        assert first.sums["all"] == 0, "its very rows"
        assert decided(world, 4).evidence["regret"].startswith("regret: ")
        look(world, champion, 5)
        fits.clear()
        third = look(world, champion, 6)
    assert fits == ["all", "last 2"], "the months before are on record"
    assert [each.interval.name for each in third.measured] == ["2024-04-01", "2024-05-01", "2024-06-01"]
    for window, total in third.sums.items():
        gains = [of.gain for each in third.measured for of in each.regret if of.window == window]
        losses = [each.regret[0].loss for each in third.measured]
        assert total == pytest.approx(sum(gains) / (sum(losses) / 3))
    assert third.sums["last 2"] > 0.05
    decision = decided(world, 6)
    assert (decision.policy, decision.decision.verdict) == ("regret", "retrain")
    assert "window last 2" in decision.decision.reasons[0]
    run = world.run(6)
    assert third.html is not None
    assert b"price of a training" not in run.store.read(third.html), "a figure"
    assert b"last 2" in run.store.read(third.html)


def test_it_is_on_record_once_with_its_figures(world: Stale, champion: Champion) -> None:
    for month in (4, 5):
        look(world, champion, month)
    look(world, champion, 5)
    recorded = signals(world.run(5))
    assert [(signal.question, signal.interval.name) for signal in recorded] == [
        ("regret", "2024-04-01"), ("regret", "2024-05-01"),
    ]  # fmt: skip
    assert {of.window for of in recorded[1].regret} == {"all", "last 2"}


def test_after_a_training_it_begins_anew_whatever_the_gate_said(world: Stale, champion: Champion) -> None:
    for month in (4, 5):
        look(world, champion, month)
    trained = world.run(5).as_of
    report = look(world, champion, 6, last_training_at=trained, trainings=(champion.effective_at, trained))
    losses = [each.regret[0].loss for each in report.measured]
    newest = {of.window: of.gain / (sum(losses) / 3) for of in report.measured[-1].regret}
    assert report.sums == pytest.approx(newest)
    assert len(report.measured) == 3, "the page shows what was before"


def test_a_feature_function_that_ends_its_process_ends_no_monitoring(world: Stale, champion: Champion) -> None:
    run = world.run(4)
    world.write_context(run, champion)
    data = yaml.safe_load(run.spec.text)
    data["training"]["features"] = {"file": "more.py", "adds": {"double": "number"}}
    spec = spec_from(data, "import os\ndef build(frame):\n    getattr(os, '_ex' + 'it')(3)\n")
    report = regret(replace(run, spec=spec))
    assert report.decision.verdict == "undetermined"
    assert "build() was tried, and its process ended with 3" in report.decision.reasons[0]


def test_intervals_in_doubt_neither_judge_nor_teach(world: Stale, champion: Champion) -> None:
    run = world.run(6)
    context = world.write_context(run, champion, held=("2024-04-01",))
    spans = [batch.batch.interval for batch in context.accepted]
    suspect = Decision(verdict="suspect", reasons=("they look wrong",))
    run.write(
        DiagnoseReport(
            model="churn",
            interval=run.interval,
            effective_at=run.as_of,
            decision=suspect,
            of=((spans[-1], "suspect"),),
        ),
        "diagnose",
    )
    pipeline.run_stage("regret", run)
    report = run.read(RegretReport, "regret")
    assert [each.interval.name for each in report.measured] == ["2024-05-01"]
    assert report.left_out == ("2024-04-01", "2024-06-01")
    assert report.sums["all"] == 0, "with April held, its shadow would have had the champion's rows"


def test_labels_are_taken_as_they_mature(home: Home) -> None:
    world = Stale(home, late=20)
    champion, _ = world.champion()
    assert look(world, champion, 4).decision.verdict == "undetermined"
    blind = look(world, champion, 5)
    assert blind.decision.verdict == "blind"
    decision = decided(world, 5)
    assert decision.decision.verdict == "skip"
    assert decision.evidence["regret"].startswith("regret: blind")
    late = look(world, champion, 7)
    assert [(each.interval.name, bool(each.regret)) for each in late.measured] == [
        ("2024-04-01", False), ("2024-05-01", True), ("2024-06-01", True),
    ]  # fmt: skip


def test_it_is_undetermined_without_a_champion_and_where_the_policy_does_not_ask(
    world: Stale, champion: Champion
) -> None:
    report = look(world, None, 4)
    assert (report.decision.verdict, report.decision.reasons) == ("undetermined", ("no champion yet",))
    file = world.home.models / "churn.yaml"
    file.write_text(file.read_text().replace("  regret:\n    price: 0.05\n", ""))
    run = Run(world.home, world.home.spec("churn"), world.run(5).interval, "unasked", loop="monitor")
    world.write_context(run, champion)
    pipeline.run_stage("regret", run)
    assert "the policy does not ask" in run.read(RegretReport, "regret").decision.reasons[0]
    assert not signals(run)


def test_older_intervals_than_a_run_measures_are_counted(
    world: Stale, champion: Champion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrain.stages.regret.MAX_INTERVALS", 1)
    report = look(world, champion, 6)
    assert [signal.interval.name for signal in report.measured] == ["2024-06-01"]
    assert report.decision.reasons[-1] == "2 older interval(s) are not measured"


def test_a_rehearsal_leaves_no_record(world: Stale, champion: Champion) -> None:
    from dataclasses import replace

    from retrain.results import Trigger

    run = replace(world.run(6), trigger=Trigger(dry_run=True))
    world.write_context(run, champion)
    pipeline.run_stage("regret", run)
    assert run.read(RegretReport, "regret").sums["last 2"] > 0
    assert not signals(run)
