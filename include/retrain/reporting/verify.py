"""Checks that everything on record is still there, and unaltered: the work of `python -m retrain verify`.

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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from retrain.data.versions import RESTORED, DataRegistry, published, registry_of, version_of
from retrain.errors import OutOfBandChange, RetrainError, SnapshotCorrupt
from retrain.registry import anchors, promotion
from retrain.registry.mlflow import Registry
from retrain.rendering.text import run_key_of
from retrain.results import Champion
from retrain.state import projections
from retrain.state.evidence import EVIDENCE, report_digests
from retrain.state.ledger import Ledger, Record
from retrain.state.settings import Home
from retrain.state.store import Store

REPORTED = ("register", "smoke_test")
"""Stages whose report a version points to, and which comes after the evidence is put on record."""
UNREACHED = "could not be asked: "
"""How the finding of a check begins that could not reach what it is about."""


@dataclass(frozen=True)
class Verification:
    """The outcome of one check.

    Attributes:
        what: was checked.
        ok: whether it is as it was recorded.
        finding: what was found, for people.
        do: the next step where it is not ok.
    """

    what: str
    ok: bool
    finding: str
    do: str = ""


def known_models(home: Home) -> list[str]:
    """Every model with a spec or a record."""
    return sorted({*(file.stem for file in home.specs), *Ledger(home.ledger).models()})


def verify(home: Home, model: str, progress: Callable[[str], None] = lambda text: None) -> tuple[Verification, ...]:
    """CheckFunction all that is on record of a model; what cannot be reached is an outcome too.

    Args:
        home: whose record, registry and store are checked.
        model: its name; one that nothing is on record of is sound.
        progress: is given what is checked just now.
    """
    checks = _Checks(home, model)
    progress("ledger")
    chain = _check("chain", checks.chain)
    if chain.finding.startswith(UNREACHED):
        return (chain,)
    return (
        chain,
        _check("anchors", checks.anchors),
        _check("champion alias", checks.alias),
        *_check_each("versions", checks.versions, progress),
        *_check_each("snapshots", checks.snapshots, progress),
        *_check_each("batches", partial(checks.files, "ingest", "batch"), progress),
        *_check_each("labels", partial(checks.files, "labels", "labels"), progress),
        *_check_each("scores", partial(checks.files, "score"), progress),
        *_check_each("evidence", checks.evidence, progress, lambda: checks.without_evidence),
    )


def table(model: str, verifications: tuple[Verification, ...]) -> Table:
    """The outcomes as a rich table."""
    grid = Table(title=Text(f"{model}: is everything still there, and unaltered?"), title_justify="left")
    for name in ("", "what", "found", "do"):
        grid.add_column(name, overflow="fold")
    for row in verifications:
        mark = Text("ok", "green") if row.ok else Text("wrong", "bold red")
        grid.add_row(mark, Text(row.what), Text(row.finding), Text(row.do))
    return grid


CheckFunction = Callable[[], Any]
"""Returns what was found, for people, or raises."""


class _Checks:
    """The checks of a model; what they need is opened by the first that asks for it."""

    def __init__(self, home: Home, name: str) -> None:
        self.home, self.name = home, name
        self.without_evidence = ""

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
        if wrong := anchors.contradicting(self.ledger, self.data, self.name):
            raise anchors.contradiction(self.ledger, self.name, wrong[0])
        lost, again = anchors.given_up(self.ledger, self.name), self.ledger.records(self.name, RESTORED)
        sound = [anchor for anchor in self.data.anchors(self.name) if anchor.hash not in lost]
        also = f"; {len(lost):,} of records that were given up when the ledger was restored" if lost else ""
        if again:
            also += f"; what was anchored before record {again[-1].place:,} was lost with the data registry"
        if not sound:
            self._check_data_registry()
            return f"none yet: a ledger written anew would not show{also}"
        newest, length = max(anchor.place for anchor in sound), len(self.ledger.records(self.name))
        return f"{len(sound):,} agree, the newest with record {newest:,} of {length:,}{also}"

    def _check_data_registry(self) -> None:
        """Refuse a data registry that knows nothing of what is on record: it was deleted, or is another one."""
        records = published(self.ledger, self.name)
        if records and not any(map(self.data.lookup, reversed(records))):
            raise SnapshotCorrupt(
                f"the data registry {self.home.registry} knows none of the {len(records):,} versions on record: it was"
                " deleted, or is another one",
                do=f"bring it back from a clone, anchors and all; without one: {_again(self.name, records)}",
            )

    def alias(self) -> str:
        promotions = self.ledger.records(self.name, "promotion")
        recorded = Champion.model_validate(promotions[-1].body["champion"]) if promotions else None
        pointed = self.registry.pointed(self.name, "champion")
        if (pointed and (pointed.version, pointed.digest)) != (recorded and (recorded.version, recorded.digest)):
            raise OutOfBandChange(
                f"it {promotion.difference(pointed, recorded)}",
                do=f"python -m retrain reconcile {self.name}",
            )
        return f"version {recorded.version}, as the ledger says" if recorded else "no version, as the ledger says"

    def versions(self) -> dict[str, CheckFunction]:
        """The files of all that ever served, the newest first; of those registered twice the newer version."""
        served = projections.served(self.ledger.records(self.name, "promotion"))
        return {f"version {champion.version}": partial(self._model_files, champion) for champion in reversed(served)}

    def snapshots(self) -> dict[str, CheckFunction]:
        """The batches and labels that were brought into the data registry."""
        records = published(self.ledger, self.name)
        return {tag: partial(self._snapshot, record) for tag, record in records.items()}

    def files(self, kind: str, part: str = "") -> dict[str, CheckFunction]:
        """The store's files that records of a kind name by their SHA-256."""
        records = self.ledger.records(self.name, kind)
        bodies = [record.body[part] if part else record.body for record in records]
        return {body["key"]: partial(self._file, body["key"], body["sha256"]) for body in bodies if body}

    def evidence(self) -> dict[str, CheckFunction]:
        """What the versions rest on, and of those that served the reports of `register` and `smoke_test`."""
        stages = self.ledger.records(self.name, "stage")
        files = {record.run: dict(record.body["files"]) for record in self.ledger.records(self.name, EVIDENCE)}
        served = {
            run_key_of(record.body["champion"]["reference"]) for record in self.ledger.records(self.name, "promotion")
        }
        for run in served & files.keys():
            written = report_digests([record for record in stages if record.run == run])
            files[run] |= {f"{name}.json": written[name] for name in REPORTED if name in written}
        registered = [record for record in stages if record.body.get("stage") == "register"]
        if missing := len({record.run for record in registered if record.body["facts"].get("version")} - files.keys()):
            self.without_evidence = f"; of {missing} earlier versions none is on record"
        return {
            f"{self.name}/runs/{run}/{name}": partial(self._file, f"{self.name}/runs/{run}/{name}", sha256)
            for run, names in files.items()
            for name, sha256 in names.items()
        }

    def _model_files(self, champion: Champion) -> None:
        # Under the number that the files have now: what MLflow had lost was registered again.
        known = self.registry.find(self.name, champion.digest)
        with tempfile.TemporaryDirectory(prefix="retrain-") as folder:
            number = known.version if known else champion.version
            self.registry.fetch(self.name, number, champion.digest, Path(folder, "model"))

    def _snapshot(self, record: Record) -> None:
        version = version_of(self.ledger, record)
        tagged = self.data.lookup(version.tag)
        if tagged is None:
            raise SnapshotCorrupt(
                f"the tag {version.tag} of the data registry is gone",
                do=f"bring the data registry back from a clone; without one: {_again(self.name, [version.tag])}",
            )
        if tagged != version:
            raise SnapshotCorrupt(
                f"the tag {version.tag} of the data registry stands for other data than on record",
                do="bring the data registry back from a clone",
            )
        self.data.verify(version, whole=True)

    def _file(self, key: str, sha256: str) -> None:
        with self.store.verified(key, sha256):
            pass


