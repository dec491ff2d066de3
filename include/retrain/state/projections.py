"""Projections of the ledger: champion, reference champion, blocklist, rollout and known versions by its records.

Pure functions of records in the order they were written. A moment is one of the data's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from retrain.results import BlockedModel, Champion, Rollout
from retrain.state.ledger import Record


def champion_at(promotions: Iterable[Record], moment: datetime) -> Champion | None:
    """The champion as of a moment; None before the first.

    An interval that begins at `moment` is scored by it: it was promoted by then, so it was fitted on no row of the
    interval, however late the scores are made.
    """
    by_then = [record for record in promotions if record.effective_at <= moment]
    return Champion.model_validate(by_then[-1].body["champion"]) if by_then else None


def served(promotions: Sequence[Record]) -> tuple[Champion, ...]:
    """Every model that ever served, once, in the order in which it last came; one whose change was undone never did."""
    undone = {record.key.removeprefix("undo-") for record in promotions if record.body["action"] == "undo"}
    by_digest: dict[str, Champion] = {}
    for record in promotions:
        if str(record.sequence) not in undone:
            champion = Champion.model_validate(record.body["champion"])
            by_digest.pop(champion.digest, None)
            by_digest[champion.digest] = champion
    return tuple(by_digest.values())


def lineage(promotions: Iterable[Record], champion: Champion | None) -> tuple[int, ...]:
    """The champion's version and those of the champions before it that differ from it in their training rows only."""
    if champion is None:
        return ()
    served = (Champion.model_validate(record.body["champion"]) for record in promotions)
    same = {known.version for known in served if known.configuration.is_refit_of(champion.configuration)}
    return tuple(sorted({champion.version, *same}))


def reference_champion(promotions: Sequence[Record]) -> Champion | None:
    """The newest champion that was shown to be better than the reference before it; None before the first."""
    if not promotions:
        return None
    newest = promotions[-1].body
    return Champion.model_validate(newest.get("reference_champion") or newest["champion"])


def blocklist(records: Iterable[Record]) -> tuple[BlockedModel, ...]:
    """The models that may not come back, oldest first; a person who rolls back to one takes it off the blocklist."""
    by_digest: dict[str, BlockedModel] = {}
    for record in records:
        if "blocked" in record.body:
            blocked = BlockedModel.model_validate(record.body["blocked"])
            by_digest[blocked.digest] = blocked
        by_digest.pop(record.body.get("unblocks", ""), None)
    return tuple(by_digest.values())


def rollout_at(promotions: Sequence[Record], rollouts: Iterable[Record], moment: datetime) -> Rollout | None:
    """The rollout under way as of a moment; None where there is none, or another champion has come since.

    A promotion begins the watch over the new champion, and says so itself.
    """
    by_then = [
        record for record in (*promotions, *rollouts) if "rollout" in record.body and record.effective_at <= moment
    ]
    newest = max(by_then, key=lambda record: record.id, default=None)
    champion = champion_at(promotions, moment)
    if champion is None or newest is None or newest.body["rollout"] is None:
        return None
    rollout = Rollout.model_validate(newest.body["rollout"])
    return rollout if rollout.champion == champion.version else None


@dataclass(frozen=True)
class KnownVersion:
    """A version that the ledger knows as a champion or a challenger, and the record that first named it."""

    champion: Champion
    record: Record


def known_versions(records: Sequence[Record]) -> dict[int, KnownVersion]:
    """Every version that served or was to serve, by its number, in the order in which the ledger came to know them.

    Of several models that bore one number it is the newest: MLflow gives a number again after it was restored from a
    backup.
    """
    known: dict[int, KnownVersion] = {}
    for record in records:
        rollout = record.body.get("rollout") if record.kind == "rollout" else None
        facts = rollout["shadow"] if rollout else record.body.get("champion")
        if record.kind in ("promotion", "proposal", "rollout") and facts:
            champion = Champion.model_validate(facts)
            before = known.get(champion.version)
            if before is None or before.champion.digest != champion.digest:
                known[champion.version] = KnownVersion(champion, record)
    return known


def numbers(records: Iterable[Record]) -> dict[int, str]:
    """Every number of a version on record → the digest of the model that bore it last; empty where it is not known."""
    digests: dict[int, str] = {}
    for record in records:
        body = record.body
        if record.kind == "stage" and body["stage"] == "register" and body["facts"].get("version"):
            digests[body["facts"]["version"]] = body["facts"].get("digest") or digests.get(body["facts"]["version"], "")
        for champion in (body.get("champion"), (body.get("rollout") or {}).get("shadow")):
            if isinstance(champion, dict):
                digests[champion["version"]] = champion["digest"]
    return digests
