"""A fitted estimator whose answers are moved as recent labels ask: when, how far, and when not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import log_loss, root_mean_squared_error
from xgboost import XGBClassifier, XGBRegressor

from retrain.errors import DegenerateTraining
from retrain.modeling.recalibration import LEVEL, RecalibratedClassifier, needed, recalibrate

Array = np.ndarray[Any, np.dtype[Any]]
WEIGHTS = np.array([[1.5, 0.0, -1.0], [-1.0, 1.0, 0.5], [0.0, -1.0, 0.5]])


def world(task: str, rows: int, seed: int, level: float = 0.0, spread: float = 1.0) -> tuple[Array, Array]:
    """Rows and outcomes; `level` makes the last class likelier, or the numbers greater, all else held."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (rows, 3))
    if task == "regression":
        return x, spread * (x @ WEIGHTS[0]) + level + rng.normal(0, 1, rows)
    if task == "binary":
        chance = 1 / (1 + np.exp(-(spread * (x @ WEIGHTS[0] - 1) + level)))
        return x, (rng.random(rows) < chance).astype(float)
    utility = spread * (x @ WEIGHTS) + np.array([0.5, 0.0, level])
    return x, (utility + rng.gumbel(size=utility.shape)).argmax(axis=1).astype(float)


def fitted(task: str, seed: int = 1, rows: int = 4000) -> Any:
    x, y = world(task, rows, seed)
    if task == "regression":
        return XGBRegressor(n_estimators=40, max_depth=2, learning_rate=0.2).fit(x, y)
    return XGBClassifier(n_estimators=40, max_depth=2, learning_rate=0.2).fit(x, y.astype(int))


def loss(model: Any, x: Array, y: Array) -> float:
    if not hasattr(model, "predict_proba"):
        return float(root_mean_squared_error(y, model.predict(x)))
    return float(log_loss(y, model.predict_proba(x)))


def days(rows: int) -> Array:
    return np.arange(rows) // 20


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_label_shift_is_mended_nearly_as_by_a_full_refit(task: str) -> None:
    model, level = fitted(task), 1.3
    x, y = world(task, 600, 2, level)
    assert needed(model, x, y, days(600))[0] is not None
    mended = recalibrate(model, x, y, "intercept")
    new_x, new_y = world(task, 20_000, 3, level)
    # The hardest rival: as many rows of the new world as the model had of the old.
    kind, many = type(model)(n_estimators=40, max_depth=2, learning_rate=0.2), world(task, 4000, 4, level)
    refitted = kind.fit(many[0], many[1] if task == "regression" else many[1].astype(int))
    before, after, best = (loss(each, new_x, new_y) for each in (model, mended, refitted))
    assert after < before - 0.9 * (before - best), (before, after, best)
    assert loss(model, new_x, new_y) == before, "the estimator stays as it is"


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_the_closed_test_asks_for_no_more_than_there_is(task: str) -> None:
    x, y = world(task, 20_000, 5)
    model = LinearRegression().fit(x, y) if task == "regression" else LogisticRegression(C=1e6).fit(x, y)
    methods = {
        name: [needed(model, *world(task, 400, 100 + seed, *how), days(400))[0] for seed in range(40)]
        for name, how in {"same": (0.0, 1.0), "level": (1.0, 1.0), "spread": (0.0, 0.4)}.items()
    }
    assert methods["same"].count(None) >= 38
    assert methods["level"].count("intercept") >= 36
    assert methods["spread"].count("intercept and slope") >= 36


def test_rows_of_one_block_count_as_one() -> None:
    model, hits = LogisticRegression(C=1e6).fit(*world("binary", 20_000, 5)), {"block": 0, "row": 0}
    for seed in range(60):
        x, y = world("binary", 30, 200 + seed)
        x, y, block = np.repeat(x, 20, axis=0), np.repeat(y, 20), np.repeat(np.arange(30), 20)
        hits["block"] += needed(model, x, y, block)[0] is not None
        hits["row"] += needed(model, x, y, np.arange(600))[0] is not None
    assert hits["row"] > 30, "as if they were independent, chance is taken for a change"
    assert hits["block"] < 10


