"""First starts: three processes use a fresh home at once, and some are killed while its databases are made."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from retrain.data.versions import DataRegistry
from retrain.registry.mlflow import Registry
from retrain.state.ledger import Ledger
from tests.chaos.histories import Findings, History
from tests.chaos.points import Act
from tests.chaos.prepared import Worlds
from tests.chaos.world import Body, World, ended

WHEN = datetime(2024, 2, 1, tzinfo=UTC)
TABLES = "CREATE experiments"
"""The point before MLflow's first table."""


def using(key: str) -> Body:
    """A first command on a home: a record in the ledger, a run in MLflow, an anchor in the data registry."""

    def use(world: World) -> str:
        book = Ledger(world.home.ledger)
        record = book.append(world.model, "batch", key, {}, effective_at=WHEN)
        about = {"description": "", "params": {}, "metrics": {}, "tags": {}, "files": {}}
        run = Registry(world.home.mlflow).record(experiment=world.model, key=key, name=key, **about)  # type: ignore[arg-type]
        DataRegistry(world.home.registry, world.home.remote).anchor(world.model, record.place, record.hash)
        return run

    return use


def starts(draw: random.Random, count: int = 12) -> Iterator[History]:
    """Undisturbed; the maker of MLflow's tables killed, and the next one too; and kills drawn by chance."""
    yield History("first start", "3 first starts", started(lambda _, __: False, 0), (0, 0))
    for kills in (1, 2):
        name = f"3 first starts, {kills} killed before MLflow's first table"
        yield History("first start", name, started(lambda _, name: name == TABLES, kills), (0, 0))
    for turn in range(count):
        place, kills = draw.randint(1, 620), draw.randint(1, 2)
        name = f"3 first starts, {kills} killed at point {place}, {turn + 1}"
        yield History("first start", name, started(lambda number, _, place=place: number == place, kills), (0, 0))


def started(here: Callable[[int, str], bool], kills: int) -> Callable[[Worlds], Findings]:
    """Three processes let go at once, of which as many are killed where `here` says so."""

    def run(worlds: Worlds) -> Findings:
        findings = Findings(races=1)
        expected = _schemas(worlds.folder)
        with _empty(worlds.folder) as world:
            act = _killing(world.folder, here, kills)
            reading, writing = os.pipe()
            begun = [world.begin(using(f"use-{n}"), act, reading) for n in range(3)]
            os.close(reading)
            os.write(writing, b"." * len(begun))
            os.close(writing)
            for outcome in map(ended, begun):
                findings.expect(outcome, "done", "killed")
                findings.kills += outcome.ended == "killed"
            if findings.kills > kills:
                findings.wrong.append(f"{findings.kills} processes died, {kills} were killed")
            for n in range(3):
                findings.expect(world.apart(using(f"use-{n}")), "done")
            findings.wrong += _wrong(world, expected)
        return findings

    return run


@contextmanager
def _empty(within: Path) -> Iterator[World]:
    folder = within / f"start-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    try:
        yield World(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _killing(folder: Path, here: Callable[[int, str], bool], kills: int) -> Act:
    """SIGKILL at a point, to the first `kills` processes that come there."""

    def act(number: int, name: str) -> None:
        if here(number, name):
            for turn in range(kills):
                with suppress(FileExistsError):
                    (folder / "tmp" / f"killed-{turn}").mkdir()
                    os.kill(os.getpid(), signal.SIGKILL)

    return act


@cache
def _schemas(within: Path) -> dict[str, list[str]]:
    """What the databases look like after a start that nothing disturbed."""
    with _empty(within) as world:
        world.result_of(using("alone"))
        return {file: _schema(world, file) for file in ("ledger.db", "mlflow/mlflow.db")}


def _schema(world: World, file: str) -> list[str]:
    with closing(sqlite3.connect(world.folder / "state" / file)) as connection:
        (sound,) = connection.execute("PRAGMA integrity_check").fetchone()
        objects = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
        table = "retrain_version" if file == "ledger.db" else "alembic_version"
        version = connection.execute(f"SELECT version_num FROM {table}")  # noqa: S608
        # MLflow writes the constraints of a table in any order.
        lines = [sorted(line.strip(" ,\t") for line in text.splitlines()) for (text,) in objects]
        return [sound, *(str(row) for row in version), *sorted(map(str, lines))]


def _wrong(world: World, expected: dict[str, list[str]]) -> list[str]:
    """One schema, whole, and each of the three first commands on record once."""
    wrong = [f"{file} has another schema" for file in expected if _schema(world, file) != expected[file]]
    with closing(sqlite3.connect(world.database)) as connection:
        counts = {
            "experiments": connection.execute("SELECT count(*) FROM experiments").fetchone(),
            "runs": connection.execute("SELECT count(*) FROM runs WHERE lifecycle_stage = 'active'").fetchone(),
        }
    if counts != {"experiments": (2,), "runs": (3,)}:
        wrong.append(f"MLflow has {counts}")
    chain = world.result_of(lambda world: Ledger(world.home.ledger).verify(world.model))
    if len(chain) != 3:
        wrong.append(f"the ledger has {len(chain)} records")
    return wrong
