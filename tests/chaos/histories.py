"""Changes killed, raced and locked out: what happens to them, who recovers, and what is expected then."""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.chaos.holds import violations
from tests.chaos.points import Act, kill_at
from tests.chaos.prepared import Worlds
from tests.chaos.world import Body, Locker, Outcome, World, changes, pointed, together

HAND = {"OutOfBandChange", "DanglingChampion"}
"""The refusals that call for a person."""


@dataclass
class Findings:
    """What a history came to."""

    kills: int = 0
    races: int = 0
    wrong: list[str] = field(default_factory=list)

    def expect(self, outcome: Outcome, *ends: str) -> None:
        if outcome.ended not in ends:
            self.wrong.append(f"{' or '.join(ends)} was expected, not {outcome.ended}: {outcome.value}")


@dataclass(frozen=True)
class History:
    """A history; `home` is the prepared one that it begins in."""

    family: str
    name: str
    run: Callable[[Worlds], Findings]
    home: tuple[Any, ...] = (8, 3)


@dataclass(frozen=True)
class Change:
    """A change of the champion that is killed.

    Attributes:
        home: which prepared home it begins in: months, promoted of them, mode.
        act: the change; done again it is the retry.
        serves: the version that serves once it is done.
        before: the version that served before it.
        ends: how it ends where nothing happens to it.
        newer: a newer run that comes next.
        arrange: what has happened before.
        take: what a person says where a hand was at work.
        gone: versions that a hand has deleted.
    """

    name: str
    home: tuple[Any, ...]
    act: Body
    serves: int
    before: int | None
    ends: str = "done"
    newer: Body = lambda world: world.promoted(4)
    arrange: Body = lambda world: None
    take: Literal["", "ledger", "alias"] = ""
    gone: tuple[int, ...] = ()


def intent_only(act: Body) -> Body:
    """`act` killed when its record stands and the alias has not moved."""

    def arrange(world: World) -> None:
        outcome = world.apart(act, between(lambda: os.kill(os.getpid(), signal.SIGKILL)))
        if outcome.ended != "killed":
            raise RuntimeError(f"it should have been killed, and {outcome.ended}: {outcome.value}")

    return arrange


def between(act: Callable[[], Any]) -> Act:
    """`act` once, when the change is on record and the alias has not moved."""
    passed: list[str] = []

    def at(_: int, name: str) -> None:
        passed.append(name)
        if name == "committed" and passed.count("committed") == 1:
            act()

    return at


def both(*acts: Body) -> Body:
    return lambda world: [act(world) for act in acts]


def _approve_second(world: World) -> None:
    world.promoted(2)
    world.approved(2)


THIRD = (8, 3)
"""The home that most begin in: three of eight versions were promoted, one after the other."""
CHANGES = (
    Change("first promotion", (2, 0), lambda w: w.promoted(1), 1, None, newer=lambda w: w.promoted(2)),
    Change("promotion", THIRD, lambda w: w.promoted(4), 4, 3, newer=lambda w: w.promoted(5)),
    Change(
        "approval", (2, 0, "approve"), lambda w: w.approved(1), 1, None,
        newer=_approve_second, arrange=lambda w: w.result_of(lambda w: w.promoted(1)),
    ),
    Change(
        "shadow", (3, 1, "shadow"), lambda w: w.promoted(2), 1, 1, newer=lambda w: w.promoted(3),
    ),
    Change("rollback", THIRD, lambda w: w.rolled_back("rb"), 2, 3),
    Change("rollback to a version", THIRD, lambda w: w.rolled_back("rb", to=1), 1, 3),
    Change(
        "reconcile, ledger", THIRD, lambda w: w.reconciled("ledger"), 3, 3, arrange=lambda w: w.move(2), take="ledger"
    ),
    Change("reconcile, alias", THIRD, lambda w: w.reconciled("alias"), 2, 3, arrange=lambda w: w.move(2), take="alias"),
    Change("restore", THIRD, lambda w: w.reconciled(""), 9, 9, arrange=lambda w: w.delete(3), gone=(3,)),
    Change(
        "undone promotion", THIRD, lambda w: w.promoted(4), 3, 3, ends="ArtifactMissing",
        newer=lambda w: w.promoted(5), gone=(4,),
        arrange=both(intent_only(lambda w: w.promoted(4)), lambda w: w.delete(4)),
    ),
    Change(
        "undone rollback", THIRD, lambda w: w.rolled_back("rb"), 3, 3, ends="ArtifactMissing",
        arrange=both(intent_only(lambda w: w.rolled_back("rb")), lambda w: w.delete(2)), gone=(2,),
    ),
)  # fmt: skip
RECOVERIES = ("retry", "newer run", "reconcile")


