"""The champion's predecessor, or an earlier champion by name, comes back to serve."""

from __future__ import annotations

from datetime import datetime

from retrain.errors import NothingToRollBack
from retrain.registry import anchors, promotion, restore
from retrain.registry.promotion import ChampionChange
from retrain.registry.rollouts import block
from retrain.results import Champion, PromoteReport
from retrain.state.ledger import Record
from retrain.state.run import Run

BROUGHT = ("promote", "adopt", "restore")
"""Actions that brought a version to serve for its own sake."""


def roll_back(run: Run, reason: str, *, to: int | None = None, effective_at: datetime | None = None) -> PromoteReport:
    """Put the predecessor of the champion, or version `to`, back, and block the champion's files from coming again.

    Model, preprocessing and drift reference come back together: a champion's facts name its files and its reference.

    Args:
        run: names the model; its key makes a repeated call the same rollback.
        reason: why, for the record.
        to: a version that was champion before; the predecessor where it is None.
        effective_at: from when on it serves, on the data's clock; by default from the newest moment on record on.

    Raises:
        NothingToRollBack: there is no champion, or it had no predecessor.
        OutOfBandChange: the alias was moved by hand.
        LedgerContradicted: an older ledger was restored.
        ArtifactMissing, DigestMismatch, SmokeTestFailed: the target is not what it was; the champion goes on. One that
            MLflow alone has lost is registered again first.
    """
    changes = promotion.promotions(run)
    earlier_try = promotion.own_change(run, changes, "rollback")
    if earlier_try is not None:
        origin, target = earlier_try, Champion.model_validate(earlier_try.body["champion"])
        blocked, warnings = earlier_try.body["blocked"], tuple(earlier_try.body["reasons"][1:])
    else:
        anchors.check_anchor(run, urgent=True)
        origin = predecessor(run, changes, to)
        target, warnings = restore.tested_target(run, Champion.model_validate(origin.body["champion"]), reason)
        champion = Champion.model_validate(changes[-1].body["champion"])
        blocked = block(champion, reason).model_dump(mode="json")
    change = ChampionChange(
        action="rollback",
        target=target,
        kind="rollback",
        reasons=(reason, *warnings),
        reference_champion=Champion.model_validate(origin.body.get("reference_champion") or origin.body["champion"]),
        effective_at=effective_at or max(record.effective_at for record in run.ledger.records(run.model)),
        details={"blocked": blocked, "unblocks": target.digest},
    )
    record, newest = promotion.change_champion(run, change)
    outcome = (
        f"version {target.version} serves again: {'; '.join((reason, *warnings))}" if newest else "rolled back before"
    )
    return promotion.promote_report(run, record, outcome)


def predecessor(run: Run, changes: list[Record], to: int | None = None) -> Record:
    """The record that made the champion's predecessor, or version `to`, champion.

    Args:
        run: names the model.
        changes: every change of the champion on record, oldest first.
        to: a version that was champion before; the predecessor where it is None.

    Raises:
        NothingToRollBack: there is none.
    """
    serving = _digest(changes[-1]) if changes else None
    brought = [record for record in reversed(changes) if record.body["action"] in BROUGHT]
    wanted = to
    if wanted is None:
        # What came before the champion came; a restored one is the same files, perhaps under another number.
        own = [r for r in brought if _digest(r) == serving and r.body["action"] != "restore"]
        own.sort(key=lambda record: record.body["version"] != changes[-1].body["version"])
        wanted = own[0].body["previous"] if own else None
    for record in brought:
        if record.body["version"] == wanted and _digest(record) != serving:
            return record
    raise NothingToRollBack(
        f"{run.model} has no earlier champion {f'of version {to} ' if to else ''}on record",
        do=f"see who has served: python -m retrain history {run.model}",
    )


def _digest(record: Record) -> str:
    """Of the files of the model that a change brought to serve."""
    return str(record.body["champion"]["digest"])
