"""Changes of the champion: each of them is made here and nowhere else, once, on record.

The ledger is the truth and the MLflow alias its projection. A change is one record of kind `promotion` under the
model's next sequence number: of several racing promoters exactly one wins. Then the alias follows, and a record of
kind `completed` says so. Whoever comes next finishes what a killed process left between the two; where the version is
gone by then, the change is undone, on record too. A change that was completed is never undone: where its version is
gone, MLflow has lost it, and `reconcile` registers the same files again.

What a version is, is the digest of its files. Its number is a label, which MLflow gives again after it was restored
from a backup; no alias moves to a number that is another model's.

MLflow's alias and its tag `retrain.alias.champion` tell our own hand from others: we write the tag first and then the
alias, so an alias that differs from the tag was moved by somebody else, and is left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from retrain.data.versions import registry_of
from retrain.errors import (
    ArtifactMissing,
    DanglingChampion,
    ModelBlocked,
    OutOfBandChange,
    PromotionConflict,
    RetrainError,
    StaleRun,
)
from retrain.registry import anchors
from retrain.registry.mlflow import RegisteredVersion, Registry
from retrain.registry.rollouts import ROLLOUT, new_rollout
from retrain.results import Champion, Decision, PromoteReport
from retrain.state import projections
from retrain.state.ledger import Record
from retrain.state.run import Run

log = logging.getLogger(__name__)

CHAMPION, CHALLENGER = "champion", "challenger"
"""Aliases in MLflow."""
PROMOTION: Final = "promotion"
COMPLETED: Final = "completed"
"""Kinds of the ledger's records: a change of the champion, and that the alias has followed it."""


@dataclass(frozen=True)
class ChampionChange:
    """A change of the champion that is to be made.

    Attributes:
        action: undo takes back a change that could not be completed; adopt follows an alias moved by hand; restore is
            the same model under a new version.
        target: the champion to come.
        kind: first, refresh or new; of other actions the action itself.
        reasons: for the record.
        reference_champion: what later champions may not creep away from.
        effective_at: when it takes place on the data's clock.
        details: further facts of the record.
        compared_with: the champion that the target was held against; None where there was none.
    """

    action: Literal["promote", "rollback", "undo", "adopt", "restore"]
    target: Champion
    kind: str
    reasons: tuple[str, ...]
    reference_champion: Champion
    effective_at: datetime
    details: Mapping[str, Any] = field(default_factory=dict)
    compared_with: Champion | None = None


def promotions(run: Run) -> list[Record]:
    """Every change of the champion on record, oldest first."""
    return run.ledger.records(run.model, PROMOTION)


def own_change(run: Run, changes: list[Record], action: str = "") -> Record | None:
    """The change that this run has made; None if it has made none.

    Args:
        run: by its key.
        changes: every change of the champion on record.
        action: what the run does; empty: whatever it has done.

    Raises:
        PromotionConflict: a run of another kind had this key, when keys did not tell the kind.
    """
    record = next((record for record in changes if record.key == run.key), None)
    if record is not None and record.body["action"] != (action or record.body["action"]):
        raise PromotionConflict(
            f"the key {run.key} is that of a {record.body['action']} on record",
            do="start a new run, under an id of its own",
        )
    return record


def check_promotable(run: Run, changes: list[Record], target: Champion, effective_at: datetime) -> None:
    """Refuse what may not be promoted, before anything is written.

    Args:
        run: names the model.
        changes: every change of the champion on record.
        target: the champion to come.
        effective_at: when the target would come to serve, on the data's clock.

    Raises:
        ModelBlocked: the model is on the blocklist.
        StaleRun: a newer run has changed the champion since.
    """
    rollouts = run.ledger.records(run.model, ROLLOUT)
    for blocked in projections.blocklist(sorted([*changes, *rollouts], key=lambda record: record.id)):
        if blocked.digest == target.digest:
            raise ModelBlocked(
                f"version {target.version} is the model of version {blocked.version},"
                f" which is blocked: {blocked.reason}",
                do=f"train another one; or put it back by name: python -m retrain rollback {run.model} --to …",
            )
    if newer := [record for record in changes if record.effective_at > effective_at]:
        raise StaleRun(
            f"this run is as of {effective_at:%Y-%m-%d}, version {newer[-1].body['version']} came to serve"
            f" as of {newer[-1].effective_at:%Y-%m-%d}",
            do="nothing: the newer champion keeps serving",
        )


def check_same_champion(compared_with: Champion | None, changes: list[Record], *, first: bool = True) -> None:
    """Refuse a target that was held against another champion than the newest record's.

    Args:
        compared_with: the champion that the target was held against; None where there was none.
        changes: every change of the champion on record.
        first: a target that was held against none, since there was none, may come after another such.

    Raises:
        PromotionConflict: the champion has changed since.
    """
    serves = Champion.model_validate(changes[-1].body["champion"]) if changes else None
    if serves and (compared_with.digest != serves.digest if compared_with else not first):
        against = f"version {compared_with.version}" if compared_with else "no champion"
        raise PromotionConflict(
            f"the candidate was held against {against}, version {serves.version} serves now",
            do="start a new run: it is held against the one that serves",
        )