def _again(model: str, tags: Iterable[str]) -> str:
    """The command that publishes again what the record says was published: of a batch's interval, by its tag."""
    interval = next(iter(tags)).removeprefix(f"{model}/").removeprefix("labels/").partition("/")[0]
    return f"python -m retrain snapshot {model} --interval {interval}"


def _check(what: str, check: CheckFunction) -> Verification:
    try:
        return Verification(what, True, str(check()))
    except RetrainError as error:
        return Verification(what, False, f"{UNREACHED if error.retryable else ''}{error.found}", error.do)
    except Exception as error:  # the libraries of databases and stores share no base class
        finding = f"{UNREACHED}{type(error).__name__}: {error}"[:500]
        return Verification(what, False, finding, "see that it is there, reachable and readable, then verify again")


def _check_each(
    what: str,
    list_checks: Callable[[], Mapping[str, CheckFunction]],
    progress: Callable[[str], None],
    more: Callable[[], str] = str,
) -> Iterator[Verification]:
    """The outcome of each check that fails, then one for all; an outage ends the checking."""
    checks: dict[str, CheckFunction] = {}
    listing = _check(what, lambda: checks.update(list_checks()))
    if not listing.ok:
        yield listing
        return
    sound = 0
    for number, (name, check) in enumerate(checks.items(), 1):
        progress(f"{what}: {number} of {len(checks)}")
        outcome = _check(name, check)
        sound += outcome.ok
        if not outcome.ok:
            yield outcome
        if outcome.finding.startswith(UNREACHED):
            break
    all_sound = sound == len(checks)
    finding = f"{sound:,} of {len(checks):,} as recorded{more()}"
    yield Verification(what, all_sound, finding, "" if all_sound else "see above")