def recover(world: World, change: Change, how: str, act: Act | None = None) -> Outcome:
    """One recovery; what it says."""
    body: Body = {
        "retry": change.act,
        "newer run": change.newer,
        "reconcile": lambda w: w.reconciled(change.take, "rc-after"),
    }[how]
    for _ in range(3):
        done = world.apart(body, act)
        if done.ended != "PromotionConflict":
            break
        world.apart(World.regated)  # it says: start a new run
    return done


def settle(world: World, change: Change, how: str, findings: Findings) -> None:
    """Recover in the given way, by a person's word where a hand was at work, and see what holds."""
    outcome = recover(world, change, how)
    by_hand = bool(change.take or change.gone)
    if outcome.ended in HAND and by_hand:
        outcome = recover(world, change, "reconcile")
        how = "reconcile"
    findings.expect(outcome, *({"done", change.ends} if how == "retry" else {"done"}))
    if change.name == "restore" and how == "newer run":
        findings.expect(world.apart(lambda w: w.reconciled("", "rc-after")), "done")
    replays = [promoting(month) for month in range(1, change.home[1] + 1)]
    replays += {"retry": [change.act], "newer run": [change.newer], "reconcile": []}[how]
    findings.wrong += violations(world, gone=change.gone, replays=replays)
    serves = world.result_of(_serving)
    expected = {
        "retry": {change.serves},
        "reconcile": {change.serves, change.before},
        "newer run": {*range(1, 9)},
    }[how]
    if serves not in expected:
        findings.wrong.append(f"version {serves} serves after {how}, {expected} was expected")


def _ahead(world: World) -> str:
    """What is wrong right after a kill: the alias is one change behind the ledger at most, and not ahead of the tag."""
    records, (aliases, tags) = changes(world), pointed(world)
    head = records[-1].body if records else {"version": None, "previous": None}
    at, tag = aliases.get("champion"), tags.get("retrain.alias.champion")
    if at not in (str(head["version"]), str(head["previous"]), None):
        return f"after the kill the alias is at {at}, which the ledger does not have"
    if at == str(head["version"]) != tag:
        return f"after the kill the alias is at {at} and our tag at {tag}: it would pass for another's hand"
    return ""


def _serving(world: World) -> int | None:
    records = changes(world)
    return records[-1].body["version"] if records else None


def killed(change: Change, place: int, how: str, second: int = 0) -> Callable[[Worlds], Findings]:
    """`change` killed at the point `place`, its recovery too at the point `second`, and recovered."""

    def run(worlds: Worlds) -> Findings:
        findings = Findings()
        with worlds.fresh(*change.home) as world:
            change.arrange(world)
            outcome = world.apart(change.act, kill_at(place))
            findings.expect(outcome, "killed")
            findings.kills += outcome.ended == "killed"
            if not (change.take or change.gone) and (odd := world.result_of(_ahead)):
                findings.wrong.append(odd)
            if second:
                findings.kills += recover(world, change, how, kill_at(second)).ended == "killed"
            settle(world, change, how, findings)
        return findings

    return run


def write_points(worlds: Worlds, change: Change) -> tuple[str, ...]:
    """The points of a change."""
    with worlds.fresh(*change.home) as world:
        change.arrange(world)
        return world.points(change.act)


