"""Make a version again from what is under version control, and say whether it is the same.

Everything happens in a home of its own that is thrown away. The data come back by their hash from the data registry,
never from the store; the spec and the files beside it from the run's folder; the champions that the candidates were
held against from MLflow, by their digest. Then the run's own stages train, evaluate, gate and refit under the run's key
and seed.
"""

from __future__ import annotations

import dataclasses
import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from retrain import pipeline
from retrain.data import dataset
from retrain.data.versions import Version, registry_of
from retrain.errors import ArtifactMissing, MissingInput, RegistryDown, RetrainError, SnapshotCorrupt
from retrain.modeling import model_io, packaging
from retrain.registry.lineage import Lineage, build_environment, lineage_of
from retrain.registry.mlflow import Registry
from retrain.rendering.text import number
from retrain.results import (
    Accepted,
    EvaluateReport,
    Fitted,
    GateReport,
    RefitReport,
    Result,
    TrainReport,
    current_name,
)
from retrain.spec import Spec, parse
from retrain.state.ledger import Record
from retrain.state.run import Run
from retrain.state.settings import Home
from retrain.state.store import Store, sha256_of

STAGES = ("train", "evaluate", "gate", "refit")
SHOWN = 5
"""How many figures that moved are named."""


class Item(Result):
    """One thing that was made again."""

    name: str
    same: bool
    said: str


class Reproduction(Result):
    """What came of making a version again."""

    model: str
    version: int
    items: tuple[Item, ...]
    circumstances: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether data, models, metrics, predictions, verdict and files are all the same."""
        return all(one.same for one in self.items)

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.model} version {self.version}: {'the same' if self.same else 'not the same'}"
        for one in self.items:
            yield f"  {'same     ' if one.same else 'different'}  {one.name}: {one.said}"
        for said in self.circumstances:
            yield f"  other circumstances: {said}"


def reproduce(home: Home, spec: Spec, version: int, say: Callable[[str], None] = lambda _: None) -> Reproduction:
    """Train a version again and compare.

    Args:
        home: the installation; nothing is written there.
        spec: today's, for the model's name; the run's own is what is trained by.
        say: told of each step.

    Raises:
        UnknownVersion: no run on record has registered it.
        MissingInput: the run's reports or its spec are gone.
        PushIncomplete, SnapshotCorrupt, RegistryUnavailable: the data registry does not give back the bytes.
        RegistryDown: MLflow does not answer for the champion of then; one that is gone is told as a difference.
    """
    found = lineage_of(home, spec, version)
    old = found.run
    kept, spec_item = _spec(found, spec)
    with tempfile.TemporaryDirectory(prefix="retrain-reproduce-") as folder:
        root = Path(folder)
        scratch = dataclasses.replace(
            home, state=root, store=str(root / "store"), ledger=f"sqlite:///{root / 'ledger.db'}"
        )
        run = dataclasses.replace(old, home=scratch, spec=kept, pages=False)
        data = tuple(_bring(run, found, say))
        run.write(found.context, "context")
        for one in _earlier_analyses(found):
            run.ledger.append(one.model, one.kind, one.key, one.body, effective_at=one.effective_at, run=one.run)
        items = [_all(data), spec_item]
        for stage in STAGES:
            say(stage)
            try:
                pipeline.run_stage(stage, run)
            except RetrainError as error:
                if error.retryable:
                    raise
                items.append(Item(name=stage, same=False, said=f"{type(error).__name__}: {error.found}"))
                break
        items += _compared(old, run, found)
    told = tuple(_circumstances(home, found))
    return Reproduction(model=spec.model, version=version, items=tuple(items), circumstances=told)


# --- what is brought back


def _spec(found: Lineage, today: Spec) -> tuple[Spec, Item]:
    """The spec that the run began with, from its folder; today's where it is the same."""
    store, begun = found.run.store, found.context.spec_digest
    folder = found.run.path("spec")
    if store.exists(f"{folder}/spec.yaml"):
        text = store.read(f"{folder}/spec.yaml").decode()
        bare = parse(text, today.model, former=True)
        own = bare.training.features.file if bare.training.features else None
        code, cases = (
            store.read(f"{folder}/{name}").decode() if name and store.exists(f"{folder}/{name}") else ""
            for name in (own, bare.gate.cases)
        )
        kept = parse(text, today.model, code=code, cases=cases, former=True)
    elif today.digest == begun:
        kept = today
    else:
        raise MissingInput(
            f"the run {found.run.key} kept no spec, and today's is another than the one it began with",
            do=f"bring the spec of digest {begun[:12]} back from git, then reproduce again",
        ).at(today.model, "reproduce")
    same = kept.digest == begun
    said = f"digest {begun[:12]}" if same else f"digest {kept.digest[:12]}, the run began with {begun[:12]}"
    return kept, Item(name="spec", same=same, said=said)


