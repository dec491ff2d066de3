"""One history's world: a fresh home with a model in it, what is done there in processes of their own, what must hold.

Nothing here opens a database in the process that runs the histories: whatever is done, prepared or looked at is done in
a fork, which has the libraries loaded and no connection.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import signal
import sqlite3
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  both loaded once, here, before any fork
import pandas as pd
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import Pipeline

from retrain import estimators, ledger, pipeline, probing, standing
from retrain.errors import RetrainError
from retrain.ledger import Ledger, Record
from retrain.results import (
    Champion,
    Configuration,
    Context,
    Decision,
    Fitted,
    GateReport,
    ProbeReport,
    PromoteReport,
    RefitReport,
    RegisterReport,
)
from retrain.run import Run
from retrain.stages import promote  # noqa: F401  loaded before any fork
from retrain.tools.registry import Registry, save_model
from retrain.tools.versions import registry_of
from retrain.workspace import Home
from tests.chaos import points
from tests.chaos.postgres import moved
from tests.conftest import churn_spec

LINKED = ("mlartifacts", "store")
"""Folders whose files are replaced, not written to; a copy of the home shares them."""
OURS = "champion"


@dataclass(frozen=True)
class Outcome:
    """How a process ended: `done`, `killed`, `crashed`, or the name of the refusal."""

    ended: str
    value: Any = None
    points: tuple[str, ...] = ()


@dataclass(frozen=True)
class World:
    """A home and a model in it.

    Attributes:
        mlflow: another address than the SQLite file in the home.
        ledger: likewise.
        slow: the probe starts a fresh process; else it looks at the files' digest.
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

    def promote(self, month: int, key: str = "") -> Outcome:
        return self.apart(lambda: self.promoted(month, key))

    def promoted(self, month: int, key: str = "") -> str:
        report = pipeline.run_stage("promote", self.run(month, key))
        return str(cast(PromoteReport, report).decision.verdict)

    def rolled_back(self, key: str, to: int | None = None) -> int | None:
        return pipeline.roll_back(self.home, self.home.spec(self.model), key, "bad", to=to).version

    def reconciled(self, take: Literal["", "ledger", "alias"], key: str = "rc") -> str:
        return pipeline.reconcile(self.home, self.home.spec(self.model), key, take, "settled")

    def approved(self, version: int) -> str:
        pipeline.answer(self.home, self.home.spec(self.model), version, "approve", "bob", "fine")
        return "approved"

    def apart(self, body: Callable[[], Any], act: points.Act | None = None) -> Outcome:
        """Run `body` in a process of its own; `act` is called at every point where it writes."""
        return ended(self.begin(body, act))

    def begin(self, body: Callable[[], Any], act: points.Act | None = None, gate: int | None = None) -> tuple[int, int]:
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

    def _inside(self, body: Callable[[], Any], act: points.Act | None) -> Outcome:
        (self.folder / "tmp").mkdir(exist_ok=True)
        tempfile.tempdir = str(self.folder / "tmp")
        sys.stdout = sys.stderr = io.StringIO()
        if not self.slow:
            probing.probe = _look  # type: ignore[assignment]
        if self.busy:
            _wait_less(self.busy)
        if act:
            points.watch(self.folder, act)
        try:
            return Outcome("done", body())
        except RetrainError as error:
            return Outcome(type(error).__name__, f"{error.found}")
        except BaseException:
            return Outcome("crashed", traceback.format_exc())

    def points(self, body: Callable[[], Any]) -> tuple[str, ...]:
        """The points of `body`, which is run to its end."""
        names: list[str] = []

        def counted() -> tuple[str, ...]:
            with suppress(RetrainError):
                body()
            return tuple(names)

        found = self.apart(counted, lambda _, name: names.append(name))
        if found.ended != "done":
            raise RuntimeError(f"the dry pass {found.ended}: {found.value}")
        return tuple(found.value)

    # --- by hand

    def by_hand(self, act: Callable[[MlflowClient], Any]) -> None:
        """A person's doing in MLflow, past everything of ours."""
        done = self.apart(lambda: act(MlflowClient(self.home.mlflow, self.home.mlflow)) and None)
        if done.ended != "done":
            raise RuntimeError(done.value)

    def move(self, version: int) -> None:
        self.by_hand(lambda client: client.set_registered_model_alias(self.model, OURS, str(version)))

    def unset(self) -> None:
        self.by_hand(lambda client: client.delete_registered_model_alias(self.model, OURS))

    def delete(self, version: int) -> None:
        self.by_hand(lambda client: client.delete_model_version(self.model, str(version)))

    def files(self, version: int) -> Path:
        """Where the artifact store keeps the version's files."""
        with sqlite3.connect(self.database) as connection:
            (source,) = connection.execute(
                "SELECT source FROM model_versions WHERE name = ? AND version = ?", (self.model, version)
            ).fetchone()
        connection.close()
        return Path(source)


