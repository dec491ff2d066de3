"""The registry against a real MLflow: a SQLite file for most, one server for what only HTTP shows."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, TargetEncoder
from xgboost import XGBClassifier, XGBRegressor

from retrain.errors import (
    AccessDenied,
    ArtifactMissing,
    ConfigChanged,
    DanglingChampion,
    DigestMismatch,
    EstimatorRefused,
    InvalidName,
    InvalidSpec,
    MissingInput,
    ModelFormatRefused,
    NonFiniteMetric,
    OutOfBandChange,
    RegistryDown,
)
from retrain.modeling.features import Codes, DateParts, FeatureFunction, Typed, code_digest
from retrain.modeling.model_io import TRUSTED
from retrain.modeling.recalibration import RecalibratedClassifier, RecalibratedRegressor
from retrain.registry.mlflow import Registry, digest, load_model, save_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

REQUIREMENTS = ["scikit-learn==1.9.1", "xgboost==3.2.0"]
FEW: dict[str, Any] = {"n_estimators": 5, "max_depth": 3, "n_jobs": 1}
RNG = np.random.default_rng(7)
ROWS = 200
X = pd.DataFrame(
    {
        "amount": RNG.normal(size=ROWS),
        "count": RNG.integers(0, 9, ROWS),
        "place": RNG.choice(["north", "south", "east"], ROWS),
        "kind": pd.Categorical(RNG.choice(["p", "q"], ROWS)),
        "many": RNG.choice(list("abcdefgh"), ROWS),
    }
)
X.loc[::7, "amount"] = np.nan
TWO = (X["count"] + RNG.normal(size=ROWS) > 4).astype(int).to_numpy()
THREE = X["count"].to_numpy() % 3
REAL = X["count"].to_numpy() * 2.5 + RNG.normal(size=ROWS)
WORDS = np.where(TWO == 1, "late", "on time")


def pipeline(estimator: Any, y: Any) -> Pipeline:
    encoders = ColumnTransformer(
        [
            ("numbers", SimpleImputer(strategy="median", add_indicator=True), ["amount", "count"]),
            ("place", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["place"]),
            (
                "kind",
                OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=3, sparse_output=False),
                ["kind"],
            ),
            ("many", TargetEncoder(cv=2, random_state=0), ["many"]),
        ]
    )
    return Pipeline([("prepare", encoders), ("model", estimator)]).fit(X, y)


def save(fitted: Pipeline, folder: Path, code: tuple[Path, ...] = ()) -> str:
    return save_model(fitted, folder, example=X.head(20), requirements=REQUIREMENTS, code=code)


def edit_recipe(folder: Path, change: Any) -> str:
    recipe = yaml.safe_load((folder / "MLmodel").read_text())
    change(recipe)
    (folder / "MLmodel").write_text(yaml.safe_dump(recipe))
    return digest(folder)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("saved") / "model"
    return folder, save(pipeline(XGBClassifier(**FEW), TWO), folder)


@pytest.fixture
def copied(saved: tuple[Path, str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved[0], tmp_path / "copied"))


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/a home #1 @ it:s/mlflow.db"


@pytest.fixture(scope="module")
def registry(uri: str) -> Registry:
    return Registry(uri)


def record(registry: Registry, key: str, **changes: Any) -> str:
    given: dict[str, Any] = {
        "experiment": "small",
        "key": key,
        "name": f"run {key}",
        "description": "a test",
        "params": {"depth": 3, "columns": ["a", "b"]},
        "metrics": {"auc": 0.7},
        "tags": {"trigger": "manual"},
        "files": {},
    }
    return registry.record(**{**given, **changes})


def register(registry: Registry, run_id: str, saved: tuple[Path, str], model: str = "small") -> int:
    return registry.register(
        model=model, run_id=run_id, folder=saved[0], digest=saved[1], tags={"interval": "2013-04"}, description="d"
    )


# --- the folder


@pytest.mark.parametrize(
    ("estimator", "y"),
    [
        (XGBClassifier(**FEW), TWO),
        (XGBClassifier(**FEW), THREE),
        (XGBRegressor(**FEW), REAL),
        (RandomForestClassifier(5), WORDS),
        (RandomForestRegressor(5), REAL),
        (LogisticRegression(max_iter=500), WORDS),
        (Ridge(), REAL),
        (HistGradientBoostingClassifier(max_iter=3), THREE),
        (HistGradientBoostingRegressor(max_iter=3), REAL),
        (DummyClassifier(strategy="prior"), WORDS),
        (DummyRegressor(), REAL),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_model_comes_back_bit_for_bit(estimator: Any, y: Any, tmp_path: Path) -> None:
    fitted = pipeline(estimator, y)
    back = load_model(tmp_path / "m", save(fitted, tmp_path / "m"))
    assert (back.predict(X) == fitted.predict(X)).all()
    if hasattr(fitted, "predict_proba"):
        assert (back.predict_proba(X) == fitted.predict_proba(X)).all()


def test_our_own_transformers_come_back_with_their_code(tmp_path: Path) -> None:
    frame = X.assign(at=pd.date_range("2013-01-01", periods=ROWS, freq="h", tz="UTC"))
    kinds = {"at": "datetime", "amount": "number", "count": "integer", "place": "category"}
    code = "def build(frame):\n    return frame.assign(double=frame['count'] * 2)\n"
    prepare = ColumnTransformer([("codes", Codes(rare=2), ["place"])], remainder="passthrough")
    fitted = Pipeline(
        [
            ("typed", Typed(kinds)),
            ("features", FeatureFunction(code, "build", {"double": "number"}, code_digest(code))),
            ("dates", DateParts({"at": ("weekday", "hour")})),
            ("prepare", prepare),
            ("model", XGBRegressor(**FEW)),
        ]
    ).fit(frame, REAL)
    expected = save_model(fitted, tmp_path / "m", example=frame.head(20), requirements=REQUIREMENTS)
    assert (load_model(tmp_path / "m", expected).predict(frame) == fitted.predict(frame)).all()


def test_the_same_model_gives_the_same_digest_in_another_process(tmp_path: Path, saved: tuple[Path, str]) -> None:
    again = load_model(*saved)
    assert save(again, tmp_path / "again") == saved[1]
    os.utime(tmp_path / "again" / "MLmodel", (1, 1))
    assert digest(tmp_path / "again") == saved[1]
    assert save(pipeline(XGBClassifier(**{**FEW, "n_estimators": 6}), TWO), tmp_path / "other") != saved[1]


def test_mlflow_itself_can_serve_the_folder(saved: tuple[Path, str]) -> None:
    import mlflow.pyfunc

    served = mlflow.pyfunc.load_model(str(saved[0]))
    plain = X.head(9).astype({"kind": object})  # its schema knows strings, not dictionary-encoded ones
    assert (served.predict(plain) == load_model(*saved).predict(X.head(9))).all()
    signature = served.metadata.signature
    assert [column.name for column in signature.inputs] == list(X.columns)
    assert (saved[0] / "requirements.txt").read_text().split()[1:] == REQUIREMENTS


def test_code_travels_under_the_digest(tmp_path: Path) -> None:
    package = tmp_path / "retrain"
    package.mkdir()
    (package / "extra.py").write_text("ANSWER = 42\n")
    expected = save(pipeline(Ridge(), REAL), tmp_path / "m", code=(package,))
    load_model(tmp_path / "m", expected)
    (tmp_path / "m" / "code" / "retrain" / "extra.py").write_text("ANSWER = 43\n")
    with pytest.raises(DigestMismatch):
        load_model(tmp_path / "m", expected)


def test_a_swapped_file_is_refused(saved: tuple[Path, str], copied: Path, tmp_path: Path) -> None:
    save(pipeline(XGBClassifier(**FEW), THREE), tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.skops", copied / "model.skops")
    with pytest.raises(DigestMismatch, match=saved[1][:12]):
        load_model(copied, saved[1])


def test_nothing_or_a_symlink_is_no_model(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissing):
        load_model(tmp_path / "nowhere", "0" * 64)
    (copied / "more").symlink_to(tmp_path)
    with pytest.raises(InvalidName):
        digest(copied)


@pytest.mark.parametrize(
    "change",
    [
        lambda recipe: recipe["flavors"]["python_function"].update(loader_module="planted"),
        lambda recipe: recipe["flavors"]["python_function"].update(code="../planted"),
        lambda recipe: recipe["flavors"]["python_function"].update(data="x"),
        lambda recipe: recipe["flavors"]["sklearn"].update(serialization_format="cloudpickle"),
        lambda recipe: recipe["flavors"]["sklearn"].update(pickled_model="model.pkl"),
        lambda recipe: recipe["flavors"].update(langchain={"model": "x"}),
        lambda recipe: recipe["flavors"].pop("sklearn"),
        lambda recipe: recipe.pop("flavors"),
        lambda recipe: recipe.update(env_vars=["HOME"]),
        lambda recipe: recipe["flavors"].update(sklearn=["a"]),
    ],
)
def test_another_recipe_is_refused_even_under_its_own_digest(
    change: Any, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelFormatRefused):
        load_model(copied, edit_recipe(copied, change))
    assert not (tmp_path / "ran").exists()


def test_types_off_the_list_are_named(tmp_path: Path) -> None:
    with pytest.raises(EstimatorRefused, match="KDTree"):
        save(pipeline(KNeighborsClassifier(algorithm="kd_tree"), TWO), tmp_path / "m")
    with pytest.raises(EstimatorRefused, match="listdir"):
        save(Pipeline([("call", FunctionTransformer(os.listdir)), ("model", Ridge())]), tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_a_planted_type_is_refused_on_load(tmp_path: Path) -> None:
    import skops.io

    folder = tmp_path / "m"
    save(pipeline(Ridge(), REAL), folder)
    skops.io.dump(Pipeline([("call", FunctionTransformer(os.listdir)), ("model", Ridge())]), folder / "model.skops")
    with pytest.raises(EstimatorRefused, match="listdir"):
        load_model(folder, digest(folder))


@pytest.mark.parametrize(
    ("module", "name", "loader"),
    [
        ("retrain.modeling.features", "_function", "ConstructorFromReduceNode"),
        ("retrain.modeling.features", "FeatureFunction", "ConstructorFromReduceNode"),
        ("retrain.modeling.features", "hashlib", "TypeNode"),
        ("retrain.featuresque", "Codes", "ObjectNode"),
        ("xgboost.core", "Booster", "ConstructorFromReduceNode"),
        ("numpy", "dtype", "ConstructorFromReduceNode"),
    ],
)
def test_a_type_is_built_by_its_own_loader_only(module: str, name: str, loader: str, copied: Path) -> None:
    listed = {"__class__": "tuple", "__module__": "builtins", "__loader__": "TupleNode", "content": []}
    schema = {"__class__": name, "__module__": module, "__loader__": loader, "content": listed, "protocol": 2}
    with zipfile.ZipFile(copied / "model.skops", "w") as archive:
        archive.writestr("schema.json", json.dumps(schema))
    with pytest.raises(EstimatorRefused, match=rf"{module}\.{name}"):
        load_model(copied, digest(copied))


def test_no_other_classes_of_ours_may_be_in_a_pipeline() -> None:
    kinds = (Codes, DateParts, FeatureFunction, RecalibratedClassifier, RecalibratedRegressor, Typed)
    types = {f"{kind.__module__}.{kind.__name__}" for kind in kinds}
    assert types == {name for name in TRUSTED if name.startswith("retrain.")}


@pytest.mark.parametrize("name", ["model.pkl", "code/numpy.py", "code/retrain/more/deep.py", "code/retrain/more.so"])
def test_a_file_that_no_model_of_ours_has_is_refused(name: str, copied: Path) -> None:
    (copied / name).parent.mkdir(parents=True, exist_ok=True)
    (copied / name).write_text("")
    with pytest.raises(ModelFormatRefused, match=name):
        load_model(copied, digest(copied))


# --- runs


def test_one_finished_run_per_key(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<p>fine</p>")
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "roc.png").write_bytes(b"png")
    files = {"quality/april.html": tmp_path / "report.html", "plots": tmp_path / "plots"}
    ids = {record(registry, "once", files=files) for _ in range(3)}
    assert len(ids) == 1
    assert record(registry, "once", experiment="elsewhere") not in ids
    run = registry._client.get_run(ids.pop())
    assert run.info.status == "FINISHED"
    assert run.data.params == {"depth": "3", "columns": '["a", "b"]'}
    assert run.data.metrics == {"auc": 0.7}
    assert run.data.tags["mlflow.note.content"] == "a test"
    stored = Path(run.info.artifact_uri)
    assert (stored / "quality" / "april.html").read_text() == "<p>fine</p>"
    assert (stored / "plots" / "roc.png").read_bytes() == b"png"


def test_a_half_done_run_is_completed(registry: Registry) -> None:
    run_id = record(registry, "half")
    registry._client.update_run(run_id, status="RUNNING")
    assert record(registry, "half", metrics={"auc": 0.7, "log_loss": 0.5}) == run_id
    assert registry._client.get_run(run_id).data.metrics == {"auc": 0.7, "log_loss": 0.5}
    assert len(registry._client.get_metric_history(run_id, "auc")) == 1
    registry._client.update_run(run_id, status="RUNNING")
    with pytest.raises(ConfigChanged, match="depth"):
        record(registry, "half", params={"depth": 4})


def test_nothing_is_written_for_a_metric_that_is_not_finite(registry: Registry, tmp_path: Path) -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(NonFiniteMetric, match="auc"):
            record(registry, "nan", experiment="untouched", metrics={"auc": value})
    with pytest.raises(MissingInput, match=r"report\.html"):
        record(registry, "gone", experiment="untouched", files={"report.html": tmp_path / "no"})
    assert registry._client.get_experiment_by_name("untouched") is None


def test_long_values_are_cut_in_the_table_and_whole_in_the_artifact(registry: Registry) -> None:
    run = registry._client.get_run(record(registry, "long", params={"sql": "x" * 9000}, description="y" * 9000))
    assert run.data.params["sql"].endswith("long_values.json)")
    whole = json.loads((Path(run.info.artifact_uri) / "long_values.json").read_text())
    assert whole == {"sql": "x" * 9000, "mlflow.note.content": "y" * 9000}


def test_names_cannot_leave_their_place(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    with pytest.raises(InvalidName):
        record(registry, "x' or tags.y = '")
    with pytest.raises(InvalidName):
        record(registry, "out", files={"../a": tmp_path / "a"})
    with pytest.raises(InvalidName):
        record(registry, "out", experiment="../../out")


def test_a_deleted_experiment_is_not_replaced(registry: Registry) -> None:
    record(registry, "one", experiment="deleted")
    experiment = registry._client.get_experiment_by_name("deleted")
    assert experiment is not None
    registry._client.delete_experiment(experiment.experiment_id)
    with pytest.raises(OutOfBandChange):
        record(registry, "two", experiment="deleted")


# --- versions


def test_one_version_per_run(registry: Registry, saved: tuple[Path, str], tmp_path: Path) -> None:
    run_id = record(registry, "version")
    version = register(registry, run_id, saved)
    assert register(registry, run_id, saved) == version
    assert register(registry, record(registry, "version 2"), saved) == version + 1
    assert registry.describe("small", version) == {"interval": "2013-04", "digest": saved[1], "run_id": run_id}
    registry.tag("small", version, "gate", "promote")
    assert registry.describe("small", version)["gate"] == "promote"
    fetched = registry.fetch("small", version, saved[1], tmp_path / "cache" / "v")
    assert digest(fetched) == saved[1]
    (tmp_path / "empty").mkdir()
    assert digest(registry.fetch("small", version, saved[1], tmp_path / "empty")) == saved[1]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["v"]
    assert registry._client.get_run(run_id).info.status == "FINISHED"
    assert "mlflow.log-model.history" in registry._client.get_run(run_id).data.tags
    assert registry.run_url(run_id) is None


def test_another_model_for_the_same_run_is_refused(registry: Registry, saved: tuple[Path, str], tmp_path: Path) -> None:
    run_id = record(registry, "two models")
    with pytest.raises(DigestMismatch):
        register(registry, run_id, (saved[0], "0" * 64), "twice")
    assert registry._client.get_run(run_id).info.status == "FINISHED"
    register(registry, run_id, saved, "twice")
    other = tmp_path / "other"
    with pytest.raises(DigestMismatch, match="version 1"):
        register(registry, run_id, (other, save(pipeline(Ridge(), REAL), other)), "twice")


def test_a_cut_upload_leaves_a_failed_run_and_no_version(registry: Registry, saved: tuple[Path, str]) -> None:
    run_id = record(registry, "cut")
    stored = Path(registry._client.get_run(run_id).info.artifact_uri)
    stored.mkdir(parents=True, exist_ok=True)
    (stored / "model").write_text("in the way")
    with pytest.raises(OSError, match="model"):
        register(registry, run_id, saved, "cut")
    assert registry._client.get_run(run_id).info.status == "FAILED"
    assert registry._version("cut", run_id) is None
    (stored / "model").unlink()
    assert register(registry, run_id, saved, "cut") == 1
    assert registry._client.get_run(run_id).info.status == "FINISHED"


def test_files_gone_or_swapped_in_the_store(registry: Registry, saved: tuple[Path, str], tmp_path: Path) -> None:
    run_id = record(registry, "store")
    version = register(registry, run_id, saved)
    stored = Path(registry._client.get_run(run_id).info.artifact_uri) / "model"
    (stored / "conda.yaml").write_text("name: other\n")
    with pytest.raises(DigestMismatch):
        registry.fetch("small", version, saved[1], tmp_path / "v")
    shutil.rmtree(stored)
    with pytest.raises(ArtifactMissing):
        registry.fetch("small", version, saved[1], tmp_path / "v")
    with pytest.raises(ArtifactMissing):
        registry.fetch("small", 999, saved[1], tmp_path / "v")
    assert not list(tmp_path.iterdir())


def test_a_copy_is_used_only_while_it_is_whole(registry: Registry, saved: tuple[Path, str], copied: Path) -> None:
    assert registry.fetch("no such model", 1, saved[1], copied) == copied
    (copied / "conda.yaml").write_text("name: other\n")
    with pytest.raises(DigestMismatch):
        registry.fetch("no such model", 1, saved[1], copied)


# --- aliases


def test_aliases(registry: Registry, saved: tuple[Path, str]) -> None:
    assert registry.alias("never heard of", "champion") is None
    registry.delete_alias("never heard of", "champion")
    first, second = (register(registry, record(registry, f"alias {n}"), saved, "aliased") for n in (1, 2))
    assert registry.alias("aliased", "champion") is None
    registry.set_alias("aliased", "champion", first, saved[1])
    registry.set_alias("aliased", "challenger", second, saved[1])
    assert (registry.alias("aliased", "champion"), registry.alias("aliased", "challenger")) == (first, second)
    registry.delete_alias("aliased", "challenger")
    assert registry.alias("aliased", "challenger") is None
    with pytest.raises(ArtifactMissing, match="999"):
        registry.set_alias("aliased", "champion", 999, saved[1])
    assert registry.alias("aliased", "champion") == first


def test_a_deleted_version_leaves_a_dangling_champion(registry: Registry, saved: tuple[Path, str]) -> None:
    version = register(registry, record(registry, "dangling"), saved, "dangling")
    registry.set_alias("dangling", "champion", version, saved[1])
    registry._client.delete_model_version("dangling", str(version))
    with pytest.raises(DanglingChampion, match=f"version {version}"):
        registry.alias("dangling", "champion")
    registry.delete_alias("dangling", "champion")
    assert registry.alias("dangling", "champion") is None


# --- kills

KILLED = """
import json, os, signal, sys
from pathlib import Path
# Imported here once, so that no fork below spends its time on it.
import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store

