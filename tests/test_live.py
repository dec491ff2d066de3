"""The laptop's walk through a history, beside the same history as Airflow's DAGs would run it by their readiness."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from retrain import pipeline
from retrain.cli import app
from retrain.errors import RegistryUnavailable, RetrainError
from retrain.live import live_through, monitor_moments
from retrain.results import Trigger
from retrain.state.ledger import Ledger, Record
from retrain.state.readiness import loop_run_key, readiness_of, readiness_records
from retrain.state.run import Run
from retrain.state.settings import Home
from tests.conftest import Model, churn_rows, churn_spec, enter_home, lay_mlflow

MONTHS = ("2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01", "2024-05-01")
CHANGED, BAD, LAST = MONTHS[2:]


def spec(**more: Any) -> dict[str, Any]:
    return {
        **churn_spec(),
        "interval": {"every": "month", "start": MONTHS[0], "end": "2024-06-01"},
        # The estimate is the monitor's alone: what it finds, only an alert can start.
        "policy": {"schedule": 2, "drift": False, "estimated": True},
        "training": {"candidates": [{"estimator": "linear"}], "min_rows": 100, "windows": ["all", "change"]},
        # Nobody who has learnt from the months before is calibrated on the one that changed.
        "gate": {"min_rows": 100, "margin": 0.45, "calibration": None},
        **more,
    }


def delivered(start: str) -> pd.DataFrame:
    """From March on visits say little and the plan decides; the month after comes with a plan too many."""
    frame = churn_rows(start, 700)
    if start >= CHANGED:
        chance = np.random.default_rng(int(start[5:7]))
        frame["visits"] = chance.integers(18, 24, len(frame))
        frame["churned"] = chance.random(len(frame)) < np.where(frame["plan"] == "basic", 0.85, 0.1)
    return frame.assign(plan="gold") if start == BAD else frame


def home_with_deliveries(root: Path, patch: pytest.MonkeyPatch, empty_mlflow: Path) -> Model:
    root.mkdir()
    model = Model(enter_home(root, patch))
    lay_mlflow(model.home, empty_mlflow)
    model.write_spec(spec())
    for month in MONTHS:
        model.deliver(month, delivered(month))
    return model


class Scheduler:
    """Airflow's part: a run at a time for each DAG, a stage at a time, and whoever is ready goes.

    A month's runs come when the month is over, and the next month's when they have ended. The loops are asked in the
    order of their haste: a training takes the longest.
    """

    def __init__(self, model: Model) -> None:
        self.home, self.spec = model.home, model.home.spec("churn")
        self.queued: dict[str, list[Run]] = {"score": [], "monitor": [], "retrain": []}
        self.stages: dict[str, list[str]] = {}

    def play(self) -> None:
        for month in MONTHS:
            for loop, runs in self.queued.items():
                key = loop_run_key(loop, f"scheduled__{month}")
                runs.append(Run(self.home, self.spec, self.spec.at(month), key, Trigger(id=key), loop))  # type: ignore[arg-type]
            while any(self.queued.values()):
                assert any(self.advance(loop) for loop in self.queued), "all wait for each other"

    def advance(self, loop: str) -> bool:
        """One stage of a loop's run; False where it has none, or waits."""
        if not self.queued[loop]:
            return False
        run = self.queued[loop][0]
        if loop not in self.stages:
            if loop != "retrain" and not self.ready(run):
                return False
            loops = {"retrain": pipeline.STAGES, "score": pipeline.SCORING, "monitor": pipeline.MONITORING}
            self.stages[loop] = [stage.name for stage in loops[loop]]
        name, *left = self.stages[loop]
        try:
            if not pipeline.idle(name, run):
                pipeline.run_stage(name, run)
            self.stages[loop] = left
        except RetrainError:
            self.stages[loop] = left = []
        if not left:
            del self.stages[loop], self.queued[loop][0]
            self.start(run)
        return True

    def ready(self, run: Run) -> bool:
        now = datetime.now(UTC)
        since = now - timedelta(minutes=5)
        return readiness_of(run, readiness_records(run), now=now, since=since, paused=False).ready

    def start(self, run: Run) -> None:
        decision = run.ledger.find("churn", "decision", run.key) if run.loop == "monitor" else None
        if decision and decision.body["verdict"] == "retrain":
            alert = Trigger(kind="alert", id=decision.key, reason="; ".join(decision.body["reasons"]))
            self.queued["retrain"].append(replace(run, loop="retrain", key=f"alert-{decision.key}", trigger=alert))