def change_champion(run: Run, change: ChampionChange) -> tuple[Record, bool]:
    """Make a change once under the run's key.

    Returns:
        The record of the change, and whether it is still the newest.

    Raises:
        ModelBlocked, StaleRun: nothing was written.
        LedgerContradicted: an older ledger was restored; nothing was written.
        PromotionConflict: the champion is not the one that the target was held against, or changed at this very moment.
        OutOfBandChange: the alias was moved by hand; nothing is overwritten.
        ArtifactMissing: the version was deleted meanwhile; the change was undone.
    """
    registry = Registry(run.home.mlflow)
    changes = promotions(run)
    record = own_change(run, changes, change.action)
    if record is None:
        if change.action == "promote":  # a rollback has looked, before it chose its target
            anchors.check_anchor(run)
            check_promotable(run, changes, change.target, change.effective_at)
        try:
            newest = finish_pending(run, registry, changes)
        except DanglingChampion:
            if change.action != "rollback":
                raise
            newest = changes[-1]
        if newest is not None and newest.sequence != changes[-1].sequence:  # while the pending change was finished
            if change.action != "promote":
                raise PromotionConflict("the champion has changed meanwhile", do="see who serves, and ask again")
            check_promotable(run, promotions(run), change.target, change.effective_at)
        check_same_champion(change.compared_with, [newest] if newest else [])
        record = append_change(run, change, newest)
    elif record is not changes[-1]:
        finish_pending(run, registry, changes)
        if any(later.key == f"undo-{record.sequence}" for later in changes):
            raise _undone(record.body["version"], changes[-1].body["version"])
        return record, False
    elif not _is_pending(run, registry, changes):
        return record, True
    finish(run, registry, record)
    return record, promotions(run)[-1].sequence == record.sequence


def append_change(run: Run, change: ChampionChange, newest: Record | None, key: str = "") -> Record:
    """Write the record of a change after the newest one; the alias does not move yet.

    Args:
        run: the one that makes the change.
        change: what is to be written.
        newest: the newest change on record; None before the first.
        key: of the record, by default the run's.

    Raises:
        PromotionConflict: somebody else wrote the next record first.
    """
    body = {
        "action": change.action,
        "version": change.target.version,
        "previous": newest.body["version"] if newest else None,
        "kind": change.kind,
        "reasons": list(change.reasons),
        "trigger": run.trigger.model_dump(mode="json"),
        "champion": change.target.model_dump(mode="json"),
        "reference_champion": change.reference_champion.model_dump(mode="json"),
        **change.details,
    }
    if change.action == "promote" and newest is not None and run.spec.promotion.watch.intervals:
        # One record with the promotion, so that no kill leaves a champion without its watch.
        predecessor = Champion.model_validate(newest.body["champion"])
        watch = new_rollout(change.effective_at, "watch", predecessor, change.target.version, change.kind)
        body["rollout"] = watch.model_dump(mode="json")
    return run.ledger.append(
        run.model,
        PROMOTION,
        key or run.key,
        body,
        effective_at=change.effective_at,
        run=run.key,
        by=run.trigger.by,
        sequence=(newest.sequence or 0) + 1 if newest else 1,
    )


def finish(run: Run, registry: Registry, record: Record, *, undo: bool = True) -> None:
    """Let the alias follow a change that is on record, and put on record that it did.

    Args:
        run: the one that finishes it, which need not be the one that made it.
        registry: where the alias is.
        record: the change.
        undo: whether a change to a version that is not in the registry any more is taken back.

    Raises:
        ArtifactMissing: the version is not in the registry any more.
        DanglingChampion: nor is one to which the alias had followed.
    """
    pointed: Record | None = None
    newest = promotions(run)[-1]
    # A slower promoter may come to the alias after a faster one: the newest record has the last word.
    while pointed is None or pointed.sequence != newest.sequence:
        try:
            registry.set_alias(run.model, CHAMPION, newest.body["version"], newest.body["champion"]["digest"])
        except ArtifactMissing as error:
            if _is_completed(run, newest):
                raise _dangling(run, error.found) from None
            if not undo or (before := _undo(run, registry, newest)) is None:
                raise
            raise _undone(newest.body["version"], before.body["version"]) from None
        pointed, newest = newest, promotions(run)[-1]
    if registry.last_set_alias(run.model, CHALLENGER) == record.body["version"]:
        registry.delete_alias(run.model, CHALLENGER)
    _record_completion(run, record)


def _undone(version: int, serves: int) -> ArtifactMissing:
    return ArtifactMissing(
        f"version {version} is not in the registry any more: its promotion was undone, version {serves} serves",
        do="see who deleted it; the next run trains anew",
    )


