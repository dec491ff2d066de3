"""Anchors of a ledger: whether the data registry's git history remembers records that the ledger does not have.

It does where the ledger was restored from an older backup, cut, or written anew. Nothing is promoted then, until a
person has said which of the two goes on: a backup that agrees, or this ledger, which then gives up the lost records on
record (`retrain.registry.reconcile`).
"""

from __future__ import annotations

import logging
from typing import Final

from retrain.data.versions import Anchor, DataRegistry, registry_of
from retrain.errors import LedgerContradicted, RetrainError
from retrain.state.ledger import Ledger
from retrain.state.run import Run

log = logging.getLogger(__name__)

RECONCILED: Final = "reconciled"
"""Kind of the ledger's records: what a person settled by hand."""


def given_up(ledger: Ledger, model: str) -> frozenset[str]:
    """The hashes of anchored records that a person has given up."""
    records = ledger.records(model, RECONCILED)
    return frozenset(anchor["hash"] for record in records for anchor in record.body.get("given_up", ()))


def contradicting(ledger: Ledger, registry: DataRegistry, model: str) -> tuple[Anchor, ...]:
    """The anchors of a model that its ledger contradicts and nobody has given up, oldest first."""
    anchors = registry.anchors(model)  # before the ledger, which is always ahead of them
    hashes = {record.place: record.hash for record in ledger.records(model)} if anchors else {}
    lost = given_up(ledger, model) if anchors else frozenset()
    return tuple(anchor for anchor in anchors if anchor.hash not in (hashes.get(anchor.place), *lost))


def check_anchor(run: Run, *, urgent: bool = False) -> None:
    """Refuse to change the champion by a ledger that the newest anchor contradicts.

    Args:
        run: names the model.
        urgent: a rollback, which does not wait for git: what cannot be read is logged.

    Raises:
        LedgerContradicted: the ledger lacks the record that was anchored.
        RegistryUnavailable: the data registry cannot be read.
    """
    try:
        anchor = registry_of(run.home).newest_anchor(run.model)
    except RetrainError as error:
        if not urgent:
            raise
        log.warning("%s: the anchors were not looked at: %s", run.model, error.found)
        return
    if anchor is None or run.ledger.hash_at(run.model, anchor.place) == anchor.hash:
        return
    if anchor.hash not in given_up(run.ledger, run.model):
        raise contradiction(run.ledger, run.model, anchor)


def contradiction(ledger: Ledger, model: str, anchor: Anchor) -> LedgerContradicted:
    """The refusal of a ledger that an anchor contradicts."""
    length = len(ledger.records(model))
    change = "is another now" if anchor.place <= length else f"is gone, the ledger ends at {length}"
    return LedgerContradicted(
        f"the ledger of {model}: record {anchor.place}, anchored as {anchor.hash[:12]} in the data registry, {change}:"
        " an older backup was restored, or the ledger was cut or written anew",
        do="restore a backup of the ledger that agrees; or go on with this one and give up the lost records:"
        f" python -m retrain reconcile {model} --take ledger (its champion serves) or --take alias (MLflow's)",
    )
