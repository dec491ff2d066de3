"""What is asked of a candidate beside its metrics: each question on rows where the answer is known."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference
from rich.console import Console
from sklearn.pipeline import Pipeline

from retrain.data import dataset
from retrain.errors import InvalidSpec
from retrain.gate import checks, table
from retrain.gate.checks import calibration, edge_cases, fairness, leak, overfit
from retrain.gate.checks.holdout import Holdout
from retrain.modeling import estimators, pipelines, resampling, trainer
from retrain.registry.candidates import fit_candidate
from retrain.results import (
    Configuration,
    Context,
    Decision,
    EvaluateReport,
    Finding,
    Fitted,
    GateCheck,
    GateReport,
    Interval,
    Measured,
    TrainReport,
)
from retrain.spec import Spec, load, parse
from retrain.stages.evaluate import evaluate
from retrain.stages.gate import gate
from retrain.state.run import Run
from retrain.state.settings import Home
from tests.conftest import churn_rows, churn_spec
from tests.trained import begun, publish

LINEAR = Configuration(estimator="linear", parameters={}, pipeline="p")
MONTHS = ("2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01")


def spec_of(cases: str = "", **gate: Any) -> Spec:
    """The churn model with these keys of its gate."""
    shadow = {"cases": "churn.cases.yaml"} if cases else {}
    data = {**churn_spec(), "gate": {"min_rows": 100, **shadow, **gate}}
    return parse(yaml.safe_dump(data, sort_keys=False), "churn", cases=cases)


def other(task: str, **gate: Any) -> Spec:
    """The churn model asked for another kind of answer."""
    target = {"column": "spend"} if task == "regression" else {"column": "plan", "classes": ["basic", "plus", "pro"]}
    data = {**churn_spec(), "task": task, "target": target, "gate": gate}
    data["columns"]["churned"] = {"type": "boolean", "max_missing": 0.5, "feature": False}
    return parse(yaml.safe_dump(data, sort_keys=False), "churn")


def about(spec: Spec) -> dict[str, Any]:
    interval = spec.at("2024-04-01")
    return {"model": spec.model, "interval": interval, "effective_at": interval.end}


def fitted(name: str, kind: Any = "new") -> Fitted:
    interval = Interval.model_validate({"start": "2024-01-01T00:00Z", "end": "2024-02-01T00:00Z"})
    return Fitted(
        name=name, kind=kind, configuration=LINEAR, training="t", intervals=(interval,), rows=9, key="k", digest="d"
    )


def holdout(
    home: Home, spec: Spec, y: Any, said: Mapping[str, Any], *, frame: pd.DataFrame | None = None, block: Any = None
) -> Holdout:
    """Holdout rows on which these answers were given; no model is needed."""
    names = [name for name in said if name != "champion"]
    train = TrainReport(**about(spec), fitted=tuple(fitted(name) for name in names), holdout=(), seed=1)
    y = np.asarray(y, dtype=float)
    return Holdout(
        run=Run(home, spec, spec.at("2024-04-01"), "run"),
        train=train,
        models=dict.fromkeys(said),  # type: ignore[arg-type]
        frame=pd.DataFrame(index=range(len(y))) if frame is None else frame,
        y=y,
        predictions={name: np.asarray(given, dtype=float) for name, given in said.items()},
        block=np.arange(len(y)) % 20 if block is None else block,
    )


def judged(
    spec: Spec,
    findings: Any,
    name: str = "new",
    *,
    kind: Any = "new",
    scores: Mapping[str, float | None] | None = None,
) -> dict[str, GateCheck]:
    """The checks of one candidate by name, from these findings and scores."""
    report = EvaluateReport(
        **about(spec),
        decision=Decision(verdict="measured", reasons=("measured",)),
        metrics={one: {spec.gate.metric: Measured(value=value)} for one, value in (scores or {}).items()},
    ).model_copy(update={"findings": tuple(findings)})
    return {check.name: check for check in checks.checks(spec, report, fitted(name, kind))}


# --- calibration


def drawn(chance: Any, seed: int = 0) -> Any:
    return (np.random.default_rng(seed).random(len(chance)) < chance).astype(float)


def test_noise_of_few_rows_is_no_miscalibration(home: Home) -> None:
    """The plain error of honest probabilities is above the bound on most of these samples; few are called so."""
    spec, plain, called = spec_of(), 0, 0
    for seed in range(60):
        p = np.random.default_rng([1, seed]).uniform(0.2, 0.8, 80)
        found = list(calibration.findings(holdout(home, spec, drawn(p, seed), {"new": p})))
        plain += found[0].value > spec.gate.calibration  # type: ignore[operator]
        called += judged(spec, found)["calibration"].passed is False
    assert plain > 40
    assert called <= 3


def test_a_shown_miscalibration_fails_and_says_how_large(home: Home) -> None:
    spec, p = spec_of(), np.random.default_rng(1).uniform(0.2, 0.8, 600)
    found = list(calibration.findings(holdout(home, spec, drawn(p**3), {"new": p})))
    check = judged(spec, found)["calibration"]
    assert (check.passed, check.binding) == (False, True)
    assert check.value == pytest.approx(np.mean(p - p**3), abs=0.05)
    assert 0.1 < found[0].low < found[0].value < found[0].high + 0.05  # type: ignore[operator]
    assert "expected calibration error" in check.reason
    assert "0.1 is allowed" in check.reason
    assert "calibration" not in judged(spec_of(calibration=None), found)
    assert judged(spec_of(calibration=0.5), found)["calibration"].passed is True


def test_a_champion_that_is_off_as_well_is_no_better_to_keep(home: Home) -> None:
    spec, p = spec_of(), np.random.default_rng(1).uniform(0.2, 0.8, 600)
    y = drawn(p**3)
    for champion, binding in ((np.sqrt(p), False), (p**3, True)):
        found = calibration.findings(holdout(home, spec, y, {"new": p, "champion": champion}))
        check = judged(spec, found)["calibration"]
        assert (check.passed, check.binding) == (False, binding)
        assert "; the champion's is " in check.reason


@pytest.mark.parametrize(("off", "passed"), [(0.0, True), (0.5, False)])
def test_numbers_and_classes_are_calibrated_in_their_own_way(home: Home, off: float, passed: bool) -> None:
    rng = np.random.default_rng(2)
    y = rng.normal(50, 10, 600)
    numbers = other("regression")
    shifted = y + rng.normal(0, 5, 600) + 10 * off
    found = list(calibration.findings(holdout(home, numbers, y, {"new": shifted})))
    assert found[0].value == pytest.approx(abs(np.mean(y - shifted)) / np.std(y))
    assert judged(numbers, found)["calibration"].passed is passed

    classes = other("multiclass")
    p = rng.dirichlet([1, 1, 1], 600)
    truth = np.array([rng.choice(3, p=one) for one in p])
    sharp = p ** (1 + 20 * off)
    found = list(calibration.findings(holdout(home, classes, truth, {"new": sharp / sharp.sum(axis=1, keepdims=True)})))
    assert judged(classes, found)["calibration"].passed is passed


def test_what_cannot_be_told_is_only_reported(home: Home) -> None:
    spec = spec_of()
    one_block = list(
        calibration.findings(holdout(home, spec, [0, 1] * 50, {"new": [0.9] * 100}, block=np.zeros(100, int)))
    )
    assert one_block[0].value is not None
    check = judged(spec, one_block)["calibration"]
    assert (check.passed, check.binding) == (None, False)
    constant = list(calibration.findings(holdout(home, other("regression"), [3] * 100, {"new": [3] * 100})))
    assert constant[0].value is None


# --- fairness


def protected(seed: int = 3, rows_: int = 1200) -> tuple[pd.DataFrame, Any, Any]:
    """Groups a, b and a few rows of c and of nobody; b is answered yes less often."""
    rng = np.random.default_rng(seed)
    plan = rng.choice(["a", "b"], rows_).astype(object)
    plan[:30], plan[30:230] = "c", None
    y = rng.random(rows_) < 0.5
    said = np.clip(0.35 * y + rng.uniform(0.1, 0.6, rows_) - 0.15 * (plan == "b"), 0, 1)
    return pd.DataFrame({"plan": pd.Categorical(plan), "visits": rng.integers(0, 60, rows_).astype(float)}), y, said


def test_differences_are_fairlearns_and_small_groups_are_named(home: Home) -> None:
    frame, y, said = protected()
    spec = spec_of(fairness={"columns": ["plan"]})
    found = {one.about: one for one in fairness.findings(holdout(home, spec, y, {"new": said}, frame=frame))}
    group = frame["plan"].astype(object).fillna("(missing)")
    kept = (group != "c").to_numpy()
    yes = (said >= 0.5)[kept]
    assert found["demographic_parity plan"].value == pytest.approx(
        demographic_parity_difference(y[kept], yes, sensitive_features=group[kept])
    )
    # 200 rows of nobody hold about 100 of each outcome, which is the floor; another draw may fall below.
    lower = replace(
        holdout(home, spec_of(fairness={"columns": ["plan"], "min_rows": 60}), y, {"new": said}, frame=frame)
    )
    odds = {one.about: one for one in fairness.findings(lower)}["equalized_odds plan"]
    assert odds.value == pytest.approx(equalized_odds_difference(y[kept], yes, sensitive_features=group[kept]))
    text = found["demographic_parity plan"].text
    assert "too few rows to judge: c (30)" in text
    assert "(missing) 0." in text
    assert "b 0." in text


@pytest.mark.parametrize(("bound", "passed"), [(0.05, False), (0.9, True)])
def test_a_bound_that_is_written_down_must_hold(home: Home, bound: float, passed: bool) -> None:
    frame, y, said = protected()
    asked = {"columns": ["plan"], "demographic_parity": bound, "equalized_odds": bound, "min_rows": 60}
    spec = spec_of(fairness=asked)
    checks = judged(spec, fairness.findings(holdout(home, spec, y, {"new": said}, frame=frame)))
    for name in ("demographic parity plan", "equalized odds plan"):
        assert (checks[name].passed, checks[name].binding, checks[name].bound) == (passed, True, bound)
    assert "share answered yes" in checks["demographic parity plan"].reason
    assert "positive rate" in checks["equalized odds plan"].reason


def test_groups_too_small_to_tell_hold_back_where_a_bound_is_written(home: Home) -> None:
    frame, y, said = protected()
    y = y & (frame["plan"] == "a").to_numpy()  # no group but a has a positive: that is no rate of zero
    bound = spec_of(fairness={"columns": ["plan"], "equalized_odds": 0.2})
    found = list(fairness.findings(holdout(home, bound, y, {"new": said}, frame=frame)))
    check = judged(bound, found)["equalized odds plan"]
    assert (check.passed, check.binding, check.value) == (None, True, None)
    assert "true positive rate: 1 of two groups" in check.reason
    free = judged(spec_of(fairness={"columns": ["plan"]}), found)["equalized odds plan"]
    assert (free.passed, free.binding) == (None, False)


@pytest.mark.parametrize(("margin", "passed"), [(0.02, False), (0.3, True)])
def test_not_less_fair_than_the_champion(home: Home, margin: float, passed: bool) -> None:
    frame, y, said = protected()
    spec = spec_of(fairness={"columns": ["plan"], "margin": margin, "min_rows": 60})
    fair = np.where(frame["plan"] == "b", said + 0.15, said)
    found = list(fairness.findings(holdout(home, spec, y, {"new": said, "champion": fair}, frame=frame)))
    check = judged(spec, found)["demographic parity plan beside the champion"]
    assert (check.passed, check.binding) == (passed, True)
    assert "demographic parity plan" not in judged(spec, found)
    swapped = fairness.findings(holdout(home, spec, y, {"new": fair, "champion": said}, frame=frame))
    assert judged(spec, swapped)["demographic parity plan beside the champion"].passed is True


def test_numbers_and_classes_are_compared_between_groups(home: Home) -> None:
    frame, _, _ = protected()
    rng, b = np.random.default_rng(4), (frame["plan"] == "b").to_numpy()
    asked = {"columns": ["plan", "visits"], "min_rows": 60}
    numbers, y = other("regression", fairness=asked), rng.normal(100, 20, len(frame))
    found = {one.about: one for one in fairness.findings(holdout(home, numbers, y, {"new": y - 10 * b}, frame=frame))}
    assert found["equalized_odds plan"].value == pytest.approx(10 / np.std(y))
    assert 0 <= found["demographic_parity visits"].value < 0.4  # type: ignore[operator]
    assert "Q1: " in found["demographic_parity visits"].text

    classes, truth = other("multiclass", fairness=asked), rng.integers(0, 3, len(frame))
    p = np.eye(3)[np.where(b, 2, truth)]
    found = {one.about: one for one in fairness.findings(holdout(home, classes, truth, {"new": p}, frame=frame))}
    assert found["equalized_odds plan"].value == 1
    assert found["demographic_parity plan"].value == pytest.approx(2 / 3, abs=0.1)
    assert "share answered pro" in found["demographic_parity plan"].text


# --- edge cases

CASES = """
- name: never came
  row: {plan: basic, visits: 0, spend: 10.0, member: false}
  expect: {min: 0.5}
