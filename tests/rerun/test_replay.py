"""A timeline with a change in it, walked under three policies; nothing may be known before its time."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from benchmarks import timelines
from retrain.cli import app
from retrain.errors import MissingInput
from retrain.policy.presets import policies_of
from retrain.rerun.replay import replay, table
from retrain.results import ReplayOutcome
from retrain.spec import Spec
from retrain.state.ledger import Ledger
from retrain.state.settings import Home

ALL, OURS = "every interval, all rows", "the spec's"
MONTHS, FIRST, CHANGE = 7, 3, 5


@pytest.fixture(scope="module")
def timeline() -> Iterator[tuple[Spec, list[pd.DataFrame]]]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"MONTHS": MONTHS, "ROWS": 400, "FIRST": FIRST, "CHANGE": CHANGE}.items():
            patch.setattr(timelines, name, value)
        stream = timelines.stream_of(timelines.World("abrupt", "regression", "prompt", 0))
        yield stream.spec, list(stream.frames())


def home_of(root: Path) -> Home:
    home = Home.from_environment()
    return replace(home, state=root, store=str(root / "store"), ledger=f"sqlite:///{root / 'ledger.db'}")


@pytest.fixture(scope="module")
def walked(
    timeline: tuple[Spec, list[pd.DataFrame]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, ReplayOutcome]:
    spec, frames = timeline
    home = home_of(tmp_path_factory.mktemp("history"))
    timelines.history(home, spec, iter(frames))
    before = Ledger(home.ledger).records("timeline")
    files = sorted(Path(home.store).rglob("*"))
    outcomes = {outcome.policy: outcome for outcome in replay(home, spec, policies_of(spec, ["never", ALL, OURS]))}
    assert Ledger(home.ledger).records("timeline") == before, "a replay leaves no trace"
    assert sorted(Path(home.store).rglob("*")) == files
    return outcomes


def test_each_policy_trains_when_it_should(walked: dict[str, ReplayOutcome]) -> None:
    trained = {name: [step.interval[:7] for step in outcome.steps if step.trained] for name, outcome in walked.items()}
    assert trained["never"] == ["2020-03"]
    assert trained[ALL] == [f"2020-{month:02d}" for month in range(FIRST, MONTHS + 1)]
    assert trained[OURS][:2] == ["2020-03", "2020-06"], "the first month after the change shows it"
    for outcome in walked.values():
        assert outcome.trainings == sum(step.trained for step in outcome.steps) - 1
        assert [step.score is None for step in outcome.steps] == [month < FIRST for month in range(MONTHS)]


def test_what_came_after_the_change_is_learnt_from_at_once(walked: dict[str, ReplayOutcome]) -> None:
    scores = {name: [step.score for step in outcome.steps] for name, outcome in walked.items()}
    assert scores[OURS][:6] == scores["never"][:6], "nothing was trained in between"
    after = {name: sum(filter(None, values[CHANGE + 1 :])) for name, values in scores.items()}
    assert after[OURS] < after[ALL] < after["never"]
    turned = walked[OURS].steps[CHANGE]
    assert turned.promoted
    assert "performance: 2020-06-01" in turned.reason
    assert walked[OURS].wrong == walked["never"].promotions == 0


def test_nothing_is_known_before_its_time(
    timeline: tuple[Spec, list[pd.DataFrame]], walked: dict[str, ReplayOutcome], tmp_path: Path
) -> None:
    spec, frames = timeline
    home = home_of(tmp_path)
    timelines.history(home, spec, itertools.islice(frames, CHANGE + 1))
    (shorter,) = replay(home, spec, policies_of(spec, [OURS]))
    assert shorter.steps == walked[OURS].steps[: CHANGE + 1]


def test_the_table_has_a_row_per_policy(walked: dict[str, ReplayOutcome]) -> None:
    comparison = table(tuple(walked.values()))
    assert comparison["policy"].tolist() == ["never", ALL, OURS]
    assert list(comparison) == ["policy", "rmse", "trainings", "promotions", "wrong", "seconds"]


def test_without_history_there_is_nothing_to_walk(timeline: tuple[Spec, list[pd.DataFrame]], tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no accepted batches of timeline"):
        replay(home_of(tmp_path), timeline[0], policies_of(timeline[0], ["never"]))


def test_by_command_with_a_plot(home: Home, spec_of: Callable[[], dict[str, Any]], rows_of: Callable[..., Any]) -> None:
    data = {
        **spec_of(),
        "training": {"candidates": [{"estimator": "linear"}], "min_rows": 100},
        "gate": {"min_rows": 100},
    }
    (home.models / "churn.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    frames = [rows_of(f"2024-0{month}-01", 150) for month in (1, 2, 3)]
    timed = (frame.assign(signup=pd.to_datetime(frame["signup"], utc=True)) for frame in frames)
    timelines.history(home, home.spec("churn"), timed)
    result = CliRunner().invoke(app, ["replay", "churn", "--policy", "never"])
    assert result.exit_code == 0, result.output
    assert "never" in result.output
    assert "log_loss" in result.output
    folder = home.state / "replay" / "churn"
    assert (folder / "replay.png").read_bytes().startswith(b"\x89PNG")
    steps = json.loads((folder / "replay.json").read_text())[0]["steps"]
    assert [step["decision"] for step in steps] == ["skip", "retrain", "skip"]
