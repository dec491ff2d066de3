"""The histories: what is done, what happens to it, who recovers, and what is expected then."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from retrain.ledger import Ledger, Record
from tests.chaos.points import Act, kill_at
from tests.chaos.world import Locker, Outcome, World, Worlds, pointed, together, violations

Body = Callable[[World], Any]
HAND = {"OutOfBandChange", "DanglingChampion"}
"""The refusals that call for a person."""


@dataclass
class Found:
    """What one history came to."""

    kills: int = 0
    races: int = 0
    wrong: list[str] = field(default_factory=list)

    def expect(self, outcome: Outcome, *ends: str) -> None:
        if outcome.ended not in ends:
            self.wrong.append(f"{' or '.join(ends)} was expected, not {outcome.ended}: {outcome.value}")


@dataclass(frozen=True)
class History:
    family: str
    name: str
    run: Callable[[Worlds], Found]


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
    arrange: Callable[[World], Any] = lambda world: None
    take: Literal["", "ledger", "alias"] = ""
    gone: tuple[int, ...] = ()


def intent_only(world: World, act: Body) -> None:
    """`act` killed when its record stands and the alias has not moved."""
    names = _seen(world, act)
    record = names.index("INSERT retrain_records")
    killed = world.apart(lambda: act(world), kill_at(names.index("committed", record) + 1))
    if killed.ended != "killed":
        raise RuntimeError(f"it should have been killed, and {killed.ended}: {killed.value}")


def _seen(world: World, act: Body) -> tuple[str, ...]:
    """The points of `act`, on a copy of the world."""
    twin = world.folder.with_name(f"{world.folder.name}-twin")
    shutil.copytree(world.folder, twin)
    try:
        return World(twin, world.model).points(lambda: act(World(twin, world.model)))
    finally:
        shutil.rmtree(twin)


def _approve_second(world: World) -> None:
    world.promoted(2)
    world.approved(2)


def _undone(act: Body, version: int) -> Callable[[World], None]:
    def arrange(world: World) -> None:
        intent_only(world, act)
        world.delete(version)

    return arrange


THIRD = (8, 3)
"""The home that most begin in: three of eight versions were promoted, one after the other."""
CHANGES = (
    Change("first promotion", (2, 0), lambda w: w.promoted(1), 1, None, newer=lambda w: w.promoted(2)),
    Change("promotion", THIRD, lambda w: w.promoted(4), 4, 3, newer=lambda w: w.promoted(5)),
    Change(
        "approval", (2, 0, "approve"), lambda w: w.approved(1), 1, None,
        newer=_approve_second, arrange=lambda w: w.promote(1),
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
        newer=lambda w: w.promoted(5), arrange=_undone(lambda w: w.promoted(4), 4), gone=(4,),
    ),
    Change(
        "undone rollback", THIRD, lambda w: w.rolled_back("rb"), 3, 3, ends="ArtifactMissing",
        arrange=_undone(lambda w: w.rolled_back("rb"), 2), gone=(2,),
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
    done = world.apart(lambda: body(world), act)
    if done.ended == "PromotionConflict":  # it says: run the stage again
        done = world.apart(lambda: body(world), act)
    return done


def settle(world: World, change: Change, how: str, found: Found) -> None:
    """Recover in the given way, by a person's word where a hand was at work, and look."""
    said = recover(world, change, how)
    by_hand = bool(change.take or change.gone)
    if said.ended in HAND and by_hand:
        said = recover(world, change, "reconcile")
        how = "reconcile"
    found.expect(said, *({"done", change.ends} if how == "retry" else {"done"}))
    if change.name == "restore" and how == "newer run":
        found.expect(world.apart(lambda: world.reconciled("", "rc-after")), "done")
    replays: list[Callable[[], Any]] = [lambda month=month: world.promoted(month) for month in _past(change)]  # type: ignore[misc]
    if how == "retry":
        replays.append(lambda: change.act(world))
    if how == "newer run":
        replays.append(lambda: change.newer(world))
    found.wrong += violations(world, gone=change.gone, replays=replays)
    serves = world.apart(lambda: _serving(world)).value
    expected = {
        "retry": {change.serves},
        "reconcile": {change.serves, change.before},
        "newer run": {*range(1, 9)},
    }[how]
    if serves not in expected:
        found.wrong.append(f"version {serves} serves after {how}, {expected} was expected")


def _past(change: Change) -> range:
    return range(1, change.home[1] + 1)


