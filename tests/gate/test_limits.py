"""Absolute limits: the metric is scikit-learn's, at face value, and holds back whoever does not reach it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn import metrics as sk

from retrain.gate.checks import limits
from retrain.results import GateCheck
from retrain.spec import EXAMPLE, Spec, parse
from retrain.state.settings import Home
from tests.conftest import churn_spec
from tests.gate.candidate import holdout, judged, other, spec_of
from tests.gate.test_judge import GAIN, champion, verdict
from tests.trained import spec_from

RNG = np.random.default_rng(4)
ROWS = 900
Y = (RNG.random(ROWS) < 0.3).astype(float)
P = np.clip(0.3 * Y + RNG.uniform(0.1, 0.7, ROWS), 0, 1)
PLAN = RNG.choice(["basic", "plus", "pro"], ROWS, p=[0.6, 0.38, 0.02])
FRAME = pd.DataFrame({"plan": pd.Categorical(PLAN)})


def sliced(**of: Any) -> Spec:
    """The churn model with plans as slices and these limits."""
    return spec_from({**churn_spec(), "evaluation": {"slices": ["plan"]}, "gate": {"limits": of, "min_rows": 100}})


def check(home: Home, spec: Spec, y: Any = Y, prediction: Any = P, **more: Any) -> dict[str, GateCheck]:
    rows = holdout(home, spec, y, {"new": prediction, **more}, frame=FRAME.iloc[: len(y)])
    checks = judged(spec, limits.findings(rows))
    return {name: result for name, result in checks.items() if name.startswith("limit")}


@pytest.mark.parametrize("name", ["recall", "precision", "f1", "accuracy"])
def test_the_metric_is_the_fields_and_has_no_interval(home: Home, name: str) -> None:
    value = getattr(sk, f"{name}_score")(Y, P >= 0.5)
    for bound, passed in ((value - 1e-6, True), (value, True), (value + 1e-6, False)):
        (result,) = check(home, spec_of(limits={name: {"min": float(bound)}})).values()
        assert result.name == f"limit {name}"
        assert (result.passed, result.binding) == (passed, True)
        assert result.value == pytest.approx(value)


def test_a_loss_is_held_from_above_and_a_bias_from_both_sides(home: Home) -> None:
    loss = sk.log_loss(Y, P)
    results = check(home, spec_of(limits={"log_loss": {"max": loss - 0.01}, "brier": {"max": 0.9}}))
    assert {name: result.passed for name, result in results.items()} == {"limit log_loss": False, "limit brier": True}
    assert f"log_loss {loss:.4g} on 900 rows, at most" in results["limit log_loss"].reason
    numbers, y = other("regression", limits={"bias": {"min": -1, "max": 2}}), RNG.normal(100, 20, ROWS)
    for error, passed in ((-1.5, False), (0.0, True), (2.5, False)):
        assert check(home, numbers, y, y + error)["limit bias"].passed is passed


def test_a_class_is_asked_against_the_rest(home: Home) -> None:
    spec = other("multiclass", limits={"recall": {"classes": {"pro": {"min": 0.5}, "basic": {"min": 0.5}}}})
    y = RNG.integers(0, 3, ROWS).astype(float)
    p = RNG.dirichlet([1, 1, 1], ROWS) + 0.6 * np.eye(3)[y.astype(int)]
    p[y == 2] = [0.6, 0.2, 0.2]
    p /= p.sum(axis=1, keepdims=True)
    results = check(home, spec, y, p)
    recalls = sk.recall_score(y, p.argmax(axis=1), average=None, zero_division=0)
    assert results["limit recall of pro"].value == pytest.approx(recalls[2]) == 0
    assert results["limit recall of basic"].value == pytest.approx(recalls[0])
    assert [results[f"limit recall of {name}"].passed for name in ("pro", "basic")] == [False, True]
    no = check(home, spec_of(limits={"recall": {"classes": {False: {"min": 0.1}}}}))["limit recall of False"]
    assert no.value == pytest.approx(sk.recall_score(Y, P >= 0.5, pos_label=0)), "of two classes either can be asked"


def test_the_worst_value_of_a_column_counts_and_small_ones_are_named(home: Home) -> None:
    worse = np.where((PLAN == "plus") & (RNG.random(ROWS) < 0.7), 0.1, P)
    spec = sliced(recall={"slices": {"plan": {"min": 0.3}}})
    result = check(home, spec, Y, worse)["limit recall by plan"]
    plus = PLAN == "plus"
    assert result.value == pytest.approx(sk.recall_score(Y[plus], worse[plus] >= 0.5))
    assert result.passed is False
    assert "outside: plus 0." in result.reason
    assert "too few rows to judge: pro (" in result.reason
    assert check(home, spec)["limit recall by plan"].passed is True
    nobody = check(home, spec, Y[:60], P[:60])["limit recall by plan"]
    assert (nobody.passed, nobody.binding) == (None, True), "asked for by name, and no value can tell"


def test_too_few_rows_of_what_it_is_about_hold_back(home: Home) -> None:
    spec = spec_of(limits={"recall": {"min": 0.1}, "accuracy": {"min": 0.1}})
    y = np.zeros(ROWS)
    y[:19] = 1
    results = check(home, spec, y)
    assert results["limit accuracy"].passed is True
    assert (results["limit recall"].passed, results["limit recall"].binding) == (None, True)
    assert "19 rows tell it, 20 are needed" in results["limit recall"].reason
    y[:20] = 1
    assert check(home, spec, y)["limit recall"].passed is not None


def test_every_model_is_measured_and_one_that_was_not_is_held_back(home: Home) -> None:
    spec = spec_of(limits={"roc_auc": {"min": 0.6}})
    naive = np.full(ROWS, 0.3)
    findings = list(limits.findings(holdout(home, spec, Y, {"new": P, "naive": naive, "champion": 1 - P}, frame=FRAME)))
    assert [finding.model for finding in findings] == ["new", "naive", "champion"]
    for kind in ("new", "refresh", "baseline"):
        assert judged(spec, findings, kind=kind)["limit roc_auc"].passed is True
        assert judged(spec, findings, "naive", kind=kind)["limit roc_auc"].passed is False
    serving = sk.roc_auc_score(Y, 1 - P)
    assert f"the champion's is {serving:.4g}" in judged(spec, findings)["limit roc_auc"].reason
    absent = judged(spec, [])["limit roc_auc"]
    assert (absent.passed, absent.binding) == (None, True)


@pytest.mark.parametrize(("serving", "kind"), [(None, "new"), (champion(), "refresh"), (champion(), "new")])
def test_whoever_would_serve_is_held_back_the_first_model_too(serving: Any, kind: str) -> None:
    free = parse(EXAMPLE, "churn")
    limited = parse(EXAMPLE + "gate: {limits: {recall: {min: 0.3}}}", "churn")
    gains = {(kind, "champion"): GAIN} if serving else {(kind, "naive"): GAIN}
    assert verdict(gains, spec=free, serving=serving).decision.verdict == "promote"
    held = verdict(gains, spec=limited, serving=serving)
    assert held.decision.verdict == "inconclusive"
    assert held.decision.reasons == (f"{kind} was not measured: recall, at least 0.3 is asked",)


def test_without_limits_nothing_is_measured(home: Home) -> None:
    assert check(home, spec_of()) == {}


def test_a_class_may_be_a_number_in_the_file() -> None:
    data = churn_spec()
    data["columns"]["churned"] = {"type": "integer"}
    text = "target: {column: churned, classes: [0, 1]}\ngate: {limits: {recall: {classes: {1: {min: 0.5}}}}}\n"
    del data["target"]
    spec = parse(yaml.safe_dump(data, sort_keys=False) + text, "churn")
    assert [limited.about for limited in spec.gate.limited] == ["recall of 1"]