from retrain.registry.mlflow import Registry

uri, folder, digest, points = sys.argv[1], Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])

def attempt(key, stop):
    registry = Registry(uri)
    calls = 0
    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call"
        if calls == stop:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.setprofile(count)
    run_id = registry.record(
        experiment="killed", key=key, name=key, description="", params={"a": 1}, metrics={"auc": 0.5}, tags={},
        files={"report.txt": folder / "MLmodel"},
    )
    registry.register(model="killed", run_id=run_id, folder=folder, digest=digest, tags={}, description="")
    sys.setprofile(None)
    return calls

def forked(key, stop):
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(write, str(attempt(key, stop)).encode())
        os._exit(0)
    os.close(write)
    _, status = os.waitpid(pid, 0)
    code = os.read(read, 20).decode()
    os.close(read)
    return int(code) if code else -os.WTERMSIG(status)

total = forked("whole", 0)
ends = []
for number, point in enumerate(points):
    ends.append(forked(f"round-{number}", max(1, int(point * total))))
    forked(f"round-{number}", 0)
print(json.dumps(ends))
"""


def test_killed_anywhere_and_run_again_is_one_run_and_one_version(
    registry: Registry, uri: str, saved: tuple[Path, str], tmp_path: Path
) -> None:
    dice = random.Random(20130101)
    points = [dice.random() for _ in range(7)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED, uri, str(saved[0]), saved[1], json.dumps(points)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [-9] * len(points)
    experiment = registry._client.get_experiment_by_name("killed")
    assert experiment is not None
    runs = registry._client.search_runs([experiment.experiment_id])
    assert sorted(run.data.tags["retrain.key"] for run in runs) == sorted(
        ["whole", *(f"round-{number}" for number in range(len(points)))]
    )
    assert {run.info.status for run in runs} == {"FINISHED"}
    versions = registry._client.search_model_versions("name = 'killed'")
    assert sorted(version.run_id for version in versions) == sorted(run.info.run_id for run in runs)
    for version in versions:
        registry.fetch("killed", int(version.version), saved[1], tmp_path / str(version.version))


# --- a server


@pytest.fixture(scope="module")
def free_port() -> int:
    with socket.socket() as run_smoke_test:
        run_smoke_test.bind(("127.0.0.1", 0))
        return int(run_smoke_test.getsockname()[1])


@pytest.fixture(scope="module")
def server(
    free_port: int, registry: Registry, uri: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    home = tmp_path_factory.mktemp("server")
    # A database whose tables are there already saves the server the seconds of making them.
    shutil.copy(uri.removeprefix("sqlite:///"), home / "mlflow.db")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{home}/mlflow.db"]
    command += ["--artifacts-destination", str(home / "store"), "--host", "127.0.0.1", "--port", str(free_port)]
    process = subprocess.Popen(
        [*command, "--workers", "1"],
        cwd=home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    )
    try:
        address = f"http://127.0.0.1:{free_port}"
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, "the MLflow server ended"
                # A poll needs a pause; waiting for the process is one that ends early if it dies.
                try:
                    process.wait(0.1)
                except subprocess.TimeoutExpired:
                    continue
        yield address, home / "store"
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def test_through_a_server(server: tuple[str, Path], saved: tuple[Path, str], tmp_path: Path) -> None:
    address, store = server
    registry = Registry(address)
    run_id = record(registry, "http", experiment="http", files={"reports/saved": saved[0]})
    version = register(registry, run_id, saved, "http")
    assert record(registry, "http", experiment="http") == run_id
    assert register(registry, run_id, saved, "http") == version == 1
    registry.set_alias("http", "champion", version, saved[1])
    assert registry.alias("http", "champion") == version
    load_model(registry.fetch("http", version, saved[1], tmp_path / "v"), saved[1])
    assert registry.run_url(run_id) == f"{address}/#/runs/{run_id}"
    assert registry.alias("never heard of", "champion") is None
    (stored,) = store.glob(f"*/{run_id}/artifacts/model")
    shutil.rmtree(stored)
    with pytest.raises(ArtifactMissing):
        registry.fetch("http", version, saved[1], tmp_path / "again")
    registry._client.delete_model_version("http", "1")
    with pytest.raises(DanglingChampion):
        registry.alias("http", "champion")


def test_no_server_is_said_soon_and_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:
        # Bound and not listening: nobody else can take the port, and nobody answers.
        held.bind(("127.0.0.1", 0))
        registry = Registry(f"http://ann:secret@127.0.0.1:{held.getsockname()[1]}")
        with pytest.raises(RegistryDown) as caught:
            registry.alias("small", "champion")
    assert caught.value.retryable
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "secret" not in str(registry.run_url("1"))


def test_a_database_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(AccessDenied):
        Registry(f"sqlite:///{tmp_path}/taken")
    with pytest.raises(InvalidSpec):
        Registry("nothing at all")