def kills(worlds: Worlds, draw: random.Random, quick: bool) -> Iterator[History]:
    """Every change killed at every point, with every recovery, and pairs of kills; quick: some at one point each."""
    each, pairs = (1, 0) if quick else (0, 10)
    for change in (change for change in CHANGES if change.home == THIRD or not quick):
        names = write_points(worlds, change)
        ones = list(itertools.product(range(1, len(names) + 1), RECOVERIES))
        for place, how in draw.sample(ones, each) if each else ones:
            what = f"{change.name} killed at {place} of {len(names)} ({names[place - 1]}), then {how}"
            yield History("one kill", what, killed(change, place, how), change.home)
        yield from (drawn(change, names, draw) for _ in range(pairs))


def drawn(change: Change, names: tuple[str, ...], draw: random.Random, again: float = 1) -> History:
    """A change killed at a point drawn by chance, and its recovery too with the probability `again`."""
    place, how = draw.randint(1, len(names)), draw.choice(RECOVERIES)
    second = draw.randint(1, len(names)) if draw.random() < again else 0
    then = f"{how} killed at {second}, then again" if second else how
    what = f"{change.name} killed at {place} of {len(names)} ({names[place - 1]}), then {then}"
    return History("two kills", what, killed(change, place, how, second), change.home)


# --- races


def races(counts: tuple[int, ...], rounds: int, about: str = "", **settings: Any) -> Iterator[History]:
    """So many promoters let go at once, in processes of their own; `settings` are the world's."""
    for count in counts:
        many = (max(8, count + 3), 3)
        kinds: tuple[tuple[str, tuple[Any, ...], list[Body]], ...] = (
            ("of one month", (4, 3, "auto", count), [promoting(4, f"racer-{n:02}") for n in range(count)]),
            ("of the first champion", (count, 0), [promoting(n) for n in range(1, count + 1)]),
            ("of many months", many, [promoting(n) for n in range(4, count + 4)]),
            ("and a rollback", many, [rolling_back, *(promoting(n) for n in range(4, count + 3))]),
        )
        for turn in range(rounds):
            for name, home, bodies in kinds:
                run = raced(lambda worlds, home=home: worlds.fresh(*home, **settings), bodies)
                yield History("race", f"{count} racers{about} {name}, {turn + 1}", run, home)


def promoting(month: int, key: str = "") -> Body:
    return lambda world: world.promoted(month, key)


def rolling_back(world: World) -> Any:
    return world.rolled_back("rb")


LOST = ("done", "PromotionConflict", "StaleRun", "RegistryDown", "LedgerBusy", "NothingToRollBack")


def raced(
    opened: Callable[[Worlds], AbstractContextManager[World]], bodies: list[Body]
) -> Callable[[Worlds], Findings]:
    def run(worlds: Worlds) -> Findings:
        findings = Findings(races=1)
        with opened(worlds) as world:
            for outcome in together(world, bodies):
                findings.expect(outcome, *LOST)
            findings.wrong += violations(world)
            for body in bodies:  # whoever lost asks again, by a new run
                world.result_of(World.regated)
                findings.expect(world.apart(body), *LOST)
            findings.wrong += violations(world, replays=bodies)
        return findings

    return run


# --- locked databases


def locks() -> Iterator[History]:
    for change in (CHANGES[1], CHANGES[4]):
        for which, refusal in (("ledger", "LedgerBusy"), ("mlflow", "RegistryDown")):
            for when in ("all the while", "between intent and alias"):
                yield History("locked", f"{change.name}, {which} locked {when}", locked(change, which, refusal, when))


def locked(change: Change, which: str, refusal: str, when: str) -> Callable[[Worlds], Findings]:
    def run(worlds: Worlds) -> Findings:
        findings = Findings()
        with worlds.fresh(*change.home, busy=0.2) as world:
            database = world.folder / "state" / "ledger.db" if which == "ledger" else world.database
            with Locker(database) as locker:
                if when == "all the while":
                    locker.hold()
                    outcome = world.apart(change.act)
                else:
                    outcome = world.apart(change.act, between(locker.hold))
            findings.expect(outcome, refusal)
            settle(world, change, "retry", findings)
        return findings

    return run
