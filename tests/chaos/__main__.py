"""`python -m tests.chaos [--quick] [--seed N] [--only FAMILY …]`: ends with 1 where anything is violated."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.backups import backups
from tests.chaos.edited import edits
from tests.chaos.hands import hands, schedules
from tests.chaos.histories import Findings, History, kills, locks, races
from tests.chaos.play import MEMORY, play
from tests.chaos.postgres import ledger_on_postgres
from tests.chaos.prepared import Worlds
from tests.chaos.server import servers
from tests.chaos.starts import starts

FAMILIES = (
    *("one kill", "two kills", "race", "locked", "server", "hand", "schedule"),
    *("backup", "first start", "edited spec"),
)

SHORT = {
    "2 racers and a rollback, 1",
    "12 racers of the first champion, 1",
    "promotion, mlflow locked between intent and alias",
    "rollback, ledger locked between intent and alias",
    "MLflow dies between intent and alias of a promotion",
    "alias moved",
    "alias followed but killed, then moved back",
    "promoted version and its predecessor deleted",
    "predecessor's file swapped",
    "random schedule of seed 0",
    "3 first starts",
    "3 first starts, 1 killed before MLflow's first table",
}
"""The histories of the short form, besides some kills."""


def histories(
    worlds: Worlds, *, seed: int = 0, quick: bool = False, only: tuple[str, ...] = FAMILIES, postgres: str = ""
) -> list[History]:
    """All of them, or the short form's share of them."""
    rounds = 1 if quick else 3
    drawn = [*races((2, 12), rounds), *locks(), *servers(), *hands(), *schedules(range(seed, seed + 60))]
    drawn += backups(random.Random(seed), quick)
    drawn += starts(random.Random(seed))
    if {"one kill", "two kills"} & set(only):
        drawn += kills(worlds, random.Random(seed), quick)
    if "edited spec" in only:
        drawn += edits(worlds, random.Random(seed), quick)
    if postgres:
        drawn += races((2, 12), rounds, " with PostgreSQL", ledger=postgres)
    return [
        history
        for history in drawn
        if history.family in only
        and (not quick or history.family in ("one kill", "backup", "edited spec") or history.name in SHORT)
    ]


def table(played: list[tuple[History, Findings]]) -> list[tuple[str, int, int, int, int]]:
    """Family, histories, kills, races, violations; the sum at the end."""
    rows = []
    for family in (*FAMILIES, "all"):
        of_family = [findings for history, findings in played if family in ("all", history.family)]
        sums = (
            sum(findings.kills for findings in of_family),
            sum(findings.races for findings in of_family),
            sum(len(findings.wrong) for findings in of_family),
        )
        rows.append((family, len(of_family), *sums))
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
        chosen = histories(worlds, seed=given.seed, quick=given.quick, only=tuple(given.only), postgres=postgres)
        played = play(chosen, worlds)
    print(f"{'family':12}{'histories':>10}{'kills':>8}{'races':>8}{'violations':>12}")
    for family, count, killed, raced, wrong in (rows := table(played)):
        print(f"{family:12}{count:>10}{killed:>8}{raced:>8}{wrong:>12}")
    skipped = "" if postgres else "; the races with PostgreSQL were skipped: none on 127.0.0.1:5432"
    print(f"{rows[-1][-1]} violations; {time.monotonic() - began:.0f} s, seed {given.seed}{skipped}")
    return int(rows[-1][-1] > 0)


if __name__ == "__main__":
    sys.exit(main())
