"""Estimators by the name that a spec gives them, with the spec's seed and threads.

The estimator is the library's own, never a wrapper: a model is loaded without code of its own besides
`retrain.modeling.features`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from inspect import isclass
from typing import Any, cast

import xgboost
from sklearn.base import BaseEstimator, is_classifier, is_regressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils.validation import has_fit_parameter

from retrain.errors import EstimatorRefused, near
from retrain.results import Configuration
from retrain.spec import Spec

SHORT_NAMES: dict[str, tuple[type[BaseEstimator], type[BaseEstimator]]] = {
    "naive": (DummyClassifier, DummyRegressor),
    "simple": (LogisticRegression, Ridge),
    "linear": (LogisticRegression, Ridge),
    "random_forest": (RandomForestClassifier, RandomForestRegressor),
    "xgboost": (xgboost.XGBClassifier, xgboost.XGBRegressor),
}
BASELINES = ("naive", "simple")
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
    """Return the class of an estimator: a short name, or a public dotted path into scikit-learn or XGBoost.

    Raises:
        EstimatorRefused: not on the list, not for this task, or without probabilities where they are needed.

    >>> resolve("linear", "regression").__name__
    'Ridge'
    """
    if name in SHORT_NAMES:
        return SHORT_NAMES[name][task == "regression"]
    parts = name.split(".")
    if len(parts) < 2 or parts[0] not in ("sklearn", "xgboost") or any(part.startswith("_") for part in parts):
        raise EstimatorRefused(
            f"the estimator {name!r} is not on the list{near(name, SHORT_NAMES)}",
            do="name linear, random_forest or xgboost, or a dotted path like sklearn.ensemble.ExtraTreesClassifier",
        )
    path = ".".join(parts[:-1])
    if {"tests", "experimental", "externals", "testing"} & set(parts) or not _exists(path):
        raise EstimatorRefused(f"there is no public module {path!r}", do="see the library's manual for the path")
    module = import_module(path)
    kind = getattr(module, parts[-1], None)
    if not isclass(kind) or not issubclass(kind, BaseEstimator):
        raise EstimatorRefused(
            f"{path} has no estimator {parts[-1]!r}{near(parts[-1], dir(module))}",
            do="see the library's manual for the name",
        )
    try:
        sample = kind()
    except TypeError:
        raise EstimatorRefused(f"{name} needs other estimators inside", do="name a plain estimator") from None
    if not (is_regressor(sample) if task == "regression" else is_classifier(sample)):
        raise EstimatorRefused(f"{name} is not for a {task} model", do="name an estimator of the task's type")
    if task != "regression" and not hasattr(sample, "predict_proba"):
        raise EstimatorRefused(f"{name} gives no probabilities", do="name a classifier with predict_proba")
    return cast("type[BaseEstimator]", kind)


def _exists(path: str) -> bool:
    try:
        return find_spec(path) is not None
    except ModuleNotFoundError:
        return False


def unfitted(spec: Spec, configuration: Configuration) -> Any:
    """Return the estimator of a configuration, not fitted, with the spec's seed and threads.

    Raises:
        EstimatorRefused: as `resolve`; a parameter that it does not have, or that is set elsewhere; a half-life, and it
            takes no weights.
    """
    kind = resolve(configuration.estimator, spec.task)
    if configuration.half_life and not has_fit_parameter(kind, "sample_weight"):
        raise EstimatorRefused(
            f"{configuration.estimator} takes no weights", do="name another, or leave half_life out of training.windows"
        )
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
    settings: dict[str, Any] = {"random_state": spec.training.seed, "n_jobs": spec.training.threads, "max_iter": 1000}
    if kind is not LogisticRegression:
        del settings["max_iter"]
    else:
        del settings["n_jobs"]  # deprecated there, without effect
    try:
        return kind(**{**{name: value for name, value in settings.items() if name in known}, **given})
    except (TypeError, ValueError) as error:
        raise EstimatorRefused(f"{configuration.estimator}: {error}", do="correct training.candidates") from None


def is_xgboost(name: str) -> bool:
    """Whether a name, or a module path, is XGBoost's."""
    return name == "xgboost" or name.startswith("xgboost.")
