"""One history's world: a fresh home with a model in it, what is done there in processes of their own.

Nothing here opens a database in the process that runs the histories: whatever is done, prepared or examined is done in
a fork, which has the libraries loaded and no connection.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import sqlite3
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  both loaded once, here, before any fork
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from retrain import actions, pipeline
from retrain.errors import RetrainError
from retrain.registry import smoke_test
from retrain.registry.mlflow import Registry
from retrain.results import Champion, Context, PromoteReport
from retrain.stages import promote  # noqa: F401  loaded before any fork
from retrain.state import ledger
from retrain.state.ledger import Ledger, Record
from retrain.state.run import Run
from retrain.state.settings import Home
from retrain.state.store import Store
from tests.chaos import points

Body = Callable[["World"], Any]
"""What is done in a world, in a process of its own."""


@dataclass(frozen=True)
class Outcome:
    """How a process ended: `done`, `killed`, `crashed`, or the name of the refusal."""

    ended: str
    value: Any = None


@dataclass(frozen=True)
class World:
    """A home and a model in it.

    Attributes:
        mlflow: another address than the SQLite file in the home.
        ledger: likewise.
        slow: the smoke test starts a fresh process; else it compares the files' digest.
        busy: seconds that a locked database is waited for; 0 for the product's own.
    """

    folder: Path
    model: str = "churn"
    mlflow: str = ""
    ledger: str = ""
    slow: bool = False
    busy: float = 0

    @property
    def home(self) -> Home:
        state = self.folder / "state"
        return Home(
            root=self.folder,
            models=self.folder / "models",
            state=state,
            store=str(state / "store"),
            ledger=self.ledger or f"sqlite:///{state / 'ledger.db'}",
            registry=str(state / "registry.git"),
            remote=str(state / "remote"),
            mlflow=self.mlflow or f"sqlite:///{self.database}",
        )

    @property
    def database(self) -> Path:
        return self.folder / "state" / "mlflow" / "mlflow.db"

    def run(self, month: int, key: str = "") -> Run:
        spec = self.home.spec(self.model)
        start = f"{2024 + (month - 1) // 12}-{(month - 1) % 12 + 1:02}-01"
        return Run(self.home, spec, spec.at(start), key or f"run-{month:02}")

    # --- what is done, each in a process of its own

    def promoted(self, month: int, key: str = "") -> str:
        report = pipeline.run_stage("promote", self.run(month, key))
        return str(cast(PromoteReport, report).decision.verdict)

    def regated(self) -> None:
        """The runs that are not on record, as new runs would be: held against the champion that serves now."""
        records = changes(self)
        serves = {"champion": Champion.model_validate(records[-1].body["champion"]) if records else None}
        for file in Path(self.home.store).rglob("context.json"):
            if file.parent.name not in {record.key for record in records}:
                context = Context.from_json(file.read_bytes()).model_copy(update=serves)
                Store(self.home.store).write(str(file.relative_to(self.home.store)), context.to_json().encode())

    def rolled_back(self, key: str, to: int | None = None) -> int | None:
        return actions.roll_back(self.home, self.home.spec(self.model), key, "bad", to=to).version

    def reconciled(self, take: Literal["", "ledger", "alias"], key: str = "rc") -> str:
        return actions.reconcile(self.home, self.home.spec(self.model), key, take, "settled")

    def approved(self, version: int) -> str:
        actions.answer(self.home, self.home.spec(self.model), version, "approve", "bob", "fine")
        return "approved"

    def apart(self, body: Body, act: points.Act | None = None) -> Outcome:
        """Run `body` in a process of its own; `act` is called at every point where it writes."""
        return ended(self.begin(body, act))

    def begin(self, body: Body, act: points.Act | None = None, gate: int | None = None) -> tuple[int, int]:
        """The process that will run `body`, once `gate` (a pipe) is closed at its other end."""
        reading, writing = os.pipe()
        if pid := os.fork():
            os.close(writing)
            return pid, reading
        code = 1
        try:
            os.close(reading)
            if gate is not None:
                os.read(gate, 1)
            result = self._inside(body, act)
            with os.fdopen(writing, "wb") as out:
                out.write(pickle.dumps(result))
            code = 0
        finally:
            os._exit(code)

    def _inside(self, body: Body, act: points.Act | None) -> Outcome:
        (self.folder / "tmp").mkdir(exist_ok=True)
        tempfile.tempdir = str(self.folder / "tmp")
        sys.stdout = sys.stderr = io.StringIO()
        if not self.slow:
            smoke_test.run_smoke_test = _compare_digest
        if self.busy:
            _wait_less(self.busy)
        if act:
            points.watch(self.folder, act)
        try:
            return Outcome("done", body(self))
        except RetrainError as error:
            return Outcome(type(error).__name__, f"{error.found}")
        except BaseException:
            return Outcome("crashed", traceback.format_exc())

    def result_of(self, body: Body, act: points.Act | None = None) -> Any:
        """What `body` returns in a process of its own; it must end well."""
        done = self.apart(body, act)
        if done.ended != "done":
            raise RuntimeError(f"{done.ended}: {done.value}")
        return done.value

    def points(self, body: Body) -> tuple[str, ...]:
        """The points of `body`, which is run to its end."""
        names: list[str] = []

        def counted(world: World) -> tuple[str, ...]:
            with suppress(RetrainError):
                body(world)
            return tuple(names)

        return self.result_of(counted, lambda _, name: names.append(name))

    # --- by hand

    def by_hand(self, act: Callable[[MlflowClient], Any]) -> None:
        """A person's doing in MLflow, past everything of ours."""
        self.result_of(lambda _: act(MlflowClient(self.home.mlflow, self.home.mlflow)) and None)

    def move(self, version: int) -> None:
        self.by_hand(lambda client: client.set_registered_model_alias(self.model, "champion", str(version)))

    def unset(self) -> None:
        self.by_hand(lambda client: client.delete_registered_model_alias(self.model, "champion"))

    def delete(self, version: int) -> None:
        self.by_hand(lambda client: client.delete_model_version(self.model, str(version)))

    def delete_run(self, version: int) -> None:
        self.by_hand(lambda client: client.delete_run(client.get_model_version(self.model, str(version)).run_id))

    def spoil_tags(self, version: int) -> None:
        self.by_hand(lambda client: client.set_model_version_tag(self.model, str(version), "digest", "0" * 64))

    def files(self, version: int) -> Path:
        """Where the artifact store keeps the version's files."""
        with sqlite3.connect(self.database) as connection:
            (source,) = connection.execute(
                "SELECT source FROM model_versions WHERE name = ? AND version = ?", (self.model, version)
            ).fetchone()
        connection.close()
        return Path(source)


