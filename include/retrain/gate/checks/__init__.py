"""The checks of a candidate's behaviour: calibration, overfitting, leaks, fairness, edge cases, size, limits.

One file a check. Each has `findings`, which measures the candidates and the champion and is called by evaluate, and
`checks`, which judges a candidate by these findings, reads no data and is called by the gate. Only an explicit
comparison of finite numbers passes. What the spec asks for by name (an overfit bound, a fairness bound, a case, a
limit) and cannot be told is undetermined and holds the candidate back; a default that cannot be told is only reported.

To add a check: a file here with `findings` and `checks`, its module in `CHECKS`, its name in `Finding.check`, and where
it has a bound, a key in the spec's `gate` section.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd
from sklearn.pipeline import Pipeline

from retrain.gate.checks import calibration, edge_cases, fairness, leak, limits, overfit, size
from retrain.gate.checks.holdout import Holdout
from retrain.modeling.metrics import Array
from retrain.results import EvaluateReport, Finding, FittedModel, GateCheck, TrainReport
from retrain.spec import Spec
from retrain.state.run import Run

CHECKS = (calibration, overfit, leak, fairness, edge_cases, size, limits)


def examine(
    run: Run,
    train: TrainReport,
    models: Mapping[str, Pipeline],
    frame: pd.DataFrame,
    y: Array,
    predictions: Mapping[str, Array],
    block: Array,
    *,
    with_baselines: bool = False,
) -> tuple[Finding, ...]:
    """Measure every candidate and the champion on the n labelled holdout rows.

    Args:
        run: whose store has the training rows and the models' files.
        train: the candidates.
        models: name → fitted pipeline; candidates, baselines, and `champion` where there is one.
        frame: (n) rows that judge, with inputs, slices and protected columns.
        y: (n,) outcomes.
        predictions: name → (n,) or (n, k) predictions.
        block: (n,) codes 0 … k-1 of the blocks of rows that depend on each other.
        with_baselines: whether baselines are examined too, since one of them may be promoted.

    Raises:
        SnapshotCorrupt, MissingInput: training rows of a candidate are others, or gone.
    """
    holdout = Holdout(run, train, models, frame, y, predictions, block, with_baselines)
    return tuple(finding for check in CHECKS for finding in check.findings(holdout))


def checks(spec: Spec, evaluate: EvaluateReport, candidate: FittedModel) -> Iterator[GateCheck]:
    """The gate's checks of a candidate that follow from the findings; no data is read."""
    for check in CHECKS:
        yield from check.checks(spec, evaluate, candidate)
