"""200 rollbacks killed somewhere, and the time from the breach to the restored champion.

The rollback's part of `benchmarks/rollback.py`. Time runs from the call of the rollback in a process that is up (the
watch has seen the breach) until ledger and alias both name the predecessor, which was loaded and asked before in a
fresh process: the probe is part of it. Airflow's own start of a task comes on top.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Figures
from retrain.ledger import Ledger
from retrain.tools.registry import Registry
from tests.chaos.histories import CHANGES, RECOVERIES, THIRD, History, killed, seen
from tests.chaos.play import MEMORY, play
from tests.chaos.server import served
from tests.chaos.world import World, Worlds

ROLLBACK = next(change for change in CHANGES if change.name == "rollback")


def rollbacks(worlds: Worlds, count: int, seed: int = 0) -> list[History]:
    """Rollbacks killed at points drawn by chance, a third of them once more while they recover."""
    draw, names, made = random.Random(seed), seen(worlds, ROLLBACK), []
    for number in range(count):
        place, how = draw.randint(1, len(names)), draw.choice(RECOVERIES)
        second = draw.randint(1, len(names)) if draw.random() < 1 / 3 else 0
        again = f" killed at {second}, again" if second else ""
        what = f"rollback {number + 1} killed at {place} of {len(names)} ({names[place - 1]}), {how}{again}"
        made.append(History("rollback", what, killed(ROLLBACK, place, how, second)))
    return made


def seconds(world: World, key: str = "rb") -> float:
    """From the breach to the predecessor by ledger and alias."""

    def timed() -> float:
        began = time.perf_counter()
        version = world.rolled_back(key)
        head = Ledger(world.home.ledger).records(world.model, "promotion")[-1].body["version"]
        if not head == version == Registry(world.home.mlflow).alias(world.model, "champion"):
            raise RuntimeError(f"version {version} was put back, the head is at {head}")
        return time.perf_counter() - began

    done = world.apart(timed)
    if done.ended != "done":
        raise RuntimeError(f"{done.ended}: {done.value}")
    return float(done.value)


def times(worlds: Worlds, count: int) -> tuple[list[float], list[float]]:
    """Seconds of `count` rollbacks with a real probe: with MLflow's SQLite file, and over an MLflow server."""
    direct, http = [], []
    for _ in range(count):
        with worlds.fresh(*THIRD, slow=True) as world:
            direct.append(seconds(world))
    for _ in range(count):
        with served(worlds, THIRD) as (world, _server):
            http.append(seconds(World(world.folder, mlflow=world.mlflow, slow=True)))
    return direct, http


def figures(quick: bool = False) -> list[Figures]:
    """The table of both."""
    with tempfile.TemporaryDirectory(prefix="retrain-chaos-", dir=MEMORY) as folder:
        worlds = Worlds(Path(folder))
        worlds.prepared(*THIRD)
        found = play(rollbacks(worlds, 4 if quick else 200), worlds)
        direct, http = times(worlds, 1 if quick else 10)
    wrong = [f"{history.name}: {text}" for history, one in found for text in one.wrong]
    counts = ("killed rollbacks", str(len(found)), str(sum(one.kills for _, one in found)), str(len(wrong)))
    lost = Figures(
        "Killed rollbacks, each recovered",
        ("", "histories", "kills", "violations"),
        (counts,),
        (
            "Recovered by the same rollback again, by a newer run, or by reconcile; a third is killed in that too.",
            f"Nothing lost: {'met' if not wrong else 'MISSED: ' + '; '.join(wrong[:3])}.",
        ),
    )
    took = tuple(
        (name, f"{statistics.median(values):.2f} s", f"{max(values):.2f} s", str(len(values)))
        for name, values in (("MLflow's SQLite file", direct), ("MLflow over HTTP", http))
    )
    said = ("The probe in a fresh process included, which is most of it.",)
    return [lost, Figures("From breach to restored champion", ("", "median", "longest", "rollbacks"), took, said)]