def _ahead(world: World) -> str:
    """What is wrong right after a kill: the alias is one change behind the ledger at most, and not ahead of the tag."""
    made, (aliases, tags) = _changes(world), pointed(world)
    head = made[-1].body if made else {"version": None, "previous": None}
    at, tag = aliases.get("champion"), tags.get("retrain.alias.champion")
    if at not in (str(head["version"]), str(head["previous"]), None):
        return f"after the kill the alias is at {at}, which the ledger does not have"
    if at == str(head["version"]) != tag:
        return f"after the kill the alias is at {at} and our tag at {tag}: it would pass for another's hand"
    return ""


def _changes(world: World) -> list[Record]:
    return Ledger(world.home.ledger).records(world.model, "promotion")


def _serving(world: World) -> int | None:
    made = _changes(world)
    return made[-1].body["version"] if made else None


def killed(change: Change, place: int, how: str, second: int = 0) -> Callable[[Worlds], Found]:
    """`change` killed at the point `place`, its recovery too at the point `second`, and recovered."""

    def run(worlds: Worlds) -> Found:
        found = Found()
        with worlds.fresh(*change.home) as world:
            change.arrange(world)
            said = world.apart(lambda: change.act(world), kill_at(place))
            found.expect(said, "killed")
            found.kills += said.ended == "killed"
            if not (change.take or change.gone) and (odd := world.apart(lambda: _ahead(world)).value):
                found.wrong.append(odd)
            if second:
                found.kills += recover(world, change, how, kill_at(second)).ended == "killed"
            settle(world, change, how, found)
        return found

    return run


def seen(worlds: Worlds, change: Change) -> tuple[str, ...]:
    """The points of a change."""
    with worlds.fresh(*change.home) as world:
        change.arrange(world)
        return world.points(lambda: change.act(world))


def kills(worlds: Worlds, draw: random.Random, share: float, pairs: int) -> Iterator[History]:
    """Every change killed at every point (or a share of the points), and pairs of kills."""
    for change in CHANGES:
        names = seen(worlds, change)
        for place, name in enumerate(names, 1):
            for how in RECOVERIES:
                if draw.random() < share:
                    what = f"{change.name} killed at {place} of {len(names)} ({name}), then {how}"
                    yield History("one kill", what, killed(change, place, how))
        for _ in range(pairs):
            place, second, how = draw.randint(1, len(names)), draw.randint(1, len(names)), draw.choice(RECOVERIES)
            what = f"{change.name} killed at {place} of {len(names)}, then {how} killed at {second}, then again"
            yield History("two kills", what, killed(change, place, how, second))


# --- races


def races(worlds: Worlds, counts: tuple[int, ...], rounds: int, about: str = "", **settings: Any) -> Iterator[History]:
    """So many promoters let go at once, in processes of their own; `settings` are the world's."""
    for count in counts:
        many = (max(8, count + 3), 3)
        kinds: tuple[tuple[str, tuple[Any, ...], list[Body]], ...] = (
            ("of one month", (4, 3, "auto", count), [_promote(4, f"racer-{n:02}") for n in range(count)]),
            ("of the first champion", (count, 0), [_promote(n) for n in range(1, count + 1)]),
            ("of many months", many, [_promote(n) for n in range(4, count + 4)]),
            ("and a rollback", many, [_back, *(_promote(n) for n in range(4, count + 3))]),
        )
        for turn in range(rounds):
            for name, home, bodies in kinds:
                worlds.prepared(*home)
                yield History("race", f"{count} racers{about} {name}, {turn + 1}", raced(home, bodies, **settings))


LOST = ("done", "PromotionConflict", "StaleRun", "RegistryDown", "LedgerBusy", "NothingToRollBack")


def raced(home: tuple[Any, ...], bodies: list[Body], **about: Any) -> Callable[[Worlds], Found]:
    def run(worlds: Worlds) -> Found:
        found = Found(races=1)
        with worlds.fresh(*home, **about) as world:
            for said in together(world, [lambda body=body: body(world) for body in bodies]):  # type: ignore[misc]
                found.expect(said, *LOST)
            found.wrong += violations(world)
            for body in bodies:  # whoever lost asks again
                found.expect(world.apart(lambda body=body: body(world)), *LOST)  # type: ignore[misc]
            replays = [lambda body=body: body(world) for body in bodies]  # type: ignore[misc]
            found.wrong += violations(world, replays=replays)
        return found

    return run


# --- locked databases