- name: comes daily
  row: {visits: 59}
  expect: {is: lower, than: never came, max: 0.4}
- name: nobody wrote down the visits
  row: {plan: basic, member: false, visits: null}
  expect: {class: false}
- name: money is no matter
  row: {spend: 11.0}
  expect: {is: same, than: never came, within: 0.05}
"""


@dataclass
class Laid:
    """Three published months with models fitted on them, and April holdout."""

    run: Run
    train: TrainReport
    context: Context

    def holdout(self) -> Holdout:
        spec = self.run.spec
        models = {}
        for one in self.train.fitted:
            with self.run.store.local(one.key) as folder:
                models[one.name] = load_files(folder, one.digest)
        frame = dataset.read(self.run, self.context.accepted[3:])
        y = dataset.outcome(spec, frame).to_numpy()
        said = {name: pipelines.predict(model, spec.task, frame) for name, model in models.items()}
        return Holdout(self.run, self.train, models, frame, y, said, resampling.blocks(spec, frame))


def load_files(folder: Path, digest: str) -> Pipeline:
    from retrain.registry.mlflow import load_model

    return load_model(folder, digest)


def lay(home: Home, tmp_path: Path, spec: Spec, estimator: str = "linear", plant: Any = None, count: int = 300) -> Laid:
    """Publish four months, fit a candidate and the baselines on three, and seal the last.

    Args:
        plant: what is done to a month's rows before they are published.
    """
    months = {start: churn_rows(start, count) for start in MONTHS}
    folder = tmp_path / "months"
    folder.mkdir()
    accepted = publish(home, spec, {start: plant(frame) if plant else frame for start, frame in months.items()}, folder)
    run = begun(home, spec, accepted)
    known, _ = trainer.labelled_rows(run, accepted[:3])
    named = {
        "new": of_estimator(estimator),
        **{one: pipelines.baseline(spec, one) for one in estimators.BASELINES},
    }
    made = [
        fit_candidate(
            run,
            run.path("train", name),
            name,
            "new" if name == "new" else "baseline",
            configuration,
            accepted[:3],
            known,
        )[1]
        for name, configuration in named.items()
    ]
    train = TrainReport(**about(spec), fitted=tuple(made), holdout=dataset.intervals(accepted[3:]), seed=1)
    run.write(train, "train")
    return Laid(run, train, run.read(Context, "context"))


def of_estimator(name: str) -> Configuration:
    return LINEAR.model_copy(update={"estimator": name})


def test_models_are_asked_the_cases_and_a_broken_one_is_named(home: Home, tmp_path: Path) -> None:
    spec = spec_of(CASES.replace("max: 0.4", "max: 0.001"))
    laid = lay(home, tmp_path, spec).holdout()
    found = list(edge_cases.findings(replace(laid, models={**laid.models, "champion": laid.models["naive"]})))
    assert [(one.model, one.about) for one in found[:2]] == [("new", "never came"), ("new", "comes daily")]
    checks = judged(spec, found)
    passed = {name: check.passed for name, check in checks.items() if name.startswith("case ")}
    assert passed == {
        "case never came": True,
        "case comes daily": False,
        "case nobody wrote down the visits": True,
        "case money is no matter": True,
    }
    said = checks["case comes daily"].reason
    assert "expected is at most 0.001 and lower than the 0." in said
    assert "; the champion answers 0." in said
    assert "the champion" not in judged(spec, [one for one in found if one.model == "new"])["case comes daily"].reason
    asked = judged(spec_of(CASES.replace("expect: {min", "severity: warn\n  expect: {min")), found)
    assert asked["case never came"].binding is False
    # What nobody asked cannot be told, and that holds back.
    missing = judged(spec, [])["case never came"]
    assert (missing.passed, missing.binding) == (None, True)


@pytest.mark.parametrize(
    ("expect", "answer", "than", "holds"),
    [
        ("{min: 0.5}", 0.5, 0.0, True),
        ("{min: 0.5}", 0.49, 0.0, False),
        ("{max: 0.5}", 0.51, 0.0, False),
        ("{min: 0.2, max: 0.5}", 0.1, 0.0, False),
        ("{class: true}", 0.5, 0.0, True),
        ("{class: false}", 0.5, 0.0, False),
        ("{is: higher, than: base}", 0.3, 0.3, False),
        ("{is: higher, than: base}", 0.31, 0.3, True),
        ("{is: lower, than: base}", 0.3, 0.3, False),
        ("{is: lower, than: base}", 0.2, 0.3, True),
        ("{is: same, than: base}", 0.3, 0.3, True),
        ("{is: same, than: base}", 0.31, 0.3, False),
        ("{is: same, than: base, within: 0.05}", 0.31, 0.3, True),
    ],
)
def test_what_an_expectation_means(expect: str, answer: float, than: float, holds: bool) -> None:
    text = "- {name: base, row: {plan: basic, member: true}, expect: {min: 0}}\n"
    spec = spec_of(text + f"- {{name: case, row: {{plan: basic, member: true}}, expect: {expect}}}")
    answers: dict[str, Any] = {"base": np.asarray(than), "case": np.asarray(answer)}
    assert edge_cases._holds(spec, spec.edge_cases[1], answers)[0] is holds


def test_a_model_that_fails_on_a_case_breaks_it(home: Home, tmp_path: Path) -> None:
    laid = lay(home, tmp_path, spec_of(CASES)).holdout()
    broken = Pipeline([laid.models["new"].steps[0], ("model", object())])
    found = {one.about: one for one in edge_cases.findings(replace(laid, models={**laid.models, "new": broken}))}
    assert found["never came"].value == 0
    assert found["never came"].text.startswith("fails with ")
    assert "to 'never came' it fails" in found["comes daily"].text or found["comes daily"].text.startswith("fails")


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (("visits: 59", "visit: 59"), 6, "row.visit: the spec declares no column 'visit'; did you mean 'visits'?"),
        (("visits: 59", "visits: many"), 6, "row.visits: 'many' is no integer"),
        (("visits: 59", "visits: true"), 6, "row.visits: True is no integer"),
        (("visits: 59", "id: x"), 6, "row.id: the model does not read 'id'"),
        (("plan: basic, visits: 0", "visits: 0"), 3, "plan may not be missing"),
        (("than: never came, max", "than: nevr came, max"), 7, "no earlier case is called 'nevr came'; did you mean"),
        (("{class: false}", "{class: maybe}"), 10, "expect.class: 'maybe' is no class"),
        (("{class: false}", "{klass: true}"), 10, "expect.klass: Extra inputs are not permitted"),
        (("{class: false}", "{}"), 10, "expects nothing"),
        (("{class: false}", "{is: lower}"), 10, "is and than belong together"),
        (("{class: false}", "{is: near, than: never came}"), 10, "expect.is: Input should be 'higher', 'lower' or"),
        (("name: comes daily", "name: never came"), 5, "name: 'never came' stands twice"),
        (("visits: 59", "visits: 59, visits: 58"), 6, "the key 'visits' stands twice"),
        (("visits: 59", "visits: &a 59, spend: *a"), 6, "aliases are not read"),
        (("visits: 59", "visits: !!python/name:os.system x"), 6, "could not determine a constructor"),
    ],
)
def test_a_wrong_case_is_refused_with_its_line(home: Home, change: tuple[str, str], line: int, said: str) -> None:
    assert change[0] in CASES
    write(home, CASES.replace(*change, 1))
    with pytest.raises(InvalidSpec) as caught:
        home.spec("churn")
    assert f"churn.cases.yaml:{line}: " in caught.value.found
    assert said in caught.value.found


def write(home: Home, cases: str, name: str = "churn.cases.yaml") -> None:
    data = {**churn_spec(), "gate": {"cases": name}}
    (home.models / "churn.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    (home.models / name).write_text(cases)


def test_cases_are_versioned_with_the_spec_and_are_no_spec(home: Home) -> None:
    write(home, CASES)
    first = home.spec("churn")
    assert [file.name for file in home.specs] == ["churn.yaml"]
    assert [case.row["visits"] for case in first.edge_cases] == [0, 59, None, 0]
    write(home, CASES.replace("59", "58"))
    assert home.spec("churn").digest != first.digest
    for text, name in (("", "churn.cases.yaml"), (CASES, "cases.yaml")):
        write(home, text, name)
        with pytest.raises(InvalidSpec):
            load(home.models / "churn.yaml")


def test_the_manuals_example_is_a_valid_file() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "gate.md").read_text()
    text = manual.split("```yaml\n")[1].split("```")[0]
    assert [case.severity for case in spec_of(text).edge_cases] == ["stop", "stop", "warn"]


# --- overfitting


def test_a_model_that_remembers_its_rows_is_seen(home: Home, tmp_path: Path) -> None:
    spec = spec_of(metric="roc_auc")
    laid = lay(home, tmp_path, spec, "sklearn.tree.DecisionTreeClassifier").holdout()
    (found,) = overfit.findings(laid)
    assert found.value > 0.3  # type: ignore[operator]
    assert "scores 1 on 900 training rows" in found.text
    reported = judged(spec, [found])["overfit"]
    assert (reported.passed, reported.binding) == (None, False)
    assert judged(spec_of(metric="roc_auc", overfit=0.1), [found])["overfit"].passed is False
    assert judged(spec_of(metric="roc_auc", overfit=1.0), [found])["overfit"].passed is True
    assert "overfit" not in judged(spec, [])
    missing = judged(spec_of(overfit=0.1), [])["overfit"]
    assert (missing.passed, missing.binding) == (None, True)


def test_only_rows_that_a_candidate_learnt_from_are_read(home: Home, tmp_path: Path) -> None:
    laid = lay(home, tmp_path, spec_of())
    first, second = laid.train.fitted[0].intervals[:2]
    half = Interval(start=second.start, end=second.start + (second.end - second.start) / 2)
    frame, y = overfit._sample(laid.holdout(), laid.context, (first, half))
    assert 300 < len(y) == len(frame) < 600
    assert frame["signup"].max() < half.end


def test_a_linear_model_does_not_overfit_here(home: Home, tmp_path: Path) -> None:
    (found,) = overfit.findings(lay(home, tmp_path, spec_of()).holdout())
    assert abs(found.value) < 0.1  # type: ignore[operator]


# --- leaks


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
    found = list(leak.findings(holdout(home, numbers, y, {"new": y + rng.normal(0, 0.05, 800)}, frame=frame)))
    check = judged(numbers, found)["one feature"]
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
    found = list(leak.findings(holdout(home, classes, truth, {"new": sure}, frame=frame)))
    assert "spend may know the answer" in judged(classes, found)["one feature"].reason


def test_many_features_together_may_explain_much(home: Home) -> None:
    rng = np.random.default_rng(7)
    frame = pd.DataFrame({name: rng.normal(0, 1, 1000) for name in ("visits", "member")})
    frame["plan"] = pd.Categorical(rng.choice(["a", "b"], 1000))
    y = frame["visits"] + frame["member"]
    found = list(leak.findings(holdout(home, other("regression"), y, {"new": y}, frame=frame)))
    assert [one.about for one in found] == ["", found[1].about]
    assert judged(other("regression"), found)["one feature"].passed is True


def test_a_refresh_of_a_champion_with_the_same_feature_is_only_reported() -> None:
    spec = spec_of()

    def of(model: str, feature: str, share: float | None = 0.99) -> list[Finding]:
        both = [("", 0.9), (feature, share)]
        return [Finding(check="leak", model=model, about=name, value=value, text="t") for name, value in both]

    def said(findings: list[Finding], name: str, kind: str) -> tuple[bool | None, bool]:
        check = judged(spec, findings, name, kind=kind)["one feature"]
        return check.passed, check.binding

    assert said([*of("refresh", "member"), *of("champion", "member")], "refresh", "refresh") == (False, False)
    assert said([*of("refresh", "member"), *of("champion", "spend")], "refresh", "refresh") == (False, True)
    assert said([*of("refresh", "member"), *of("champion", "member", 0.5)], "refresh", "refresh") == (False, True)
    assert said([*of("new", "member"), *of("champion", "member")], "new", "new") == (False, True)
    assert said(of("new", "member", 0.94), "new", "new") == (True, True)
    assert said(of("new", "member", None), "new", "new") == (False, True)


@pytest.mark.parametrize(
    ("metric", "mine", "naive", "passed"),
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
def test_what_is_too_good(metric: str, mine: float | None, naive: float | None, passed: bool | None) -> None:
    spec = spec_of(metric=metric)
    check = judged(spec, [], scores={"new": mine, "naive": naive})["too good"]
    assert check.passed is passed
    again = judged(spec, [], "refresh", kind="refresh", scores={"refresh": mine, "champion": mine, "naive": naive})
    assert again["too good"].binding is (passed is True)
    assert "too good" not in judged(spec_of(metric=metric, leak=False), [], scores={"new": mine, "naive": naive})


# --- the whole


def test_findings_are_finite_the_same_each_time_and_all_there(home: Home, tmp_path: Path) -> None:
    spec = spec_of(CASES, fairness={"columns": ["plan"]})
    laid = lay(home, tmp_path, spec).holdout()
    given = (laid.run, laid.train, laid.models, laid.frame, laid.y, laid.predictions, laid.block)
    found = checks.examine(*given)
    assert found == checks.examine(*given)
    assert {one.check for one in found} == {"calibration", "overfit", "leak", "fairness", "case", "size"}
    assert {one.model for one in found} == {"new"}
    assert all(math.isfinite(one.value) for one in found if one.value is not None)
    results = judged(spec, found, scores={"new": 0.5, "naive": 0.69})
    assert results["size"].passed is True
    assert results["size"].value == pytest.approx(
        sum(len(laid.run.store.read(key)) for key in laid.run.store.keys(laid.train.fitted[0].key)) / 1e6
    )
    assert "size" in [name for name, check in results.items() if check.passed and check.bound == 1024]


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_only_a_finite_number_passes(value: float | None) -> None:
    spec = spec_of(CASES, overfit=1.0, fairness={"columns": ["plan"], "demographic_parity": 1.0, "equalized_odds": 1.0})
    asked = [("calibration", ""), ("overfit", ""), ("leak", ""), ("leak", "plan"), ("size", "")]
    asked += [("fairness", f"{measure} plan") for measure in fairness.MEASURES]
    asked += [("case", case.name) for case in spec.edge_cases]
    found = [
        Finding.model_construct(
            check=check, model=model, about=name, value=value, low=value, high=value, text="t", rows=1
        )
        for model in ("new", "champion")
        for check, name in asked
    ]
    checks = judged(spec, found, scores={"new": None, "naive": 0.6})
    assert len(checks) == 13
    assert [name for name, check in checks.items() if check.passed is True] == []


def test_an_oversized_model_fails() -> None:
    found = [Finding(check="size", model="new", value=1025.0, text="takes 1025 MB")]
    assert judged(spec_of(), found)["size"].passed is False


# --- the table


def report_of(*checks: GateCheck) -> GateReport:
    spec = spec_of()
    return GateReport(
        **about(spec), decision=Decision(verdict="keep", reasons=("new fails <b>",)), chosen="new", checks=checks
    )


def test_the_table_is_the_same_in_the_terminal_in_markdown_and_in_html() -> None:
    hostile = GateCheck(
        name="case a|b", model="new", passed=False, value=0.0, bound=1.0, reason="<script>[red]*x*\n| y"
    )
    told = GateCheck(name="overfit", model="new", passed=None, value=0.25, binding=False, reason="scores 0.1")
    report = report_of(hostile, told)
    frame = table.table(report)
    assert frame["verdict"].tolist() == ["failed", "reported"]
    assert list(frame.columns) == ["check", "model", "verdict", "value", "bound", "why"]
    text = io.StringIO()
    Console(file=text, width=120).print(table.terminal(report))
    assert "[red]*x*" in text.getvalue()
    assert "keep new" in text.getvalue()
    markdown = table.markdown(report)
    assert "| case a\\|b | new | failed | 0 | 1 | &lt;script&gt;\\[red\\]\\*x\\* \\| y |" in markdown
    assert markdown.count("\n| ") == 3
    page = table.page(report).decode()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    ("passed", "binding", "word"),
    [
        (True, True, "passed"),
        (False, True, "failed"),
        (None, True, "open"),
        (False, False, "warned"),
        (None, False, "reported"),
        (True, False, "passed"),
    ],
)
def test_verdicts_in_a_word(passed: bool | None, binding: bool, word: str) -> None:
    assert table.verdict(GateCheck(name="n", model="m", passed=passed, binding=binding, reason="r")) == word


def test_a_check_under_its_former_name_is_read() -> None:
    check = GateCheck.from_json('{"name": "n", "model": "m", "passed": null, "blocks": false, "reason": "r"}')
    assert check.binding is False
