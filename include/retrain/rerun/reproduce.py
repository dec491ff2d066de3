"""Makes a version again from what is under version control, and compares the two.

Everything happens in a home of its own that is thrown away. The data come back by their hash from the data registry,
never from the store; the spec and the files beside it from the run's folder; the champions that the candidates were
held against from MLflow, by their digest. Then the run's own stages train, evaluate, gate and refit under the run's key
and seed.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from retrain import pipeline
from retrain.data import dataset
from retrain.data.versions import DataVersion, registry_of
from retrain.errors import ArtifactMissing, MissingInput, RegistryDown, RetrainError, SnapshotCorrupt
from retrain.modeling import packaging
from retrain.monitoring import signals
from retrain.registry.lineage import Lineage, build_environment, lineage_of
from retrain.registry.mlflow import Registry
from retrain.rerun.differences import ComparedPart, compare_runs
from retrain.results import AcceptedBatch, Result
from retrain.spec import Access, Spec, parse
from retrain.state.ledger import Record
from retrain.state.run import Run
from retrain.state.settings import Home
from retrain.state.store import Store, sha256_of

STAGES = ("train", "evaluate", "gate", "refit")


class Reproduction(Result):
    """A version that was made again, part by part.

    Attributes:
        circumstances: what else is not as it was, like another lock.
    """

    model: str
    version: int
    parts: tuple[ComparedPart, ...]
    circumstances: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether data, models, metrics, predictions, verdict and files are all the same."""
        return all(part.same for part in self.parts)

    def lines(self) -> Iterator[str]:
        """The comparison for people, a line a part."""
        yield f"{self.model} version {self.version}: {'the same' if self.same else 'not the same'}"
        for part in self.parts:
            yield f"  {'same     ' if part.same else 'different'}  {part.name}: {part.detail}"
        for circumstance in self.circumstances:
            yield f"  other circumstances: {circumstance}"


def reproduce(home: Home, spec: Spec, version: int, say: Callable[[str], None] = lambda _: None) -> Reproduction:
    """Train a version again and compare.

    Args:
        home: the installation; nothing is written there.
        spec: today's, for the model's name; the run's own is what is trained by.
        version: its number.
        say: called with a line for people before each step.

    Raises:
        UnknownVersion: no run on record has registered it.
        MissingInput: the run's reports or its spec are gone.
        PushIncomplete: the DVC remote does not hold the data.
        SnapshotCorrupt: it holds other bytes.
        RegistryUnavailable: the data registry does not answer.
        RegistryDown: MLflow does not answer for the champion of then; one that is gone is a difference.
    """
    lineage = lineage_of(home, spec, version)
    old = lineage.run
    kept, spec_part = _spec(lineage, spec)
    kept = kept.model_copy(update={"access": Access()})  # nothing changes, so nobody has to be named
    with tempfile.TemporaryDirectory(prefix="retrain-reproduce-") as folder:
        root = Path(folder)
        scratch = dataclasses.replace(
            home, state=root, store=str(root / "store"), ledger=f"sqlite:///{root / 'ledger.db'}"
        )
        run = dataclasses.replace(old, home=scratch, spec=kept, pages=False)
        data = tuple(_fetch_data(run, lineage, say))
        run.write(lineage.context, "context")
        for _, stage in signals.REPORTS:  # train goes by what the run had measured
            if old.store.exists(f"{old.folder}/{stage}.json"):
                run.store.write(f"{run.folder}/{stage}.json", old.store.read(f"{old.folder}/{stage}.json"))
        for analysis in _earlier_analyses(lineage):
            run.ledger.append(
                *(analysis.model, analysis.kind, analysis.key, analysis.body),
                effective_at=analysis.effective_at,
                run=analysis.run,
            )
        parts = [_data(data), spec_part]
        for stage in STAGES:
            say(stage)
            try:
                pipeline.run_stage(stage, run)
            except RetrainError as error:
                if error.retryable:
                    raise
                refusal = f"{type(error).__name__}: {error.found}"
                parts.append(ComparedPart(name=stage, same=False, detail=refusal))
                break
        parts += compare_runs(old, run, lineage)
    circumstances = tuple(_circumstances(home, lineage))
    return Reproduction(model=spec.model, version=version, parts=tuple(parts), circumstances=circumstances)


