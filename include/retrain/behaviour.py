"""What is asked of a candidate beside its metrics: calibration, fairness, edge cases, overfitting, leaks, size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd
from sklearn.pipeline import Pipeline

from retrain.metrics import Array
from retrain.results import EvaluateReport, Finding, Fitted, GateCheck, TrainReport
from retrain.run import Run
from retrain.spec import Spec


def examine(
    run: Run,
    train: TrainReport,
    models: Mapping[str, Pipeline],
    frame: pd.DataFrame,
    y: Array,
    predictions: Mapping[str, Array],
    block: Array,
) -> tuple[Finding, ...]:
    """Measure every candidate and the champion on the n labelled sealed rows.

    Args:
        models: name → fitted pipeline; candidates, baselines, and `champion` where there is one.
        frame: (n) rows that judge, with inputs, slices and protected columns.
        y: (n,) outcomes.
        predictions: name → (n,) or (n, k) answers.
        block: (n,) codes 0 … k-1 of the blocks of rows that depend on each other.
    """
    return ()


def checks(spec: Spec, evaluate: EvaluateReport, one: Fitted) -> Iterator[GateCheck]:
    """The gate's checks of a candidate that follow from the findings; no data is read."""
    yield from ()
