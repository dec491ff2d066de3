"""Pipelines from a spec and a configuration: Typed → features → date parts → columns → a plain estimator.

Everything that is learnt from rows is a step of the pipeline, so it is learnt from the rows that are given to
`fit` and from no others.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import sklearn
import xgboost
from scipy import sparse
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler, TargetEncoder
from sklearn.utils import get_tags
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import has_fit_parameter

from retrain.errors import DegenerateTraining, EstimatorRefused, NonFiniteMetric
from retrain.modeling.estimators import BASELINES, is_xgboost, unfitted
from retrain.modeling.features import Array, Codes, DateParts, FeatureFunction, Typed, code_digest
from retrain.results import Configuration
from retrain.spec import Recency, Spec, Window
from retrain.state.store import json_digest

RECIPE = 1
"""Raise it when the steps built here change: no champion of the older recipe is then refreshed under its name."""
CATEGORIES = 100
"""One-hot columns per category column, the rarest sharing one; a bound for columns with thousands of values."""


def baseline(spec: Spec, name: str) -> Configuration:
    """The configuration of a baseline: `naive` (the prior, or the mean) or `simple` (a linear model), on all rows."""
    return Configuration(estimator=name, parameters={}, window=None, pipeline=pipeline_digest(spec))


def on_window(configuration: Configuration, window: Window) -> Configuration:
    """The configuration on the rows of one of `training.windows`, whatever rows it had before.

    `change` is no window of its own: its rows are all, until labels say since when.
    """
    half_life = window.half_life / timedelta(days=1) if isinstance(window, Recency) else None
    count = window if isinstance(window, int) else None
    return configuration.model_copy(update={"window": count, "since": None, "half_life": half_life})


def pipeline_digest(spec: Spec) -> str:
    """The digest of everything in a pipeline that its configuration's parameters do not say."""
    features = spec.training.features
    return json_digest(
        {
            "recipe": RECIPE,
            "task": spec.task,
            "inputs": [(name, spec.columns[name].type) for name in spec.inputs],
            "features": spec.features,
            "target": spec.target.model_dump(mode="json"),
            "date_parts": spec.training.date_parts,
            "code": features and [code_digest(spec.code), features.function, sorted(features.adds.items())],
            "balance": spec.training.balance,
            "versions": [sklearn.__version__, xgboost.__version__],
        }
    )