def locks() -> Iterator[History]:
    for change in (CHANGES[1], CHANGES[4]):
        for which, refusal in (("ledger", "LedgerBusy"), ("mlflow", "RegistryDown")):
            for when in ("all the while", "between intent and alias"):
                yield History("locked", f"{change.name}, {which} locked {when}", locked(change, which, refusal, when))


def locked(change: Change, which: str, refusal: str, when: str) -> Callable[[Worlds], Found]:
    def run(worlds: Worlds) -> Found:
        found = Found()
        with worlds.fresh(*change.home, busy=0.2) as world:
            database = world.folder / "state" / "ledger.db" if which == "ledger" else world.database
            with Locker(database) as locker:
                if when == "all the while":
                    locker.hold()
                    said = world.apart(lambda: change.act(world))
                else:
                    said = world.apart(lambda: change.act(world), between(locker.hold))
            found.expect(said, refusal)
            settle(world, change, "retry", found)
        return found

    return run


def between(act: Callable[[], Any]) -> Act:
    """`act` once, when the change is on record and the alias has not moved."""
    seen: list[str] = []

    def at(_: int, name: str) -> None:
        seen.append(name)
        if name == "committed" and seen.count("committed") == 1:
            act()

    return at


# --- hands


def hands() -> Iterator[History]:
    for name, run in HANDS.items():
        yield History("hand", name, run)


def _hand(
    arrange: Callable[[World], Any],
    *steps: tuple[Body, tuple[str, ...], int | None],
    gone: tuple[int, ...] = (),
    take: Literal["", "ledger", "alias"] = "",
) -> Callable[[Worlds], Found]:
    """What was done by hand, then steps: what is tried, how it must end, where the alias must be then."""

    def run(worlds: Worlds) -> Found:
        found = Found()
        with worlds.fresh(*THIRD) as world:
            arrange(world)
            for place, (body, ends, version) in enumerate(steps):
                found.expect(world.apart(lambda body=body: body(world)), *ends)  # type: ignore[misc]
                at = world.apart(lambda: _pointed(world)).value
                if at != version:
                    found.wrong.append(f"step {place + 1}: the alias is at {at}, {version} was expected")
            found.expect(world.apart(lambda: world.reconciled(take, "rc-last")), "done")
            replays = [lambda body=steps[-1][0]: body(world)]
            found.wrong += violations(world, gone=gone, replays=replays)
        return found

    return run


def _pointed(world: World) -> int | None:
    found = pointed(world)[0].get("champion")
    return int(found) if found else None


def _swap(version: int) -> Callable[[World], None]:
    def swap(world: World) -> None:
        file = world.files(version) / "model.skops"
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.unlink()
        file.write_bytes(data)

    return swap


def _two(*acts: Callable[[World], Any]) -> Callable[[World], None]:
    def both(world: World) -> None:
        for act in acts:
            act(world)

    return both


def _promote(month: int, key: str = "") -> Body:
    return lambda world: world.promoted(month, key)


def _back(world: World) -> Any:
    return world.rolled_back("rb")


def _settle(take: Literal["", "ledger", "alias"]) -> Body:
    return lambda world: world.reconciled(take, f"rc-{take}")


