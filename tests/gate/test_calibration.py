"""Calibration errors of samples whose chances are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from retrain.gate.checks import calibration
from retrain.state.settings import Home
from tests.gate.candidate import (
    holdout,
    judged,
    other,
    spec_of,
)


def drawn(chance: Any, seed: int = 0) -> Any:
    return (np.random.default_rng(seed).random(len(chance)) < chance).astype(float)


def test_noise_of_few_rows_is_no_miscalibration(home: Home) -> None:
    """The plain error of honest probabilities is above the bound on most of these samples; few are called so."""
    spec, plain, called = spec_of(), 0, 0
    for seed in range(60):
        p = np.random.default_rng([1, seed]).uniform(0.2, 0.8, 80)
        findings = list(calibration.findings(holdout(home, spec, drawn(p, seed), {"new": p})))
        plain += findings[0].value > spec.gate.calibration  # type: ignore[operator]
        called += judged(spec, findings)["calibration"].passed is False
    assert plain > 40
    assert called <= 3


def test_a_shown_miscalibration_fails_and_says_how_large(home: Home) -> None:
    spec, p = spec_of(), np.random.default_rng(1).uniform(0.2, 0.8, 600)
    findings = list(calibration.findings(holdout(home, spec, drawn(p**3), {"new": p})))
    check = judged(spec, findings)["calibration"]
    assert (check.passed, check.binding) == (False, True)
    assert check.value == pytest.approx(np.mean(p - p**3), abs=0.05)
    assert 0.1 < findings[0].low < findings[0].value < findings[0].high + 0.05  # type: ignore[operator]
    assert "expected calibration error" in check.reason
    assert "0.1 is allowed" in check.reason
    assert "calibration" not in judged(spec_of(calibration=None), findings)
    assert judged(spec_of(calibration=0.5), findings)["calibration"].passed is True


def test_a_champion_that_is_off_as_well_is_no_better_to_keep(home: Home) -> None:
    spec, p = spec_of(), np.random.default_rng(1).uniform(0.2, 0.8, 600)
    y = drawn(p**3)
    for champion, binding in ((np.sqrt(p), False), (p**3, True)):
        findings = calibration.findings(holdout(home, spec, y, {"new": p, "champion": champion}))
        check = judged(spec, findings)["calibration"]
        assert (check.passed, check.binding) == (False, binding)
        assert "; the champion's is " in check.reason


@pytest.mark.parametrize(("off", "passed"), [(0.0, True), (0.5, False)])
def test_numbers_and_classes_are_calibrated_in_their_own_way(home: Home, off: float, passed: bool) -> None:
    rng = np.random.default_rng(2)
    y = rng.normal(50, 10, 600)
    numbers = other("regression")
    shifted = y + rng.normal(0, 5, 600) + 10 * off
    findings = list(calibration.findings(holdout(home, numbers, y, {"new": shifted})))
    assert findings[0].value == pytest.approx(abs(np.mean(y - shifted)) / np.std(y))
    assert judged(numbers, findings)["calibration"].passed is passed

    classes = other("multiclass")
    p = rng.dirichlet([1, 1, 1], 600)
    truth = np.array([rng.choice(3, p=chances) for chances in p])
    sharp = p ** (1 + 20 * off)
    sharp /= sharp.sum(axis=1, keepdims=True)
    findings = list(calibration.findings(holdout(home, classes, truth, {"new": sharp})))
    assert judged(classes, findings)["calibration"].passed is passed


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
