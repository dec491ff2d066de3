"""Whether a person may do what they ask for: the spec's `access`, held against their name and the roles on record.

A task, and the ledger after it, know a person's name and no roles. Airflow's API server knows both: where a role lets
somebody in, it puts that on record before the run begins (`plugins/run_requests.py`). So a name is held wherever the
action is done, and a role that nobody has put on record counts for nothing.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Final

from retrain.errors import NotAllowed
from retrain.results import Trigger
from retrain.spec import Action, Spec
from retrain.state.ledger import Ledger

ACCESS: Final = "access"
"""Kind of the ledger's records: somebody was let in by a role, or was refused."""


def is_allowed(spec: Spec, ledger: Ledger, action: Action, by: str) -> bool:
    """Whether the spec leaves an action to a person: by name, or by a role that was on record when they last asked.

    Args:
        spec: the model's.
        ledger: where roles are on record.
        action: what is asked for.
        by: the person's name; empty where nobody is known.
    """
    entries = spec.access.of(action)
    if not entries or (by and by in entries):
        return True
    roles = spec.access.roles(action)
    tries = [
        record
        for record in (ledger.records(spec.model, ACCESS) if roles and by else ())
        if record.by == by and record.body["action"] == action
    ]
    return bool(tries) and not roles.isdisjoint(tries[-1].body["roles"])


def check_access(spec: Spec, ledger: Ledger, action: Action, by: str) -> None:
    """Refuse an action by somebody whom the spec does not name, and put the try on record.

    Raises:
        NotAllowed: the spec names others.
    """
    if not is_allowed(spec, ledger, action, by):
        raise refuse(spec, ledger, action, by)


def admit(spec: Spec, ledger: Ledger, action: Action, by: str, roles: Collection[str]) -> None:
    """The same for a person whose roles are known: a role that lets them in goes on record.

    Raises:
        NotAllowed: the spec names neither them nor a role of theirs.
    """
    entries = spec.access.of(action)
    if not entries or by in entries:
        return
    roles = sorted(role.lower() for role in roles)
    if spec.access.roles(action).isdisjoint(roles):
        raise refuse(spec, ledger, action, by, roles)
    _record(spec, ledger, action, by, roles, "allowed")


def refuse(spec: Spec, ledger: Ledger, action: Action, by: str, roles: Collection[str] = ()) -> NotAllowed:
    """The refusal, once it is on record."""
    _record(spec, ledger, action, by, (), "refused")
    held = f" ({', '.join(roles)})" if roles else ""
    return NotAllowed(
        f"{by or 'nobody'}{held} may not {action} {spec.model}: access.{action} names"
        f" {', '.join(spec.access.of(action))}",
        do=f"let one of these do it, or add a name to access.{action} of {spec.model}.yaml",
    ).at(spec.model, action)


def is_act_of_a_person(trigger: Trigger, spec: Spec, ledger: Ledger) -> bool:
    """Whether somebody asked for a retraining, and not the schedule or a decision of the monitor that is on record."""
    if trigger.kind == "alert" and not (trigger.force or trigger.revise):
        return ledger.find(spec.model, "decision", trigger.id) is None
    return trigger.kind != "schedule" or bool(trigger.by)


def _record(spec: Spec, ledger: Ledger, action: Action, by: str, roles: Collection[str], verdict: str) -> None:
    body = {"action": action, "verdict": verdict, "roles": list(roles)}
    key = f"{action}/{by[:300]}/{time.time_ns()}"
    # A try moves no clock of the data's.
    newest = max((record.effective_at for record in ledger.records(spec.model)), default=spec.interval.start)
    ledger.append(spec.model, ACCESS, key, body, effective_at=newest, by=by[:300])
