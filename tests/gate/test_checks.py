"""All checks of a candidate together: findings are finite, and only finite numbers pass."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from retrain.gate import checks
from retrain.gate.checks import fairness
from retrain.results import (
    Finding,
)
from retrain.state.settings import Home
from tests.gate.candidate import (
    CASES,
    judged,
    lay,
    spec_of,
)


def test_findings_are_finite_the_same_each_time_and_all_there(home: Home, tmp_path: Path) -> None:
    spec = spec_of(CASES, fairness={"columns": ["plan"]}, limits={"recall": {"min": 0.3}})
    laid = lay(home, tmp_path, spec).holdout()
    given = (laid.run, laid.train, laid.models, laid.frame, laid.y, laid.predictions, laid.block)
    findings = checks.examine(*given)
    assert findings == checks.examine(*given)
    kinds = {"calibration", "overfit", "leak", "fairness", "case", "size", "limit"}
    assert {finding.check for finding in findings} == kinds
    assert {finding.model for finding in findings} == {"new"}
    baselines = checks.examine(*given, with_baselines=True)
    assert {finding.model for finding in baselines if finding.check == "limit"} == {"new", "naive", "simple"}
    assert all(math.isfinite(finding.value) for finding in findings if finding.value is not None)
    results = judged(spec, findings, scores={"new": 0.5, "naive": 0.69})
    assert results["size"].passed is True
    assert results["size"].value == pytest.approx(
        sum(len(laid.run.store.read(key)) for key in laid.run.store.keys(laid.train.fitted[0].key)) / 1e6
    )
    assert "size" in [name for name, check in results.items() if check.passed and check.bound == 1024]


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_only_a_finite_number_passes(value: float | None) -> None:
    fair = {"columns": ["plan"], "demographic_parity": 1.0, "equalized_odds": 1.0}
    spec = spec_of(CASES, overfit=1.0, fairness=fair, limits={"ece": {"max": 1.0}})
    questions = [("calibration", ""), ("overfit", ""), ("leak", ""), ("leak", "plan"), ("size", ""), ("limit", "ece")]
    questions += [("fairness", f"{measure} plan") for measure in fairness.MEASURES]
    questions += [("case", case.name) for case in spec.edge_cases]
    findings = [
        Finding.model_construct(
            check=check, model=model, about=name, value=value, low=value, high=value, text="t", rows=1
        )
        for model in ("new", "champion")
        for check, name in questions
    ]
    checks = judged(spec, findings, scores={"new": None, "naive": 0.6})
    assert len(checks) == 14
    assert [name for name, check in checks.items() if check.passed is True] == []


def test_an_oversized_model_fails() -> None:
    findings = [Finding(check="size", model="new", value=1025.0, text="takes 1025 MB")]
    assert judged(spec_of(), findings)["size"].passed is False
