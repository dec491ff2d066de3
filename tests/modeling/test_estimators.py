"""Pipelines from a spec: what may be named, what is learnt, what is answered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from retrain.errors import DegenerateTraining, EstimatorRefused, NonFiniteMetric
from retrain.modeling import estimators, packaging, pipelines
from retrain.registry.mlflow import load_model, save_model
from retrain.results import Configuration
from retrain.spec import Spec
from tests.trained import spec_from

Data = dict[str, Any]
SMALL: dict[str, Data] = {"xgboost": {"n_estimators": 20}, "random_forest": {"n_estimators": 10}, "linear": {}}
OWN = "def build(frame):\n    return frame.assign(double=frame['visits'] * 2)\n"


def configured(spec: Spec, name: str, **parameters: Any) -> Configuration:
    return Configuration(estimator=name, parameters=parameters, pipeline=pipelines.pipeline_digest(spec))


def table(rows: int = 300, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "id": [f"{seed}-{place}" for place in range(rows)],
            "signup": pd.date_range("2024-01-01", periods=rows, freq="h", tz="UTC"),
            "plan": pd.Categorical(random.choice(["basic", "plus", "pro"], rows)),
            "visits": random.integers(0, 60, rows).astype(float),
            "spend": random.gamma(2.0, 20.0, rows),
            "member": (random.random(rows) < 0.4).astype(float),
        }
    )
    frame.loc[::17, "spend"] = np.nan
    frame.loc[::19, "plan"] = None
    return frame


def outcome(task: str, frame: pd.DataFrame, seed: int = 0) -> np.ndarray[Any, Any]:
    value = frame["visits"] - 20 * (frame["plan"] == "basic") + np.random.default_rng(seed).normal(0, 5, len(frame))
    if task == "regression":
        return value.to_numpy()
    return (np.digitize(value, [20, 40]) if task == "multiclass" else value > 20).astype(float)


@pytest.fixture
def spec_for(spec_of: Callable[[], Data]) -> Callable[..., Spec]:
    def make(task: str = "binary", code: str = "", **training: Any) -> Spec:
        data = spec_of()
        data["task"] = task
        if task == "multiclass":
            data["columns"]["churned"] = {"type": "category"}
            data["target"] = {"column": "churned", "classes": ["low", "middle", "high"]}
        if task == "regression":
            data["columns"]["churned"] = {"type": "number"}
        data["training"] |= training
        return spec_from(data, code)

    return make


@pytest.mark.parametrize("name", list(SMALL))
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_every_estimator_learns_every_task_and_comes_back_from_its_files(
    spec_for: Callable[..., Spec], tmp_path: Path, task: str, name: str
) -> None:
    spec = spec_for(task, date_parts={"signup": ["weekday", "hour"]})
    frame = table()
    y = outcome(task, frame)
    model = pipelines.fit(spec, configured(spec, name, **SMALL[name]), frame, y)
    new = table(200, seed=1)
    predicted = pipelines.predict(model, task, new)
    truth = outcome(task, new, seed=1)
    assert predicted.shape == ((200, 3) if task == "multiclass" else (200,))
    if task == "regression":
        assert np.corrcoef(predicted, truth)[0, 1] > 0.8
    else:
        hit = predicted.argmax(axis=1) == truth if task == "multiclass" else (predicted > 0.5) == truth
        assert hit.mean() > 0.7

    example = frame[list(spec.inputs)].head(20)
    digests = [
        save_model(fitted, tmp_path / f"{place}", example=example, requirements=packaging.requirements())
        for place, fitted in enumerate([model, pipelines.fit(spec, configured(spec, name, **SMALL[name]), frame, y)])
    ]
    assert digests[0] == digests[1], "the same rows and configuration give the same files"
    again = load_model(tmp_path / "0", digests[0])
    assert np.array_equal(pipelines.predict(again, task, new), predicted)
    assert type(again[-1]) is type(estimators.unfitted(spec, configured(spec, name)))


@pytest.mark.parametrize("encode", ["onehot", "ordinal", "target"])
@pytest.mark.parametrize("name", list(SMALL))
def test_unknown_and_missing_categories_get_an_answer(spec_for: Callable[..., Spec], name: str, encode: str) -> None:
    spec = spec_for()
    frame = table()
    model = pipelines.fit(spec, configured(spec, name, encode=encode, **SMALL[name]), frame, outcome("binary", frame))
    new = frame.head(3).assign(plan=pd.Categorical(["gold", None, "basic"]), spend=np.nan)
    predicted = pipelines.predict(model, "binary", new)
    unseen = pipelines.predict(model, "binary", new.assign(plan=pd.Categorical(["silver", None, "basic"])))
    assert predicted[0] == unseen[0], "all unknown categories share one bucket"


def test_columns_are_found_by_name(spec_for: Callable[..., Spec]) -> None:
    spec, frame = spec_for(), table()
    model = pipelines.fit(spec, configured(spec, "linear"), frame, outcome("binary", frame))
    swapped = frame[list(frame.columns[::-1])]
    assert np.array_equal(pipelines.predict(model, "binary", swapped), pipelines.predict(model, "binary", frame))


def test_an_undeclared_column_is_no_feature(spec_for: Callable[..., Spec]) -> None:
    spec, frame = spec_for(), table()
    y = outcome("binary", frame)
    plain = pipelines.fit(spec, configured(spec, "linear"), frame, y)
    planted = frame.assign(churned=y, left_at=y)
    model = pipelines.fit(spec, configured(spec, "linear"), planted, y)
    assert np.array_equal(pipelines.predict(model, "binary", planted), pipelines.predict(plain, "binary", frame))


def test_a_saved_model_is_scored_with_its_own_code(spec_for: Callable[..., Spec], tmp_path: Path) -> None:
    features = {"file": "churn.py", "adds": {"double": "number"}}
    before = spec_for(code=OWN, features=features)
    after = spec_for(code=OWN.replace("* 2", "* -7"), features=features)
    frame = table()
    model = pipelines.fit(before, configured(before, "linear"), frame, outcome("binary", frame))
    example = frame[list(before.inputs)]
    digest = save_model(model, tmp_path / "model", example=example, requirements=packaging.requirements())
    predicted = pipelines.predict(model, "binary", frame)
    pipelines.fit(after, configured(after, "linear"), frame, outcome("binary", frame))
    assert np.array_equal(pipelines.predict(load_model(tmp_path / "model", digest), "binary", frame), predicted)
    assert pipelines.pipeline_digest(before) != pipelines.pipeline_digest(after)


@pytest.mark.parametrize("name", list(SMALL))
def test_a_class_that_the_rows_miss_has_no_chance(spec_for: Callable[..., Spec], name: str) -> None:
    spec, frame = spec_for("multiclass"), table()
    y = np.where(outcome("multiclass", frame) == 1, 2.0, outcome("multiclass", frame))
    model = pipelines.fit(spec, configured(spec, name, **SMALL[name]), frame, y)
    predicted = pipelines.predict(model, "multiclass", frame)
    assert predicted.shape == (300, 3)
    assert predicted[:, 1].max() < 0.1
    assert predicted.argmax(axis=1).tolist() != [0] * 300


@pytest.mark.parametrize("name", list(SMALL))
def test_balanced_weights_lift_the_rare_class(spec_for: Callable[..., Spec], name: str) -> None:
    frame = table()
    y = (np.random.default_rng(1).random(300) < 0.2 * frame["member"]).to_numpy().astype(float)
    means = []
    for balance in (False, True):
        spec = spec_for(balance=balance)
        model = pipelines.fit(spec, configured(spec, name, **SMALL[name]), frame, y)
        means.append(pipelines.predict(model, "binary", frame).mean())
    assert means[1] > means[0] * 1.5


def test_baselines_are_plain(spec_for: Callable[..., Spec]) -> None:
    frame = table()
    for task, wanted in (
        ("binary", outcome("binary", frame).mean()),
        ("regression", outcome("regression", frame).mean()),
    ):
        spec = spec_for(task, balance=task == "binary")
        model = pipelines.fit(spec, pipelines.baseline(spec, "naive"), frame, outcome(task, frame))
        assert np.allclose(pipelines.predict(model, task, frame), wanted)
        pipelines.fit(spec, pipelines.baseline(spec, "simple"), frame, outcome(task, frame))


@pytest.mark.parametrize(
    ("y", "frame", "message"),
    [
        (np.ones(50), table(50), "outcome True"),
        (np.full(50, np.nan), table(50), "0 of 50"),
        (np.ones(0), table(0), "0 of 0"),
        (np.arange(50) % 2.0, table(50).assign(plan="a", visits=1.0, spend=np.nan, member=0.0), "varies"),
    ],
)
def test_nothing_to_learn(spec_for: Callable[..., Spec], y: Any, frame: pd.DataFrame, message: str) -> None:
    spec = spec_for()
    with pytest.raises(DegenerateTraining, match=message):
        pipelines.fit(spec, configured(spec, "linear"), frame, y)


def test_an_answer_that_is_not_finite_is_refused(spec_for: Callable[..., Spec]) -> None:
    spec, frame = spec_for("regression"), table()
    model = pipelines.fit(spec, configured(spec, "linear"), frame, outcome("regression", frame))
    model[-1].intercept_ = np.nan
    with pytest.raises(NonFiniteMetric, match="300 of 300"):
        pipelines.predict(model, "regression", frame)


@pytest.mark.parametrize(
    ("name", "task", "message"),
    [
        ("xgbost", "binary", "did you mean 'xgboost'"),
        ("os.system", "binary", "not on the list"),
        ("sklearn.ensemble.ExtraTreeClassifier", "binary", "did you mean 'ExtraTreesClassifier'"),
        ("sklearn.ensembel.ExtraTreesClassifier", "binary", "no public module"),
        ("sklearn.utils.os", "binary", "no estimator"),
        ("sklearn.linear_model._base.LinearRegression", "regression", "not on the list"),
        ("sklearn.ensemble.ExtraTreesClassifier", "regression", "not for a regression"),
        ("sklearn.ensemble.ExtraTreesRegressor", "multiclass", "not for a multiclass"),
        ("sklearn.svm.LinearSVC", "binary", "no probabilities"),
        ("sklearn.ensemble.StackingClassifier", "binary", "needs other estimators"),
        ("sklearn.preprocessing.StandardScaler", "binary", "not for a binary"),
    ],
)
def test_only_the_list_is_let_in(name: str, task: str, message: str) -> None:
    with pytest.raises(EstimatorRefused, match=message):
        estimators.resolve(name, task)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"max_dept": 3}, "max_depth"), ({"n_jobs": 8}, "training.threads"), ({"callbacks": []}, "not for a spec")],
)
def test_parameters_are_checked(spec_for: Callable[..., Spec], parameters: Data, message: str) -> None:
    spec = spec_for()
    with pytest.raises(EstimatorRefused, match=message):
        pipelines.build(spec, configured(spec, "xgboost", **parameters))


def test_an_estimator_by_its_path(spec_for: Callable[..., Spec]) -> None:
    spec, frame = spec_for(), table()
    name = "sklearn.ensemble.HistGradientBoostingClassifier"
    model = pipelines.fit(spec, configured(spec, name, max_iter=10), frame, outcome("binary", frame))
    assert pipelines.predict(model, "binary", frame).std() > 0.1
    assert model[-1].random_state == spec.training.seed


def test_what_travels_with_a_model(tmp_path: Path) -> None:
    package = packaging.carry(tmp_path)
    carried = sorted(file.relative_to(package).as_posix() for file in package.rglob("*.py"))
    assert carried == ["__init__.py", "errors.py", "masking.py", "modeling/__init__.py", "modeling/features.py"]
    assert all("==" in requirement for requirement in packaging.requirements())