def changes(world: World) -> list[Record]:
    return Ledger(world.home.ledger).records(world.model, "promotion")


def pointed(world: World) -> tuple[dict[str, str], dict[str, str]]:
    """The model's aliases and its tags."""
    try:
        registered = MlflowClient(world.home.mlflow, world.home.mlflow).get_registered_model(world.model)
    except MlflowException:
        return {}, {}
    return {name: str(version) for name, version in registered.aliases.items()}, dict(registered.tags)


def ended(process: tuple[int, int]) -> Outcome:
    pid, reading = process
    with os.fdopen(reading, "rb") as stream:
        pickled = stream.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return Outcome("killed", os.WTERMSIG(status))
    return pickle.loads(pickled) if pickled else Outcome("crashed", "it said nothing")


def together(world: World, bodies: Iterable[Body]) -> list[Outcome]:
    """Run every body in a process of its own, all of them let go at the same moment."""
    reading, writing = os.pipe()
    begun = [world.begin(body, gate=reading) for body in bodies]
    os.close(reading)
    # Every process still holds the writing end; the byte of each lets it go.
    os.write(writing, b"." * len(begun))
    os.close(writing)
    return [ended(process) for process in begun]


def _compare_digest(run: Run, target: Champion, **_: Any) -> tuple[()]:
    """The digest alone; a process that loads the model costs two seconds."""
    with tempfile.TemporaryDirectory() as folder:
        Registry(run.home.mlflow).fetch(run.model, target.version, target.digest, Path(folder) / "model")
    return ()


def _wait_less(seconds: float) -> None:
    import sqlalchemy as sa

    ledger.BUSY_SECONDS = seconds

    @sa.event.listens_for(sa.engine.Engine, "do_connect")
    def connect(_1: Any, _2: Any, _3: Any, named: dict[str, Any]) -> None:
        named["timeout"] = seconds

    @sa.event.listens_for(sa.engine.Engine, "before_cursor_execute", retval=True)
    def before(_1: Any, _2: Any, statement: str, given: Any, *_: Any) -> tuple[str, Any]:
        # MLflow asks for 20 s on every session.
        own = f"PRAGMA busy_timeout = {seconds * 1000:.0f}"
        return (own if statement.startswith("PRAGMA busy_timeout") else statement), given


# --- others that fail


class Locker:
    """A process that holds a SQLite database for itself, from `hold` to the end of the block."""

    def __init__(self, database: Path) -> None:
        self.go, self.ready = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid:
            return
        try:
            os.read(self.go[0], 1)
            connection = sqlite3.connect(database, timeout=30, isolation_level=None)
            connection.execute("BEGIN EXCLUSIVE")
            os.write(self.ready[1], b"!")
            signal.pause()
        finally:
            os._exit(0)

    def hold(self) -> None:
        os.write(self.go[1], b"!")
        os.read(self.ready[0], 1)

    def __enter__(self) -> Locker:
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        for end in (*self.go, *self.ready):
            os.close(end)
