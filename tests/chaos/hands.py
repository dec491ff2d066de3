"""Hands at work past everything of ours, and schedules of all of it drawn by chance."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from typing import Literal

from tests.chaos.histories import THIRD, Findings, History, both, intent_only, promoting, rolling_back
from tests.chaos.holds import violations
from tests.chaos.points import kill_at
from tests.chaos.prepared import Worlds
from tests.chaos.world import Body, World, changes, pointed


def hands() -> Iterator[History]:
    for name, run in HANDS.items():
        yield History("hand", name, run)


def _hand(
    arrange: Body,
    *steps: tuple[Body, tuple[str, ...], int | None],
    gone: tuple[int, ...] = (),
) -> Callable[[Worlds], Findings]:
    """What was done by hand, then steps: what is tried, how it must end, where the alias must be then."""

    def run(worlds: Worlds) -> Findings:
        findings = Findings()
        with worlds.fresh(*THIRD) as world:
            arrange(world)
            for place, (body, ends, version) in enumerate(steps):
                world.result_of(World.regated)
                findings.expect(world.apart(body), *ends)
                at = world.result_of(_pointed)
                if at != version:
                    findings.wrong.append(f"step {place + 1}: the alias is at {at}, {version} was expected")
            findings.expect(world.apart(_settle("")), "done")
            findings.wrong += violations(world, gone=gone, replays=[steps[-1][0]])
        return findings

    return run


def _pointed(world: World) -> int | None:
    alias = pointed(world)[0].get("champion")
    return int(alias) if alias else None


def _swap(version: int) -> Body:
    def swap(world: World) -> None:
        file = world.files(version) / "model.skops"
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.unlink()
        file.write_bytes(data)

    return swap


def _settle(take: Literal["", "ledger", "alias"]) -> Body:
    return lambda world: world.reconciled(take, f"rc-{take}")


HELD = ("OutOfBandChange",)
HANDS: dict[str, Callable[[Worlds], Findings]] = {
    "alias moved": _hand(
        lambda w: w.move(1),
        (promoting(4), HELD, 1), (rolling_back, HELD, 1), (_settle(""), HELD, 1), (_settle("ledger"), ("done",), 3),
    ),
    "alias moved, the head's own run again": _hand(
        lambda w: w.move(1), (promoting(3), HELD, 1), (_settle("ledger"), ("done",), 3)
    ),
    "alias moved after a rollback, the rollback again": _hand(
        both(lambda w: w.result_of(rolling_back), lambda w: w.move(1)),
        (rolling_back, HELD, 1), (_settle("ledger"), ("done",), 2),
    ),
    "alias moved to a challenger": _hand(
        lambda w: w.move(5), (_settle("alias"), ("done",), 5), (promoting(6), ("done",), 6)
    ),
    "alias moved to a version of another make": _hand(
        lambda w: (w.spoil_tags(5), w.move(5)),
        (_settle("alias"), ("UnknownVersion",), 5), (_settle("ledger"), ("done",), 3),
    ),
    "alias moved and followed": _hand(
        lambda w: w.move(1), (_settle("alias"), ("done",), 1), (promoting(4), ("done",), 4)
    ),
    "alias moved while a promotion waits": _hand(
        both(intent_only(promoting(4)), lambda w: w.move(1)),
        (promoting(5), HELD, 1), (promoting(4), HELD, 1), (_settle("ledger"), ("done",), 4),
    ),
    "alias removed": _hand(
        lambda w: w.unset(), (promoting(4), HELD, None), (rolling_back, HELD, None), (_settle("ledger"), ("done",), 3)
    ),
    "alias followed but killed, then moved back": _hand(
        both(lambda w: w.move(1), intent_only(_settle("alias")), lambda w: w.apart(_settle("")),
             lambda w: w.move(3)),
        (promoting(4), HELD, 3), (_settle("ledger"), ("done",), 1),
    ),
    "champion deleted": _hand(
        lambda w: w.delete(3), (promoting(4), ("DanglingChampion",), None), (_settle(""), ("done",), 9), gone=(3,)
    ),
    "champion deleted, rolled back": _hand(lambda w: w.delete(3), (rolling_back, ("done",), 2), gone=(3,)),
    "champion and its MLflow run deleted": _hand(
        lambda w: (w.delete_run(3), w.delete(3)), (_settle(""), ("done",), 9), (promoting(4), ("done",), 4), gone=(3,)
    ),
    "promoted version and its predecessor deleted": _hand(
        both(intent_only(promoting(4)), lambda w: w.delete(4), lambda w: w.delete(3)),
        (_settle(""), ("done",), 9), gone=(3, 4),
    ),
    "predecessor deleted": _hand(lambda w: w.delete(2), (rolling_back, ("done",), 9), gone=(2,)),
    "challenger deleted, rolled back": _hand(lambda w: w.delete(8), (rolling_back, ("done",), 2), gone=(8,)),
    "predecessor's file swapped": _hand(_swap(2), (rolling_back, ("DigestMismatch",), 3)),
    "champion's file swapped": _hand(_swap(3), (rolling_back, ("done",), 2)),
    "predecessor's artifacts gone": _hand(lambda w: shutil.rmtree(w.files(2)), (rolling_back, ("done",), 2)),
}  # fmt: skip


# --- random schedules


def schedules(seeds: range) -> Iterator[History]:
    for seed in seeds:
        yield History("schedule", f"random schedule of seed {seed}", scheduled(seed))


def scheduled(seed: int, steps: int = 8) -> Callable[[Worlds], Findings]:
    """Steps drawn by chance: changes, half of them killed, hands, retries; at the end a person settles."""

    def run(worlds: Worlds) -> Findings:
        draw, findings = random.Random(seed), Findings()
        requests: list[Request] = []
        gone: set[int] = set()
        with worlds.fresh(*THIRD) as world:
            for step in range(steps):
                kind = draw.choice(("promote", "promote", "back", "to", "again", "reconcile", "move", "delete"))
                if kind in ("move", "delete"):
                    version = draw.randint(1, 8)
                    if version not in gone:
                        world.move(version) if kind == "move" else world.delete(version)
                        gone |= {version} if kind == "delete" else set()
                    continue
                if draw.random() < 0.8:
                    world.result_of(World.regated)
                requests.append(_drawn(draw, kind, f"key-{step}", requests))
                body = requests[-1][1]
                place = draw.randint(1, 40) if draw.random() < 0.5 else 0
                outcome = world.apart(body, kill_at(place) if place else None)
                findings.kills += outcome.ended == "killed"
                if outcome.ended == "crashed":
                    findings.wrong.append(f"step {step}, {kind}, crashed: {outcome.value}")
            _settle_all(world, findings)
            keys = world.result_of(lambda w: [record.key for record in changes(w)])
            came = {key.removeprefix("rollback-").removeprefix("reconcile-") for key in keys}
            findings.wrong += violations(world, gone=gone, replays=[body for key, body in requests if key in came])
        return findings

    return run


Request = tuple[str, Body]
"""Under which key, and what."""


def _drawn(draw: random.Random, kind: str, key: str, requests: list[Request]) -> Request:
    month, version = draw.randint(4, 8), draw.randint(1, 5)
    take = draw.choice(("", "ledger", "alias"))
    promote: Request = (f"run-{month:02}", promoting(month))
    kinds: dict[str, Request] = {
        "promote": promote,
        "back": (key, lambda w: w.rolled_back(key)),
        "to": (key, lambda w: w.rolled_back(key, version)),
        "again": draw.choice(requests) if requests else promote,
        "reconcile": (key, lambda w: w.reconciled(take, key)),
    }
    return kinds[kind]


def _settle_all(world: World, findings: Findings) -> None:
    for turn, take in enumerate(("", "", "ledger", "")):
        outcome = world.apart(lambda w, take=take, turn=turn: w.reconciled(take, f"last-{turn}"))
        if outcome.ended == "crashed":
            findings.wrong.append(f"reconcile crashed: {outcome.value}")
    findings.expect(outcome, "done")
