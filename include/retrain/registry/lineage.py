"""Lineage: from a version back to the run that made it and to all that the run depended on."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from retrain.data import dataset
from retrain.data.versions import code_version
from retrain.errors import EvidenceChanged, UnknownVersion
from retrain.registry.champion import refit_as_champion
from retrain.rendering.text import run_key_of
from retrain.results import Champion, Context, DecideReport, FittedModel, RefitReport, RegisterReport, TrainReport
from retrain.spec import Spec
from retrain.state.ledger import Ledger, Record
from retrain.state.projections import known_versions
from retrain.state.run import Run
from retrain.state.settings import Home
from retrain.state.store import Store


@dataclass(frozen=True)
class Lineage:
    """A version with the run that made it.

    Attributes:
        run: reads that run's reports; its spec is today's.
        context: what the run knew.
        champion: what the version is.
        records: of the model, in the order they were written.
    """

    run: Run
    context: Context
    champion: Champion
    records: tuple[Record, ...]


def lineage_of(home: Home, spec: Spec, version: int) -> Lineage:
    """The run that made a version, from the ledger and the run's own folder.

    Raises:
        UnknownVersion: no run on record has registered it.
        MissingInput: the run's folder is gone.
        EvidenceChanged: its reports are those of another model by now.
    """
    records = tuple(Ledger(home.ledger).records(spec.model))
    if known := known_versions(records).get(version):
        run, context = run_of(home, spec, run_key_of(known.champion.reference))
        check_maker(run, known.champion)
        return Lineage(run, context, known.champion, records)
    # Registered, and then refused before anybody was to serve by it.
    for record in reversed(records):
        stage = record.body if record.kind == "stage" else {}
        if stage.get("stage") == "register" and stage["facts"].get("version") == version:
            run, context = run_of(home, spec, record.run)
            run_id = run.read(RegisterReport, "register").run_id
            return Lineage(run, context, refit_as_champion(run, version, run_id), records)
    raise UnknownVersion(
        f"no run on record has registered version {version} of {spec.model}",
        do=f"see which there are: python -m retrain changelog {spec.model}",
    )


def check_maker(run: Run, champion: Champion) -> None:
    """Refuse the reports of a run that has since made another model than the version: earlier versions allowed it.

    Raises:
        MissingInput: there are none.
        EvidenceChanged: they are of another model.
    """
    digest = run.read(RefitReport, "refit").fitted.digest
    if digest != champion.digest:
        raise EvidenceChanged(
            f"{run.folder} is of the model {digest[:12]}, version {champion.version} is {champion.digest[:12]}",
            do="bring the folder back from a backup of the store; MLflow has the version's files and lineage",
        )


def run_of(home: Home, spec: Spec, key: str) -> tuple[Run, Context]:
    """A run by its key, and what it knew.

    Raises:
        MissingInput: its folder is gone.
    """
    context = Store(home.store).read_report(Context, f"{spec.model}/runs/{key}/context.json")
    return Run(home, spec, context.interval, key, context.trigger, known_at=context.effective_at), context


def lineage_tags(run: Run, context: Context, train: TrainReport, fitted: FittedModel) -> dict[str, str]:
    """Everything that brings a model back, as the tags of its run and version in MLflow.

    Args:
        run: the one that made the model.
        context: what it knew.
        train: which intervals were held out.
        fitted: the model that goes on, or that was judged.
    """
    newest = context.accepted[-1]
    holdout = [accepted for accepted in context.accepted if accepted.batch.interval in train.holdout]
    return {
        "retrain.run": run.key,
        "interval": run.interval.name,
        "effective_at": run.as_of.isoformat(),
        "data.training": fitted.training,
        "data.holdout": dataset.training_digest(holdout),
        "data.dvc_md5": newest.md5,
        "data.commit": newest.commit,
        "spec.digest": run.spec.digest,
        "model.digest": fitted.digest,
        "seed": str(run.spec.training.seed),
        "trigger": run.trigger.kind,
        "trigger.reason": run.trigger.reason or run.read(DecideReport, "decide").decision.reasons[0],
        "owner": f"{run.spec.owner.name} <{run.spec.owner.contact}>",
        **build_environment(run.home.root),
    }


def build_environment(root: Path) -> dict[str, str]:
    """What a model that is made here and now depends on beside data, spec and seed.

    Args:
        root: the checkout.
    """
    return {
        "code.commit": code_version(root),
        "lock.digest": _lock_digest(root),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": str(os.cpu_count()),
    }


def _lock_digest(root: Path) -> str:
    lock = root / "requirements.txt"
    return hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else "no requirements.txt"
