"""What later batches are compared with: a champion's reference rows with their facts, and its holdout rows.

Refit writes them beside the model; drift reads `reference.parquet` and `reference.json`, the estimate of performance
reads `holdout.parquet`.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from retrain.modeling.folds import Rows
from retrain.modeling.metrics import Array
from retrain.monitoring.stored_reference import GROUP, INTERVAL, PREDICTION, TIME
from retrain.spec import Spec

ROWS = 20_000
"""Of a sample of reference or holdout rows."""
CATEGORIES = 5_000
"""Categories of a column that its facts name, the most frequent first."""


def reference_rows(spec: Spec, known: Rows, judged: Array, prediction: Array, starts: pd.DatetimeIndex) -> pd.DataFrame:
    """The rows that a champion was fitted on, with target, prediction and what tells which rows depend on each other.

    Only holdout rows have a prediction, the gated candidate's: on rows that a model was fitted on its answers
    are surer than on new ones, and every later batch would look drifted.

    Args:
        spec: the inputs, the time column and the group.
        known: n labelled rows.
        judged: (n,) whether it is a holdout row.
        prediction: (m,) or (m, k) predictions for the m holdout rows.
        starts: of each interval of `known`.
    """
    frame = known.frame[list(spec.inputs)].assign(target=known.y)
    for name, column in _prediction_columns(prediction).items():
        frame[name] = pd.Series(column, index=frame.index[judged]).reindex(frame.index)
    frame[TIME], frame[INTERVAL] = known.frame[spec.source.time], starts[known.interval]
    if spec.training.group:
        frame[GROUP] = known.frame[spec.training.group]
    return frame


def holdout_rows(spec: Spec, frame: pd.DataFrame, y: Array, prediction: Array) -> pd.DataFrame:
    """The holdout rows with target and the gated candidate's answers: what is expected of the champion.

    Args:
        spec: the inputs, the time column and the group.
        frame: (n) holdout rows.
        y: (n,) outcomes.
        prediction: (n,) or (n, k) predictions.
    """
    group = [spec.training.group] if spec.training.group else []
    rows = frame[list(dict.fromkeys([*spec.inputs, spec.source.time, *group]))].assign(target=y)
    return rows.assign(**_prediction_columns(prediction)).reset_index(drop=True)


def _prediction_columns(prediction: Array) -> dict[str, Array]:
    if prediction.ndim == 1:
        return {PREDICTION: prediction}
    return {f"{PREDICTION}_{place}": prediction[:, place] for place in range(prediction.shape[1])}


def column_facts(values: pd.Series[Any]) -> dict[str, Any]:
    """Facts of all of a column's rows that a sample of them would not show.

    >>> column_facts(pd.Series([1.0, None, 3.0, 2.0]))
    {'missing': 0.25, 'min': 1.0, 'max': 3.0, 'mean': 2.0}
    """
    present = values.dropna()
    facts: dict[str, Any] = {"missing": float(values.isna().mean())}
    if isinstance(values.dtype, pd.CategoricalDtype):
        counts = present.value_counts()
        counts = counts[counts > 0]
        order = sorted(zip(-counts.to_numpy(), counts.index.astype(str), strict=True))
        facts |= {
            "categories": {name: int(-count) for count, name in order[:CATEGORIES]},
            "distinct": len(order),
            "capped": len(order) > CATEGORIES,
        }
    elif len(present) and pd.api.types.is_numeric_dtype(values.dtype):
        facts |= {"min": float(present.min()), "max": float(present.max()), "mean": float(present.mean())}
    elif len(present) and isinstance(values.dtype, pd.DatetimeTZDtype):
        facts |= {"min": present.min().isoformat(), "max": present.max().isoformat()}
    return facts
