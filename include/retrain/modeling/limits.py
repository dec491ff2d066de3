"""The metrics that `gate.limits` bounds: over all rows, of one class, and on every value of a column.

A class is predicted at probability 0.5 or more, of several classes it is the most probable one. The value is taken as
it is, without an interval: a limit says what a model has to reach, not what it has to be shown to reach.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from retrain.modeling import metrics
from retrain.modeling.metrics import Array
from retrain.spec import LimitedMetric, Spec

FEWEST = 20
"""Rows that a metric has to be a share of; fewer tell nothing: of a recall those of the class."""
SHOWN = 8


@dataclass(frozen=True)
class Measured:
    """What a model reached; of a column the value that is furthest from what is allowed."""

    value: float | None
    rows: int
    text: str


def measure(spec: Spec, limited: LimitedMetric, frame: pd.DataFrame, y: Array, prediction: Array) -> Measured:
    """Measure a bounded metric.

    Args:
        spec: the task, and from how many rows on a slice is judged.
        limited: what is bounded.
        frame: (n) rows with the column that is asked about.
        y: (n,) outcomes.
        prediction: (n,) or (n, k) predictions.

    Returns:
        The value, None where too few rows tell it.
    """
    if limited.column is None:
        return _on(spec, limited, y, prediction)
    values = metrics.bands(frame[limited.column], spec.columns[limited.column].type)
    judged: dict[str, Measured] = {}
    small = []
    for value, place in sorted(values.groupby(values, sort=True).indices.items()):
        part = _on(spec, limited, y[place], prediction[place])
        if part.value is None or len(place) < spec.gate.slice_min_rows:
            small.append(f"{str(value)[:40]} ({len(place):,})")
        else:
            judged[str(value)] = part
    aside = f"; too few rows to judge: {', '.join(small[:SHOWN])}" if small else ""
    aside += f" and {len(small) - SHOWN} more" if len(small) > SHOWN else ""
    if not judged:
        return Measured(None, len(y), f"no value of {limited.column} has enough rows{aside}")
    by_excess = sorted(judged, key=lambda value: limited.bound.excess(judged[value].value or 0.0), reverse=True)
    outside = [value for value in by_excess if limited.bound.excess(judged[value].value or 0.0) > 0]
    named = ", ".join(f"{value[:40]} {judged[value].value:.4g}" for value in (outside or by_excess[:1])[:SHOWN])
    named += f" and {len(outside) - SHOWN} more" if len(outside) > SHOWN else ""
    worst = judged[by_excess[0]]
    return Measured(worst.value, worst.rows, f"{'outside' if outside else 'nearest'}: {named}{aside}")


def _on(spec: Spec, limited: LimitedMetric, y: Array, prediction: Array) -> Measured:
    """The metric on these rows; None where it is a share of too few of them."""
    task = spec.task
    if limited.label is not None:
        code = [str(name) for name in spec.classes].index(limited.label)
        predicted = prediction.argmax(axis=1) if task == "multiclass" else (prediction >= 0.5).astype(int)
        task, y, prediction = "binary", (y == code).astype(float), (predicted == code).astype(float)
    rows = len(y)
    if task == "binary":
        yes, answered = int((y == 1).sum()), int((prediction >= 0.5).sum())
        both = min(yes, rows - yes)
        rows = {
            "recall": yes,
            "f1": yes,
            "precision": answered,
            "specificity": rows - yes,
            "roc_auc": both,
            "average_precision": yes,
            "balanced_accuracy": both,
        }.get(limited.metric, rows)
    if rows < FEWEST:
        return Measured(None, rows, f"{rows:,} rows tell it, {FEWEST} are needed")
    value = metrics.metric_values(task, y, prediction, only=limited.metric)[limited.metric]
    return Measured(value, rows, f"on {rows:,} rows" if value is not None else f"it is undefined on {rows:,} rows")


def broken(spec: Spec, frame: pd.DataFrame, y: Array, prediction: Array) -> tuple[str, ...]:
    """The bounds that predictions do not keep, for people; what too few rows tell breaks none.

    Args:
        spec: its `gate.limits`.
        frame: (n) rows with the columns that are asked about.
        y: (n,) outcomes.
        prediction: (n,) or (n, k) predictions.

    >>> from retrain.spec import EXAMPLE, parse
    >>> spec = parse(EXAMPLE + "gate: {limits: {recall: {min: 0.5}}}", "churn")
    >>> broken(spec, pd.DataFrame(index=range(40)), np.ones(40), np.repeat([0.9, 0.1], [10, 30]))
    ('recall 0.25 on 40 rows, at least 0.5 is asked',)
    """
    measured = [(limited, measure(spec, limited, frame, y, prediction)) for limited in spec.gate.limited]
    return tuple(
        describe(limited, part)
        for limited, part in measured
        if part.value is not None and limited.bound.excess(part.value) > 0
    )


def describe(limited: LimitedMetric, measured: Measured) -> str:
    """A bound and what was measured, for people."""
    if measured.value is None or not np.isfinite(measured.value):
        return f"{limited.about} cannot be told: {measured.text}; {limited.bound} is asked"
    return f"{limited.about} {measured.value:.4g} {measured.text}, {limited.bound} is asked"
