"""200 rollbacks killed somewhere, and the time from the breach to the restored champion.

The rollback's part of `benchmarks/rollback.py`. Time runs from the call of the rollback in a process that is up (the
watch has seen the breach) until ledger and alias both name the predecessor, which was loaded and answered before in a
fresh process: the smoke test is part of it. Airflow's own start of a task comes on top.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.measure import Figures
from retrain.registry.mlflow import Registry
from tests.chaos.histories import CHANGES, THIRD, History, drawn, write_points
from tests.chaos.play import MEMORY, play
from tests.chaos.prepared import Worlds
from tests.chaos.server import served
from tests.chaos.world import World, changes

ROLLBACK = next(change for change in CHANGES if change.name == "rollback")


def rollbacks(worlds: Worlds, count: int, seed: int = 0) -> list[History]:
    """Rollbacks killed at points drawn by chance, a third of them once more while they recover."""
    names, draw = write_points(worlds, ROLLBACK), random.Random(seed)
    return [drawn(ROLLBACK, names, draw, 1 / 3) for _ in range(count)]


def seconds(world: World, key: str = "rb") -> float:
    """From the breach to the predecessor by ledger and alias."""

    def timed(world: World) -> float:
        began = time.perf_counter()
        version = world.rolled_back(key)
        head = changes(world)[-1].body["version"]
        if not head == version == Registry(world.home.mlflow).alias(world.model, "champion"):
            raise RuntimeError(f"version {version} was put back, the head is at {head}")
        return time.perf_counter() - began

    return float(world.result_of(timed))


def times(worlds: Worlds, count: int) -> tuple[list[float], list[float]]:
    """Seconds of `count` rollbacks with a real smoke test: with MLflow's SQLite file, and over an MLflow server."""
    direct, http = [], []
    for _ in range(count):
        with worlds.fresh(*THIRD, slow=True) as world:
            direct.append(seconds(world))
    for _ in range(count):
        with served(worlds, THIRD) as (world, _server):
            http.append(seconds(replace(world, slow=True)))
    return direct, http


def figures(quick: bool = False) -> list[Figures]:
    """The table of both."""
    with tempfile.TemporaryDirectory(prefix="retrain-chaos-", dir=MEMORY) as folder:
        worlds = Worlds(Path(folder))
        played = play(rollbacks(worlds, 4 if quick else 200), worlds)
        direct, http = times(worlds, 1 if quick else 10)
    wrong = [f"{history.name}: {text}" for history, findings in played for text in findings.wrong]
    counts = ("killed rollbacks", str(len(played)), str(sum(findings.kills for _, findings in played)), str(len(wrong)))
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
    notes = ("The smoke test in a fresh process included, which is most of it.",)
    return [lost, Figures("From breach to restored champion", ("", "median", "longest", "rollbacks"), took, notes)]
