"""Prepared homes, and the fresh copies of them in which the histories take place."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa
import yaml
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import Pipeline

from retrain.modeling import packaging
from retrain.registry.mlflow import Registry, save_model
from retrain.registry.mlflow.moved import FOLDER, follow_moved
from retrain.results import (
    Configuration,
    Context,
    Decision,
    FittedModel,
    GateReport,
    RefitReport,
    RegisterReport,
    SmokeTestReport,
)
from retrain.state import projections
from tests.chaos.postgres import moved
from tests.chaos.world import World, changes
from tests.conftest import churn_spec

LINKED = ("mlartifacts", "store")
"""Folders whose files are replaced, not written to; a copy of the home shares them."""


def prepare(world: World, months: int, promoted: int, *, mode: str = "auto", racers: int = 0) -> None:
    """Registered versions 1 … `months`, each by a run of its month, the first `promoted` of them promoted in turn.

    The runs after those saw the newest of them as champion. `racers` more runs are of the month after the promoted.
    """
    data = churn_spec() | {"model": world.model, "promotion": mode}
    world.home.models.mkdir(parents=True, exist_ok=True)
    (world.home.models / f"{world.model}.yaml").write_text(yaml.safe_dump(data, sort_keys=False))

    def make(world: World) -> None:
        for month in range(1, months + 1):
            registered(world, month)
            if month <= promoted:
                world.promoted(month)
        for place in range(racers):
            registered(world, promoted + 1, f"racer-{place:02}", place)

    world.result_of(make)


def registered(world: World, month: int, key: str = "", place: int = -1) -> None:
    """A run as it stands before `promote`: smoke-tested, and its version the challenger."""
    run = world.run(month, key)
    folder = Path(run.store.url(run.path("refit", "model")))
    frame, zeros = pd.DataFrame({"x": [0.0, 1.0] * 50}), 10 + month + 40 * (place >= 0) + max(place, 0)
    pipe = Pipeline([("model", DummyClassifier(strategy="prior"))]).fit(frame, [0] * zeros + [1] * (100 - zeros))
    digest = save_model(pipe, folder, example=frame[:2], requirements=packaging.requirements())
    registry = Registry(world.home.mlflow)
    run_id = registry.record(
        experiment=world.model, key=run.key, name=run.key, description="", params={}, metrics={}, tags={}, files={}
    )
    taken = projections.numbers(run.ledger.records(world.model))
    tags = {"retrain.run": run.key}
    version = registry.register(
        model=world.model, run_id=run_id, folder=folder, digest=digest, tags=tags, description="", taken=taken
    )
    registry.set_alias(world.model, "challenger", version, digest)
    about: dict[str, Any] = {"model": world.model, "interval": run.interval, "effective_at": run.as_of}
    yes = Decision(verdict="promote", reasons=("better",))
    configuration = Configuration(estimator="linear", parameters={}, pipeline="p")
    fitted = FittedModel(
        name="new", kind="new", training=run.key, intervals=(run.interval,), rows=2, key=run.path("refit", "model"),
        digest=digest, configuration=configuration,
    )  # fmt: skip
    records = changes(world)
    champion = projections.champion_at(records, run.as_of)
    context = Context(
        **about,
        spec_digest="s",
        trigger=run.trigger,
        accepted=(),
        champion=champion,
        reference_champion=projections.reference_champion(records),
    )
    golden = {"rows": [{"x": 0.0}, {"x": 1.0}], "predictions": [1 - zeros / 100] * 2}
    run.store.write(run.path("refit", "golden.json"), json.dumps(golden).encode())
    run.write(context, "context")
    run.write(GateReport(**about, decision=yes, chosen="new", kind="new", becomes_reference=True), "gate")
    run.write(RefitReport(**about, decision=yes, fitted=fitted, golden="", mean_prediction=(0.5,)), "refit")
    done = yes.model_copy(update={"verdict": "registered"})
    run.write(RegisterReport(**about, decision=done, run_id=run_id, version=version, digest=digest), "register")
    run.write(SmokeTestReport(**about, decision=yes, version=version), "smoke_test")


@dataclass
class Worlds:
    """Prepared homes, each made once, and the fresh copies of them."""

    folder: Path
    homes: dict[tuple[Any, ...], Path] = field(default_factory=dict)
    count: int = 0

    def prepared(self, months: int, promoted: int, mode: str = "auto", racers: int = 0) -> Path:
        key = (months, promoted, mode, racers)
        if key not in self.homes:
            folder = self.folder / f"prepared-{os.getpid()}-{len(self.homes)}"
            folder.mkdir()
            prepare(World(folder), months, promoted, mode=mode, racers=racers)
            self.homes[key] = folder
        return self.homes[key]

    @contextmanager
    def fresh(self, *key: Any, **about: Any) -> Iterator[World]:
        origin = self.prepared(*key)
        self.count += 1
        folder = self.folder / f"world-{os.getpid()}-{self.count}"
        shutil.copytree(origin, folder, copy_function=_copy)
        world = World(folder, **about)
        engine = sa.create_engine(f"sqlite:///{world.database}")
        follow_moved(engine, world.database.parent / FOLDER)
        engine.dispose()
        if world.ledger:
            place = f"{os.getpid()}_{self.count}"
            address = world.result_of(lambda _: moved(world.ledger, World(folder).home.ledger, place))
            world = replace(world, ledger=address)
        try:
            yield world
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _copy(source: str, target: str) -> None:
    if any(f"/{name}/" in source for name in LINKED):
        os.link(source, target)
    else:
        shutil.copyfile(source, target)
