"""Leaks: whether a candidate knows the answer.

Two alarms. **Too good**: a loss of at most 2 % of the naive baseline's, or a score of 0.999. **One feature**: the
candidate explains much of the outcome, and one feature alone nearly as much, as a column does that was filled after
the outcome was known (Kaufman et al. 2012, "Leakage in Data Mining"). What a feature explains alone is told without
the model, by the mean outcome of its values or quantiles in other blocks: so it is found as well where a second
column holds the same secret. Explained is the share of the squared error around the mean that goes: R², of classes
the Brier skill score.

An honest problem can look the same. An alarm holds back a first model and a new configuration; a refresh of a
champion that shows the same is only reported, because keeping the champion would keep the leak.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from sklearn.preprocessing import TargetEncoder

from retrain.data import dataset
from retrain.gate.checks.holdout import CHAMPION, Holdout, findings_of, finite
from retrain.modeling import metrics
from retrain.modeling.metrics import Array
from retrain.results import EvaluateReport, Finding, FittedModel, GateCheck
from retrain.spec import Spec

LOSS, SCORE = 0.02, 0.999
"""Too good: a loss of so little of the naive one's, or a score of so much."""
MUCH = {"binary": 0.5, "multiclass": 0.5, "regression": 0.75}
"""A candidate that explains no more is not suspected: half the naive loss is still there, of numbers half the RMSE."""
ALONE = 0.95
ROWS, CELLS, BINS, FOLDS = 5_000, 500_000, 50, 5


