"""What is asked of a candidate beside its metrics: calibration, fairness, edge cases, overfitting, leaks, size.

One file a question. Each has `findings`, which measures the candidates and the champion, and `checks`, which
judges a candidate by what was found and reads no data. Only an explicit comparison of finite numbers passes.
What the spec asks for by name (an overfit bound, a fairness bound, a case) and cannot be told is undetermined
and holds the candidate back; a default that cannot be told is only reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd
from sklearn.pipeline import Pipeline

from retrain.gate.checks import calibration, edge_cases, fairness, leak, overfit, size
from retrain.gate.checks.holdout import Holdout
from retrain.modeling.metrics import Array
from retrain.results import EvaluateReport, Finding, Fitted, GateCheck, TrainReport
from retrain.spec import Spec
from retrain.state.run import Run

QUESTIONS = (calibration, overfit, leak, fairness, edge_cases, size)


def examine(
    run: Run,
    train: TrainReport,
    models: Mapping[str, Pipeline],
    frame: pd.DataFrame,
    y: Array,
    predictions: Mapping[str, Array],
    block: Array,
) -> tuple[Finding, ...]:
    """Measure every candidate and the champion on the n labelled holdout rows.

    Args:
        models: name → fitted pipeline; candidates, baselines, and `champion` where there is one.
        frame: (n) rows that judge, with inputs, slices and protected columns.
        y: (n,) outcomes.
        predictions: name → (n,) or (n, k) answers.
        block: (n,) codes 0 … k-1 of the blocks of rows that depend on each other.

    Raises:
        SnapshotCorrupt, MissingInput: training rows of a candidate are others, or gone.
    """
    holdout = Holdout(run, train, models, frame, y, predictions, block)
    return tuple(one for question in QUESTIONS for one in question.findings(holdout))


def checks(spec: Spec, evaluate: EvaluateReport, one: Fitted) -> Iterator[GateCheck]:
    """The gate's checks of a candidate that follow from the findings; no data is read."""
    for question in QUESTIONS:
        yield from question.checks(spec, evaluate, one)
