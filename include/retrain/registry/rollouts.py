"""What scores beside the champion, on record: a challenger in shadow or canary, or a predecessor under watch."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from retrain.results import BlockedModel, Champion, Rollout
from retrain.state.ledger import Record
from retrain.state.run import Run

ROLLOUT: Final = "rollout"
"""Kind of the ledger's records."""


def new_rollout(
    since: datetime,
    purpose: Literal["shadow", "canary", "watch"],
    shadow: Champion,
    champion: int,
    kind: str,
    share: float = 0.0,
    becomes_reference: bool = False,
) -> Rollout:
    """A rollout at its first step.

    Args:
        since: the first moment, on the data's clock, at which both versions score.
        purpose: of the second version's scores.
        shadow: the challenger; of a watch the predecessor.
        champion: the version that serves.
        kind: what the gate called the challenger, or the new champion.
        share: of the rows that the challenger answers, 0 to 1.
        becomes_reference: the gate has shown the challenger better than the reference champion.
    """
    return Rollout(
        purpose=purpose,
        shadow=shadow,
        champion=champion,
        kind="refresh" if kind in ("refresh", "recalibrated") else "new",
        becomes_reference=becomes_reference,
        share=share,
        since=since,
        began=since,
    )


def begin_rollout(
    run: Run,
    purpose: Literal["shadow", "canary"],
    shadow: Champion,
    champion: int,
    kind: str,
    share: float,
    *,
    becomes_reference: bool,
) -> Record:
    """Let a challenger score beside the champion from the run's as-of time on.

    A watch is not begun here: the record of a promotion holds the watch over the new champion. The arguments are those
    of `new_rollout`.
    """
    rollout = new_rollout(run.as_of, purpose, shadow, champion, kind, share, becomes_reference)
    return record_rollout(run, f"{purpose}/{shadow.version}/{champion}/{run.key}", rollout, "begun", ())


def record_rollout(
    run: Run,
    key: str,
    rollout: Rollout | None,
    verdict: str,
    reasons: tuple[str, ...],
    *,
    was: Rollout | None = None,
    blocked: BlockedModel | None = None,
) -> Record:
    """Put on record what scores beside the champion from the run's as-of time on.

    Args:
        run: the one that has judged it.
        key: of the record; the same key twice is one record.
        rollout: None where nothing scores beside the champion any more.
        verdict: what was decided.
        reasons: for the record.
        was: what it was until then.
        blocked: the model that may not come to serve again.
    """
    body = {"rollout": rollout and rollout.model_dump(mode="json"), "verdict": verdict, "reasons": list(reasons)}
    body |= {"was": was.model_dump(mode="json")} if was else {}
    body |= {"blocked": blocked.model_dump(mode="json")} if blocked else {}
    return run.ledger.append(run.model, ROLLOUT, key, body, effective_at=run.as_of, run=run.key, by=run.trigger.by)


def block(model: Champion, reason: str) -> BlockedModel:
    """A model as it stands on the blocklist."""
    facts = {name: getattr(model, name) for name in BlockedModel.model_fields if name != "reason"}
    return BlockedModel(reason=reason, **facts)
