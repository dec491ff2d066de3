"""`python -m tests.chaos [--quick] [--seed N] [--only FAMILY …]`: ends with 1 where anything is violated."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.histories import THIRD, Found, History, hands, kills, locks, races, schedules
from tests.chaos.killed import rollbacks
from tests.chaos.play import MEMORY, play
from tests.chaos.postgres import ledger_on_postgres
from tests.chaos.server import servers
from tests.chaos.world import Worlds

FAMILIES = ("one kill", "two kills", "rollback", "race", "locked", "server", "hand", "schedule")


def histories(
    worlds: Worlds, *, seed: int = 0, quick: bool = False, only: tuple[str, ...] = FAMILIES, postgres: str = ""
) -> list[History]:
    """All of them, or the short form's share of them."""
    draw, counts, rounds = random.Random(seed), (2,) if quick else (2, 12), 1 if quick else 5
    made: list[History] = []
    worlds.prepared(*THIRD)
    if {"one kill", "two kills"} & set(only):
        made += kills(worlds, draw, 0.03 if quick else 1.0, 0 if quick else 20)
    if "rollback" in only:
        made += rollbacks(worlds, 3 if quick else 200, seed)
    if "race" in only:
        made += races(worlds, counts, rounds)
    if "race" in only and postgres:
        made += races(worlds, counts, rounds, " with PostgreSQL", ledger=postgres)
    made += list(locks())[2:4] if quick else locks()
    made += [] if quick else servers()
    made += hands()
    made += schedules(range(seed, seed + (3 if quick else 200)))
    return [one for one in made if one.family in only]


def table(found: list[tuple[History, Found]]) -> list[tuple[str, int, int, int, int]]:
    """Family, histories, kills, races, violations; the sum at the end."""
    rows = []
    for family in (*FAMILIES, "all"):
        mine = [one for history, one in found if family in ("all", history.family)]
        sums = (sum(one.kills for one in mine), sum(one.races for one in mine), sum(len(one.wrong) for one in mine))
        rows.append((family, len(mine), *sums))
    return rows


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the share of it that the tests take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=FAMILIES)
    given = parser.parse_args(argv)
    began = time.monotonic()
    with ledger_on_postgres() as postgres, tempfile.TemporaryDirectory(prefix="retrain-chaos-", dir=MEMORY) as folder:
        worlds = Worlds(Path(folder))
        made = histories(worlds, seed=given.seed, quick=given.quick, only=tuple(given.only), postgres=postgres)
        found = play(made, worlds)
    print(f"{'family':12}{'histories':>10}{'kills':>8}{'races':>8}{'violations':>12}")
    for family, count, killed, raced, wrong in (rows := table(found)):
        print(f"{family:12}{count:>10}{killed:>8}{raced:>8}{wrong:>12}")
    skipped = "" if postgres else "; the races with PostgreSQL were skipped: none on 127.0.0.1:5432"
    print(f"{rows[-1][-1]} violations; {time.monotonic() - began:.0f} s, seed {given.seed}{skipped}")
    return int(rows[-1][-1] > 0)


if __name__ == "__main__":
    sys.exit(main())