def findings(holdout: Holdout) -> Iterator[Finding]:
    """The share of the outcome that each model explains and, where that is much, what one feature explains alone."""
    spec = holdout.spec
    if not spec.gate.leak:
        return
    sample = dataset.sample(holdout.frame, min(ROWS, CELLS // len(spec.inputs)), spec.training.seed)
    place = sample.index.to_numpy()
    y = _columns(spec, holdout.y[place])
    skill = {name: explained(y, _two_dimensional(spec, holdout.predictions[name][place])) for name in holdout.judged}
    suspected = [value for value in skill.values() if value is not None and value > MUCH[spec.task]]
    alone = _alone(spec, sample, y, holdout.block[place]) if suspected else {}
    for name, value in skill.items():
        text = "the outcome does not vary" if value is None else f"explains {value:.1%} of the outcome"
        yield Finding(check="leak", model=name, value=value, rows=len(sample), text=text)
        if value is not None and value > MUCH[spec.task] and alone:
            best = max(alone, key=lambda feature: alone[feature])
            others = [feature for feature in alone if alone[feature] >= ALONE * value and feature != best]
            text = f"explains {value:.1%} of the outcome, {best} alone {alone[best]:.1%}"
            text += f"; nearly as much: {', '.join(others[:8])}" if others else ""
            yield Finding(check="leak", model=name, about=best, value=alone[best] / value, rows=len(sample), text=text)


def _columns(spec: Spec, y: Array) -> Array:
    """(n, 1) of the outcome, or (n, k) of each class."""
    return np.eye(len(spec.classes))[y.astype(int)] if spec.task == "multiclass" else y[:, None]


def _two_dimensional(spec: Spec, prediction: Array) -> Array:
    """(n, 1) of one number a row, or (n, k) of a probability each class."""
    return prediction if spec.task == "multiclass" else prediction[:, None]


def explained(y: Array, prediction: Array) -> float | None:
    """The share of the squared error around the mean that predictions take away; None where nothing varies.

    Args:
        y: (n, k) outcomes.
        prediction: (n, k) predictions.

    >>> explained(np.array([[0.0], [1.0]]), np.array([[0.0], [1.0]]))
    1.0
    """
    around = float(((y - y.mean(axis=0)) ** 2).sum())
    return finite(1 - float(((y - prediction) ** 2).sum()) / around) if around > 0 else None


def _alone(spec: Spec, frame: pd.DataFrame, y: Array, block: Array) -> dict[str, float]:
    """What each input explains by itself, of rows whose block was left out."""
    inputs = list(spec.inputs)
    bins = min(BINS, max(2, len(frame) // 20))
    coded = np.column_stack([_codes(frame[name], bins) for name in inputs])
    blocks, place = np.unique(block, return_inverse=True)
    fold = np.random.default_rng(spec.training.seed).permutation(len(blocks))[place] % min(FOLDS, len(blocks))
    prediction = np.zeros((len(inputs), *y.shape))
    for code in np.unique(fold):
        out = fold == code
        if out.all():
            return {}
        for column in range(y.shape[1]):
            encoder = TargetEncoder(target_type="continuous").fit(coded[~out], y[~out, column])
            prediction[:, out, column] = encoder.transform(coded[out]).T
    skill = {name: explained(y, prediction[n]) or 0.0 for n, name in enumerate(inputs)}
    if spec.task == "regression":
        # Quantiles are too coarse for long tails: a straight line finds a copy there.
        for name in inputs:
            complete = spec.columns[name].type in ("integer", "number") and frame[name].notna().all()
            if complete and frame[name].nunique() > 1:
                skill[name] = max(skill[name], float(np.corrcoef(frame[name], y[:, 0])[0, 1]) ** 2)
    return skill


def _codes(column: pd.Series[Any], bins: int) -> Array:
    """Whole numbers for values: of numbers and times with many values, quantiles; what is missing is -1."""
    known = column.notna().to_numpy()
    codes = np.full(len(column), -1)
    if isinstance(column.dtype, pd.CategoricalDtype) or column.dtype == object or column.nunique() <= bins:
        codes[known] = pd.factorize(column[known])[0]
    elif known.any():
        numbers = column[known].rank(method="dense").to_numpy()
        codes[known] = metrics.equal_mass(numbers, np.ones(len(numbers)), bins)
    return codes


def checks(spec: Spec, evaluate: EvaluateReport, candidate: FittedModel) -> Iterator[GateCheck]:
    """Both alarms; passed means that nothing is suspected."""
    if not spec.gate.leak:
        return
    yield _too_good(spec, evaluate, candidate)
    yield _one_feature(spec, evaluate, candidate)


def _too_good(spec: Spec, evaluate: EvaluateReport, candidate: FittedModel) -> GateCheck:
    """Alarm at a score that is too good to be true."""

    def score_of(model: str) -> float | None:
        measured = evaluate.metrics.get(model, {}).get(spec.gate.metric)
        return finite(measured.value) if measured else None

    score, naive, champion = score_of(candidate.name), score_of("naive"), score_of(CHAMPION)
    bound = SCORE if spec.greater_is_better else None if naive is None or naive <= 0 else LOSS * naive
    if score is None or bound is None:
        reason = f"has no {spec.gate.metric} to be too good"
        return GateCheck(name="too good", model=candidate.name, passed=None, binding=False, reason=reason)

    def honest(value: float) -> bool:
        return value < bound if spec.greater_is_better else value > bound

    passed = honest(score)
    same = candidate.kind == "refresh" and champion is not None and not honest(champion)
    reason = f"scores {score:.4g}, {'above' if spec.greater_is_better else 'below'} {bound:.4g} would be too good"
    if not passed:
        reason = f"scores {score:.4g}, which is too good to be true: look for a column that knows the answer, or set"
        reason += f" gate.leak: false{'; the champion does too' if same else ''}"
    return GateCheck(
        name="too good",
        model=candidate.name,
        passed=passed,
        value=score,
        bound=bound,
        binding=passed or not same,
        reason=reason,
    )


def _one_feature(spec: Spec, evaluate: EvaluateReport, candidate: FittedModel) -> GateCheck:
    """Alarm at a feature that explains nearly as much alone as the candidate does with all."""
    by_feature = {finding.about: finding for finding in findings_of(evaluate, "leak", candidate.name)}
    skill = finite(by_feature[""].value) if "" in by_feature else None
    if skill is None:
        reason = f"is not suspected of a leak: {by_feature[''].text if by_feature else 'it was not measured'}"
        return GateCheck(name="one feature", model=candidate.name, passed=None, binding=False, reason=reason)
    suspected = [finding for feature, finding in by_feature.items() if feature]
    if not suspected:
        passed = skill <= MUCH[spec.task]
        reason = f"{by_feature[''].text}; up to {MUCH[spec.task]:.0%} no feature is suspected"
        return GateCheck(
            name="one feature", model=candidate.name, passed=passed, value=skill, bound=MUCH[spec.task], reason=reason
        )
    finding = suspected[0]
    share = finite(finding.value)
    passed = share is not None and share < ALONE
    same = candidate.kind == "refresh" and any(
        other.about == finding.about and (finite(other.value) or 0.0) >= ALONE
        for other in findings_of(evaluate, "leak", CHAMPION)
    )
    reason = finding.text
    if not passed:
        reason += f": {finding.about} may know the answer; take it from the features, or set gate.leak: false"
        reason += "; the champion shows the same" if same else ""
    return GateCheck(
        name="one feature",
        model=candidate.name,
        passed=passed,
        value=share,
        bound=ALONE,
        binding=passed or not same,
        reason=reason,
    )
