"""What must hold after every history."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from retrain.data.versions import registry_of
from retrain.errors import RetrainError
from retrain.registry.anchors import given_up
from retrain.registry.mlflow import Registry
from retrain.results import Champion, Context
from retrain.state.ledger import Ledger, Record
from tests.chaos.world import Body, World, changes, pointed


def violations(world: World, *, gone: Iterable[int] = (), replays: Iterable[Body] = ()) -> list[str]:
    """What is wrong in a world that has recovered; empty if nothing is.

    Args:
        gone: versions that a hand deleted.
        replays: what was asked for before; asked again it may change nothing.
    """

    def examine(_: World) -> list[str]:
        wrong = standing_wrong(world, set(gone))
        before = state_of(world)
        for replay in replays:
            try:
                replay(world)
            except RetrainError:
                pass
            except Exception as error:
                wrong.append(f"a replay crashed: {error!r}")
        if (after := state_of(world)) != before:
            wrong.append(f"replays changed something: {before} became {after}")
        return wrong

    outcome = world.apart(examine)
    return outcome.value if outcome.ended == "done" else [f"the examination {outcome.ended}: {outcome.value}"]


def state_of(world: World) -> tuple[Any, ...]:
    """What a replay may not change: the changes on record, what they wait for, and where the aliases point."""
    records = [
        record
        for record in Ledger(world.home.ledger).records(world.model)
        if record.kind not in ("stage", "reconciled")
    ]
    return tuple((record.kind, record.key, record.hash[:8]) for record in records), pointed(world)[0]


def standing_wrong(world: World, gone: set[int]) -> list[str]:
    """One champion, alias = head = tag, chain and anchors whole, everything completed once, no version lost."""
    wrong: list[str] = []
    book, client = Ledger(world.home.ledger), MlflowClient(world.home.mlflow, world.home.mlflow)
    try:
        hashes = book.verify(world.model)
    except RetrainError as error:
        return [f"the chain: {error.found}"]
    lost = given_up(book, world.model)
    for anchor in registry_of(world.home).anchors(world.model):
        if anchor.hash in lost:
            continue
        if anchor.place > len(hashes) or hashes[anchor.place - 1] != anchor.hash:
            wrong.append(f"the anchor of record {anchor.place} is not the ledger's")
    records = changes(world)
    if (sequences := [record.sequence for record in records]) != list(range(1, len(records) + 1)):
        wrong.append(f"the sequence is {sequences}")
    wrong += _completed(book, world.model, records)
    wrong += _held(world, records)
    versions = {int(version.version): version for version in client.search_model_versions(f"name = '{world.model}'")}
    count = max(versions, default=0)
    if lost := set(range(1, count + 1)) - versions.keys() - gone:
        wrong.append(f"versions {lost} were lost")
    aliases, tags = pointed(world)
    head = records[-1].body["version"] if records else None
    for name, version in (("alias", aliases.get("champion")), ("tag", tags.get("retrain.alias.champion"))):
        if version != (None if head is None else str(head)):
            wrong.append(f"the {name} is at {version}, the ledger's head at {head}")
    if head is not None and aliases.get("challenger") == str(head):
        wrong.append("the champion is still its own challenger")
    wrong += _serves(world, records)
    past = [record.effective_at for record in records if record.body["action"] in ("promote", "rollback")]
    if past != sorted(past):
        wrong.append("an older run replaced a newer champion")
    return wrong


def _completed(book: Ledger, model: str, records: list[Record]) -> list[str]:
    done = [record.key for record in book.records(model, "completed")]
    wrong = [f"{key} was completed twice" for key in set(done) if done.count(key) > 1]
    # What could not be completed has something after it on record that says so.
    instead = {
        (record.sequence or 0) - 1 for record in records if record.body["action"] in ("undo", "restore", "adopt")
    }
    missing = [
        record.sequence for record in records if str(record.sequence) not in done and record.sequence not in instead
    ]
    return wrong + ([f"changes {missing} were never completed"] if missing else [])


def _held(world: World, records: list[Record]) -> list[str]:
    """Every candidate replaced the champion that it was held against."""
    wrong = []
    for before, record in pairwise(records):
        if record.body["action"] == "promote":
            (file,) = Path(world.home.store).rglob(f"{record.key}/context.json")
            held = Context.from_json(file.read_bytes()).champion
            if held and held.digest != before.body["champion"]["digest"]:
                wrong.append(
                    f"{record.key} was held against version {held.version},"
                    f" and replaced version {before.body['version']}"
                )
    return wrong


def _serves(world: World, records: list[Record]) -> list[str]:
    if not records:
        return []
    champion = Champion.model_validate(records[-1].body["champion"])
    try:
        with tempfile.TemporaryDirectory() as folder:
            Registry(world.home.mlflow).fetch(world.model, champion.version, champion.digest, Path(folder) / "model")
    except RetrainError as error:
        return [f"the champion does not load: {error.found}"]
    return []
