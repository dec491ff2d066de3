"""MLflow's tables: made once by several processes, by the next where the first is killed, or refused by name."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import sqlite3
import stat
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from retrain.errors import DatabaseCorrupt, RegistryDown
from retrain.registry.mlflow import Registry, tables

POSTGRES = "postgresql+psycopg2://postgres@127.0.0.1:5432/test"
FORK = multiprocessing.get_context("fork")
"""Processes that have the libraries loaded already."""


def use(uri: str, key: str, gate: Any, made_half: Any) -> None:
    """Use MLflow once the gate is open; with `made_half` stop for good while the tables are made, and tell so."""
    if made_half:

        def stop(*_: object) -> None:
            made_half.set()
            signal.pause()

        tables._open_store = stop  # type: ignore[assignment]
    gate.wait()
    about: dict[str, Any] = {"description": "", "params": {}, "metrics": {}, "tags": {}, "files": {}}
    Registry(uri).record(experiment="churn", key=key, name=key, **about)


def begin(uri: str, *keys: str, made_half: Any = None) -> list[Any]:
    """A process per key, all let go at the same moment."""
    gate = FORK.Event()
    processes = [FORK.Process(target=use, args=(uri, key, gate, made_half)) for key in keys]
    for process in processes:
        process.start()
    gate.set()
    return processes


def exit_codes(processes: list[Any]) -> list[int]:
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


@pytest.fixture
def half_made(tmp_path: Path) -> Iterator[Any]:
    """A process that has stopped while it makes the tables of `mlflow/mlflow.db`."""
    stopped = FORK.Event()
    (process,) = begin(f"sqlite:///{tmp_path}/mlflow/mlflow.db", "first", made_half=stopped)
    assert stopped.wait(300)
    yield process
    process.kill()
    process.join()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database that is not there yet, in a folder with a difficult name; of PostgreSQL a schema of the test's own."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/a home #1 @ it:s/mlflow/mlflow.db"
        return
    schema, server = f"mlflow_{uuid.uuid4().hex}", sa.create_engine(POSTGRES, poolclass=sa.NullPool)
    try:
        with server.begin() as connection:
            connection.execute(sa.schema.CreateSchema(schema))
    except sa.exc.OperationalError:
        pytest.skip("needs PostgreSQL on 127.0.0.1:5432 with a database `test`")
    yield f"{POSTGRES}?options=-csearch_path%3D{schema}"
    with server.begin() as connection:
        connection.execute(sa.schema.DropSchema(schema, cascade=True))


def test_three_first_starts_at_once(uri: str) -> None:
    assert exit_codes(begin(uri, "one", "two", "three")) == [0, 0, 0]
    client = Registry(uri)._client
    assert len(client.search_experiments()) == 2, "MLflow's own and ours, each once"
    churn = client.get_experiment_by_name("churn")
    assert churn
    assert len(client.search_runs([churn.experiment_id])) == 3


def test_the_next_makes_them_where_the_first_is_killed(tmp_path: Path, half_made: Any) -> None:
    processes = begin(f"sqlite:///{tmp_path}/mlflow/mlflow.db", "second", "third")
    half_made.kill()
    assert exit_codes(processes) == [0, 0]
    left = {path.name for path in (tmp_path / "mlflow").iterdir()}
    assert left == {"mlflow.db", "mlflow.db.lock", "mlartifacts"}


def test_who_waits_too_long_is_told(tmp_path: Path, half_made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "WAIT_SECONDS", 0)
    with pytest.raises(RegistryDown, match="another process has been making MLflow's tables") as caught:
        Registry(f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    assert caught.value.retryable


def test_tables_that_are_there_are_asked_for_once(empty_mlflow: Path, tmp_path: Path) -> None:
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    Registry(f"sqlite:///{tmp_path}/mlflow.db")
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"], "no lock was taken"


@pytest.mark.parametrize("more", ["SELECT 1", "DELETE FROM alembic_version"])
def test_half_made_tables_are_refused_and_left_as_they_are(tmp_path: Path, empty_mlflow: Path, more: str) -> None:
    """As two processes at once left them, before they waited for each other."""
    file = tmp_path / "mlflow.db"
    shutil.copyfile(empty_mlflow, file)
    Registry(f"sqlite:///{file}")._client.create_experiment("before")
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("DROP TABLE job_locks")
        connection.execute(more)
        connection.commit()
    before = file.read_bytes()
    with pytest.raises(DatabaseCorrupt, match=r"MLflow's tables in mlflow\.db are half made"):
        Registry(f"sqlite:///{file}")
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"not a database, but long enough to be taken for one" * 40])
def test_an_empty_file_is_a_new_database_and_garbage_is_not(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "mlflow.db"
    file.write_bytes(content)
    if not content:
        assert Registry(f"sqlite:///{file}").alias("churn", "champion") is None
        return
    with pytest.raises(DatabaseCorrupt, match="is not a database"):
        Registry(f"sqlite:///{file}")
    assert file.read_bytes() == content


def test_nobody_else_reads_the_database(tmp_path: Path) -> None:
    Registry(f"sqlite:///{tmp_path}/state/mlflow/mlflow.db")
    for path in ("state", "state/mlflow"):
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "state/mlflow").iterdir()} == {0o600}
