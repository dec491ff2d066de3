"""Overfitting: a model that remembers its rows, and one that does not."""

from __future__ import annotations

from pathlib import Path

from retrain.gate.checks import overfit
from retrain.results import (
    Interval,
)
from retrain.state.settings import Home
from tests.gate.candidate import (
    judged,
    lay,
    spec_of,
)


def test_a_model_that_remembers_its_rows_is_reported(home: Home, tmp_path: Path) -> None:
    spec = spec_of(metric="roc_auc")
    laid = lay(home, tmp_path, spec, "sklearn.tree.DecisionTreeClassifier").holdout()
    (finding,) = overfit.findings(laid)
    assert finding.value > 0.3  # type: ignore[operator]
    assert "scores 1 on 900 training rows" in finding.text
    reported = judged(spec, [finding])["overfit"]
    assert (reported.passed, reported.binding) == (None, False)
    assert judged(spec_of(metric="roc_auc", overfit=0.1), [finding])["overfit"].passed is False
    assert judged(spec_of(metric="roc_auc", overfit=1.0), [finding])["overfit"].passed is True
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
    (finding,) = overfit.findings(lay(home, tmp_path, spec_of()).holdout())
    assert abs(finding.value) < 0.1  # type: ignore[operator]
