"""How much better is a candidate on rows that it was fitted on than on the holdout rows?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from retrain.data import dataset
from retrain.gate.checks.holdout import Holdout, finite, found
from retrain.modeling import estimators, metrics
from retrain.modeling.metrics import Array
from retrain.results import Context, EvaluateReport, Finding, Fitted, GateCheck, Interval
from retrain.spec import Spec

ROWS, BATCHES = 20_000, 12
"""The sample of the training rows: of so many batches, spread evenly over them."""


def findings(holdout: Holdout) -> Iterator[Finding]:
    spec, context = holdout.spec, holdout.run.read(Context, "context")
    read: dict[tuple[Interval, ...], tuple[pd.DataFrame, Array]] = {}
    for one in holdout.candidates:
        if one.intervals not in read:
            read[one.intervals] = _sample(holdout, context, one.intervals)
        frame, y = read[one.intervals]
        there = _score(spec, y, estimators.predict(holdout.models[one.name], spec.task, frame) if len(y) else y)
        here = _score(spec, holdout.y, holdout.predictions[one.name])
        gap, text = None, f"{spec.gate.metric} is undefined on {len(y):,} training rows"
        if there is not None and here is not None:
            text = f"scores {there:.4g} on {len(y):,} training rows, {here:.4g} on the holdout rows"
            gap = finite((there - here if spec.greater_is_better else here - there) / abs(here)) if here else None
        yield Finding(check="overfit", model=one.name, value=gap, rows=len(y), text=text)


def _score(spec: Spec, y: Array, said: Array) -> float | None:
    metric = spec.gate.metric
    return metrics.measure(spec.task, y, said, only=metric)[metric] if len(y) else None


def _sample(holdout: Holdout, context: Context, intervals: tuple[Interval, ...]) -> tuple[pd.DataFrame, Array]:
    """Some labelled rows of a candidate's training, the same ones each time."""
    spec, starts = holdout.spec, {one.start for one in intervals}
    there = [one for one in context.accepted if one.batch.interval.start in starts]
    chosen = np.unique(np.linspace(0, len(there) - 1, min(BATCHES, len(there))).round().astype(int))
    frame = dataset.read(
        holdout.run, [there[place] for place in chosen], (*spec.inputs, spec.target.column, spec.source.time)
    )
    # A candidate may have learnt from a part of its newest interval only.
    y = dataset.outcome(spec, frame)
    frame = frame[y.notna() & (frame[spec.source.time] < intervals[-1].end)].reset_index(drop=True)
    frame = dataset.sample(frame, ROWS, spec.training.seed)
    return frame, dataset.outcome(spec, frame).to_numpy()


def checks(spec: Spec, evaluate: EvaluateReport, one: Fitted) -> Iterator[GateCheck]:
    """Without a bound it is only reported: a forest remembers its rows and may still be the best model."""
    bound = spec.gate.overfit
    mine = next(found(evaluate, "overfit", one.name), None)
    gap = None if mine is None else finite(mine.value)
    if mine is None and bound is None:
        return
    says = mine.text if mine else "has no score on training rows"
    if gap is not None:
        says += f": better by {gap:.1%}" if gap > 0 else f": no better ({gap:+.1%})"
    if bound is not None:
        says += f", {bound:.1%} is allowed"
    passed = None if gap is None or bound is None else gap <= bound
    yield GateCheck(
        name="overfit", model=one.name, passed=passed, value=gap, bound=bound, binding=bound is not None, reason=says
    )
