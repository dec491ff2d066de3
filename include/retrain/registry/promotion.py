"""The champion changes here and nowhere else, once, on record.

The ledger is the truth and the MLflow alias its projection. A change is one record of kind `promotion` under the
model's next sequence number: of several racing promoters exactly one wins. Then the alias follows, and a record of
kind `completed` says so. Whoever comes next finishes what a killed process left between the two; where the version is
gone by then, the change is undone, on record too.

MLflow's alias and its tag `retrain.alias.champion` tell our own hand from others: we write the tag first and then the
alias, so an alias that differs from the tag was moved by somebody else, and is left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from retrain.data.versions import registry_of
from retrain.errors import (
    ArtifactMissing,
    DanglingChampion,
    ModelBlocked,
    NothingToRollBack,
    OutOfBandChange,
    PromotionConflict,
    RetrainError,
    StaleRun,
    UnknownVersion,
)
from retrain.registry import smoke_test
from retrain.registry.mlflow import Registry
from retrain.results import BlockedModel, Champion, Context, Decision, GateReport, PromoteReport, RefitReport, Rollout
from retrain.state import projections
from retrain.state.ledger import Record
from retrain.state.run import Run

log = logging.getLogger(__name__)

CHAMPION, CHALLENGER = "champion", "challenger"
KIND, DONE, ROLLOUT, PROPOSAL = "promotion", "completed", "rollout", "proposal"
"""Of the ledger's records."""


@dataclass(frozen=True)
class Change:
    """A champion to come.

    Attributes:
        action: undo takes back a change that could not be completed; adopt follows an alias moved by hand; restore is
            the same model under a new version.
        kind: first, refresh or new; of other actions the action itself.
        reference champion: what later champions may not creep away from.
        more: further facts of the record.
        over: the champion that the target was held against; None where there was none.
    """

    action: Literal["promote", "rollback", "undo", "adopt", "restore"]
    target: Champion
    kind: str
    reasons: tuple[str, ...]
    reference_champion: Champion
    effective_at: datetime
    more: Mapping[str, Any] = field(default_factory=dict)
    over: Champion | None = None


def facts(run: Run, version: int, run_id: str) -> Champion:
    """What this run's refit is as a champion."""
    context, refit = run.read(Context, "context"), run.read(RefitReport, "refit")
    return Champion(
        version=version,
        run_id=run_id,
        digest=refit.fitted.digest,
        configuration=refit.fitted.configuration,
        training=refit.fitted.training,
        reference=run.path("refit"),
        trained_until=refit.fitted.intervals[-1].end,
        rows=refit.fitted.rows,
        expected_score=run.read(GateReport, "gate").challenger_score,
        effective_at=context.effective_at,
    )


def history(run: Run) -> list[Record]:
    """Every change of the champion, oldest first."""
    return run.ledger.records(run.model, KIND)


def refuse(run: Run, made: list[Record], target: Champion, effective_at: datetime) -> None:
    """Refuse what may not be promoted, before anything is written.

    Raises:
        ModelBlocked: it was put back before.
        StaleRun: a newer run has changed the champion since.
    """
    rollouts = run.ledger.records(run.model, ROLLOUT)
    for blocked in projections.blocklist(sorted([*made, *rollouts], key=lambda one: one.id)):
        if blocked.digest == target.digest:
            raise ModelBlocked(
                f"version {target.version} is the model of version {blocked.version},"
                f" which is blocked: {blocked.reason}",
                do=f"train another one; or put it back by name: python -m retrain rollback {run.model} --to …",
            )
    if newer := [one for one in made if one.effective_at > effective_at]:
        raise StaleRun(
            f"this run is as of {effective_at:%Y-%m-%d}, version {newer[-1].body['version']} came to serve"
            f" as of {newer[-1].effective_at:%Y-%m-%d}",
            do="nothing: the newer champion keeps serving",
        )