def ended(process: tuple[int, int]) -> Outcome:
    pid, reading = process
    with os.fdopen(reading, "rb") as stream:
        said = stream.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return Outcome("killed", os.WTERMSIG(status))
    return pickle.loads(said) if said else Outcome("crashed", "it said nothing")


def together(world: World, bodies: Iterable[Callable[[], Any]], act: points.Act | None = None) -> list[Outcome]:
    """Run every body in a process of its own, all of them let go at the same moment."""
    reading, writing = os.pipe()
    begun = [world.begin(body, act, reading) for body in bodies]
    os.close(reading)
    # Every process still holds the writing end; the byte of each lets it go.
    os.write(writing, b"." * len(begun))
    os.close(writing)
    return [ended(one) for one in begun]


def _look(run: Run, target: Champion) -> tuple[()]:
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


# --- a prepared home


def prepare(world: World, months: int, promoted: int, *, mode: str = "auto", racers: int = 0) -> None:
    """Registered versions 1 … `months`, each by a run of its month, the first `promoted` of them promoted in turn.

    The runs after those saw the newest of them as champion. `racers` more runs are of the month after the promoted.
    """
    data = churn_spec() | {"model": world.model, "promotion": mode}
    world.home.models.mkdir(parents=True, exist_ok=True)
    (world.home.models / f"{world.model}.yaml").write_text(yaml.safe_dump(data, sort_keys=False))

    def made() -> None:
        for month in range(1, months + 1):
            registered(world, month)
            if month <= promoted:
                world.promoted(month)
        for place in range(racers):
            registered(world, promoted + 1, f"racer-{place:02}", place)

    found = world.apart(made)
    if found.ended != "done":
        raise RuntimeError(found.value)


def registered(world: World, month: int, key: str = "", place: int = -1) -> None:
    """A run as it stands before `promote`: probed, and its version the challenger."""
    run = world.run(month, key)
    folder = Path(run.store.url(run.path("refit", "model")))
    frame, zeros = pd.DataFrame({"x": [0.0, 1.0] * 50}), 10 + month + 40 * (place >= 0) + max(place, 0)
    pipe = Pipeline([("model", DummyClassifier(strategy="prior"))]).fit(frame, [0] * zeros + [1] * (100 - zeros))
    digest = save_model(pipe, folder, example=frame[:2], requirements=estimators.requirements())
    registry = Registry(world.home.mlflow)
    run_id = registry.record(
        experiment=world.model, key=run.key, name=run.key, description="", params={}, metrics={}, tags={}, files={}
    )
    version = registry.register(model=world.model, run_id=run_id, folder=folder, digest=digest, tags={}, description="")
    registry.point(world.model, "challenger", version)
    about: dict[str, Any] = {"model": world.model, "interval": run.interval, "effective_at": run.as_of}
    yes = Decision(verdict="promote", reasons=("better",))
    configuration = Configuration(estimator="linear", parameters={}, pipeline="p")
    fitted = Fitted(
        name="new", kind="new", training=run.key, intervals=(run.interval,), rows=2, key=run.path("refit", "model"),
        digest=digest, configuration=configuration,
    )  # fmt: skip
    served = run.ledger.records(world.model, "promotion")
    champion = Champion.model_validate(served[-1].body["champion"]) if served else None
    pinned = standing.pinned(served)
    context = Context(**about, spec_digest="s", trigger=run.trigger, accepted=(), champion=champion, pinned=pinned)
    golden = {"rows": [{"x": 0.0}, {"x": 1.0}], "predictions": [1 - zeros / 100] * 2}
    run.store.write(run.path("refit", "golden.json"), json.dumps(golden).encode())
    run.write(context, "context")
    run.write(GateReport(**about, decision=yes, chosen="new", kind="new", pins=True), "gate")
    run.write(RefitReport(**about, decision=yes, fitted=fitted, golden="", mean_prediction=(0.5,)), "refit")
    done = yes.model_copy(update={"verdict": "registered"})
    run.write(RegisterReport(**about, decision=done, run_id=run_id, version=version, digest=digest), "register")
    run.write(ProbeReport(**about, decision=yes, version=version), "probe")


@dataclass
class Worlds:
    """Prepared homes, each made once, and the fresh copies of them."""

    folder: Path
    made: dict[tuple[Any, ...], Path] = field(default_factory=dict)
    count: int = 0

    def prepared(self, months: int, promoted: int, mode: str = "auto", racers: int = 0) -> Path:
        key = (months, promoted, mode, racers)
        if key not in self.made:
            folder = self.folder / f"prepared-{os.getpid()}-{len(self.made)}"
            folder.mkdir()
            prepare(World(folder), months, promoted, mode=mode, racers=racers)
            self.made[key] = folder
        return self.made[key]

    @contextmanager
    def fresh(self, *key: Any, **about: Any) -> Iterator[World]:
        origin = self.prepared(*key)
        self.count += 1
        folder = self.folder / f"world-{os.getpid()}-{self.count}"
        shutil.copytree(origin, folder, copy_function=_copy)
        world = World(folder, **about)
        with sqlite3.connect(world.database) as connection:
            for table, column in (
                ("experiments", "artifact_location"),
                ("runs", "artifact_uri"),
                ("model_versions", "source"),
                ("model_versions", "storage_location"),
            ):
                change = f"UPDATE {table} SET {column} = replace({column}, ?, ?)"  # noqa: S608
                connection.execute(change, (f"{origin}/", f"{folder}/"))
        connection.close()
        if world.ledger:
            place = f"{os.getpid()}_{self.count}"
            world = replace(
                world, ledger=world.apart(lambda: moved(world.ledger, World(folder).home.ledger, place)).value
            )
        try:
            yield world
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _copy(source: str, target: str) -> None:
    if any(f"/{name}/" in source for name in LINKED):
        os.link(source, target)
    else:
        shutil.copyfile(source, target)


