"""Ledger and alias brought to agree again, after a kill, a deleted version or an alias moved by hand."""

from __future__ import annotations

from typing import Literal

from retrain.errors import ArtifactMissing, DanglingChampion, OutOfBandChange, UnknownVersion
from retrain.registry import promotion, smoke_test
from retrain.registry.approval import PROPOSAL
from retrain.registry.mlflow import Registry
from retrain.registry.promotion import CHAMPION, PROMOTION, ChampionChange
from retrain.registry.rollouts import ROLLOUT
from retrain.results import Champion
from retrain.state import projections
from retrain.state.ledger import Record
from retrain.state.run import Run


def reconcile(run: Run, take: Literal["", "ledger", "alias"], reason: str) -> str:
    """Make ledger and alias agree again.

    What a killed promoter left is finished. A champion whose version was deleted is registered again from the run's
    own files. An alias moved by hand is put back, or followed, as a person says.

    Args:
        run: names the model, and by its trigger who asks.
        take: which of the two is right, where they differ; empty where nobody has said.
        reason: for the record.

    Returns:
        What was done, for people.

    Raises:
        OutOfBandChange: the alias was moved by hand, and nobody has said which of the two is right.
        UnknownVersion: the alias points at a version that no run of ours has made a champion or a challenger.
        ArtifactMissing, DigestMismatch, SmokeTestFailed: the version to serve is not what it was.
    """
    registry, changes = Registry(run.home.mlflow), promotion.promotions(run)
    try:
        newest = promotion.finish_pending(run, registry, changes)
        return f"version {newest.body['version']} serves, by ledger and alias" if newest else "no champion yet"
    except DanglingChampion:
        return _restore(run, registry, promotion.promotions(run), reason)
    except OutOfBandChange:
        alias = registry.alias(run.model, CHAMPION)
        if take == "ledger" and changes:
            return _put_alias_back(run, registry, changes, alias, reason)
        if take == "alias" and alias is not None:
            return _adopt(run, registry, changes, alias, reason)
        raise


def _put_alias_back(run: Run, registry: Registry, changes: list[Record], alias: int | None, reason: str) -> str:
    """Move the alias to the version that the ledger names."""
    newest = changes[-1]
    body = {"alias": alias, "version": newest.body["version"], "reason": reason}
    run.ledger.append(
        run.model, "reconciled", run.key, body, effective_at=newest.effective_at, run=run.key, by=run.trigger.by
    )
    try:
        registry.describe(run.model, body["version"])
    except ArtifactMissing:
        return _restore(run, registry, changes, reason)
    promotion.finish(run, registry, newest)
    return f"the alias was at version {alias or 'none'}, it is put back to version {body['version']}"


def _adopt(run: Run, registry: Registry, changes: list[Record], version: int, reason: str) -> str:
    """Make the version that the alias names the champion."""
    promotions, proposals, rollouts = (run.ledger.records(run.model, kind) for kind in (PROMOTION, PROPOSAL, ROLLOUT))
    known = [record.body["champion"] for record in (*promotions, *proposals)]
    known += [record.body["rollout"]["shadow"] for record in rollouts if record.body["rollout"]]
    target = next((Champion.model_validate(facts) for facts in reversed(known) if facts["version"] == version), None)
    if target is None:
        raise UnknownVersion(
            f"the alias points at version {version}, of which the ledger knows no champion and no challenger",
            do=f"python -m retrain reconcile {run.model} --take ledger puts the alias back",
        )
    _serve(run, registry, changes, "adopt", target, reason)
    return f"version {version} serves, as the alias said"


def _restore(run: Run, registry: Registry, changes: list[Record], reason: str) -> str:
    """Register the deleted champion again, from the files of the run that made it."""
    lost = Champion.model_validate(changes[-1].body["champion"])
    with run.store.local(f"{lost.reference}/model") as folder:
        version = registry.register(
            model=run.model,
            run_id=lost.run_id,
            folder=folder,
            digest=lost.digest,
            tags={"restores": str(lost.version)},
            description=f"version {lost.version}, which was deleted: {reason}",
        )
    _serve(run, registry, changes, "restore", lost.model_copy(update={"version": version}), reason)
    return f"version {lost.version} was deleted: the same files serve as version {version}"


def _serve(
    run: Run,
    registry: Registry,
    changes: list[Record],
    action: Literal["adopt", "restore"],
    target: Champion,
    reason: str,
) -> None:
    warnings = smoke_test.warnings(smoke_test.run_smoke_test(run, target, back=True))
    change = ChampionChange(
        action=action,
        target=target,
        kind=action,
        reasons=(reason, *warnings),
        reference_champion=projections.reference_champion(changes) or target,
        effective_at=changes[-1].effective_at if changes else target.effective_at,
        details={"unblocks": target.digest},
    )
    promotion.append_change(run, change, changes[-1] if changes else None)
    promotion.finish(run, registry, promotion.promotions(run)[-1])