def same_champion(held: Champion | None, made: list[Record], *, first: bool = True) -> None:
    """Refuse a target that was held against another champion than the newest record's.

    Args:
        first: one that was held against none, since there was none, may come after another such.

    Raises:
        PromotionConflict: the champion has changed since.
    """
    serves = Champion.model_validate(made[-1].body["champion"]) if made else None
    if serves and (held.digest != serves.digest if held else not first):
        against = f"version {held.version}" if held else "no champion"
        raise PromotionConflict(
            f"the candidate was held against {against}, version {serves.version} serves now",
            do="start a new run: it is held against the one that serves",
        )


def move(run: Run, change: Change) -> tuple[Record, bool]:
    """Make the change once under the run's key; its record, and whether it is still the newest.

    Raises:
        ModelBlocked, StaleRun: nothing was written.
        PromotionConflict: the champion is not the one that the target was held against, or changed at this very moment.
        OutOfBandChange: the alias was moved by hand; nothing is overwritten.
        ArtifactMissing: the version was deleted meanwhile; the change was undone.
    """
    registry = Registry(run.home.mlflow)
    made = history(run)
    mine = next((one for one in made if one.key == run.key), None)
    if mine is None:
        if change.action == "promote":
            refuse(run, made, change.target, change.effective_at)
        try:
            head = settle(run, registry, made)
        except DanglingChampion:
            if change.action != "rollback":
                raise
            head = made[-1]
        if head is not None and head.sequence != made[-1].sequence:  # while we looked
            if change.action != "promote":
                raise PromotionConflict("the champion has changed meanwhile", do="see who serves, and ask again")
            refuse(run, history(run), change.target, change.effective_at)
        same_champion(change.over, [head] if head else [])
        mine = _append(run, change, head)
    elif mine is not made[-1]:
        settle(run, registry, made)
        return mine, False
    elif not _left(run, registry, made):
        return mine, True
    _finish(run, registry, mine)
    return mine, True


def _append(run: Run, change: Change, head: Record | None, key: str = "") -> Record:
    body = {
        "action": change.action,
        "version": change.target.version,
        "previous": head.body["version"] if head else None,
        "kind": change.kind,
        "reasons": list(change.reasons),
        "trigger": run.trigger.model_dump(mode="json"),
        "champion": change.target.model_dump(mode="json"),
        "reference_champion": change.reference_champion.model_dump(mode="json"),
        **change.more,
    }
    if change.action == "promote" and head is not None and run.spec.promotion.watch.intervals:
        # One record with the promotion, so that no kill leaves a champion without its watch.
        before = Champion.model_validate(head.body["champion"])
        watch = _rollout(change.effective_at, "watch", before, change.target.version, change.kind)
        body["rollout"] = watch.model_dump(mode="json")
    return run.ledger.append(
        run.model,
        KIND,
        key or run.key,
        body,
        effective_at=change.effective_at,
        run=run.key,
        by=run.trigger.by,
        sequence=(head.sequence or 0) + 1 if head else 1,
    )


def _finish(run: Run, registry: Registry, record: Record, *, undo: bool = True) -> None:
    """The alias follows the record; undone where the version is not there any more."""
    pointed: Record | None = None
    newest = history(run)[-1]
    # A slower promoter may come to the alias after a faster one: the newest record has the last word.
    while pointed is None or pointed.sequence != newest.sequence:
        try:
            registry.point(run.model, CHAMPION, newest.body["version"])
        except ArtifactMissing:
            if not undo or (before := _undo(run, registry, newest)) is None:
                raise
            raise ArtifactMissing(
                f"version {newest.body['version']} is not in the registry any more: its promotion was undone,"
                f" version {before.body['version']} serves on",
                do="see who deleted it; the next run trains anew",
            ) from None
        pointed, newest = newest, history(run)[-1]
    if registry.pointed(run.model, CHALLENGER) == record.body["version"]:
        registry.clear(run.model, CHALLENGER)
    _complete(run, record)