def _record_completion(run: Run, record: Record) -> None:
    """Put on record that the alias has followed, and commit the chain's head to the data registry."""
    body = {"version": record.body["version"], "sequence": record.sequence}
    head = run.ledger.append(
        run.model, COMPLETED, str(record.sequence), body, effective_at=record.effective_at, run=run.key
    )
    try:
        registry_of(run.home).anchor(run.model, head.place, head.hash, lost=anchors.given_up(run.ledger, run.model))
    except RetrainError as error:
        # The champion has moved, and a rollback must not wait for git: `verify` says how old the last anchor is.
        log.warning("%s: the ledger was not anchored: %s", run.model, error.found)


def _is_completed(run: Run, record: Record) -> bool:
    return run.ledger.find(run.model, COMPLETED, str(record.sequence)) is not None


def _undo(run: Run, registry: Registry, record: Record) -> Record | None:
    """Let the champion before a change serve on; None where there was none."""
    earlier = [change for change in promotions(run) if (change.sequence or 0) < (record.sequence or 0)]
    if not earlier or record.body["action"] == "undo":
        return None
    before = earlier[-1]
    change = ChampionChange(
        action="undo",
        target=Champion.model_validate(before.body["champion"]),
        kind="undo",
        reasons=(f"version {record.body['version']} was gone before the alias could follow",),
        reference_champion=projections.reference_champion(earlier) or Champion.model_validate(before.body["champion"]),
        effective_at=record.effective_at,
    )
    undone = append_change(run, change, record, key=f"undo-{record.sequence}")
    finish(run, registry, undone, undo=False)
    return undone


def finish_pending(run: Run, registry: Registry, changes: list[Record]) -> Record | None:
    """Finish or undo the change that a killed promoter left.

    Args:
        run: the one that finishes it.
        registry: where the alias is.
        changes: every change of the champion on record.

    Returns:
        The newest record then; None before the first.

    Raises:
        OutOfBandChange: the alias was moved by hand.
        DanglingChampion: the version that serves was deleted.
        PromotionConflict: somebody else changed the champion at this very moment.
    """
    if not _is_pending(run, registry, changes):
        return changes[-1] if changes else None
    try:
        finish(run, registry, changes[-1])
    except ArtifactMissing as error:
        if not _is_completed(run, promotions(run)[-1]):
            raise _dangling(run, error.found) from None
        log.warning("%s: %s", run.model, error.found)
    return promotions(run)[-1]


def _is_pending(run: Run, registry: Registry, changes: list[Record]) -> bool:
    """Whether the newest change is still to be finished; raises what `finish_pending` raises."""
    newest = changes[-1] if changes else None
    completed = newest is not None and _is_completed(run, newest)
    try:
        alias = registry.pointed(run.model, CHAMPION)
    except DanglingChampion as error:
        if newest is None or completed:
            raise _dangling(run, error.found) from None
        alias = None
    if newest is None and alias is None:
        return False
    digests = [record.body["champion"]["digest"] for record in changes]
    if newest is not None:
        if alias is not None and (alias.version, alias.digest) == (newest.body["version"], digests[-1]):
            return not completed
        if not completed and (alias is None or alias.digest in digests[-2:]):
            return True
        # Our own hand, but not the newest: a slower promoter's, or that of an MLflow that came back from a backup.
        if alias and alias.digest in digests and alias.version == registry.last_set_alias(run.model, CHAMPION):
            return True
    if len(promotions(run)) != len(changes):
        raise PromotionConflict("somebody else promoted at this very moment", do="run the stage again")
    serves = Champion.model_validate(newest.body["champion"]) if newest else None
    raise OutOfBandChange(
        f"the champion alias {difference(alias, serves)}"
        + (
            ", and knows no such champion: was one of the two restored?"
            if alias and alias.digest not in digests
            else ""
        ),
        do=f"python -m retrain reconcile {run.model} --take ledger puts the alias back, --take alias follows it",
    )


def _dangling(run: Run, what: str) -> DanglingChampion:
    return DanglingChampion(what, do=f"python -m retrain reconcile {run.model} registers the same files again")


def difference(alias: RegisteredVersion | None, serves: Champion | None) -> str:
    """How alias and ledger differ, for people; of two models under one number their digests."""
    same = alias and serves and alias.version == serves.version
    pointed, recorded = (
        f"version {model.version}{f' of digest {model.digest[:12]}' if same else ''}" if model else "no version"
        for model in (alias, serves)
    )
    return f"points at {pointed}, the ledger says {recorded}"


def promote_report(run: Run, record: Record, reason: str) -> PromoteReport:
    """The report of a change that is on record."""
    verdict = "promoted" if record.body["action"] == "promote" else "rolled back"
    return PromoteReport(
        model=run.model,
        interval=run.interval,
        effective_at=run.as_of,
        decision=Decision(verdict=verdict, reasons=(reason,)),
        version=record.body["version"],
        previous=record.body["previous"],
        sequence=record.sequence,
    )