def _spec(lineage: Lineage, today: Spec) -> tuple[Spec, ComparedPart]:
    """The spec that the run began with, from its folder; today's where it is the same."""
    store, begun = lineage.run.store, lineage.context.spec_digest
    folder = lineage.run.path("spec")
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
            f"the run {lineage.run.key} kept no spec, and today's is another than the one it began with",
            do=f"bring the spec of digest {begun[:12]} back from git, then reproduce again",
        ).at(today.model, "reproduce")
    same = kept.digest == begun
    detail = f"digest {begun[:12]}" if same else f"digest {kept.digest[:12]}, the run began with {begun[:12]}"
    return kept, ComparedPart(name="spec", same=same, detail=detail)


def _fetch_data(run: Run, lineage: Lineage, say: Callable[[str], None]) -> Iterator[AcceptedBatch]:
    """Fetch every batch that the run could learn from, with its labels, into the scratch store."""
    registry, store = registry_of(run.home), Path(Store(run.home.store).path)
    labels = {
        record.body["labels"]["sha256"]: record.body["version"] for record in lineage.records if record.kind == "labels"
    }
    for accepted in dataset.mature(lineage.context, run.spec):
        batch, labelled = accepted.batch, accepted.labels
        say(f"data of {batch.interval.name}")
        version = DataVersion(
            f"{run.model}/{batch.interval.name}.parquet", accepted.md5, batch.bytes, accepted.commit, ""
        )
        _check_digest(registry.fetch(version, store / batch.key), batch.sha256)
        if labelled is not None:
            version = DataVersion(**labels[labelled.sha256])
            _check_digest(registry.fetch(version, store / labelled.key), labelled.sha256)
        yield accepted


def _check_digest(file: Path, sha256: str) -> None:
    if (digest := sha256_of(file)) != sha256:
        raise SnapshotCorrupt(
            f"the data registry gave back {digest[:12]} for {file.name[:12]}, which was accepted as {sha256[:12]}",
            do="restore that object of the DVC remote from its backup",
        )


def _data(data: tuple[AcceptedBatch, ...]) -> ComparedPart:
    files = len(data) + sum(accepted.labels is not None for accepted in data)
    rows = sum(accepted.batch.rows for accepted in data)
    detail = f"{files} files, {rows:,} rows, back by hash from the data registry"
    return ComparedPart(name="data", same=True, detail=detail)


def _earlier_analyses(lineage: Lineage) -> list[Record]:
    """The earlier interim analyses of holdout rows, which this run's level of significance depends on."""
    analyses = [record for record in lineage.records if record.kind == "interim_analysis"]
    own = [record.id for record in analyses if record.run == lineage.run.key]
    return [record for record in analyses if not own or record.id < own[-1]]


def _circumstances(home: Home, lineage: Lineage) -> Iterator[str]:
    """What else is not as it was, to look at first where something came out different."""
    try:
        then = Registry(home.mlflow).describe(lineage.run.model, lineage.champion.version, lineage.champion.digest)
    except (ArtifactMissing, RegistryDown) as error:
        then = {}
        yield f"those of the version are not known: {error.found}"
    for name, now in build_environment(home.root).items():
        if name in then and then[name] != now:
            yield f"{name} {now}, was {then[name]}"
    key = lineage.run.path("refit", "model/requirements.txt")
    if lineage.run.store.exists(key):
        then_pinned = dict(line.split("==") for line in lineage.run.store.read(key).decode().split() if "==" in line)
        for name, now in (pin.split("==") for pin in packaging.requirements()):
            if then_pinned.get(name) != now:
                yield f"{name} {now}, was {then_pinned.get(name, 'none')}"