def _complete(run: Run, record: Record) -> None:
    """Put on record that the alias has followed, and commit the chain's head to the data registry."""
    body = {"version": record.body["version"], "sequence": record.sequence}
    head = run.ledger.append(run.model, DONE, str(record.sequence), body, effective_at=record.effective_at, run=run.key)
    try:
        registry_of(run.home).anchor(run.model, head.place, head.hash)
    except RetrainError as error:
        # The champion has moved, and a rollback must not wait for git: `verify` says how old the last anchor is.
        log.warning("%s: the ledger was not anchored: %s", run.model, error.found)


def _done(run: Run, record: Record) -> bool:
    return run.ledger.find(run.model, DONE, str(record.sequence)) is not None


def _undo(run: Run, registry: Registry, record: Record) -> Record | None:
    """The champion before the record serves on; None where there was none."""
    made = [one for one in history(run) if (one.sequence or 0) < (record.sequence or 0)]
    if not made or record.body["action"] == "undo":
        return None
    before = made[-1]
    change = Change(
        action="undo",
        target=Champion.model_validate(before.body["champion"]),
        kind="undo",
        reasons=(f"version {record.body['version']} was gone before the alias could follow",),
        reference_champion=projections.reference_champion(made) or Champion.model_validate(before.body["champion"]),
        effective_at=record.effective_at,
    )
    undone = _append(run, change, record, key=f"undo-{record.sequence}")
    _finish(run, registry, undone, undo=False)
    return undone


def settle(run: Run, registry: Registry, made: list[Record]) -> Record | None:
    """Finish or undo what a killed promoter left; the newest record then, None before the first.

    Raises:
        OutOfBandChange: the alias was moved by hand.
        DanglingChampion: the version that serves was deleted.
        PromotionConflict: somebody else changed the champion at this very moment.
    """
    if not _left(run, registry, made):
        return made[-1] if made else None
    try:
        _finish(run, registry, made[-1])
    except ArtifactMissing as error:
        if not _done(run, history(run)[-1]):
            raise DanglingChampion(error.found, do=f"python -m retrain reconcile {run.model}") from None
        log.warning("%s: %s", run.model, error.found)
    return history(run)[-1]


def _left(run: Run, registry: Registry, made: list[Record]) -> bool:
    """Whether the newest record is still to be finished; raises as `settle`."""
    head = made[-1] if made else None
    done = head is not None and _done(run, head)
    try:
        found = registry.alias(run.model, CHAMPION)
    except DanglingChampion:
        if head is None or done:
            raise
        found = None
    wanted = head.body["version"] if head else None
    if found == wanted:
        return head is not None and not done
    unfinished = not done and head is not None and found in (None, head.body["previous"])
    if head is None or not (unfinished or (found is not None and found == registry.pointed(run.model, CHAMPION))):
        if len(history(run)) != len(made):
            raise PromotionConflict("somebody else promoted at this very moment", do="run the stage again")
        raise OutOfBandChange(
            f"the champion alias points at version {found or 'none'}, the ledger says {wanted or 'none'}",
            do=f"python -m retrain reconcile {run.model} --take ledger puts the alias back, --take alias follows it",
        )
    return True


