"""Differences between groups against Fairlearn, and the bounds on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference

from retrain.gate.checks import fairness
from retrain.gate.checks.holdout import Holdout
from retrain.results import (
    Finding,
)
from retrain.state.settings import Home
from tests.gate.candidate import (
    holdout,
    judged,
    other,
    spec_of,
)


def protected(seed: int = 3, rows_: int = 1200) -> tuple[pd.DataFrame, Any, Any]:
    """Groups a, b and a few rows of c and of nobody; b is answered yes less often."""
    rng = np.random.default_rng(seed)
    plan = rng.choice(["a", "b"], rows_).astype(object)
    plan[:30], plan[30:230] = "c", None
    y = rng.random(rows_) < 0.5
    prediction = np.clip(0.35 * y + rng.uniform(0.1, 0.6, rows_) - 0.15 * (plan == "b"), 0, 1)
    frame = pd.DataFrame({"plan": pd.Categorical(plan), "visits": rng.integers(0, 60, rows_).astype(float)})
    return frame, y, prediction


def by_about(rows: Holdout) -> dict[str, Finding]:
    return {finding.about: finding for finding in fairness.findings(rows)}


def test_differences_are_fairlearns_and_small_groups_are_named(home: Home) -> None:
    frame, y, prediction = protected()
    spec = spec_of(fairness={"columns": ["plan"]})
    findings = by_about(holdout(home, spec, y, {"new": prediction}, frame=frame))
    group = frame["plan"].astype(object).fillna("(missing)")
    kept = (group != "c").to_numpy()
    yes = (prediction >= 0.5)[kept]
    assert findings["demographic_parity plan"].value == pytest.approx(
        demographic_parity_difference(y[kept], yes, sensitive_features=group[kept])
    )
    # 200 rows of nobody hold about 100 of each outcome, which is the floor; another draw may fall below.
    lower = spec_of(fairness={"columns": ["plan"], "min_rows": 60})
    odds = by_about(holdout(home, lower, y, {"new": prediction}, frame=frame))["equalized_odds plan"]
    assert odds.value == pytest.approx(equalized_odds_difference(y[kept], yes, sensitive_features=group[kept]))
    text = findings["demographic_parity plan"].text
    assert "too few rows to judge: c (30)" in text
    assert "(missing) 0." in text
    assert "b 0." in text


@pytest.mark.parametrize(("bound", "passed"), [(0.05, False), (0.9, True)])
def test_a_bound_that_is_written_down_must_hold(home: Home, bound: float, passed: bool) -> None:
    frame, y, prediction = protected()
    bounds = {"columns": ["plan"], "demographic_parity": bound, "equalized_odds": bound, "min_rows": 60}
    spec = spec_of(fairness=bounds)
    checks = judged(spec, fairness.findings(holdout(home, spec, y, {"new": prediction}, frame=frame)))
    for name in ("demographic parity plan", "equalized odds plan"):
        assert (checks[name].passed, checks[name].binding, checks[name].bound) == (passed, True, bound)
    assert "share answered yes" in checks["demographic parity plan"].reason
    assert "positive rate" in checks["equalized odds plan"].reason


def test_groups_too_small_to_tell_hold_back_where_a_bound_is_written(home: Home) -> None:
    frame, y, prediction = protected()
    y = y & (frame["plan"] == "a").to_numpy()  # no group but a has a positive: that is no rate of zero
    bound = spec_of(fairness={"columns": ["plan"], "equalized_odds": 0.2})
    findings = list(fairness.findings(holdout(home, bound, y, {"new": prediction}, frame=frame)))
    check = judged(bound, findings)["equalized odds plan"]
    assert (check.passed, check.binding, check.value) == (None, True, None)
    assert "true positive rate: 1 of two groups" in check.reason
    free = judged(spec_of(fairness={"columns": ["plan"]}), findings)["equalized odds plan"]
    assert (free.passed, free.binding) == (None, False)


@pytest.mark.parametrize(("margin", "passed"), [(0.02, False), (0.3, True)])
def test_not_less_fair_than_the_champion(home: Home, margin: float, passed: bool) -> None:
    frame, y, prediction = protected()
    spec = spec_of(fairness={"columns": ["plan"], "margin": margin, "min_rows": 60})
    fair = np.where(frame["plan"] == "b", prediction + 0.15, prediction)
    findings = list(fairness.findings(holdout(home, spec, y, {"new": prediction, "champion": fair}, frame=frame)))
    check = judged(spec, findings)["demographic parity plan beside the champion"]
    assert (check.passed, check.binding) == (passed, True)
    assert "demographic parity plan" not in judged(spec, findings)
    swapped = fairness.findings(holdout(home, spec, y, {"new": fair, "champion": prediction}, frame=frame))
    assert judged(spec, swapped)["demographic parity plan beside the champion"].passed is True


def test_numbers_and_classes_are_compared_between_groups(home: Home) -> None:
    frame, _, _ = protected()
    rng, b = np.random.default_rng(4), (frame["plan"] == "b").to_numpy()
    bounds = {"columns": ["plan", "visits"], "min_rows": 60}
    numbers, y = other("regression", fairness=bounds), rng.normal(100, 20, len(frame))
    findings = by_about(holdout(home, numbers, y, {"new": y - 10 * b}, frame=frame))
    assert findings["equalized_odds plan"].value == pytest.approx(10 / np.std(y))
    assert 0 <= findings["demographic_parity visits"].value < 0.4  # type: ignore[operator]
    assert "Q1: " in findings["demographic_parity visits"].text

    classes, truth = other("multiclass", fairness=bounds), rng.integers(0, 3, len(frame))
    p = np.eye(3)[np.where(b, 2, truth)]
    findings = by_about(holdout(home, classes, truth, {"new": p}, frame=frame))
    assert findings["equalized_odds plan"].value == 1
    assert findings["demographic_parity plan"].value == pytest.approx(2 / 3, abs=0.1)
    assert "share answered pro" in findings["demographic_parity plan"].text
