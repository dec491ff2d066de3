"""Calibration: whether probabilities mean what they say.

The expected calibration error of ten bins of equal mass (Naeini, Cooper and Hauskrecht 2015); of several classes
that of the predicted one (Guo et al. 2017); of numbers the mean error, in standard deviations of the outcome.

On few rows that error is too large by noise alone: an absolute value is taken in every bin (Roelofs et al. 2022,
"Mitigating Bias in Calibration Error Estimation"). So the bound is held against what is left when the sign of each
bin's error is taken from one half of the blocks and its size from the other. Its mean is never above the true
error, and blocks are resampled for its interval.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from retrain.gate.checks.holdout import CHAMPION, Holdout, findings_of, finite
from retrain.modeling import resampling
from retrain.modeling.metrics import Array, equal_mass
from retrain.modeling.resampling import Draws
from retrain.results import EvaluateReport, Finding, FittedModel, GateCheck
from retrain.spec import Spec

RESAMPLES = 500


def findings(holdout: Holdout) -> Iterator[Finding]:
    """The expected calibration error of each candidate and the champion, and its interval without noise."""
    spec = holdout.spec
    for name in holdout.judged:
        errors, bins = _errors(spec.task, holdout.y, holdout.predictions[name])
        if not np.isfinite(errors).all():
            text = "the outcome does not vary"
            yield Finding(check="calibration", model=name, value=None, rows=len(errors), text=text)
            continue
        plain, denoised = expected_error(errors, bins, holdout.block, seed=spec.training.seed)
        interval = resampling.confidence_interval(denoised, spec.gate.level)
        text = f"mean error {plain:.4g} standard deviations of the outcome"
        if spec.task != "regression":
            text = f"expected calibration error {plain:.4g} in {len(np.unique(bins))} bins"
            text += f", {max(denoised.value, 0.0):.4g} without noise"
        yield Finding(
            check="calibration",
            model=name,
            value=plain,
            low=None if interval.low is None else max(interval.low, 0.0),
            high=None if interval.high is None else max(interval.high, 0.0),
            rows=len(errors),
            text=text,
        )


def _errors(task: str, y: Array, prediction: Array) -> tuple[Array, Array]:
    """Outcome less prediction of each row, and the row's bin."""
    if task == "regression":
        spread = float(np.std(y))
        return (y - prediction) / (spread or np.nan), np.zeros(len(y), dtype=int)
    if task == "multiclass":
        y, prediction = (prediction.argmax(axis=1) == y).astype(float), prediction.max(axis=1)
    return y - prediction, equal_mass(prediction, np.ones(len(y)))


def expected_error(errors: Array, bins: Array, block: Array, *, seed: int) -> tuple[float, Draws]:
    """The expected calibration error as it is, and without its noise on draws of the blocks.

    Args:
        errors: (n,) outcome less prediction.
        bins: (n,) codes from 0.
        block: (n,) codes 0 … k-1.
        seed: of the draws.
    """
    count, used = int(block.max()) + 1, int(bins.max()) + 1
    sums = np.bincount(bins * count + block, weights=errors, minlength=used * count).reshape(used, count)
    rows = np.bincount(block, minlength=count)
    # Every other block, so that both halves see all of the time.
    even = np.arange(count) % 2 == 0
    sign = np.where(even, np.sign(sums[:, ~even].sum(axis=1))[:, None], np.sign(sums[:, even].sum(axis=1))[:, None])
    parts = (sign * sums).sum(axis=0)
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    denoised = Draws("calibration", float(parts.sum() / rows.sum()), (times @ parts) / (times @ rows), count)
    return float(np.abs(sums.sum(axis=1)).sum() / len(errors)), denoised


def checks(spec: Spec, evaluate: EvaluateReport, candidate: FittedModel) -> Iterator[GateCheck]:
    """Fails when the error is shown to be above the bound.

    Where the champion's own is above it too, keeping that one would mend nothing, and the failure is only reported.
    """
    bound = spec.gate.calibration
    if bound is None:
        return
    finding = next(findings_of(evaluate, "calibration", candidate.name), None)
    low = None if finding is None else finite(finding.low)
    if finding is None or finding.value is None or low is None:
        reason = f"has no calibration error to judge: {finding.text if finding else 'it was not measured'}"
        yield GateCheck(
            name="calibration", model=candidate.name, passed=None, bound=bound, binding=False, reason=reason
        )
        return
    passed = binding = low <= bound
    reason = f"has {finding.text}, at least {low:.4g} with {1 - spec.gate.level:.0%} confidence, {bound:g} is allowed"
    if not passed:
        champion = next((other.value for other in findings_of(evaluate, "calibration", CHAMPION)), None)
        binding = champion is None or champion <= bound
        reason += f"; the champion's is {champion:.4g}" if champion is not None else ""
    yield GateCheck(
        name="calibration",
        model=candidate.name,
        passed=passed,
        value=finding.value,
        bound=bound,
        binding=binding,
        reason=reason,
    )