def reconcile(run: Run, take: Literal["", "ledger", "alias"], reason: str) -> str:
    """Make ledger and alias agree again; what was done, for people.

    What a killed promoter left is finished. A champion whose version was deleted is registered again from the run's
    own files. An alias moved by hand is put back, or followed, as a person says.

    Raises:
        OutOfBandChange: the alias was moved by hand, and nobody has said which of the two is right.
        UnknownVersion: the alias points at a version that no run of ours has made a champion or a challenger.
        ArtifactMissing, DigestMismatch, SmokeTestFailed: the version to serve is not what it was.
    """
    registry, made = Registry(run.home.mlflow), history(run)
    try:
        head = settle(run, registry, made)
        return f"version {head.body['version']} serves, by ledger and alias" if head else "no champion yet"
    except DanglingChampion:
        return _restore(run, registry, history(run), reason)
    except OutOfBandChange:
        found = registry.alias(run.model, CHAMPION)
        if take == "ledger" and made:
            body = {"alias": found, "version": made[-1].body["version"], "reason": reason}
            run.ledger.append(
                run.model,
                "reconciled",
                run.key,
                body,
                effective_at=made[-1].effective_at,
                run=run.key,
                by=run.trigger.by,
            )
            try:
                registry.describe(run.model, body["version"])
            except ArtifactMissing:
                return _restore(run, registry, made, reason)
            _finish(run, registry, made[-1])
            return f"the alias was at version {found or 'none'}, it is put back to version {body['version']}"
        if take == "alias" and found is not None:
            return _adopt(run, registry, made, found, reason)
        raise


def _adopt(run: Run, registry: Registry, made: list[Record], version: int, reason: str) -> str:
    known = [one.body["champion"] for kind in (KIND, PROPOSAL) for one in run.ledger.records(run.model, kind)]
    known += [one.body["rollout"]["shadow"] for one in run.ledger.records(run.model, ROLLOUT) if one.body["rollout"]]
    told = next((Champion.model_validate(one) for one in reversed(known) if one["version"] == version), None)
    if told is None:
        raise UnknownVersion(
            f"the alias points at version {version}, of which the ledger knows no champion and no challenger",
            do=f"python -m retrain reconcile {run.model} --take ledger puts the alias back",
        )
    smoke_test.run_smoke_test(run, told, back=True)
    _append(run, _again(run, made, "adopt", told, reason), made[-1] if made else None)
    _finish(run, registry, history(run)[-1])
    return f"version {version} serves, as the alias said"


def _restore(run: Run, registry: Registry, made: list[Record], reason: str) -> str:
    lost = Champion.model_validate(made[-1].body["champion"])
    with run.store.local(f"{lost.reference}/model") as folder:
        version = registry.register(
            model=run.model,
            run_id=lost.run_id,
            folder=folder,
            digest=lost.digest,
            tags={"restores": str(lost.version)},
            description=f"version {lost.version}, which was deleted: {reason}",
        )
    again = lost.model_copy(update={"version": version})
    smoke_test.run_smoke_test(run, again, back=True)
    _append(run, _again(run, made, "restore", again, reason), made[-1])
    _finish(run, registry, history(run)[-1])
    return f"version {lost.version} was deleted: the same files serve as version {version}"


def _again(run: Run, made: list[Record], action: Literal["adopt", "restore"], target: Champion, reason: str) -> Change:
    moment = made[-1].effective_at if made else target.effective_at
    reference_champion = projections.reference_champion(made) or target
    return Change(action, target, action, (reason,), reference_champion, moment, {"unblocks": target.digest})


# --- back


def predecessor(run: Run, made: list[Record], to: int | None = None) -> Record:
    """The record that made the champion's predecessor, or version `to`, champion.

    Raises:
        NothingToRollBack: there is none.
    """
    serving = made[-1].body["version"] if made else None
    came = [one for one in reversed(made) if one.body["action"] in CAME]
    wanted = to
    if wanted is None:
        own = (one for one in came if one.body["version"] == serving)
        lost = {one.body["version"]: one.body["previous"] for one in came if one.body["action"] == "restore"}
        wanted = next((one.body["previous"] for one in own), None)
        if serving in lost:  # the same files under another number: what came before the lost one
            wanted = next((one.body["previous"] for one in came if one.body["version"] == wanted), None)
    for one in came:
        if one.body["version"] == wanted != serving:
            return one
    raise NothingToRollBack(
        f"{run.model} has no earlier champion {f'of version {to} ' if to else ''}on record",
        do=f"see who has served: python -m retrain history {run.model}",
    )


