"""Is everything on record still there, and unaltered? The work of `python -m retrain verify`.

The ledger is held against itself (its hash chain), against the anchors that promotions left in the data registry's git
history, and against the world: the champion alias, the files of every version that served, the data in the DVC remote,
and the batches, labels and scores in the store. Nothing is changed, and what fails does not keep the rest from being
looked at.

Out of reach: who can rewrite the ledger and the data registry's own history can make both agree. Keep a clone of the
registry where that person cannot write, or protect its branch from forced pushes. Records after the newest anchor are
held by the chain alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from retrain.data.versions import DataRegistry, Version, registry_of
from retrain.errors import ChainBroken, OutOfBandChange, RetrainError, SnapshotCorrupt
from retrain.registry.mlflow import Registry
from retrain.results import Champion
from retrain.state.ledger import Ledger
from retrain.state.settings import Home
from retrain.state.store import Store

UNASKED = "could not be asked: "


@dataclass(frozen=True)
class Answer:
    """What came of one check.

    Attributes:
        what: was looked at.
        ok: it is as it was recorded.
        found: for people.
        do: the next step where it is not ok.
    """

    what: str
    ok: bool
    found: str
    do: str = ""


def models(home: Home) -> list[str]:
    """Every model with a spec or a record."""
    return sorted({*(file.stem for file in home.specs), *Ledger(home.ledger).models()})


def verify(home: Home, model: str, say: Callable[[str], None] = lambda text: None) -> tuple[Answer, ...]:
    """Look at all that is on record of a model; what cannot be reached is an answer too.

    Args:
        say: told what is looked at.
    """
    asked = _Model(home, model)
    say("ledger")
    chain = _ask("chain", asked.chain)
    if chain.found.startswith(UNASKED):
        return (chain,)
    return (
        chain,
        _ask("anchors", asked.anchors),
        _ask("champion alias", asked.alias),
        *_each("versions", asked.versions, say),
        *_each("snapshots", asked.snapshots, say),
        *_each("batches", partial(asked.files, "ingest", "batch"), say),
        *_each("labels", partial(asked.files, "labels", "labels"), say),
        *_each("scores", partial(asked.files, "score"), say),
    )


def table(model: str, answers: tuple[Answer, ...]) -> Table:
    """The answers as a rich table."""
    shown = Table(title=Text(f"{model}: is everything still there, and unaltered?"), title_justify="left")
    for name in ("", "what", "found", "do"):
        shown.add_column(name, overflow="fold")
    for one in answers:
        mark = Text("ok", "green") if one.ok else Text("wrong", "bold red")
        shown.add_row(mark, Text(one.what), Text(one.found), Text(one.do))
    return shown


Items = Callable[[], Mapping[str, Callable[[], Any]]]


class _Model:
    """What can be asked of a model: each answers for people, or raises."""

    def __init__(self, home: Home, name: str) -> None:
        self.home, self.name = home, name

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.home.ledger)

    @cached_property
    def registry(self) -> Registry:
        return Registry(self.home.mlflow)

    @cached_property
    def data(self) -> DataRegistry:
        return registry_of(self.home)

    @cached_property
    def store(self) -> Store:
        return Store(self.home.store)

    def chain(self) -> str:
        hashes = self.ledger.verify(self.name)
        return f"{len(hashes):,} records, the newest is {hashes[-1][:12]}" if hashes else "no records"

    def anchors(self) -> str:
        hashes = {one.place: one.hash for one in self.ledger.records(self.name)}
        anchors = self.data.anchors(self.name)
        for anchor in anchors:
            if hashes.get(anchor.place) != anchor.hash:
                what = (
                    "is another now"
                    if anchor.place in hashes
                    else f"is gone, the ledger ends at {max(hashes, default=0)}"
                )
                raise ChainBroken(
                    f"record {anchor.place}, anchored as {anchor.hash[:12]} in commit {anchor.commit[:12]}, {what}",
                    do="the ledger was cut or written anew: restore it from a backup that agrees with the anchors",
                )
        if not anchors:
            return "none yet: a ledger written anew would not show"
        newest = max(anchor.place for anchor in anchors)
        return f"{len(anchors):,} agree, the newest with record {newest:,} of {len(hashes):,}"

    def alias(self) -> str:
        made = self.ledger.records(self.name, "promotion")
        wanted = made[-1].body["version"] if made else None
        found = self.registry.alias(self.name, "champion")
        if found != wanted:
            raise OutOfBandChange(
                f"it points at {_version(found)}, the ledger says {_version(wanted)}",
                do=f"python -m retrain reconcile {self.name}",
            )
        return f"{_version(wanted)}, as the ledger says"

    def versions(self) -> dict[str, Callable[[], Any]]:
        """The files of all that ever served, the newest first; of those registered twice the newer version."""
        made = self.ledger.records(self.name, "promotion")
        undone = {one.key.removeprefix("undo-") for one in made if one.body["action"] == "undo"}
        served: dict[str, int] = {}
        for one in reversed(made):
            champion = Champion.model_validate(one.body["champion"])
            if str(one.sequence) not in undone:
                served.setdefault(champion.digest, champion.version)
        return {_version(number): partial(self._model, number, digest) for digest, number in served.items()}

    def snapshots(self) -> dict[str, Callable[[], Any]]:
        """The batches and labels that were brought into the data registry."""
        made = [one for kind in ("snapshot", "labels") for one in self.ledger.records(self.name, kind)]
        found = [Version(**one.body["version"]) for one in made]
        return {one.tag: partial(self._snapshot, one) for one in found}

    def files(self, kind: str, part: str = "") -> dict[str, Callable[[], Any]]:
        """The store's files that records of a kind name by their SHA-256."""
        bodies = [one.body[part] if part else one.body for one in self.ledger.records(self.name, kind)]
        return {body["key"]: partial(self._file, body["key"], body["sha256"]) for body in bodies if body}

    def _model(self, version: int, digest: str) -> None:
        with tempfile.TemporaryDirectory(prefix="retrain-") as folder:
            self.registry.fetch(self.name, version, digest, Path(folder, "model"))

    def _snapshot(self, version: Version) -> None:
        if self.data.lookup(version.tag) != version:
            raise SnapshotCorrupt(
                f"the tag {version.tag} of the data registry is gone or stands for other data than on record",
                do="bring the data registry back from a clone",
            )
        self.data.verify(version, whole=True)

    def _file(self, key: str, sha256: str) -> None:
        with self.store.verified(key, sha256):
            pass


