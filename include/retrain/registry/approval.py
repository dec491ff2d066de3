"""A person's word about a version, bound to its very files, on record.

Airflow's form is one way to give it, the command line another; the promote stage trusts neither and reads the ledger.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from retrain.errors import NotApproved, UnknownVersion
from retrain.registry.promotion import PROPOSAL
from retrain.results import Champion, GateReport
from retrain.state.ledger import Record
from retrain.state.run import Run

APPROVAL = "approval"


def propose(run: Run, target: Champion, gate: GateReport) -> Record:
    """Ask for approval of a version: of these very files."""
    body = {
        "version": target.version,
        "digest": target.digest,
        "interval": run.interval.name,
        "kind": gate.kind,
        "reasons": list(gate.decision.reasons),
        "trigger": run.trigger.model_dump(mode="json"),
        "champion": target.model_dump(mode="json"),
    }
    return run.ledger.append(run.model, PROPOSAL, run.key, body, effective_at=run.as_of, run=run.key, by=run.trigger.by)


def proposal_of(run: Run, version: int) -> Record:
    """The proposal of a version.

    Raises:
        UnknownVersion: there is none.
    """
    found = [one for one in run.ledger.records(run.model, PROPOSAL) if one.body["version"] == version]
    if not found:
        raise UnknownVersion(
            f"version {version} of {run.model} has not been proposed",
            do=f"see which have: python -m retrain history {run.model}",
        )
    return found[-1]


def answer(run: Run, proposal: Record, verdict: Literal["approve", "reject"], by: str, reason: str) -> Record:
    """Put a person's word about a proposal on record.

    Raises:
        NotApproved: the spec asks for two people, and this one has triggered the run, or is nobody.
    """
    asked = proposal.body["trigger"]["by"]
    if run.spec.promotion.approval.two_people and verdict == "approve" and (not by or by == asked):
        raise NotApproved(
            f"{by or 'nobody'} may not approve version {proposal.body['version']}: the run was triggered by {asked}",
            do="let somebody else approve it, since promotion.approval.two_people is set",
        )
    body = {name: proposal.body[name] for name in ("version", "digest")} | {"verdict": verdict, "reason": reason}
    key = f"{proposal.key}/{by}/{verdict}"
    return run.ledger.append(
        run.model, APPROVAL, key, body, effective_at=proposal.effective_at, run=proposal.run, by=by
    )


def word(run: Run, proposal: Record, now: datetime) -> tuple[Literal["approve", "reject", "wait"], str]:
    """What has been said of a proposal by now, in time and of its very files; and how, for people."""
    rules = run.spec.promotion.approval
    expires = proposal.recorded_at + rules.expires
    said = [
        one
        for one in run.ledger.records(run.model, APPROVAL)
        if one.body["digest"] == proposal.body["digest"]
        and one.body["version"] == proposal.body["version"]
        and one.recorded_at <= expires
        and not (rules.two_people and one.body["verdict"] == "approve" and one.by == proposal.body["trigger"]["by"])
    ]
    if said:
        last = said[-1]
        return last.body["verdict"], f"{last.body['verdict']} by {last.by}: {last.body['reason'] or 'no reason given'}"
    if now >= expires:
        return rules.otherwise, f"nobody answered by {expires:%Y-%m-%d %H:%M} UTC: {rules.otherwise}"
    return "wait", f"waits for a person's approval until {expires:%Y-%m-%d %H:%M} UTC"
