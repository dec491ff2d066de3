"""Pipelines from a spec and a configuration: Typed → features → date parts → columns → a plain estimator.

Everything that is learnt from rows is a step of the pipeline, so it is learnt from the rows that are given to
`fit` and from no others. The last step is the library's own estimator, never a wrapper: a model is loaded
without code of its own besides `retrain.modeling.features`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec
from inspect import isclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import sklearn
import xgboost
from scipy import sparse
from sklearn.base import BaseEstimator, is_classifier, is_regressor
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler, TargetEncoder
from sklearn.utils import get_tags
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import has_fit_parameter

from retrain.errors import DegenerateTraining, EstimatorRefused, NonFiniteMetric, near
from retrain.modeling.features import Codes, DateParts, FeatureFunction, Typed, code_digest
from retrain.results import Configuration
from retrain.spec import Spec
from retrain.state.store import json_digest

Array = np.ndarray[Any, np.dtype[Any]]

RECIPE = 1
"""Raise it when the steps built here change: no champion of the older recipe is then refreshed under its name."""

CATEGORIES = 100
"""One-hot columns per category column, the rarest sharing one; a bound for columns with thousands of values."""

SHORT: dict[str, tuple[type[BaseEstimator], type[BaseEstimator]]] = {
    "naive": (DummyClassifier, DummyRegressor),
    "simple": (LogisticRegression, Ridge),
    "linear": (LogisticRegression, Ridge),
    "random_forest": (RandomForestClassifier, RandomForestRegressor),
    "xgboost": (xgboost.XGBClassifier, xgboost.XGBRegressor),
}
BASELINES = ("naive", "simple")
MAX_TREES = 500

# Strong enough that a month of rows does not overfit and mild enough for a year of them; the search may leave it.
_XGBOOST = {
    "learning_rate": 0.1,
    "max_depth": 6,
    "min_child_weight": 20,
    "subsample": 0.8,
    "colsample_bytree": 0.5,
    "reg_lambda": 5.0,
    "tree_method": "hist",
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "random_forest": {"n_estimators": 200, "min_samples_leaf": 10, "max_features": 0.3},
    "xgboost": _XGBOOST,
}
ELSEWHERE = {
    "n_jobs": "training.threads",
    "nthread": "training.threads",
    "random_state": "training.seed",
    "seed": "training.seed",
    "early_stopping_rounds": "training.early_stopping",
    "class_weight": "training.balance",
    "scale_pos_weight": "training.balance",
    "callbacks": "nothing: it is not for a spec",
    "enable_categorical": "encode",
}
"""Parameters that a candidate may not set, and the key that does."""


def resolve(name: str, task: str) -> type[BaseEstimator]:
    """The class of an estimator: a short name, or a public dotted path into scikit-learn or XGBoost.

    Raises:
        EstimatorRefused: not on the list, not for this task, or without probabilities where they are needed.

    >>> resolve("linear", "regression").__name__
    'Ridge'
    """
    if name in SHORT:
        return SHORT[name][task == "regression"]
    parts = name.split(".")
    if len(parts) < 2 or parts[0] not in ("sklearn", "xgboost") or any(part.startswith("_") for part in parts):
        raise EstimatorRefused(
            f"the estimator {name!r} is not on the list{near(name, SHORT)}",
            do="name linear, random_forest or xgboost, or a dotted path like sklearn.ensemble.ExtraTreesClassifier",
        )
    path = ".".join(parts[:-1])
    if {"tests", "experimental", "externals", "testing"} & set(parts) or not _exists(path):
        raise EstimatorRefused(f"there is no public module {path!r}", do="see the library's manual for the path")
    module = import_module(path)
    found = getattr(module, parts[-1], None)
    if not isclass(found) or not issubclass(found, BaseEstimator):
        raise EstimatorRefused(
            f"{path} has no estimator {parts[-1]!r}{near(parts[-1], dir(module))}",
            do="see the library's manual for the name",
        )
    try:
        sample = found()
    except TypeError:
        raise EstimatorRefused(f"{name} needs other estimators inside", do="name a plain estimator") from None
    if not (is_regressor(sample) if task == "regression" else is_classifier(sample)):
        raise EstimatorRefused(f"{name} is not for a {task} model", do="name an estimator of the task's type")
    if task != "regression" and not hasattr(sample, "predict_proba"):
        raise EstimatorRefused(f"{name} gives no probabilities", do="name a classifier with predict_proba")
    return cast("type[BaseEstimator]", found)


def _exists(path: str) -> bool:
    try:
        return find_spec(path) is not None
    except ModuleNotFoundError:
        return False


def estimator(spec: Spec, configuration: Configuration) -> Any:
    """The estimator of a configuration, not fitted, with the spec's seed and threads.

    Raises:
        EstimatorRefused: as `resolve`; a parameter that it does not have, or that is set elsewhere.
    """
    kind = resolve(configuration.estimator, spec.task)
    if configuration.estimator == "naive":
        return kind(strategy="mean" if spec.task == "regression" else "prior")
    known = kind().get_params()
    given = {name: value for name, value in configuration.parameters.items() if name != "encode"}
    for name in given:
        if name in ELSEWHERE:
            raise EstimatorRefused(f"{configuration.estimator}: {name} is not set here", do=f"use {ELSEWHERE[name]}")
        if name not in known:
            raise EstimatorRefused(
                f"{configuration.estimator} has no parameter {name!r}{near(name, known)}",
                do="correct training.candidates",
            )
    house: dict[str, Any] = {"random_state": spec.training.seed, "n_jobs": spec.training.threads, "max_iter": 1000}
    if kind is not LogisticRegression:
        del house["max_iter"]
    else:
        del house["n_jobs"]  # deprecated there, without effect
    try:
        return kind(**{**{name: value for name, value in house.items() if name in known}, **given})
    except (TypeError, ValueError) as error:
        raise EstimatorRefused(f"{configuration.estimator}: {error}", do="correct training.candidates") from None


def is_xgboost(name: str) -> bool:
    return name == "xgboost" or name.startswith("xgboost.")


def baseline(spec: Spec, name: str) -> Configuration:
    """`naive` (the prior, or the mean) or `simple` (a linear model with default parameters), on all rows."""
    return Configuration(estimator=name, parameters={}, window=None, pipeline=pipeline_digest(spec))


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
    """The pipeline of a configuration, not fitted."""
    last = estimator(spec, configuration)
    kinds = {name: spec.columns[name].type for name in spec.inputs}
    steps: list[tuple[str, Any]] = [("typed", Typed(kinds, tuple(str(name) for name in spec.classes)))]
    if configuration.estimator != "naive":
        if spec.training.features:
            own = spec.training.features
            step = FeatureFunction(spec.code, own.function, dict(own.adds), code_digest(spec.code))
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
    made = [("numeric", filled, list(numeric))] if numeric else []
    return ColumnTransformer(made + ([("categorical", coded, list(categorical))] if categorical else []))


# --- fitting and scoring


def fit(spec: Spec, configuration: Configuration, frame: pd.DataFrame, y: Array) -> Pipeline:
    """A pipeline fitted on these rows.

    Args:
        frame: rows with the spec's inputs; other columns do not matter.
        y: (n,) class codes 0..k-1, or numbers.

    Raises:
        DegenerateTraining: nothing to learn from these rows.
    """
    check(spec, frame, y)
    model = build(spec, configuration)
    made = model[:-1].fit_transform(frame, y)
    fit_last(spec, model[-1], made, y, weigh=configuration.estimator not in BASELINES)
    return model


def check(spec: Spec, frame: pd.DataFrame, y: Array) -> None:
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
    spec: Spec, last: Any, made: Any, y: Array, *, weigh: bool = True, watch: tuple[Any, Array] | None = None
) -> Any:
    """Fit the last step on encoded rows; `watch` is what XGBoost stops early on."""
    k, options = len(spec.classes), {}
    y = y.astype(np.int64) if k else y
    weight = compute_sample_weight("balanced", y) if k and spec.training.balance and weigh else None
    if weight is not None and not has_fit_parameter(last, "sample_weight"):
        raise EstimatorRefused(f"{type(last).__name__} takes no weights", do="name another, or leave training.balance")
    if watch is not None:
        options = {"eval_set": [(watch[0], watch[1].astype(y.dtype))], "verbose": False}
        if weight is not None:
            options["sample_weight_eval_set"] = [compute_sample_weight("balanced", watch[1].astype(y.dtype))]
    absent = np.setdiff1d(np.arange(k), y)
    if len(absent) and is_xgboost(type(last).__module__):
        # XGBoost counts classes from the labels: a class that these rows miss is shown once, with no weight.
        weight = np.concatenate([np.ones(len(y)) if weight is None else weight, np.zeros(len(absent))])
        shown = made[np.zeros(len(absent), dtype=int)]
        made = sparse.vstack([made, shown]).tocsr() if sparse.issparse(made) else np.vstack([made, shown])
        y = np.concatenate([y, absent])
    if weight is not None:
        options["sample_weight"] = weight
    last.fit(made, y, **options)
    if "n_jobs" in last.get_params() and not is_xgboost(type(last).__module__):
        # A forest adds its trees' answers up as its threads come in: the last digit would change from call to call.
        last.set_params(n_jobs=1)
    return last


def watch(
    spec: Spec, configuration: Configuration, made: Any, y: Array, watched: Any, watched_y: Array, patience: int
) -> list[float]:
    """XGBoost's loss on the watched rows after each tree, until `patience` more bring nothing.

    `n_estimators` of the configuration is the bound, by default 500. The loss forgives the level: a stretch of
    days differs from the next in its mean, which no number of trees can learn, and a plain log loss would stop
    at a handful of trees in one stretch and at hundreds in another. So predictions are shifted to the watched
    rows' mean first (calibration in the large; multiclass: plain log loss).
    """
    last = estimator(spec, configuration)
    metric: Any = {"binary": log_loss_but_level, "multiclass": "mlogloss", "regression": deviation}[spec.task]
    bound = configuration.parameters.get("n_estimators", MAX_TREES)
    last.set_params(n_estimators=bound, early_stopping_rounds=patience, eval_metric=metric)
    fit_last(spec, last, made, y, watch=(watched, watched_y))
    results = last.evals_result()["validation_0"]
    return [float(loss) for loss in results[metric if isinstance(metric, str) else metric.__name__]]


def log_loss_but_level(y: Array, p: Array, sample_weight: Array | None = None) -> float:
    """Log loss of probabilities after the shift of their log odds that gives them the mean of `y`.

    >>> y = np.array([0, 0, 1, 1])
    >>> round(log_loss_but_level(y, np.array([0.1, 0.1, 0.1, 0.1])), 6) == round(float(np.log(2)), 6)
    True
    """
    weight = np.ones(len(y)) if sample_weight is None or len(sample_weight) == 0 else sample_weight
    bound = np.clip(p.astype(np.float64), 1e-9, 1 - 1e-9)
    odds = np.log(bound / (1 - bound))
    goal = float(np.clip(np.average(y, weights=weight), 1e-6, 1 - 1e-6))
    shift = 0.0
    for _ in range(8):
        q = 1 / (1 + np.exp(-(odds + shift)))
        step = (goal - np.average(q, weights=weight)) / max(float(np.average(q * (1 - q), weights=weight)), 1e-6)
        shift += float(np.clip(step, -2, 2))
    odds = odds + shift
    return float(np.average(np.logaddexp(0, odds) - y * odds, weights=weight))


def deviation(y: Array, prediction: Array, sample_weight: Array | None = None) -> float:
    """Standard deviation of the errors: the root mean squared error but for their mean."""
    return float(np.std(y - prediction))


def stops_early(spec: Spec, configuration: Configuration) -> bool:
    # XGBoost's random forests grow all of their trees at once.
    boosted = is_xgboost(configuration.estimator) and "XGBRF" not in configuration.estimator
    return boosted and spec.training.early_stopping > 0


def predict(model: Pipeline, task: str, frame: pd.DataFrame) -> Array:
    """What a fitted pipeline says: (n,) probability of the last class, (n, k) of each, or (n,) numbers.

    Raises:
        SchemaChanged, DtypeChanged: the frame is not what the model reads.
        NonFiniteMetric: an answer that is NaN or infinite.
    """
    return predict_last(model[-1], task, model[:-1].transform(frame), len(model[0].outcomes))


def predict_last(last: Any, task: str, made: Any, k: int) -> Array:
    """`predict` from encoded rows; a class that the estimator never met has probability zero."""
    if task == "regression":
        answer = np.asarray(last.predict(made), dtype=np.float64)
    else:
        known = np.asarray(last.classes_, dtype=np.int64)
        answer = np.zeros((made.shape[0], k))
        answer[:, known] = last.predict_proba(made)
        answer = answer[:, -1] if task == "binary" else answer
    if bad := int((~np.isfinite(answer)).sum()):
        raise NonFiniteMetric(
            f"{bad} of {answer.size} predictions are not finite", do="look for overflow in the target or the features"
        )
    return answer


# --- what travels with a model


@cache
def requirements() -> tuple[str, ...]:
    """The pinned packages that a model needs, as they are installed."""
    return tuple(_pins())


def _pins() -> Iterator[str]:
    installed = {name: _version(name) for name in ("xgboost-cpu", "xgboost")}
    boost = next(name for name, version in installed.items() if version)
    for name in ("scikit-learn", boost, "pandas", "numpy", "scipy", "skops", "pyarrow"):
        yield f"{name}=={metadata.version(name)}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def carry(folder: Path) -> Path:
    """Lay the code that every model needs as a package into `folder`, and return the package."""
    package, house = folder / "retrain", Path(__file__).parents[1]
    (package / "modeling").mkdir(parents=True)
    for name in ("__init__.py", "errors.py", "modeling/__init__.py", "modeling/features.py"):
        shutil.copyfile(house / name, package / name)
    return package
