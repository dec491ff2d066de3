"""Ledger and MLflow brought to agree again, after a kill, a hand, or a backup that was restored.

What each state is called, and which command settles it, is in docs/runbook.md.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from typing import Literal

from retrain.data.versions import registry_of
from retrain.errors import ArtifactMissing, DanglingChampion, MissingInput, OutOfBandChange, UnknownVersion
from retrain.registry import anchors, promotion, smoke_test
from retrain.registry.anchors import RECONCILED
from retrain.registry.approval import PROPOSAL
from retrain.registry.champion import refit_as_champion
from retrain.registry.lineage import run_of
from retrain.registry.mlflow import RegisteredVersion, Registry
from retrain.registry.promotion import CHAMPION, PROMOTION, ChampionChange
from retrain.registry.restore import register_again, restore_served
from retrain.registry.rollouts import ROLLOUT
from retrain.results import Champion
from retrain.state import projections
from retrain.state.evidence import seal
from retrain.state.ledger import Record
from retrain.state.run import Run


def reconcile(run: Run, take: Literal["", "ledger", "alias"], reason: str) -> str:
    """Make ledger and MLflow agree again.

    What a killed promoter left is finished. Models that served and that MLflow has lost are registered again from the
    files of their runs. An alias moved by hand is put back, or followed, as a person says. A ledger that was restored
    from an older backup goes on, as a person says, and gives up the anchored records that it lacks.

    Args:
        run: names the model, and by its trigger who asks.
        take: which of the two is right, where they differ; empty where nobody has said.
        reason: for the record.

    Returns:
        What was done, for people.

    Raises:
        LedgerContradicted: the ledger lacks anchored records, and nobody has said that it goes on.
        OutOfBandChange: the alias was moved by hand, and nobody has said which of the two is right.
        UnknownVersion: the alias points at a version that no run of ours has made.
        ArtifactMissing, DigestMismatch, SmokeTestFailed: the version to serve is not what it was.
    """
    outcomes = [*_give_up(run, take, reason), _settle(run, take, reason)]
    outcomes += restore_served(run, promotion.promotions(run), reason)
    return "; ".join(outcomes)


def _give_up(run: Run, take: str, reason: str) -> list[str]:
    """Put on record that the anchored records which the ledger lacks are given up."""
    lost = anchors.contradicting(run.ledger, registry_of(run.home), run.model)
    if not lost:
        return []
    if not take:
        raise anchors.contradiction(run.ledger, run.model, lost[-1])
    changes = promotion.promotions(run)
    body = {
        "given_up": [asdict(anchor) for anchor in lost],
        "alias": None,
        "version": changes[-1].body["version"] if changes else None,
        "reason": reason,
    }
    run.ledger.append(
        run.model, RECONCILED, f"{run.key}/anchors", body, effective_at=run.as_of, run=run.key, by=run.trigger.by
    )
    return [f"the ledger goes on, {len(lost)} anchored record(s) that it lacks are given up"]


def _settle(run: Run, take: str, reason: str) -> str:
    registry, changes = Registry(run.home.mlflow), promotion.promotions(run)
    try:
        newest = promotion.finish_pending(run, registry, changes)
        return f"version {newest.body['version']} serves, by ledger and alias" if newest else "no champion yet"
    except DanglingChampion:
        if changes:
            return _restore(run, registry, promotion.promotions(run), reason)
        registry.delete_alias(run.model, CHAMPION)
        return "no champion yet: the ledger has none, and the alias pointed at a version that is gone"
    except OutOfBandChange:
        alias = registry.pointed(run.model, CHAMPION)
        if take == "ledger":
            return _put_alias_back(run, registry, changes, alias, reason)
        if take == "alias" and alias is not None:
            return _adopt(run, registry, changes, alias, reason)
        raise


def _put_alias_back(
    run: Run, registry: Registry, changes: list[Record], alias: RegisteredVersion | None, reason: str
) -> str:
    """Move the alias to the version that the ledger names; remove it where the ledger names none."""
    newest = changes[-1] if changes else None
    was = f"version {alias.version}" if alias else "none"
    body = {"alias": alias and alias.version, "version": newest.body["version"] if newest else None, "reason": reason}
    run.ledger.append(
        run.model, RECONCILED, run.key, body, effective_at=newest.effective_at if newest else run.as_of, run=run.key,
        by=run.trigger.by,
    )  # fmt: skip
    if newest is None:
        registry.delete_alias(run.model, CHAMPION)
        return f"the alias was at {was}, it is removed: the ledger has no champion"
    try:
        registry.describe(run.model, newest.body["version"], newest.body["champion"]["digest"])
    except ArtifactMissing:
        return _restore(run, registry, changes, reason)
    promotion.finish(run, registry, newest)
    return f"the alias was at {was}, it is put back to version {newest.body['version']}"


def _adopt(run: Run, registry: Registry, changes: list[Record], alias: RegisteredVersion, reason: str) -> str:
    """Make the version that the alias names the champion."""
    target = _facts(run, registry, alias)
    _serve(run, registry, changes, "adopt", target, reason)
    return f"version {alias.version} serves, as the alias said"


def _facts(run: Run, registry: Registry, alias: RegisteredVersion) -> Champion:
    """What the model of a version is: from the ledger, or from the files of the run that made it.

    Raises:
        UnknownVersion: neither knows it.
    """
    now = {"version": alias.version, "run_id": alias.run_id}
    promotions, proposals, rollouts = (run.ledger.records(run.model, kind) for kind in (PROMOTION, PROPOSAL, ROLLOUT))
    known = [record.body["champion"] for record in (*promotions, *proposals)]
    known += [record.body["rollout"]["shadow"] for record in rollouts if record.body["rollout"]]
    for facts in reversed(known):
        if facts["digest"] == alias.digest:
            return Champion.model_validate(facts).model_copy(update=now)
    key = registry.describe(run.model, alias.version).get("retrain.run", "")
    champion = None
    with suppress(MissingInput):
        if key:
            maker, context = run_of(run.home, run.spec, key)
            champion = refit_as_champion(maker, alias.version, alias.run_id)
    if champion is None or champion.digest != alias.digest:
        raise UnknownVersion(
            f"the alias points at version {alias.version} with the digest {alias.digest[:12] or 'none'}, of which"
            " neither the ledger nor the store knows how it was made",
            do=f"python -m retrain reconcile {run.model} --take ledger puts the alias back",
        )
    seal(maker, context.spec_digest)  # what an older ledger has forgotten
    return champion


def _restore(run: Run, registry: Registry, changes: list[Record], reason: str) -> str:
    """Register the lost champion again, from the files of the run that made it."""
    lost = Champion.model_validate(changes[-1].body["champion"])
    target = register_again(run, lost, reason)
    if target == lost:
        smoke_test.run_smoke_test(run, target, back=True)
        promotion.finish(run, registry, changes[-1])
        return f"version {lost.version} was gone from MLflow: the same files are registered again, and serve"
    _serve(run, registry, changes, "restore", target, reason)
    return f"version {lost.version} was gone from MLflow: the same files serve as version {target.version}"


def _serve(
    run: Run,
    registry: Registry,
    changes: list[Record],
    action: Literal["adopt", "restore"],
    target: Champion,
    reason: str,
) -> None:
    warnings = smoke_test.warnings(smoke_test.run_smoke_test(run, target, back=True))
    newest = changes[-1].effective_at if changes else target.effective_at
    change = ChampionChange(
        action=action,
        target=target,
        kind=action,
        reasons=(reason, *warnings),
        reference_champion=projections.reference_champion(changes) or target,
        effective_at=max(newest, target.effective_at) if action == "adopt" else newest,
        details={"unblocks": target.digest},
    )
    promotion.append_change(run, change, changes[-1] if changes else None)
    promotion.finish(run, registry, promotion.promotions(run)[-1])