# --- what must hold


def violations(world: World, *, gone: Iterable[int] = (), replays: Iterable[Callable[[], Any]] = ()) -> list[str]:
    """What is wrong in a world that has recovered; empty if nothing is.

    Args:
        gone: versions that a hand deleted.
        replays: what was asked for before; asked again it may change nothing.
    """

    def looked() -> list[str]:
        wrong = standing_wrong(world, set(gone))
        before = told(world)
        for replay in replays:
            try:
                replay()
            except RetrainError:
                pass
            except Exception as error:
                wrong.append(f"a replay crashed: {error!r}")
        if (after := told(world)) != before:
            wrong.append(f"replays changed something: {before} became {after}")
        return wrong

    found = world.apart(looked)
    return found.value if found.ended == "done" else [f"the look at it {found.ended}: {found.value}"]


def told(world: World) -> tuple[Any, ...]:
    """What a replay may not change: the changes on record, what they wait for, and where the aliases point."""
    records = [one for one in Ledger(world.home.ledger).records(world.model) if one.kind not in ("stage", "reconciled")]
    return tuple((one.kind, one.key, one.hash[:8]) for one in records), pointed(world)[0]


def pointed(world: World) -> tuple[dict[str, str], dict[str, str]]:
    try:
        found = MlflowClient(world.home.mlflow, world.home.mlflow).get_registered_model(world.model)
    except MlflowException:
        return {}, {}
    return {name: str(version) for name, version in found.aliases.items()}, dict(found.tags)


def standing_wrong(world: World, gone: set[int]) -> list[str]:
    """One champion, alias = head = tag, chain and anchors whole, everything completed once, no version lost."""
    wrong: list[str] = []
    book, client = Ledger(world.home.ledger), MlflowClient(world.home.mlflow, world.home.mlflow)
    try:
        hashes = book.verify(world.model)
    except RetrainError as error:
        return [f"the chain: {error.found}"]
    for anchor in registry_of(world.home).anchors(world.model):
        if anchor.place > len(hashes) or hashes[anchor.place - 1] != anchor.hash:
            wrong.append(f"the anchor of record {anchor.place} is not the ledger's")
    made = book.records(world.model, "promotion")
    if (sequences := [one.sequence for one in made]) != list(range(1, len(made) + 1)):
        wrong.append(f"the sequence is {sequences}")
    wrong += _completed(book, world.model, made)
    versions = {int(one.version): one for one in client.search_model_versions(f"name = '{world.model}'")}
    count = max(versions, default=0)
    if lost := set(range(1, count + 1)) - versions.keys() - gone:
        wrong.append(f"versions {lost} were lost")
    aliases, tags = pointed(world)
    head = made[-1].body["version"] if made else None
    for name, found in (("alias", aliases.get(OURS)), ("tag", tags.get(f"retrain.alias.{OURS}"))):
        if found != (None if head is None else str(head)):
            wrong.append(f"the {name} is at {found}, the ledger's head at {head}")
    if head is not None and aliases.get("challenger") == str(head):
        wrong.append("the champion is still its own challenger")
    wrong += _serves(world, made)
    past = [one.effective_at for one in made if one.body["action"] in ("promote", "rollback")]
    if past != sorted(past):
        wrong.append("an older run replaced a newer champion")
    return wrong


def _completed(book: Ledger, model: str, made: list[Record]) -> list[str]:
    done = [one.key for one in book.records(model, "completed")]
    wrong = [f"{key} was completed twice" for key in set(done) if done.count(key) > 1]
    # What could not be completed has something after it on record that says so.
    instead = {(one.sequence or 0) - 1 for one in made if one.body["action"] in ("undo", "restore", "adopt")}
    missing = [one.sequence for one in made if str(one.sequence) not in done and one.sequence not in instead]
    return wrong + ([f"changes {missing} were never completed"] if missing else [])


def _serves(world: World, made: list[Record]) -> list[str]:
    if not made:
        return []
    champion = Champion.model_validate(made[-1].body["champion"])
    try:
        with tempfile.TemporaryDirectory() as folder:
            Registry(world.home.mlflow).fetch(world.model, champion.version, champion.digest, Path(folder) / "model")
    except RetrainError as error:
        return [f"the champion does not load: {error.found}"]
    return []


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
