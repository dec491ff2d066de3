"""Two versions of a model on the same rows: how far their scores lie apart."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

from retrain.modeling.metrics import Array
from retrain.monitoring.prediction_log.table import Scores
from retrain.results import Disagreement, Disparity
from retrain.spec import Spec

FURTHEST = 20
"""Rows that a disagreement shows."""
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""Of the differences."""


def disagreement(spec: Spec, keys: pa.Table, champion: Scores, shadow: Scores) -> Disagreement:
    """Compare the shadow model's scores of n rows with the champion's of the same rows.

    Args:
        spec: of the model.
        keys: (n) with the spec's key columns.
        champion: its scores, none missing.
        shadow: those of the shadow model, none missing.
    """
    of_champion, of_shadow = (
        scalar_scores(champion.values, champion.values),
        scalar_scores(champion.values, shadow.values),
    )
    apart = of_shadow - of_champion
    furthest = np.argsort(-np.abs(apart), kind="stable")[:FURTHEST]
    named = keys.take(pa.array(furthest)).to_pylist()
    otherwise = None
    if spec.task == "binary":
        otherwise = float(((of_champion >= 0.5) != (of_shadow >= 0.5)).mean())
    elif spec.task == "multiclass":
        otherwise = float((champion.values.argmax(axis=1) != shadow.values.argmax(axis=1)).mean())
    varies = len(np.unique(of_champion)) > 1 and len(np.unique(of_shadow)) > 1
    return Disagreement(
        version=shadow.version,
        rows=len(apart),
        mean_champion=float(of_champion.mean()),
        mean_shadow=float(of_shadow.mean()),
        mean_absolute=float(np.abs(apart).mean()),
        correlation=float(pd.Series(of_champion).corr(pd.Series(of_shadow), method="spearman")) if varies else None,
        decided_otherwise=otherwise,
        quantiles={f"{q:g}": float(value) for q, value in zip(QUANTILES, np.quantile(apart, QUANTILES), strict=True)},
        furthest=tuple(
            Disparity(
                key=tuple(str(row[name]) for name in spec.source.key),
                champion=float(of_champion[n]),
                shadow=float(of_shadow[n]),
            )
            for n, row in zip(furthest, named, strict=True)
        ),
    )


def scalar_scores(champion: Array, values: Array) -> Array:
    """(n,) a single score per row; of (n, k) the probability of the class that the champion names.

    >>> scalar_scores(np.array([[0.1, 0.9], [0.6, 0.4]]), np.array([[0.3, 0.7], [0.2, 0.8]])).tolist()
    [0.7, 0.2]
    """
    return values if values.ndim == 1 else values[np.arange(len(values)), champion.argmax(axis=1)]
