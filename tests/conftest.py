"""What tests share: homes, MLflow's empty database, and a small model with deliveries and runs in it."""

from __future__ import annotations

import os

# Before any library is imported: none of them may report anything from here.
os.environ.update(
    DVC_NO_ANALYTICS="1",
    GX_ANALYTICS_ENABLED="false",
    DO_NOT_TRACK="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    TQDM_DISABLE="1",
)

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from retrain.results import Trigger
from retrain.state.run import Run
from retrain.state.settings import Home

INCLUDE = Path(__file__).parents[1] / "include"


def churn_spec() -> dict[str, Any]:
    """A binary model, one file per month. A fresh dict, for the test to change."""
    return {
        "model": "churn",
        "objective": "Rank subscribers by their risk to leave next month.",
        "owner": {"name": "Ada Example", "contact": "ada@example.org"},
        "task": "binary",
        "interval": {"every": "month", "start": "2024-01-01"},
        "source": {"path": "data/churn-{start:%Y-%m}.csv", "time": "signup", "key": ["id"]},
        "target": {"column": "churned"},
        "columns": {
            "id": {"type": "string", "unique": True},
            "signup": {"type": "datetime"},
            "plan": {"type": "category", "values": ["basic", "plus", "pro"]},
            "visits": {"type": "integer", "min": 0, "max": 1000, "max_missing": 0.2},
            "spend": {"type": "number", "min": 0, "max_missing": 0.2},
            "member": {"type": "boolean"},
            "churned": {"type": "boolean", "max_missing": 0.5},
        },
        "quality": {"min_rows": 50},
        "training": {"candidates": [{"estimator": "linear"}], "min_rows": 100},
    }


def churn_rows(start: str, rows: int = 200, *, seed: int = 0) -> pd.DataFrame:
    """Rows of the month that begins at `start`, learnable: few visits and the basic plan leave."""
    begin = pd.Timestamp(start, tz="UTC")
    random = np.random.default_rng([seed, begin.year, begin.month])
    seconds = np.sort(random.integers(0, int((begin + pd.offsets.MonthBegin(1) - begin).total_seconds()), rows))
    plan = random.choice(["basic", "plus", "pro"], rows)
    visits = random.integers(0, 60, rows)
    spend = np.round(random.gamma(2.0, 20.0, rows), 2)
    risk = 1 / (1 + np.exp(0.08 * (visits - 20) - 0.8 * (plan == "basic") + 0.3))
    return pd.DataFrame(
        {
            "id": [f"{begin:%Y%m}-{i:05d}" for i in range(rows)],
            "signup": (begin + pd.to_timedelta(seconds, unit="s")).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "plan": plan,
            "visits": pd.array(visits, dtype="Int64"),
            "spend": spend,
            "member": random.random(rows) < 0.4,
            "churned": random.random(rows) < risk,
        }
    )


