"""What explains a fall: a changed world, a changed rate, or labels that are wrong, on rows whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from retrain.modeling import pipelines
from retrain.modeling.metrics import Array
from retrain.monitoring.estimation import ExcessLoss, loss_of
from retrain.monitoring.fall_cause import FallenRows, cause_of_fall, is_far, is_very_far
from retrain.results import Configuration
from retrain.spec import Spec
from tests.conftest import churn_spec
from tests.trained import spec_from

ROWS = 600
TASKS: dict[str, dict[str, Any]] = {
    "binary": {},
    "multiclass": {"target": {"column": "churned", "classes": ["a", "b", "c"]}},
    "regression": {},
}


def spec_of(task: str) -> Spec:
    kind = {"binary": "boolean", "multiclass": "category", "regression": "number"}[task]
    columns = {
        "id": {"type": "string"},
        "signup": {"type": "datetime"},
        "x0": {"type": "number"},
        "x1": {"type": "number"},
        "x2": {"type": "number"},
        "churned": {"type": kind},
    }
    return spec_from({**churn_spec(), "task": task, "columns": columns, **TASKS[task]})


def rows(month: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng([seed, month])
    begin = pd.Timestamp("2024-01-01", tz="UTC") + pd.DateOffset(months=month)
    days = np.sort(rng.integers(0, 28, ROWS))
    frame = pd.DataFrame(rng.normal(0, 1, (ROWS, 3)), columns=["x0", "x1", "x2"])
    return frame.assign(signup=begin + pd.to_timedelta(days, unit="D"))


def outcome(task: str, frame: pd.DataFrame, weights: Array, level: float, seed: int) -> Array:
    rng, signal = np.random.default_rng([seed, 9]), frame[["x0", "x1", "x2"]].to_numpy() @ weights + level
    if task == "regression":
        return np.asarray(signal + rng.normal(0, 1, len(frame)))
    if task == "binary":
        return np.asarray(rng.random(len(frame)) < 1 / (1 + np.exp(-signal))).astype(float)
    scores = np.column_stack([np.zeros(len(frame)), signal, -signal]) + rng.gumbel(size=(len(frame), 3))
    return np.asarray(scores.argmax(axis=1)).astype(float)


BEFORE, AFTER = np.array([2.0, 0.5, 0.0]), np.array([0.0, 0.5, 2.0])


class World:
    """A champion that has learnt 1,800 rows, and months in which it falls."""

    def __init__(self, task: str, seed: int = 3) -> None:
        self.task, self.spec, self.seed = task, spec_of(task), seed
        frame = pd.concat([rows(month, seed) for month in range(3)], ignore_index=True)
        linear = Configuration(estimator="linear", parameters={}, window=None, pipeline="")
        self.model = pipelines.fit(self.spec, linear, frame, outcome(task, frame, BEFORE, 0.0, seed))

    def month(self, number: int, weights: Array = BEFORE, level: float = 0.0, wrong: float = 0.0) -> FallenRows:
        frame, rng = rows(number, self.seed), np.random.default_rng([self.seed, number, 5])
        y = outcome(self.task, frame, weights, level, self.seed + number)
        flip = rng.random(ROWS) < wrong
        other = -y if self.task == "regression" else (y + 1) % max(len(self.spec.classes), 1)
        y = np.where(flip, other, y)
        answers = pipelines.predict(self.model, self.task, frame)
        usual = outcome(self.task, frame, BEFORE, 0.0, self.seed + number)
        loss = loss_of(self.task, self.spec.gate.metric)
        return FallenRows(frame, y, answers, loss(y, answers) - loss(usual, answers).mean())


@pytest.mark.parametrize("task", TASKS)
def test_what_the_rows_teach_tells_another_world_from_wrong_labels(task: str) -> None:
    world = World(task)
    assert cause_of_fall(world.spec, world.month(4, AFTER)).cause == "world"
    noise = cause_of_fall(world.spec, world.month(4, wrong=0.2))
    assert noise.cause == "noise"
    assert "their labels may be wrong" in noise.reason
    assert not noise.changed


@pytest.mark.parametrize("task", TASKS)
def test_half_a_change_is_told_from_wrong_labels(task: str) -> None:
    """Of a world on its way the champion still knows a part, and what is left looks like noise at first sight."""
    world = World(task)
    assert cause_of_fall(world.spec, world.month(4, 0.5 * (BEFORE + AFTER))).cause == "world"


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_an_outcome_that_comes_more_often_is_a_change(task: str) -> None:
    world = World(task)
    cause = cause_of_fall(world.spec, world.month(4, level=2.0))
    assert cause.cause == "rate"
    assert cause.changed


@pytest.mark.parametrize("task", TASKS)
def test_bad_days_are_no_wrong_labels(task: str) -> None:
    """A storm on every fourth day raises the loss as much as wrong labels would, and falls on days."""
    world = World(task)
    calm, storm = world.month(4), world.month(4, level=4.0)
    day = calm.frame["signup"].dt.day.to_numpy() % 4 == 0
    y = np.where(day, storm.y, calm.y)
    frame, loss = calm.frame, loss_of(task, world.spec.gate.metric)
    excess = loss(y, calm.prediction) - loss(calm.y, calm.prediction).mean()
    cause = cause_of_fall(world.spec, FallenRows(frame, y, calm.prediction, excess))
    assert cause.cause == "rate"
    assert "on some days" in cause.reason


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_a_change_that_follows_does_not_excuse_wrong_labels(task: str) -> None:
    """The next month's change explains nothing of a month whose labels are wrong; that of a changed month it does."""
    world = World(task)
    changed = world.month(5, AFTER)
    assert cause_of_fall(world.spec, world.month(4, AFTER), changed).cause == "world"
    assert cause_of_fall(world.spec, world.month(4, wrong=0.2), changed).cause == "noise"


def test_too_few_rows_or_blocks_cannot_tell() -> None:
    world = World("binary")
    fallen = world.month(4, AFTER)
    few = FallenRows(fallen.frame[:150], fallen.y[:150], fallen.prediction[:150], fallen.excess[:150])
    assert cause_of_fall(world.spec, few).cause == "unknown"
    one_day = fallen.frame.assign(signup=fallen.frame["signup"].iloc[0])
    cause = cause_of_fall(world.spec, FallenRows(one_day, fallen.y, fallen.prediction, fallen.excess))
    assert cause.cause == "unknown"
    assert "1 blocks cannot tell why" in cause.reason


def test_a_loss_that_nothing_explains_is_not_put_down_to_the_labels() -> None:
    world = World("binary")
    usual = world.month(4)
    cause = cause_of_fall(world.spec, FallenRows(usual.frame, usual.y, usual.prediction, usual.excess + 0.2))
    assert cause.cause == "unknown"
    assert "nor do wrong labels" in cause.reason


def test_only_a_great_fall_beyond_chance_is_asked_about() -> None:
    def excess(realised: float, low: float | None) -> ExcessLoss:
        return ExcessLoss("log_loss", realised, 0.5, realised - 0.5, low, 1.0, 400, 28)

    assert is_far(excess(0.56, 0.01))
    assert not is_far(excess(0.54, 0.01)), "8 %"
    assert not is_far(excess(0.56, -0.01)), "may be chance"
    assert not is_far(excess(0.56, None))
    assert not is_far(None)
    assert is_very_far(excess(0.8, 0.01))
    assert not is_very_far(excess(0.7, 0.01))
