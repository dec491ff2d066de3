"""MLflow, the ledger and the data registry restored from an older backup, each and together; the state folder moved."""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from retrain.reporting.verify import verify
from tests.chaos.histories import Findings, History, promoting, rolling_back
from tests.chaos.holds import violations
from tests.chaos.points import kill_at
from tests.chaos.prepared import Worlds, registered
from tests.chaos.world import World, changes

BEGIN = (3, 2)
"""The home at the time of the backup: two of three versions were promoted. Two more promotions follow."""
PARTS = {"MLflow": ("mlflow",), "ledger": ("ledger.db",), "data registry": ("registry.git", "remote")}
"""What is restored → its files in the state folder."""
NAMED = ("LedgerContradicted", "DanglingChampion", "OutOfBandChange")
"""The refusals by which such a state is named."""

Take = Literal["", "ledger", "alias"]


def backups(draw: random.Random, quick: bool = False) -> Iterator[History]:
    """Every combination of what is restored, with either word of a person, undisturbed and with its command killed."""
    names = [subset for count in (1, 2, 3) for subset in itertools.combinations(PARTS, count)]
    takes: tuple[Take, ...] = ("ledger", "alias")
    for restored, take, kills in itertools.product(names, takes, range(3)):
        places = tuple(draw.randint(1, 25) for _ in range(kills))
        what = f"{' and '.join(restored)} restored, {take} taken" + (f", killed at {places}" if places else "")
        if not quick or (len(restored) == 1 and take == "ledger" and kills == 1):
            yield History("backup", what, _restored(restored, take, places), BEGIN)
    for name, act in {"rollback": rolling_back, **({} if quick else {"promotion": promoting(4)})}.items():
        yield History("backup", f"state folder moved, then a {name}", _moved(act))


def _restored(restored: tuple[str, ...], take: Take, places: tuple[int, ...]) -> Callable[[Worlds], Findings]:
    def run(worlds: Worlds) -> Findings:
        findings = Findings()
        with worlds.fresh(*BEGIN) as world:
            state, backup = Path(world.home.state), world.folder / "backup"
            files = [name for part in restored for name in PARTS[part] if (state / name).exists()]
            for name in files:
                _copy(state / name, backup / name)
            world.result_of(lambda w: (w.promoted(3), registered(w, 4), w.promoted(4)))
            served = world.result_of(_digests)
            for name in files:
                _copy(backup / name, state / name)
            world.result_of(lambda w: registered(w, 5))
            findings.expect(world.apart(promoting(5)), _named(restored))
            kept = world.result_of(_digests)
            _settle(world, take, places, findings)
            findings.wrong += _nothing_undone(world, served if "ledger" not in restored else kept)
            world.result_of(lambda w: registered(w, 6))
            findings.expect(world.apart(promoting(6)), "done")
            findings.wrong += _settled_wrong(world)
            findings.wrong += violations(world, gone=range(1, 20), replays=[promoting(6)])
        return findings

    return run


def _named(restored: tuple[str, ...]) -> str:
    """How a promotion must end after that: by name, unless no two contradict each other."""
    if "ledger" in restored and "data registry" not in restored:
        return "LedgerContradicted"
    if "ledger" in restored:
        return "done" if "MLflow" in restored else "OutOfBandChange"
    return "DanglingChampion" if "MLflow" in restored else "done"


def _settle(world: World, take: Take, places: tuple[int, ...], findings: Findings) -> None:
    """What the runbook says: reconcile, and where it names a state, with a person's word."""
    for place in places:
        killed = world.apart(lambda w: w.reconciled(take, "rc"), kill_at(place))
        findings.kills += killed.ended == "killed"
    outcome = world.apart(lambda w: w.reconciled("", "rc-plain"))
    if outcome.ended != "done":
        findings.expect(outcome, *NAMED)
        outcome = world.apart(lambda w: w.reconciled(take, "rc-taken"))
    findings.expect(outcome, "done")
    findings.expect(world.apart(lambda w: w.reconciled("", "rc-again")), "done")


def _moved(act: Callable[[World], Any]) -> Callable[[Worlds], Findings]:
    def run(worlds: Worlds) -> Findings:
        findings = Findings()
        with worlds.fresh(8, 3) as before:
            folder = before.folder.with_name(f"{before.folder.name} moved")
            shutil.move(before.folder, folder)
            try:
                world = World(folder)
                findings.expect(world.apart(act), "done")
                findings.wrong += _settled_wrong(world)
                findings.wrong += violations(world, replays=[act])
            finally:
                shutil.rmtree(folder)
        return findings

    return run


def _copy(source: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)


def _digests(world: World) -> list[str]:
    return [record.body["champion"]["digest"] for record in changes(world)]


def _nothing_undone(world: World, served: list[str]) -> list[str]:
    """A change that was completed stays on record as it was, and nothing takes it back."""
    records = world.result_of(changes)
    wrong = [f"record {record.place} undoes a change" for record in records if record.body["action"] == "undo"]
    if [record.body["champion"]["digest"] for record in records][: len(served)] != served:
        wrong.append("the changes on record are others than before")
    return wrong


def _settled_wrong(world: World) -> list[str]:
    """A number that two models bear, and all that `verify` finds."""
    bearers: dict[int, set[str]] = {}
    for record in world.result_of(changes):
        champion = record.body["champion"]
        bearers.setdefault(champion["version"], set()).add(champion["digest"])
    wrong = [f"version {number} is {len(digests)} models" for number, digests in bearers.items() if len(digests) > 1]
    outcomes = world.result_of(lambda w: [(o.what, o.ok, o.finding) for o in verify(w.home, w.model)])
    return wrong + [f"verify: {what}: {finding}" for what, ok, finding in outcomes if not ok]