def _bring(run: Run, found: Lineage, say: Callable[[str], None]) -> Iterator[Accepted]:
    """Fetch every batch that the run could learn from, with its labels, into the scratch store."""
    registry, store = registry_of(run.home), Path(Store(run.home.store).path)
    labels = {one.body["labels"]["sha256"]: one.body["version"] for one in found.records if one.kind == "labels"}
    for one in dataset.mature(found.context, run.spec):
        name = one.batch.interval.name
        say(f"data of {name}")
        version = Version(f"{run.model}/{name}.parquet", one.md5, one.batch.bytes, one.commit, "")
        _checked(registry.fetch(version, store / one.batch.key), one.batch.sha256)
        if one.labels is not None:
            _checked(registry.fetch(Version(**labels[one.labels.sha256]), store / one.labels.key), one.labels.sha256)
        yield one


def _checked(file: Path, sha256: str) -> None:
    if (digest := sha256_of(file)) != sha256:
        raise SnapshotCorrupt(
            f"the data registry gave back {digest[:12]} for {file.name[:12]}, which was accepted as {sha256[:12]}",
            do="restore that object of the DVC remote from its backup",
        )


def _all(data: tuple[Accepted, ...]) -> Item:
    files = len(data) + sum(one.labels is not None for one in data)
    count = sum(one.batch.rows for one in data)
    return Item(name="data", same=True, said=f"{files} files, {count:,} rows, back by hash from the data registry")


def _earlier_analyses(found: Lineage) -> list[Record]:
    """The earlier looks at holdout rows, which this run's level of significance depends on."""
    earlier_analyses = [one for one in found.records if one.kind == "interim_analysis"]
    mine = [one.id for one in earlier_analyses if one.run == found.run.key]
    return [one for one in earlier_analyses if not mine or one.id < mine[-1]]


# --- what is compared


def _compared(old: Run, new: Run, found: Lineage) -> Iterator[Item]:
    """Models, measures, predictions, verdict and files; those of stages that were not reached are missing."""
    if _has(new, "train"):
        before = {one.name: one for one in old.read(TrainReport, "train").fitted}
        after = {one.name: one for one in new.read(TrainReport, "train").fitted}
        for name in dict.fromkeys([*before, *after]):
            yield _model(f"model {name}", old, before.get(name), new, after.get(name))
    if _has(new, "evaluate"):
        yield _measures(old.read(EvaluateReport, "evaluate"), new.read(EvaluateReport, "evaluate"))
        yield _predictions(old, new)
    if _has(new, "gate"):
        yield _verdict(old.read(GateReport, "gate"), new.read(GateReport, "gate"))
    if _has(new, "refit"):
        refitted = new.read(RefitReport, "refit").fitted
        kept = old.read(RefitReport, "refit").fitted if _has(old, "refit") else refitted
        version = kept.model_copy(update={"digest": found.champion.digest})
        yield _model("the version's files", old, version, new, refitted)


def _has(run: Run, stage: str) -> bool:
    return run.store.exists(f"{run.folder}/{stage}.json")


def _model(name: str, old: Run, before: Fitted | None, new: Run, after: Fitted | None) -> Item:
    one, other = (fitted.digest if fitted else "" for fitted in (before, after))
    if one == other:
        return Item(name=name, same=True, said=f"digest {other[:12]}")
    said = f"digest {other[:12] or 'none'}, was {one[:12] or 'none'}"
    weights = _weights(old, before) if before else b""
    if weights and after and weights == _weights(new, after):
        said += "; fitted the same, only the source files that travel with it are others"
    return Item(name=name, same=False, said=said)


