"""MLflow's tables, made once however many processes begin at the same moment, and whenever one of them is killed.

MLflow makes them step by step, with neither a lock nor a transaction: two at once, or one that is killed, leave a
database that no later start can use. Here one process makes them and the others wait. For SQLite they are made in a
file beside the database and brought over by SQLite's backup, which is one transaction; in PostgreSQL each of MLflow's
two steps is one, and may be done again.
"""

from __future__ import annotations

import fcntl
import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import sqlalchemy as sa

from retrain.errors import DatabaseCorrupt, RegistryDown
from retrain.registry.mlflow.files import brief
from retrain.state.failures import refusal_of
from retrain.state.private import private_file

WAIT_SECONDS = 180
"""How long another process may take to make the tables; it takes some seconds, on a busy machine more."""


def make_tables(engine: sa.Engine, uri: str, artifacts: Path | None) -> None:
    """Make MLflow's tables where there are none, or some are missing; one query where all are there.

    Args:
        engine: of the database.
        uri: its address, as MLflow is given it.
        artifacts: where the artifacts of MLflow's own first experiment would go; None outside SQLite.

    Raises:
        RegistryDown: another process has been making them for too long.
        DatabaseCorrupt: some are there, and cannot be completed.
    """
    database = engine.url.database
    if engine.dialect.name == "sqlite" and artifacts and database:
        file = private_file(Path(database))
        if not _complete(engine):
            with _locked(file.with_name(f"{file.name}.lock")):
                if not _complete(engine):
                    _make_aside(file, artifacts)
    elif not _complete(engine):
        with engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                number = int.from_bytes(hashlib.sha256(b"retrain mlflow").digest()[:8], signed=True)
                connection.exec_driver_sql(f"SET lock_timeout = {WAIT_SECONDS * 1000}")
                connection.execute(sa.select(sa.func.pg_advisory_lock(number)))  # until the connection is closed
            if not _complete(engine):
                _open_store(uri, "./mlruns")


def _complete(engine: sa.Engine) -> bool:
    """Whether every table of the installed MLflow is there."""
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  declares them
    from mlflow.store.db.base_sql_model import Base

    return set(Base.metadata.tables) <= set(sa.inspect(engine).get_table_names())


def _open_store(uri: str, artifacts: str) -> sa.Engine:
    """MLflow's own start on a database: the tables, their migrations, and its first experiment."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    return SqlAlchemyStore(uri, artifacts).engine  # type: ignore[no-untyped-call]


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, whoever kills it."""
    with private_file(file).open("r+b") as lock:
        until = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise RegistryDown(
                        f"another process has been making MLflow's tables for {WAIT_SECONDS} s",
                        do=f"see which process has {file.name} open; the task tries again",
                    ) from None
                time.sleep(0.1)
        yield


def _make_aside(file: Path, artifacts: Path) -> None:
    """Make or complete the tables in a copy of the database, and bring that over whole."""
    aside = file.with_name(f".{file.name}.new")
    for left in file.parent.glob(f"{aside.name}*"):  # by a process that was killed
        left.unlink()
    try:
        with closing(sqlite3.connect(file)) as old, closing(sqlite3.connect(private_file(aside))) as new:
            old.backup(new)
        try:
            engine = _open_store(f"sqlite:///{aside}", str(artifacts))
            whole = _complete(engine)
            engine.dispose()
            if not whole:
                raise ValueError("a table is missing that its revision should have")
        except Exception as error:
            raise refusal_of(error, f"MLflow's new database {aside.name}") or DatabaseCorrupt(
                f"MLflow's tables in {file.name} are half made, or of another MLflow: {brief(error)[:200]}",
                do="where nothing was ever registered move the file away and start again; else restore it from a"
                " backup, or run `mlflow db upgrade` on a copy",
            ) from None
        with closing(sqlite3.connect(aside)) as new, closing(sqlite3.connect(file)) as old:
            new.backup(old, pages=-1, progress=_give_up_at(time.monotonic() + WAIT_SECONDS, file))
    finally:
        for left in file.parent.glob(f"{aside.name}*"):
            left.unlink(missing_ok=True)


def _give_up_at(moment: float, file: Path) -> Callable[[int, int, int], None]:
    def progress(status: int, *_: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > moment:
            raise RegistryDown(
                f"{file.name} has been locked for {WAIT_SECONDS} s while MLflow's tables were to be made",
                do="see what holds it; the task tries again",
            )

    return progress
