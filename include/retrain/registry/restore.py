"""Models that MLflow has lost, registered again from the files of the runs that made them.

A version is the digest of its files: the same files under another number are the same model.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from retrain.errors import ArtifactMissing, MissingInput
from retrain.registry import smoke_test
from retrain.registry.mlflow import Registry
from retrain.rendering.text import run_key_of
from retrain.results import Champion
from retrain.state import projections
from retrain.state.ledger import Record
from retrain.state.run import Run

log = logging.getLogger(__name__)


def register_again(run: Run, lost: Champion, reason: str) -> Champion:
    """Register a model's files again, and their MLflow run where that is gone too.

    Args:
        run: its store holds the files, its home names the registry.
        lost: the model; one whose files alone are gone keeps its number.
        reason: for the description of the version.

    Returns:
        The model with the number and the MLflow run that it has now.

    Raises:
        ArtifactMissing: the store does not hold the files either.
        DigestMismatch: it holds others.
        RegistryDown: MLflow does not answer.
    """
    registry = Registry(run.home.mlflow)
    known = registry.find(run.model, lost.digest)
    run_id = known.run_id if known else lost.run_id
    if not registry.has_run(run_id):
        key = run_key_of(lost.reference)
        about = f"The MLflow run {run_id} of version {lost.version} is gone: {reason}"
        run_id = registry.record(
            experiment=run.model, key=key, name=f"{key} restored", description=about,
            params={}, metrics={}, tags={"retrain.run": key}, files={},
        )  # fmt: skip
    try:
        with run.store.local(f"{lost.reference}/model") as folder:
            version = registry.register(
                model=run.model,
                run_id=run_id,
                folder=folder,
                digest=lost.digest,
                tags={"restores": str(lost.version), "retrain.run": run_key_of(lost.reference)},
                description=f"version {lost.version}, which was gone: {reason}",
                taken=projections.numbers(run.ledger.records(run.model)),
            )
    except MissingInput as error:
        raise ArtifactMissing(
            f"version {lost.version} is not in the registry, and {error.found}",
            do="restore the registry or the store from a backup, or roll back to another version",
        ) from None
    if version != lost.version:
        log.warning("%s: version %s was gone, its files are version %s now", run.model, lost.version, version)
    return lost.model_copy(update={"version": version, "run_id": run_id})


def tested_target(run: Run, target: Champion, reason: str) -> tuple[Champion, tuple[str, ...]]:
    """The model once it has shown that it still serves, registered again first where MLflow has lost it.

    Returns:
        The model as it is registered now, and what does not bar its way, for the record.

    Raises:
        ArtifactMissing, DigestMismatch, SmokeTestFailed: it is not what it was.
    """
    try:
        checks = smoke_test.run_smoke_test(run, target, back=True)
    except ArtifactMissing:
        target = register_again(run, target, reason)
        checks = smoke_test.run_smoke_test(run, target, back=True)
    return target, smoke_test.warnings(checks)


def restore_served(run: Run, changes: Sequence[Record], reason: str) -> tuple[str, ...]:
    """Register again every model that served and that MLflow has lost.

    Args:
        run: names the model.
        changes: of the champion, on record.
        reason: for the descriptions.

    Returns:
        What was done, or could not be done, for people: one text a model.
    """
    registry, outcomes = Registry(run.home.mlflow), []
    for champion in projections.served(changes):
        if registry.find(run.model, champion.digest) is not None:
            continue
        try:
            version = register_again(run, champion, reason).version
            outcomes.append(f"version {champion.version}, which served once, is registered again as version {version}")
        except ArtifactMissing as error:
            outcomes.append(error.found)
    return tuple(outcomes)