CAME = ("promote", "adopt", "restore")
"""Actions that brought a version to serve for its own sake."""


def roll_back(run: Run, reason: str, *, to: int | None = None, effective_at: datetime | None = None) -> PromoteReport:
    """Put the predecessor of the champion, or version `to`, back, and block the champion's files from coming again.

    Model, preprocessing and drift reference come back together: a champion's facts name its files and its reference.
    On the data's clock it serves from the newest moment on record on.

    Args:
        run: names the model; its key makes a repeated call the same rollback.
        reason: why, for the record.

    Raises:
        NothingToRollBack: there is no champion, or it had no predecessor.
        OutOfBandChange: the alias was moved by hand.
        ArtifactMissing, DigestMismatch, SmokeTestFailed: the target is not what it was; the champion goes on.
    """
    made = history(run)
    mine = next((one for one in made if one.key == run.key), None)
    if mine is not None:
        target, blocked, origin = Champion.model_validate(mine.body["champion"]), mine.body["blocked"], mine
    else:
        origin = predecessor(run, made, to)
        target = Champion.model_validate(origin.body["champion"])
        smoke_test.run_smoke_test(run, target, back=True)
        bad = Champion.model_validate(made[-1].body["champion"])
        blocked = BlockedModel(
            reason=reason, **{name: getattr(bad, name) for name in BlockedModel.model_fields if name != "reason"}
        )
        blocked = blocked.model_dump(mode="json")
    moment = effective_at or max(one.effective_at for one in run.ledger.records(run.model))
    change = Change(
        action="rollback",
        target=target,
        kind="rollback",
        reasons=(reason,),
        reference_champion=Champion.model_validate(origin.body.get("reference_champion") or origin.body["champion"]),
        effective_at=moment,
        more={"blocked": blocked, "unblocks": target.digest},
    )
    record, newest = move(run, change)
    return told(run, record, f"version {target.version} serves again: {reason}" if newest else "rolled back before")


# --- beside the champion


def begin(
    run: Run,
    purpose: Literal["shadow", "canary"],
    shadow: Champion,
    champion: int,
    kind: str,
    share: float,
    *,
    becomes_reference: bool,
) -> Record:
    """From the run's as-of time on a challenger scores beside the champion; a watch begins with its promotion."""
    rollout = _rollout(run.as_of, purpose, shadow, champion, kind, share, becomes_reference)
    return set_rollout(run, f"{purpose}/{shadow.version}/{champion}/{run.key}", rollout, "begun", ())


def _rollout(
    since: datetime,
    purpose: Literal["shadow", "canary", "watch"],
    shadow: Champion,
    champion: int,
    kind: str,
    share: float = 0.0,
    becomes_reference: bool = False,
) -> Rollout:
    return Rollout(
        purpose=purpose,
        shadow=shadow,
        champion=champion,
        kind="refresh" if kind == "refresh" else "new",
        becomes_reference=becomes_reference,
        share=share,
        since=since,
        began=since,
    )


def set_rollout(
    run: Run,
    key: str,
    rollout: Rollout | None,
    verdict: str,
    reasons: tuple[str, ...],
    *,
    was: Rollout | None = None,
    blocked: BlockedModel | None = None,
) -> Record:
    """Put on record what scores beside the champion from the run's as-of time on; None is nothing.

    Args:
        was: what it was until then.
        bar: who may not come to serve again.
    """
    body = {"rollout": rollout and rollout.model_dump(mode="json"), "verdict": verdict, "reasons": list(reasons)}
    body |= {"was": was.model_dump(mode="json")} if was else {}
    body |= {"blocked": blocked.model_dump(mode="json")} if blocked else {}
    return run.ledger.append(run.model, ROLLOUT, key, body, effective_at=run.as_of, run=run.key, by=run.trigger.by)


# --- what is said


def told(run: Run, record: Record, reason: str) -> PromoteReport:
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
