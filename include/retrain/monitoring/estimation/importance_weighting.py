"""Importance weighting under covariate shift: labelled rows are weighted to look like the new ones.

As in PAPE (Białek, Kivimäki, Kuberski and Perrakis, NeurIPS 2025, arXiv 2401.08348): a model that is calibrated over
all rows need not be so on those that have become frequent. The weights are relative density ratios (Yamada et al.
2011), which are bounded, from a classifier that tells the two sets apart.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import OrdinalEncoder
from xgboost import XGBClassifier

from retrain.errors import SchemaChanged
from retrain.modeling.metrics import Array

MAX_ROWS = 20_000
"""Rows to learn from, and rows to estimate on: more are sampled, which keeps an estimate below some seconds."""

MIN_ROWS = 200
"""Rows below which nothing is learnt."""

MAX_CATEGORIES = 60
"""Categories of a column that the helping models tell apart, the rarest put together."""

# One thread: the answer is then the same to the last digit on every machine, and a busy one does not slow it.
TREES = {"n_estimators": 40, "learning_rate": 0.15, "max_depth": 3, "max_bin": 64, "reg_lambda": 5.0, "n_jobs": 1}
"""Parameters of the helping models."""

_BLEND = 0.1
_EPS = float(np.finfo(np.float64).eps)


def density_ratio(known: Array, new: Array, seed: int) -> Array:
    """How much more frequent rows like each known one are among the new ones: relative density ratios, mean one.

    Each row's odds come from a classifier that was not fitted on it. The ratio is to a blend of both sets with a
    tenth of the new one, so that it stays below ten.

    Args:
        known: (n, d) labelled rows, as `FeatureEncoder` gives them.
        new: (m, d) rows without labels.
        seed: of the sample, the folds and the classifier.

    Returns:
        (n,) weights; all one where there are fewer than `MIN_ROWS` new rows.
    """
    if len(new) < MIN_ROWS:
        return np.ones(len(known))
    new = new[sample_rows(len(new), seed)]
    x, is_new = np.vstack([known, new]), np.repeat([0, 1], [len(known), len(new)])
    probability = np.empty(len(x))
    for fitted, held_out in StratifiedKFold(2, shuffle=True, random_state=seed).split(x, is_new):
        model = XGBClassifier(**TREES, min_child_weight=leaf_rows(len(x)) / 4, random_state=seed)
        probability[held_out] = model.fit(x[fitted], is_new[fitted]).predict_proba(x[held_out])[:, 1]
    odds = probability[is_new == 0] / (1 - probability[is_new == 0]).clip(_EPS) * len(known) / len(new)
    ratio = odds / (_BLEND * odds + 1 - _BLEND)
    return np.asarray(ratio / ratio.mean())


def sample_rows(rows: int, seed: int) -> Array:
    """The places of at most `MAX_ROWS` of so many rows, in their order."""
    if rows <= MAX_ROWS:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, size=MAX_ROWS, replace=False))


def leaf_rows(rows: int) -> int:
    """The rows that a leaf of a helping model needs."""
    return max(20, rows // 100)


class FeatureEncoder:
    """Features and predictions as numbers for the helping models: rare categories are one, unknown ones missing."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._categories = [name for name in frame if isinstance(frame[name].dtype, pd.CategoricalDtype)]
        self._numbers = [name for name in frame if pd.api.types.is_numeric_dtype(frame[name].dtype)]
        self._codes = OrdinalEncoder(
            handle_unknown="use_encoded_value",
            unknown_value=np.nan,
            encoded_missing_value=np.nan,
            max_categories=MAX_CATEGORIES,
        )
        if self._categories:
            self._codes.fit(frame[self._categories].astype(object))

    def __call__(self, frame: pd.DataFrame, prediction: Array) -> Array:
        """(n, d) numbers of n rows, the predictions first.

        Raises:
            SchemaChanged: a column that was fitted is not there.
        """
        if missing := [str(name) for name in [*self._numbers, *self._categories] if name not in frame]:
            raise SchemaChanged(
                f"no column {', '.join(missing[:5])} in the rows to estimate on", do="give the columns learnt from"
            )
        numbers = frame[self._numbers].to_numpy(dtype=np.float64)
        codes = [self._codes.transform(frame[self._categories].astype(object))] if self._categories else []
        return np.column_stack([prediction, numbers, *codes])