@dataclass(frozen=True)
class Model:
    """A model in a fresh home: its spec, its landing folder and its runs."""

    home: Home
    name: str = "churn"

    def write_spec(self, spec: dict[str, Any] | None = None) -> None:
        data = churn_spec() if spec is None else spec
        (self.home.models / f"{self.name}.yaml").write_text(yaml.safe_dump(data, sort_keys=False))

    def deliver(
        self, start: str, frame: pd.DataFrame | str | bytes | None = None, *, rows: int = 200, seed: int = 0
    ) -> Path:
        """Lay the month that begins at `start` where the spec's template looks for it."""
        file = self.home.root / "data" / f"{self.name}-{start[:7]}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        if frame is None:
            frame = churn_rows(start, rows, seed=seed)
        if isinstance(frame, pd.DataFrame):
            frame = frame.to_csv(index=False)
        file.write_bytes(frame.encode() if isinstance(frame, str) else frame)
        return file

    def run(self, start: str = "2024-01-01", *, key: str = "", **trigger: Any) -> Run:
        """A run of the interval that begins at `start`; `trigger` is what a person asked for."""
        spec = self.home.spec(self.name)
        return Run(self.home, spec, spec.at(start), key or f"test-{start}", Trigger(**trigger))

    def command(self, *arguments: str) -> subprocess.Popen[bytes]:
        """`python -m retrain …` in a process of its own, in this home."""
        return subprocess.Popen(
            [sys.executable, "-m", "retrain", *arguments],
            env={**os.environ, "PYTHONPATH": str(INCLUDE)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


def home_at(root: Path) -> Home:
    """A home below `root`, for what several tests share: no environment variable points at it."""
    state = root / "state"
    (root / "models").mkdir()
    return Home(
        root=root,
        models=root / "models",
        state=state,
        store=str(state / "store"),
        ledger=f"sqlite:///{state / 'ledger.db'}",
        registry=str(state / "registry.git"),
        remote=str(state / "remote"),
        mlflow=f"sqlite:///{state / 'mlflow' / 'mlflow.db'}",
    )


def enter_home(root: Path, patch: pytest.MonkeyPatch) -> Home:
    """The home at `root`, which environment variables point at; nothing of the checkout or the caller shows through."""
    for name in list(os.environ):
        if name.startswith(("RETRAIN_", "AIRFLOW_CONN_")) or name == "MLFLOW_TRACKING_URI":
            patch.delenv(name)
    patch.setenv("RETRAIN_ROOT", str(root))
    patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    (root / "include" / "models").mkdir(parents=True, exist_ok=True)
    return Home.from_environment()


def lay_mlflow(home: Home, empty_mlflow: Path) -> None:
    """Give a home MLflow's tables, as a copy of the fixture `empty_mlflow`."""
    file = Path(home.mlflow.removeprefix("sqlite:///"))
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(empty_mlflow, file)


@contextmanager
def put_back(folder: Path, aside: Path) -> Iterator[None]:
    """Whatever happens to a shared folder in the body, it is as before afterwards; `aside` is for its copy.

    In place: MLflow keeps absolute addresses, and its database open, so the files must stay the same ones.
    """
    shutil.copytree(folder, aside, symlinks=True)
    try:
        yield
    finally:
        for path in sorted(folder.rglob("*"), reverse=True):
            if not (aside / path.relative_to(folder)).exists():
                path.rmdir() if path.is_dir() else path.unlink()
        shutil.copytree(aside, folder, symlinks=True, dirs_exist_ok=True)


LONGEST = (
    *("test_airflow", "test_dvc", "test_loop", "test_live", "test_package", "test_cluster", "test_benchmarks"),
    "test_chaos",
)
"""Files that take a minute or more, in the order in which they begin; no two whole Airflows at once."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest files begin first: a worker that gets one at the end keeps the others waiting."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session", autouse=True)
def no_connection_leaves() -> Iterator[None]:
    """No library may reach out of this machine, whatever its telemetry settings say."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a connection to {address} was tried")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables and nothing in it: making one costs seconds, copying it nothing."""
    from retrain.registry.mlflow import Registry

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    Registry(f"sqlite:///{file}").alias("none", "none")
    return file


@pytest.fixture
def mlflow(home: Home, empty_mlflow: Path) -> Home:
    """`home` with MLflow's tables made already."""
    lay_mlflow(home, empty_mlflow)
    return home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home of the test's own below `tmp_path`."""
    return enter_home(tmp_path, monkeypatch)


@pytest.fixture
def churn(home: Home) -> Model:
    """The churn model with its plain spec, and nothing delivered yet."""
    model = Model(home)
    model.write_spec()
    return model


@pytest.fixture
def spec_of() -> Callable[[], dict[str, Any]]:
    """A fresh copy of the churn spec as a dict."""
    return churn_spec


@pytest.fixture
def rows_of() -> Callable[..., pd.DataFrame]:
    """`churn_rows`: a month of the churn model's rows."""
    return churn_rows
