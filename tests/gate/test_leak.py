"""Leaks that were planted are named, and honest rows raise no alarm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from retrain.gate.checks import leak
from retrain.results import (
    Finding,
)
from retrain.stages.evaluate import evaluate
from retrain.stages.gate import gate
from retrain.state.settings import Home
from tests.gate.candidate import (
    holdout,
    judged,
    lay,
    other,
    spec_of,
)


def secret(frame: pd.DataFrame, wrong: float = 0.0) -> Any:
    flips = np.random.default_rng(len(frame)).random(len(frame)) < wrong
    return frame["churned"].to_numpy() ^ flips


PLANTED: dict[str, Any] = {
    "the outcome itself": lambda frame: frame.assign(member=secret(frame)),
    "a noisy copy": lambda frame: frame.assign(member=secret(frame, 0.04)),
    "a number after the fact": lambda frame: frame.assign(
        spend=np.where(secret(frame), 0.0, 20.0) + np.random.default_rng(5).gamma(2, 2, len(frame))
    ),
    "the same twice": lambda frame: frame.assign(
        member=secret(frame, 0.04), spend=np.where(secret(frame, 0.05), 0.0, 30.0) + frame["spend"] / 20
    ),
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_future_column_stops_the_candidate_by_name(home: Home, tmp_path: Path, what: str) -> None:
    laid = lay(home, tmp_path, spec_of(), "random_forest", PLANTED[what])
    laid.run.write(evaluate(laid.run), "evaluate")
    report = gate(laid.run)
    assert report.decision.verdict == "keep"
    named = "spend" if what == "a number after the fact" else "member"
    assert any(f"{named} may know the answer" in reason for reason in report.decision.reasons)


def test_honest_rows_raise_no_alarm(home: Home, tmp_path: Path) -> None:
    laid = lay(home, tmp_path, spec_of())
    laid.run.write(evaluate(laid.run), "evaluate")
    report = gate(laid.run)
    checks = {check.name: check for check in report.checks}
    assert report.decision.verdict == "promote"
    assert checks["too good"].passed is True
    assert checks["one feature"].passed is True


def test_a_leak_of_numbers_and_of_classes_is_named(home: Home) -> None:
    rng = np.random.default_rng(6)
    y = rng.pareto(2.5, 800)
    frame = pd.DataFrame({"visits": y * 3 + 1, "plan": pd.Categorical(rng.choice(["a", "b"], 800)), "member": y > 1.0})
    numbers = other("regression")
    findings = list(leak.findings(holdout(home, numbers, y, {"new": y + rng.normal(0, 0.05, 800)}, frame=frame)))
    check = judged(numbers, findings)["one feature"]
    assert (check.passed, "visits may know the answer" in check.reason) == (False, True)

    truth = rng.integers(0, 3, 800)
    frame = pd.DataFrame(
        {
            "visits": rng.integers(0, 60, 800).astype(float),
            "spend": np.where(rng.random(800) < 0.03, np.nan, truth * 10.0),
            "member": 1.0,
        }
    )
    classes = other("multiclass")
    sure = 0.9 * np.eye(3)[truth] + 0.1 / 3
    findings = list(leak.findings(holdout(home, classes, truth, {"new": sure}, frame=frame)))
    assert "spend may know the answer" in judged(classes, findings)["one feature"].reason


def test_many_features_together_may_explain_much(home: Home) -> None:
    rng = np.random.default_rng(7)
    frame = pd.DataFrame({name: rng.normal(0, 1, 1000) for name in ("visits", "member")})
    frame["plan"] = pd.Categorical(rng.choice(["a", "b"], 1000))
    y = frame["visits"] + frame["member"]
    findings = list(leak.findings(holdout(home, other("regression"), y, {"new": y}, frame=frame)))
    assert [finding.about for finding in findings] == ["", findings[1].about]
    assert judged(other("regression"), findings)["one feature"].passed is True


def test_a_refresh_of_a_champion_with_the_same_feature_is_only_reported() -> None:
    spec = spec_of()

    def of(model: str, feature: str, share: float | None = 0.99) -> list[Finding]:
        both = [("", 0.9), (feature, share)]
        return [Finding(check="leak", model=model, about=name, value=value, text="t") for name, value in both]

    def outcome(findings: list[Finding], name: str, kind: str) -> tuple[bool | None, bool]:
        check = judged(spec, findings, name, kind=kind)["one feature"]
        return check.passed, check.binding

    assert outcome([*of("refresh", "member"), *of("champion", "member")], "refresh", "refresh") == (False, False)
    assert outcome([*of("refresh", "member"), *of("champion", "spend")], "refresh", "refresh") == (False, True)
    assert outcome([*of("refresh", "member"), *of("champion", "member", 0.5)], "refresh", "refresh") == (False, True)
    assert outcome([*of("new", "member"), *of("champion", "member")], "new", "new") == (False, True)
    assert outcome(of("new", "member", 0.94), "new", "new") == (True, True)
    assert outcome(of("new", "member", None), "new", "new") == (False, True)


@pytest.mark.parametrize(
    ("metric", "score", "naive", "passed"),
    [
        ("log_loss", 0.0135, 0.69, False),
        ("log_loss", 0.02, 0.69, True),
        ("brier", 0.0, 0.25, False),
        ("roc_auc", 0.9995, 0.5, False),
        ("roc_auc", 0.99, 0.5, True),
        ("log_loss", None, 0.69, None),
        ("log_loss", 0.5, None, None),
    ],
)
def test_what_is_too_good(metric: str, score: float | None, naive: float | None, passed: bool | None) -> None:
    spec = spec_of(metric=metric)
    check = judged(spec, [], scores={"new": score, "naive": naive})["too good"]
    assert check.passed is passed
    again = judged(spec, [], "refresh", kind="refresh", scores={"refresh": score, "champion": score, "naive": naive})
    assert again["too good"].binding is (passed is True)
    assert "too good" not in judged(spec_of(metric=metric, leak=False), [], scores={"new": score, "naive": naive})
