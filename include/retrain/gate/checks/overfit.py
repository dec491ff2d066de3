"""Overfitting: how much better a candidate is on rows that it was fitted on than on the holdout rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from retrain.data import dataset
from retrain.gate.checks.holdout import Holdout, findings_of, finite
from retrain.modeling import metrics, pipelines
from retrain.modeling.metrics import Array
from retrain.results import Context, EvaluateReport, Finding, FittedModel, GateCheck, Interval
from retrain.spec import Spec

ROWS, BATCHES = 20_000, 12
"""The sample of the training rows: of so many batches, spread evenly over them."""


def findings(holdout: Holdout) -> Iterator[Finding]:
    """The gap of the primary metric of each candidate, as a share of its score on the holdout rows."""
    spec, context = holdout.spec, holdout.run.read(Context, "context")
    samples: dict[tuple[Interval, ...], tuple[pd.DataFrame, Array]] = {}
    for candidate in holdout.candidates:
        if candidate.intervals not in samples:
            samples[candidate.intervals] = _sample(holdout, context, candidate.intervals)
        frame, y = samples[candidate.intervals]
        prediction = pipelines.predict(holdout.models[candidate.name], spec.task, frame) if len(y) else y
        on_training = _score(spec, y, prediction)
        on_holdout = _score(spec, holdout.y, holdout.predictions[candidate.name])
        gap, text = None, f"{spec.gate.metric} is undefined on {len(y):,} training rows"
        if on_training is not None and on_holdout is not None:
            text = f"scores {on_training:.4g} on {len(y):,} training rows, {on_holdout:.4g} on the holdout rows"
            sign = 1.0 if spec.greater_is_better else -1.0
            gap = finite(sign * (on_training - on_holdout) / abs(on_holdout)) if on_holdout else None
        yield Finding(check="overfit", model=candidate.name, value=gap, rows=len(y), text=text)


def _score(spec: Spec, y: Array, prediction: Array) -> float | None:
    metric = spec.gate.metric
    return metrics.metric_values(spec.task, y, prediction, only=metric)[metric] if len(y) else None


def _sample(holdout: Holdout, context: Context, intervals: tuple[Interval, ...]) -> tuple[pd.DataFrame, Array]:
    """Some labelled rows of a candidate's training, the same ones each time."""
    spec, starts = holdout.spec, {interval.start for interval in intervals}
    batches = [accepted for accepted in context.accepted if accepted.batch.interval.start in starts]
    chosen = np.unique(np.linspace(0, len(batches) - 1, min(BATCHES, len(batches))).round().astype(int))
    frame = dataset.read(
        holdout.run, [batches[place] for place in chosen], (*spec.inputs, spec.target.column, spec.source.time)
    )
    # A candidate may have learnt from a part of its newest interval only.
    y = dataset.outcome(spec, frame)
    frame = frame[y.notna() & (frame[spec.source.time] < intervals[-1].end)].reset_index(drop=True)
    frame = dataset.sample(frame, ROWS, spec.training.seed)
    return frame, dataset.outcome(spec, frame).to_numpy()


def checks(spec: Spec, evaluate: EvaluateReport, candidate: FittedModel) -> Iterator[GateCheck]:
    """Without a bound it is only reported: a forest remembers its rows and may still be the best model."""
    bound = spec.gate.overfit
    finding = next(findings_of(evaluate, "overfit", candidate.name), None)
    gap = None if finding is None else finite(finding.value)
    if finding is None and bound is None:
        return
    reason = finding.text if finding else "has no score on training rows"
    if gap is not None:
        reason += f": better by {gap:.1%}" if gap > 0 else f": no better ({gap:+.1%})"
    if bound is not None:
        reason += f", {bound:.1%} is allowed"
    passed = None if gap is None or bound is None else gap <= bound
    yield GateCheck(
        name="overfit",
        model=candidate.name,
        passed=passed,
        value=gap,
        bound=bound,
        binding=bound is not None,
        reason=reason,
    )
