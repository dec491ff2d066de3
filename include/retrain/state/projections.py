"""What stands by the ledger's records: champion, reference champion, blocklist, and what scores beside the champion.

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
    made = [record for record in promotions if record.effective_at <= moment]
    return Champion.model_validate(made[-1].body["champion"]) if made else None


def reference_champion(promotions: Sequence[Record]) -> Champion | None:
    """The newest champion that was shown to be better than the reference before it; None before the first."""
    told = promotions[-1].body.get("reference_champion") or promotions[-1].body["champion"] if promotions else None
    return Champion.model_validate(told) if told else None


def blocklist(records: Iterable[Record]) -> tuple[BlockedModel, ...]:
    """The models that must not come back; a person who rolls back to one of them takes it off the blocklist."""
    found: dict[str, BlockedModel] = {}
    for record in records:
        if "blocked" in record.body:
            blocked = BlockedModel.model_validate(record.body["blocked"])
            found[blocked.digest] = blocked
        found.pop(record.body.get("unblocks", ""), None)
    return tuple(found.values())


def rollout_at(promotions: Sequence[Record], rollouts: Iterable[Record], moment: datetime) -> Rollout | None:
    """What scores beside the champion as of a moment; None where nothing does, or another champion has come since.

    A promotion begins the watch over the new champion, and says so itself.
    """
    both = (record for record in (*promotions, *rollouts) if "rollout" in record.body)
    told = sorted((record for record in both if record.effective_at <= moment), key=lambda record: record.id)
    champion = champion_at(promotions, moment)
    if champion is None or not told or told[-1].body["rollout"] is None:
        return None
    found = Rollout.model_validate(told[-1].body["rollout"])
    return found if found.champion == champion.version else None


@dataclass(frozen=True)
class KnownVersion:
    """A version that the ledger knows as a champion or a challenger, by the record that first named it."""

    champion: Champion
    record: Record


def known_versions(records: Sequence[Record]) -> dict[int, KnownVersion]:
    """Every version that was to serve, in the order in which the ledger came to know them."""
    found: dict[int, KnownVersion] = {}
    for record in records:
        rollout = record.body.get("rollout") if record.kind == "rollout" else None
        facts = rollout["shadow"] if rollout else record.body.get("champion")
        if record.kind in ("promotion", "proposal", "rollout") and facts:
            champion = Champion.model_validate(facts)
            found.setdefault(champion.version, KnownVersion(champion, record))
    return found