HELD = ("OutOfBandChange",)
HANDS: dict[str, Callable[[Worlds], Found]] = {
    "alias moved": _hand(
        lambda w: w.move(1),
        (_promote(4), HELD, 1), (_back, HELD, 1), (_settle(""), HELD, 1), (_settle("ledger"), ("done",), 3),
    ),
    "alias moved, the head's own run again": _hand(
        lambda w: w.move(1), (_promote(3), HELD, 1), (_settle("ledger"), ("done",), 3)
    ),
    "alias moved after a rollback, the rollback again": _hand(
        _two(lambda w: w.apart(lambda: _back(w)), lambda w: w.move(1)),
        (_back, HELD, 1), (_settle("ledger"), ("done",), 2),
    ),
    "alias moved to a challenger": _hand(
        lambda w: w.move(5), (_settle("alias"), ("UnknownVersion",), 5), (_settle("ledger"), ("done",), 3)
    ),
    "alias moved and followed": _hand(
        lambda w: w.move(1), (_settle("alias"), ("done",), 1), (_promote(4), ("done",), 4)
    ),
    "alias moved while a promotion waits": _hand(
        _two(lambda w: intent_only(w, _promote(4)), lambda w: w.move(1)),
        (_promote(5), HELD, 1), (_promote(4), HELD, 1), (_settle("ledger"), ("done",), 4),
    ),
    "alias removed": _hand(
        lambda w: w.unset(), (_promote(4), HELD, None), (_back, HELD, None), (_settle("ledger"), ("done",), 3)
    ),
    "alias followed but killed, then moved back": _hand(
        _two(lambda w: w.move(1), lambda w: intent_adopted(w), lambda w: w.apart(lambda: _settle("")(w)),
             lambda w: w.move(3)),
        (_promote(4), HELD, 3), (_settle("ledger"), ("done",), 1),
    ),
    "champion deleted": _hand(
        lambda w: w.delete(3), (_promote(4), ("DanglingChampion",), None), (_settle(""), ("done",), 9), gone=(3,)
    ),
    "champion deleted, rolled back": _hand(lambda w: w.delete(3), (_back, ("done",), 2), gone=(3,)),
    "promoted version and its predecessor deleted": _hand(
        _two(lambda w: intent_only(w, _promote(4)), lambda w: w.delete(4), lambda w: w.delete(3)),
        (_settle(""), ("done",), 9), gone=(3, 4),
    ),
    "predecessor deleted": _hand(lambda w: w.delete(2), (_back, ("ArtifactMissing",), 3), gone=(2,)),
    "challenger deleted, rolled back": _hand(lambda w: w.delete(8), (_back, ("done",), 2), gone=(8,)),
    "predecessor's file swapped": _hand(_swap(2), (_back, ("DigestMismatch",), 3)),
    "champion's file swapped": _hand(_swap(3), (_back, ("done",), 2)),
    "predecessor's artifacts gone": _hand(
        lambda w: shutil.rmtree(w.files(2)), (_back, ("ArtifactMissing",), 3)
    ),
}  # fmt: skip


def intent_adopted(world: World) -> None:
    intent_only(world, _settle("alias"))


# --- random schedules


def schedules(seeds: range) -> Iterator[History]:
    for seed in seeds:
        yield History("schedule", f"random schedule of seed {seed}", scheduled(seed))


def scheduled(seed: int, steps: int = 8) -> Callable[[Worlds], Found]:
    """Steps drawn by chance: changes, half of them killed, hands, retries; at the end a person settles."""

    def run(worlds: Worlds) -> Found:
        draw, found = random.Random(seed), Found()
        asked: list[Asked] = []
        gone: set[int] = set()
        with worlds.fresh(*THIRD) as world:
            for step in range(steps):
                kind = draw.choice(("promote", "promote", "back", "to", "again", "reconcile", "move", "delete"))
                if kind == "move":
                    with_version = draw.randint(1, 6)
                    if with_version not in gone:
                        world.move(with_version)
                    continue
                if kind == "delete":
                    version = draw.randint(1, 8)
                    if version not in gone:
                        gone.add(version)
                        world.delete(version)
                    continue
                asked.append(_drawn(world, draw, kind, f"key-{step}", asked))
                body = asked[-1][1]
                place = draw.randint(1, 40) if draw.random() < 0.5 else 0
                said = world.apart(body, kill_at(place) if place else None)
                found.kills += said.ended == "killed"
                if said.ended == "crashed":
                    found.wrong.append(f"step {step}, {kind}, crashed: {said.value}")
            _last_word(world, found)
            came = world.apart(lambda: {one.key for one in _changes(world)}).value
            found.wrong += violations(world, gone=gone, replays=[body for key, body in asked if key in came])
        return found

    return run


Asked = tuple[str, Callable[[], Any]]
"""Under which key, and what."""


def _drawn(world: World, draw: random.Random, kind: str, key: str, asked: list[Asked]) -> Asked:
    month, version = draw.randint(4, 8), draw.randint(1, 5)
    take = draw.choice(("", "ledger", "alias"))
    promote: Asked = (f"run-{month:02}", lambda: world.promoted(month))
    kinds: dict[str, Asked] = {
        "promote": promote,
        "back": (key, lambda: world.rolled_back(key)),
        "to": (key, lambda: world.rolled_back(key, version)),
        "again": draw.choice(asked) if asked else promote,
        "reconcile": (key, lambda: world.reconciled(take, key)),  # type: ignore[arg-type]
    }
    return kinds[kind]


def _last_word(world: World, found: Found) -> None:
    for turn, take in enumerate(("", "", "ledger", "")):
        said = world.apart(lambda take=take, turn=turn: world.reconciled(take, f"last-{turn}"))  # type: ignore[misc]
        if said.ended == "crashed":
            found.wrong.append(f"reconcile crashed: {said.value}")
    found.expect(said, "done")