def test_a_model_that_is_too_sure_is_made_timid() -> None:
    x, y = world("binary", 120, 6)
    sure = XGBClassifier(n_estimators=300, max_depth=6, learning_rate=0.5, reg_lambda=0).fit(x, y.astype(int))
    new = world("binary", 1000, 7)
    method, reason = needed(sure, *new, days(1000))
    assert (method, "1,000 rows in 50 blocks" in reason) == ("intercept and slope", True)
    mended = recalibrate(sure, *new, "intercept and slope")
    assert 0 < mended.slope_ < 0.5
    assert loss(mended, *world("binary", 5000, 8)) < 0.7 * loss(sure, *world("binary", 5000, 8))


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_calibrations_do_not_pile_up(task: str) -> None:
    model = fitted(task)
    once = recalibrate(model, *world(task, 600, 2, 1.0), "intercept and slope")
    twice = recalibrate(once, *world(task, 600, 9, 2.0), "intercept and slope")
    assert twice.estimator is once.estimator is model
    anew = recalibrate(model, *world(task, 600, 9, 2.0), "intercept and slope")
    x, _ = world(task, 200, 10)
    answers = [getattr(each, "predict_proba", each.predict)(x) for each in (twice, anew)]
    assert answers[0] == pytest.approx(answers[1], abs=1e-4)


def test_an_intercept_alone_gives_recent_rows_their_mean() -> None:
    model, (x, y) = fitted("binary"), world("binary", 500, 2, 1.0)
    mended = recalibrate(model, x, y, "intercept")
    assert mended.slope_ == 1
    assert mended.predict_proba(x)[:, 1].mean() == pytest.approx(y.mean(), abs=1e-6)
    order = np.argsort(model.predict_proba(x)[:, 1])
    assert (np.diff(mended.predict_proba(x)[order, 1]) >= 0).all(), "nobody changes places"


def test_a_prior_gets_the_share_of_today() -> None:
    prior = DummyClassifier(strategy="prior").fit(np.zeros((100, 1)), [0] * 90 + [1] * 10)
    x, y = np.zeros((400, 1)), np.arange(400) % 2
    assert needed(prior, x, y, days(400))[0] == "intercept"
    assert recalibrate(prior, x, y, "intercept and slope").predict_proba(x[:1])[0, 1] == pytest.approx(0.5)


def test_certainty_is_bounded() -> None:
    class Certain(DummyClassifier):  # type: ignore[misc]
        def predict_proba(self, X: Array) -> Array:
            return np.stack([X[:, 0] <= 0, X[:, 0] > 0], axis=1).astype(float)

    x, y = world("binary", 600, 3)
    mended = recalibrate(Certain().fit(x, y), x, y, "intercept and slope")
    assert loss(mended, x, y) < np.log(2)


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_a_calibration_does_not_turn_a_model_round(task: str) -> None:
    model, (x, y) = fitted(task), world(task, 600, 2)
    with pytest.raises(DegenerateTraining, match="do not go with greater outcomes"):
        needed(model, x, 1 - y if task == "binary" else -y, days(600))


def test_too_few_rows_or_a_new_class_teach_nothing() -> None:
    model, (x, y) = fitted("binary"), world("binary", 600, 2)
    with pytest.raises(DegenerateTraining, match="99 recent rows"):
        recalibrate(model, x[:99], y[:99], "intercept")
    with pytest.raises(DegenerateTraining, match="0 of the rarest class"):
        recalibrate(model, x, np.zeros(600), "intercept")
    with pytest.raises(DegenerateTraining, match="3 rows are of a class"):
        recalibrate(model, x, np.append(y[:-3], [2, 2, 2]), "intercept")
    assert needed(model, *world("binary", 600, 2, 3.0), np.zeros(600, dtype=int))[0] is None, "one block tells nothing"


def test_it_is_an_estimator_like_any_other() -> None:
    model, (x, y) = fitted("multiclass"), world("multiclass", 600, 2, 1.0)
    mended = RecalibratedClassifier(model).fit(x, y)
    assert mended.get_params(deep=False) == {"estimator": model, "stretch": False}
    assert mended.predict_proba(x).sum(axis=1) == pytest.approx(np.ones(600))
    assert set(mended.predict(x)) <= set(mended.classes_) == {0, 1, 2}
    assert 0 < LEVEL < 0.05