def _version(number: int | None) -> str:
    return f"version {number}" if number else "no version"


def _ask(what: str, ask: Callable[[], Any]) -> Answer:
    try:
        return Answer(what, True, str(ask()))
    except RetrainError as error:
        return Answer(what, False, f"{UNASKED if error.retryable else ''}{error.found}", error.do)
    except Exception as error:  # the libraries of databases and stores share no base class
        said = f"{UNASKED}{type(error).__name__}: {error}"[:500]
        return Answer(what, False, said, "see that it is there, reachable and readable, then verify again")


def _each(what: str, items: Items, say: Callable[[str], None]) -> Iterator[Answer]:
    """An answer for each item that is not as recorded, then one for all; an outage ends the looking."""
    asked: dict[str, Callable[[], Any]] = {}
    read = _ask(what, lambda: asked.update(items()))
    if not read.ok:
        yield read
        return
    sound = 0
    for n, (name, ask) in enumerate(asked.items(), 1):
        say(f"{what}: {n} of {len(asked)}")
        answer = _ask(name, ask)
        sound += answer.ok
        if not answer.ok:
            yield answer
        if answer.found.startswith(UNASKED):
            break
    all_of_them = sound == len(asked)
    yield Answer(what, all_of_them, f"{sound:,} of {len(asked):,} as recorded", "" if all_of_them else "see above")
