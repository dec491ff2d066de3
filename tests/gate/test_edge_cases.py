"""Edge cases: how models answer them, what they mean, and the refusals of a wrong file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sklearn.pipeline import Pipeline

from retrain.errors import InvalidSpec
from retrain.gate.checks import edge_cases
from retrain.spec import load
from retrain.state.settings import Home
from tests.conftest import churn_spec
from tests.gate.candidate import (
    CASES,
    judged,
    lay,
    spec_of,
)


def test_models_are_asked_the_cases_and_a_broken_one_is_named(home: Home, tmp_path: Path) -> None:
    spec = spec_of(CASES.replace("max: 0.4", "max: 0.001"))
    laid = lay(home, tmp_path, spec).holdout()
    findings = list(edge_cases.findings(replace(laid, models={**laid.models, "champion": laid.models["naive"]})))
    first = [(finding.model, finding.about) for finding in findings[:2]]
    assert first == [("new", "never came"), ("new", "comes daily")]
    checks = judged(spec, findings)
    passed = {name: check.passed for name, check in checks.items() if name.startswith("case ")}
    assert passed == {
        "case never came": True,
        "case comes daily": False,
        "case nobody wrote down the visits": True,
        "case money is no matter": True,
    }
    reason = checks["case comes daily"].reason
    assert "expected is at most 0.001 and lower than the 0." in reason
    assert "; the champion answers 0." in reason
    alone = judged(spec, [finding for finding in findings if finding.model == "new"])
    assert "the champion" not in alone["case comes daily"].reason
    warned = judged(spec_of(CASES.replace("expect: {min", "severity: warn\n  expect: {min")), findings)
    assert warned["case never came"].binding is False
    # What was not asked cannot be told, and that holds back.
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
    laid = replace(laid, models={**laid.models, "new": broken})
    by_case = {finding.about: finding for finding in edge_cases.findings(laid)}
    assert by_case["never came"].value == 0
    assert by_case["never came"].text.startswith("fails with ")
    assert "to 'never came' it fails" in by_case["comes daily"].text or by_case["comes daily"].text.startswith("fails")


@pytest.mark.parametrize(
    ("change", "line", "message"),
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
def test_a_wrong_case_is_refused_with_its_line(home: Home, change: tuple[str, str], line: int, message: str) -> None:
    assert change[0] in CASES
    write(home, CASES.replace(*change, 1))
    with pytest.raises(InvalidSpec) as caught:
        home.spec("churn")
    assert f"churn.cases.yaml:{line}: " in caught.value.found
    assert message in caught.value.found


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