def columns(spec: Spec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The numeric and the categorical columns that reach the estimator, after features and date parts."""
    kinds = {name: spec.columns[name].type for name in spec.features}
    numeric = [name for name, kind in kinds.items() if kind != "category"]
    categorical = [name for name, kind in kinds.items() if kind == "category"]
    if spec.training.features:
        for name, added in spec.training.features.adds.items():
            (categorical if added == "category" else numeric).append(name)
    numeric += [f"{column}_{part}" for column, parts in spec.training.date_parts.items() for part in parts]
    return tuple(numeric), tuple(categorical)


def build(spec: Spec, configuration: Configuration) -> Pipeline:
    """Build the pipeline of a configuration, not fitted.

    Raises:
        EstimatorRefused: see `estimators.unfitted`.
    """
    last = unfitted(spec, configuration)
    kinds = {name: spec.columns[name].type for name in spec.inputs}
    steps: list[tuple[str, Any]] = [("typed", Typed(kinds, tuple(str(name) for name in spec.classes)))]
    if configuration.estimator != "naive":
        if spec.training.features:
            features = spec.training.features
            step = FeatureFunction(spec.code, features.function, dict(features.adds), code_digest(spec.code))
            steps.append(("features", step))
        if spec.training.date_parts:
            steps.append(("dates", DateParts({name: tuple(of) for name, of in spec.training.date_parts.items()})))
        steps.append(("columns", _columns(spec, configuration, last)))
    return Pipeline([*steps, ("model", last)])


def _columns(spec: Spec, configuration: Configuration, last: Any) -> ColumnTransformer:
    numeric, categorical = columns(spec)
    tags = get_tags(last).input_tags
    filled: Any = "passthrough"
    if not tags.allow_nan:
        filled = make_pipeline(
            SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True), StandardScaler()
        )
    trees = configuration.estimator == "random_forest" or is_xgboost(configuration.estimator)
    encode = configuration.parameters.get("encode") or ("ordinal" if trees else "onehot")
    parts = KFold if spec.task == "regression" else StratifiedKFold
    coded: Any = Codes()
    if encode == "onehot":
        coded = OneHotEncoder(
            handle_unknown="infrequent_if_exist",
            min_frequency=0.001,
            max_categories=CATEGORIES,
            sparse_output=bool(tags.sparse),
        )
    elif encode == "target":
        coded = TargetEncoder(
            target_type="continuous" if spec.task == "regression" else spec.task,
            cv=parts(5, shuffle=True, random_state=spec.training.seed),
        )
    transformers = [("numeric", filled, list(numeric))] if numeric else []
    return ColumnTransformer(transformers + ([("categorical", coded, list(categorical))] if categorical else []))


# --- fitting and scoring


def fit(spec: Spec, configuration: Configuration, frame: pd.DataFrame, y: Array) -> Pipeline:
    """Build the pipeline of a configuration and fit it on these rows.

    Args:
        spec: the model's.
        configuration: estimator, parameters and encoding.
        frame: rows with the spec's inputs; other columns do not matter.
        y: (n,) class codes 0..k-1, or numbers.

    Raises:
        DegenerateTraining: nothing to learn from these rows.
    """
    check_learnable(spec, frame, y)
    model = build(spec, configuration)
    encoded = model[:-1].fit_transform(frame, y)
    weight = recency_weight(spec, configuration, frame)
    fit_last(spec, model[-1], encoded, y, weight, balance=configuration.estimator not in BASELINES)
    return model


def recency_weight(spec: Spec, configuration: Configuration, frame: pd.DataFrame) -> Array | None:
    """The weight of each training row, (n,): 2^(-age / half-life), age from the newest; None without a half-life.

    Estimators see weights, the steps before them do not: imputed medians and scales are those of all rows.
    """
    if configuration.half_life is None:
        return None
    when = frame[spec.source.time]
    days = ((when.max() - when) / pd.Timedelta(days=1)).to_numpy(dtype=np.float64)
    return np.asarray(np.exp2(-days / configuration.half_life))


def check_learnable(spec: Spec, frame: pd.DataFrame, y: Array) -> None:
    """Refuse rows from which nothing can be learnt.

    Raises:
        DegenerateTraining: no labels, one outcome, or no column that varies.
    """
    do = "look at the labels and columns of the training batches, or wait for more"
    if len(y) == 0 or not np.isfinite(y).all():
        raise DegenerateTraining(f"{int(np.isfinite(y).sum())} of {len(y)} training rows have a label", do=do)
    if len(np.unique(y)) < 2:
        what = str(y[0]) if spec.task == "regression" else str(spec.classes[int(y[0])])
        raise DegenerateTraining(f"all {len(y)} training rows have the outcome {what}", do=do)
    if all(frame[name].nunique(dropna=False) < 2 for name in spec.inputs):
        raise DegenerateTraining(f"none of the {len(spec.inputs)} input columns varies in the training rows", do=do)


def fit_last(
    spec: Spec,
    last: Any,
    encoded: Any,
    y: Array,
    recency: Array | None,
    *,
    balance: bool = True,
    watched: tuple[Any, Array] | None = None,
) -> Any:
    """Fit the last step of a pipeline on rows that the steps before it have encoded.

    Args:
        spec: the model's.
        last: the estimator, not fitted.
        encoded: (n, columns) rows.
        y: (n,) class codes 0..k-1, or numbers.
        recency: (n,) weights by `recency_weight`; None weighs all rows alike.
        balance: whether `training.balance` counts; classes are then balanced by the weight of their rows.
        watched: encoded rows and outcomes on which XGBoost measures its loss after each tree.

    Returns:
        `last`, fitted.

    Raises:
        EstimatorRefused: classes are to be weighed, and it takes no weights.
    """
    k, options = len(spec.classes), {}
    y = y.astype(np.int64) if k else y
    weight, balance = recency, bool(k) and spec.training.balance and balance
    if balance:
        weight = _balanced(y, recency)
    if weight is not None and not has_fit_parameter(last, "sample_weight"):
        raise EstimatorRefused(f"{type(last).__name__} takes no weights", do="name another, or leave training.balance")
    if watched is not None:
        options = {"eval_set": [(watched[0], watched[1].astype(y.dtype))], "verbose": False}
        if balance:
            # The watched rows are the newest, all of one age.
            options["sample_weight_eval_set"] = [_balanced(watched[1].astype(y.dtype), None)]
    absent = np.setdiff1d(np.arange(k), y)
    if len(absent) and is_xgboost(type(last).__module__):
        # XGBoost counts classes from the labels: a class that these rows miss stands there once, with no weight.
        weight = np.concatenate([np.ones(len(y)) if weight is None else weight, np.zeros(len(absent))])
        example = encoded[np.zeros(len(absent), dtype=int)]
        parts = [encoded, example]
        encoded = sparse.vstack(parts).tocsr() if sparse.issparse(encoded) else np.vstack(parts)
        y = np.concatenate([y, absent])
    if weight is not None:
        options["sample_weight"] = weight
    last.fit(encoded, y, **options)
    if "n_jobs" in last.get_params() and not is_xgboost(type(last).__module__):
        # A forest adds its trees' answers up as its threads come in: the last digit would change from call to call.
        last.set_params(n_jobs=1)
    return last


def _balanced(y: Array, weight: Array | None) -> Array:
    """The weight of each row, (n,), with which all classes weigh alike."""
    known, code = np.unique(y, return_inverse=True)
    of_class = compute_class_weight("balanced", classes=known, y=y, sample_weight=weight)
    return np.asarray(of_class[code] if weight is None else of_class[code] * weight)


def predict(model: Pipeline, task: str, frame: pd.DataFrame) -> Array:
    """Predict with a fitted pipeline.

    Returns:
        (n,) probabilities of the last class, (n, k) probabilities of each, or (n,) numbers.

    Raises:
        SchemaChanged, DtypeChanged: the frame is not what the model reads.
        NonFiniteMetric: an answer that is NaN or infinite.
    """
    return predict_last(model[-1], task, model[:-1].transform(frame), len(model[0].outcomes))


def predict_last(last: Any, task: str, encoded: Any, k: int) -> Array:
    """Predict from rows that the steps before have encoded; a class that the estimator never met has probability zero.

    Args:
        last: a fitted estimator.
        task: the spec's.
        encoded: (n, columns) rows.
        k: how many classes the spec has.

    Raises:
        NonFiniteMetric: an answer that is NaN or infinite.
    """
    if task == "regression":
        answer = np.asarray(last.predict(encoded), dtype=np.float64)
    else:
        known = np.asarray(last.classes_, dtype=np.int64)
        answer = np.zeros((encoded.shape[0], k))
        answer[:, known] = last.predict_proba(encoded)
        answer = answer[:, -1] if task == "binary" else answer
    if bad := int((~np.isfinite(answer)).sum()):
        raise NonFiniteMetric(
            f"{bad} of {answer.size} predictions are not finite", do="look for overflow in the target or the features"
        )
    return answer
