"""Rows outside the range of what was learnt from: counted, and what is answered there."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from retrain.modeling.folds import Rows
from retrain.modeling.metrics import Array
from retrain.modeling.ranges import FEWEST, Outside, outside_range
from retrain.modeling.search import SearchResult, search
from tests.conftest import churn_spec
from tests.trained import spec_from

MONTHS, EACH, LATE = 4, 200, 40


def test_what_is_missing_is_outside_nothing() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, np.nan, 2.1, np.nan, 1.0], "b": [np.nan, np.nan, np.nan, 5.0, 5.0, 5.0]})
    assert outside_range(frame, ["a", "b"], np.arange(3), np.arange(3, 6)).tolist() == [True, False, False]
    assert outside_range(frame, [], np.arange(3), np.arange(3, 6)).tolist() == [False] * 3


@pytest.mark.parametrize("rows", [FEWEST - 1, FEWEST])
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_answers_outside_are_held_against_the_mean(task: str, rows: int) -> None:
    known, y, outside = np.array([0.0, 1.0] * 5), np.ones(2 * rows), np.arange(2 * rows) < rows

    def extrapolates(answer: float) -> bool:
        p = np.where(outside, answer, 1.0)
        of = Outside()
        of.add(task, known, y, np.column_stack([1 - p, p]) if task == "multiclass" else p, outside)
        assert (of.rows, of.share) == (2 * rows, 0.5)
        return of.extrapolates

    assert extrapolates(0.4) is (rows >= FEWEST), "worse than 0.5, if there are rows enough to say so"
    assert not extrapolates(0.5)
    assert not extrapolates(0.9)


def found(late: float) -> SearchResult:
    """A straight line and a stump on four months; the last one has some rows far from all others."""
    data = churn_spec() | {"task": "regression", "target": {"column": "spend"}}
    stump = {"estimator": "sklearn.tree.DecisionTreeRegressor", "parameters": {"max_depth": 1}}
    data["training"]["candidates"] = [{"estimator": "linear"}, stump]
    data["columns"]["churned"] = {"type": "boolean", "feature": False}
    rng = np.random.default_rng(0)
    month = np.repeat(np.arange(MONTHS), EACH)
    visits = rng.uniform(0, 60, MONTHS * EACH)
    y: Array = visits.copy()
    visits[-LATE:], y[-LATE:] = late, 45.0
    times = pd.Timestamp("2024-01-01", tz="UTC") + pd.to_timedelta(np.arange(MONTHS * EACH), unit="h")
    frame = pd.DataFrame({"signup": times, "plan": pd.Categorical(["basic"] * len(y)), "visits": visits, "member": 1.0})
    return search(spec_from(data), Rows(frame, y, month))


def test_a_winner_that_extrapolates_is_passed_over() -> None:
    outside = found(75.0)
    line, stump = outside.tried
    assert line["mean"] < stump["mean"], "under the loss without a bound the line is still ahead"
    assert (line["outside"], stump["outside"]) == pytest.approx((LATE / (3 * EACH),) * 2, abs=0.01)
    assert (line["extrapolates"], stump["extrapolates"]) == (True, False)
    assert outside.configuration.estimator == "sklearn.tree.DecisionTreeRegressor"
    assert "outside the training range" in outside.notes[0]
    assert "passed over" in outside.notes[1]

    inside = found(45.0)
    assert inside.configuration.estimator == "linear"
    assert not any("passed over" in note for note in inside.notes)
