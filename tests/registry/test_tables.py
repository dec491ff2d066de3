"""MLflow's tables: made once by several processes at once, by the next where the first is killed, or refused by name."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from retrain.errors import DatabaseCorrupt, RegistryDown
from retrain.registry.mlflow import Registry, tables

POSTGRES = "postgresql+psycopg2://postgres@127.0.0.1:5432/test"
USER = """
import sys
from retrain.registry.mlflow import Registry, tables

uri, key, stops = sys.argv[1:]
if stops:
    def made_by_half(uri, artifacts):
        print("making", flush=True)
        sys.stdin.readline()

    tables._open_store = made_by_half
import mlflow.store.tracking.sqlalchemy_store, mlflow.store.model_registry.sqlalchemy_store
print("ready", flush=True)
sys.stdin.readline()
about = {"description": "", "params": {}, "metrics": {}, "tags": {}, "files": {}}
print(Registry(uri).record(experiment="churn", key=key, name=key, **about))
"""


def begin(uri: str, key: str, *, stops: bool = False) -> subprocess.Popen[str]:
    """A process that will use MLflow once it is given a line; one that `stops` does so while it makes the tables."""
    process = subprocess.Popen(
        [sys.executable, "-c", USER, uri, key, "stops" if stops else ""],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return process


def go(*processes: subprocess.Popen[str]) -> None:
    """Let them all go once all are ready."""
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()


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
    processes = [begin(uri, f"use-{number}") for number in range(3)]
    go(*processes)
    ended = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], ended
    client = Registry(uri)._client
    assert len(client.search_experiments()) == 2, "MLflow's own and ours, each once"
    churn = client.get_experiment_by_name("churn")
    assert churn
    assert len(client.search_runs([churn.experiment_id])) == 3


def test_the_next_makes_them_where_the_first_is_killed(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    first = begin(uri, "first", stops=True)
    go(first)
    assert first.stdout
    assert first.stdout.readline() == "making\n"
    next_ones = [begin(uri, "second"), begin(uri, "third")]
    go(*next_ones)
    first.kill()
    first.communicate()
    for process in next_ones:
        _, error = process.communicate()
        assert process.returncode == 0, error
    left = {path.name for path in (tmp_path / "mlflow").iterdir()}
    assert left == {"mlflow.db", "mlflow.db.lock", "mlartifacts"}


def test_who_waits_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    first = begin(uri, "first", stops=True)
    go(first)
    assert first.stdout
    assert first.stdout.readline() == "making\n"
    monkeypatch.setattr(tables, "WAIT_SECONDS", 0)
    with pytest.raises(RegistryDown, match="another process has been making MLflow's tables") as caught:
        Registry(uri)
    assert caught.value.retryable
    first.kill()
    first.communicate()


def test_tables_that_are_there_are_asked_for_once(empty_mlflow: Path, tmp_path: Path) -> None:
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    Registry(f"sqlite:///{tmp_path}/mlflow.db")
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"], "no lock was taken"


def test_tables_that_are_missing_are_added_beside_what_is_there(tmp_path: Path, empty_mlflow: Path) -> None:
    """As after an upgrade of MLflow: a table of its newest revision is missing, and the revision says so."""
    file = tmp_path / "mlflow.db"
    shutil.copyfile(empty_mlflow, file)
    Registry(f"sqlite:///{file}")._client.create_experiment("before")
    with closing(sqlite3.connect(file)) as connection:
        (head,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        connection.execute("DROP TABLE job_locks")
        connection.commit()
    with pytest.raises(DatabaseCorrupt, match=r"MLflow's tables in mlflow\.db are half made"):
        Registry(f"sqlite:///{file}")
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (head,)
        assert connection.execute("SELECT count(*) FROM experiments").fetchone() == (2,), "nothing was written over"


@pytest.mark.parametrize("content", [b"", b"not a database, but long enough to be taken for one" * 40])
def test_an_empty_file_is_a_new_database_and_garbage_is_not(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "mlflow.db"
    file.write_bytes(content)
    if not content:
        assert Registry(f"sqlite:///{file}").alias("churn", "champion") is None
        return
    with pytest.raises(DatabaseCorrupt, match="is not a database") as caught:
        Registry(f"sqlite:///{file}")
    assert not caught.value.retryable
    assert file.read_bytes() == content


def test_nobody_else_reads_the_database(tmp_path: Path) -> None:
    Registry(f"sqlite:///{tmp_path}/state/mlflow/mlflow.db")
    for path in ("state", "state/mlflow"):
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "state/mlflow").iterdir()} == {0o600}
    assert os.access(tmp_path / "state/mlflow/mlflow.db", os.W_OK)