@pytest.fixture(scope="module")
def by_airflow(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Home:
    """A home in which the DAGs' runs have gone through the months."""
    with pytest.MonkeyPatch.context() as patch:
        model = home_with_deliveries(tmp_path_factory.mktemp("airflow") / "home", patch, empty_mlflow)
        Scheduler(model).play()
        return model.home


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Iterator[tuple[Home, Result, Result]]:
    """A home that a laptop has walked through, in two goes: a fault ended the first within the last training."""
    with pytest.MonkeyPatch.context() as patch:
        model = home_with_deliveries(tmp_path_factory.mktemp("laptop") / "home", patch, empty_mlflow)
        with patch.context() as faulty:
            import retrain.stages.evaluate as stage

            evaluate = stage.evaluate

            def fail(run: Run) -> Any:
                if run.interval.name == LAST:
                    raise ZeroDivisionError("a fault of ours")
                return evaluate(run)

            faulty.setattr(stage, "evaluate", fail)
            first = CliRunner().invoke(app, ["run", "churn", "--history"])
        yield model.home, first, CliRunner().invoke(app, ["run", "churn", "--history"])


@pytest.fixture
def walked(laptop: tuple[Home, Result, Result], monkeypatch: pytest.MonkeyPatch) -> Model:
    return Model(enter_home(laptop[0].root, monkeypatch))


def records(home: Home, kind: str) -> list[Record]:
    return Ledger(home.ledger).records("churn", kind)


def compared(home: Home) -> dict[str, list[tuple[Any, ...]]]:
    """Kind → what its records say, without the names of runs, sorted."""
    fields = {
        "promotion": ("version", "previous", "kind", "reasons"),
        "decision": ("by", "interval", "verdict", "policy", "reasons", "champion"),
        "score": ("interval", "version", "shadow", "sha256"),
        "signal": ("question", "interval", "champion", "verdict"),
    }
    facts = {
        kind: [(record.effective_at, *(plain(record.body[field]) for field in names)) for record in records(home, kind)]
        for kind, names in fields.items()
    }
    champions = [record.body["champion"] for record in records(home, "promotion")]
    facts["models"] = [(champion["version"], champion["digest"], champion["expected_score"]) for champion in champions]
    facts["watches"] = [
        (run.body["interval"], run.body["verdict"], plain(run.body["reasons"]))
        for run in records(home, "monitor stage")
        if run.body["stage"] == "rollout"
    ]
    facts["analyses"] = [(record.effective_at, record.key) for record in records(home, "interim_analysis")]
    return {kind: sorted(lines) for kind, lines in facts.items()}


def plain(value: Any) -> str:
    return re.sub(r"alert monitor-(laptop-|scheduled__)\S+", "alert", str(value))


def test_the_laptop_lives_as_airflow_does(by_airflow: Home, walked: Model) -> None:
    decided = [record.body["policy"] for record in records(by_airflow, "decision") if record.body["by"] == "retrain"]
    assert decided == ["waiting", "first model", "none", "alert", "schedule"]
    by_laptop, expected = compared(walked.home), compared(by_airflow)
    for kind, lines in expected.items():
        assert by_laptop[kind] == lines, kind
    assert len(expected["promotion"]) == 3, "the first, that of the alert, that of the schedule"
    assert expected["watches"][-1][:2] == (LAST, "watched"), "judged in the very month in which its champion goes"


# --- the laptop's walk


def test_a_fault_of_ours_ends_it_and_the_next_goes_on_from_there(laptop: tuple[Home, Result, Result]) -> None:
    home, first, second = laptop
    assert isinstance(first.exception, ZeroDivisionError)
    assert second.exit_code == 0, second.output
    assert "on record already, and skipped: 2024-01-01 to 2024-03-01\n" in second.output
    last = [record for kind in ("stage", "monitor stage") for record in records(home, kind)]
    ran = [record.body["stage"] for record in last if record.body["interval"] == LAST]
    assert ran.count("train") == 1, "what was done before the fault is not done again"
    assert ran.count("evaluate") == 2
    assert ran.count("rollout") == 1


def test_an_earlier_refusal_is_said_and_the_last_one_is_the_commands(walked: Model) -> None:
    before = len(records(walked.home, "promotion"))
    again = CliRunner().invoke(app, ["run", "churn", "--history"])
    assert again.exit_code == 0
    assert "refused: 1 of 5 intervals: 2024-04-01 (score: RowsRejected)\n" in again.output
    assert "2024-04-01 · churn · validate · Quarantined" in again.output
    until_then = CliRunner().invoke(app, ["run", "churn", "--history", "--interval", BAD])
    assert until_then.exit_code == 1
    assert isinstance(until_then.exception, RetrainError)
    assert len(records(walked.home, "promotion")) == before


def test_a_rehearsal_of_the_whole_history_is_another_command(walked: Model) -> None:
    answer = CliRunner().invoke(app, ["run", "churn", "--history", "--dry-run"])
    assert answer.exit_code == 2
    assert "python -m retrain replay churn" in re.sub(r"\s*│\s*", " ", answer.output)


def test_who_monitors_too_late_is_pointed_to_the_walk(walked: Model) -> None:
    answer = CliRunner().invoke(app, ["monitor", "churn", "--interval", MONTHS[1]])
    assert answer.exit_code == 0
    assert "1 of these decisions came too late to be acted on: python -m retrain run churn --history" in answer.output


def test_a_version_that_waits_for_a_person_holds_nothing_up(churn: Model, mlflow: Home) -> None:
    churn.write_spec(spec(promotion={"mode": "approve"}, interval={"every": "month", "start": MONTHS[0], "end": BAD}))
    for month in MONTHS[:3]:
        churn.deliver(month)
    answer = CliRunner().invoke(app, ["run", "churn", "--history"])
    assert answer.exit_code == 0, answer.output
    assert "2024-02-01 · promote: waiting: version 1: waits for a person's approval until" in answer.output
    assert re.search(r"version \d waits for a person's word, and the champion serves on: python", answer.output)
    assert "2024-03-01 · monitor decide: " in answer.output
    assert not records(churn.home, "promotion")


def test_a_batch_that_may_still_come_is_not_monitored_before(churn: Model) -> None:
    source = churn_spec()["source"]
    for wait, monitored in (("36500d", False), ("1h", True)):
        churn.write_spec({**churn_spec(), "source": {**source, "wait": wait}})
        steps = list(live_through(churn.run()))
        assert [(step.run.loop, step.stage) for step in steps if step.refusal] == [
            ("score", "ingest"), ("retrain", "ingest")
        ]  # fmt: skip
        assert any(step.run.loop == "monitor" for step in steps) is monitored


def test_an_outage_ends_the_walk(churn: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(run: Run) -> Any:
        raise RegistryUnavailable("no answer", do="wait")

    monkeypatch.setattr("retrain.stages.ingest.ingest", fail)
    with pytest.raises(RegistryUnavailable):
        list(live_through(churn.run()))


def test_a_monitor_with_its_own_schedule_looks_when_airflow_would(churn: Model) -> None:
    churn.write_spec(spec(monitor={"every": "week"}))
    run = churn.run()
    days = {month: [f"{at:%m-%d}" for at in monitor_moments(run.spec, run.spec.at(month))] for month in MONTHS}
    assert days["2024-01-01"] == ["02-05", "02-12", "02-19", "02-26"]
    assert days["2024-03-01"] == ["04-01", "04-08", "04-15", "04-22", "04-29"], "the end of March is a Monday's start"
    assert days["2024-05-01"] == ["06-03"], "the schedule ends with the week in which the last interval does"
    daily = {"every": "day", "start": "2024-01-04", "end": "2024-01-18"}
    churn.write_spec(spec(interval=daily, monitor={"every": "week"}))
    daily_spec = churn.home.spec("churn")
    ended = daily_spec.intervals_until(datetime.now(UTC))
    days = {span.start.day: [at.day for at in monitor_moments(daily_spec, span)] for span in ended}
    assert {day: looked for day, looked in days.items() if looked} == {14: [15], 17: [22]}
