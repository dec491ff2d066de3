"""What earlier versions of this project called things in the ledger, so that what they wrote stays readable.

A record is never changed: its hash is over what was written. It is read with today's names. The reports have their own
table of former names, each beside its fields (`retrain.results.Result.FORMER`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KINDS: Mapping[str, str] = {"look": "interim_analysis"}
"""Former kind → today's."""

KEYS: Mapping[str, str] = {
    "bars": "blocked",
    "beside": "shadow",
    "lifts": "unblocks",
    "pinned": "reference_champion",
    "pins": "becomes_reference",
}
"""Former key of a record's body, or of a rollout in it → today's."""

STAGES: Mapping[str, str] = {"probe": "smoke_test"}

ERRORS: Mapping[str, str] = {"Barred": "ModelBlocked", "ProbeFailed": "SmokeTestFailed"}
"""Former name of a refusal, which is the verdict of a stage that was refused → today's."""


def kinds_of(kind: str) -> tuple[str, ...]:
    """Every name that records of a kind may have.

    >>> kinds_of("interim_analysis"), kinds_of("batch")
    (('interim_analysis', 'look'), ('batch',))
    """
    return (kind, *(former for former, name in KINDS.items() if name == kind))


def stage_names(stage: str) -> tuple[str, ...]:
    """Every name that a stage's report in the store may have, today's first.

    >>> stage_names("smoke_test"), stage_names("gate")
    (('smoke_test', 'probe'), ('gate',))
    """
    return (stage, *(former for former, name in STAGES.items() if name == stage))


def current_body(kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a record in today's words.

    Args:
        kind: of the record, as it is called today.
        body: as it was written.

    >>> current_body("rollout", {"rollout": {"beside": 1}, "bars": 2})
    {'rollout': {'shadow': 1}, 'blocked': 2}
    """
    current = {KEYS.get(name, name): value for name, value in body.items()}
    for name in ("rollout", "was"):
        if isinstance(rollout := current.get(name), dict):
            current[name] = {KEYS.get(key, key): value for key, value in rollout.items()}
    if kind.endswith("stage"):
        for name, former in (("stage", STAGES), ("verdict", ERRORS)):
            if name in current:
                current[name] = former.get(current[name], current[name])
    return current