def _weights(run: Run, fitted: Fitted) -> bytes:
    """The fitted pipeline, whichever version of this project wrote it; empty where its file is gone."""
    key = f"{fitted.key}/{model_io.MODEL_FILE}"
    return model_io.current(run.store.read(key)) if run.store.exists(key) else b""


def _measures(old: EvaluateReport, new: EvaluateReport) -> Item:
    """Every metric with its interval, and every paired comparison."""
    before, after = _numbers(old), _numbers(new)
    moved = [name for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name)]
    if not moved:
        return Item(name="metrics", same=True, said=f"{len(before)} figures, intervals included")
    few = "; ".join(f"{name} {number(after.get(name))}, was {number(before.get(name))}" for name in moved[:SHOWN])
    return Item(name="metrics", same=False, said=f"{len(moved)} of {len(before)} figures: {few}")


def _numbers(report: EvaluateReport) -> dict[str, float | None]:
    found: dict[str, float | None] = {
        "level": report.level,
        "earlier_analyses": report.earlier_analyses,
        "rows": report.rows,
    }
    for model, metrics in report.metrics.items():
        for metric, one in metrics.items():
            named = f"{model} {metric}"
            found |= {named: one.value, f"{named} low": one.low, f"{named} high": one.high}
    for pair in report.paired:
        named = f"{pair.model} against {pair.against}"
        found |= {f"{named} gain": pair.gain, f"{named} low": pair.low, f"{named} high": pair.high}
    for seen in report.findings:
        found[f"{seen.model} {seen.check} {seen.about}"] = seen.value
    return found


def _verdict(old: GateReport, new: GateReport) -> Item:
    """What was decided and by which checks; how that is worded is no part of it."""
    one, other = (f"{it.decision.verdict} {it.chosen or ''}".strip() for it in (old, new))
    before, after = ({(c.name, c.model): (c.passed, c.value, c.bound) for c in it.checks} for it in (old, new))
    differ = [" ".join(name) for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name)]
    if one == other and not differ:
        return Item(name="gate", same=True, said=f"{one}, {len(before)} checks")
    said = f"{other}, was {one}; {len(differ)} checks differ: {', '.join(differ[:SHOWN])}"
    return Item(name="gate", same=False, said=said)


def _predictions(old: Run, new: Run) -> Item:
    key = old.path("evaluate", "predictions.parquet")
    before, after = old.store.read(key), new.store.read(key)
    if before == after:
        frame = pd.read_parquet(io.BytesIO(after))
        return Item(name="predictions", same=True, said=f"{len(frame):,} rows of every model, byte for byte")
    one, other = (pd.read_parquet(io.BytesIO(data)) for data in (before, after))
    one = one.rename(columns={name: ":".join(map(current_name, name.split(":"))) for name in map(str, one)})
    if one.equals(other):
        return Item(name="predictions", same=True, said=f"{len(other):,} rows of every model, to the last digit")
    if one.shape != other.shape or list(one) != list(other):
        return Item(name="predictions", same=False, said=f"{other.shape} rows and columns, were {one.shape}")
    numbers = one.select_dtypes("number").columns
    apart = np.nanmax(np.abs(one[numbers].to_numpy() - other[numbers].to_numpy()))
    return Item(name="predictions", same=False, said=f"at most {apart:.3g} apart on {len(one):,} rows")


def _circumstances(home: Home, found: Lineage) -> Iterator[str]:
    """What else is not as it was: the first places to look where something came out different."""
    try:
        then = Registry(home.mlflow).describe(found.run.model, found.champion.version)
    except (ArtifactMissing, RegistryDown) as error:
        then = {}
        yield f"those of the version are not known: {error.found}"
    for name, now in build_environment(home.root).items():
        if name in then and then[name] != now:
            yield f"{name} {now}, was {then[name]}"
    key = found.run.path("refit", "model/requirements.txt")
    if found.run.store.exists(key):
        then_pinned = dict(line.split("==") for line in found.run.store.read(key).decode().split() if "==" in line)
        for name, now in (pin.split("==") for pin in packaging.requirements()):
            if then_pinned.get(name) != now:
                yield f"{name} {now}, was {then_pinned.get(name, 'none')}"
