"""A person's approval or rejection of a version, bound to its very files, on record.

Airflow's form is one way to give it, the command line another; the promote stage trusts neither and reads the ledger.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from retrain.errors import NotApproved, UnknownVersion
from retrain.results import Champion, GateReport
from retrain.state.access import check_access, is_allowed
from retrain.state.ledger import Record
from retrain.state.run import Run

PROPOSAL: Final = "proposal"
APPROVAL: Final = "approval"
"""Kinds of the ledger's records: a version that waits for an answer, and an answer."""


def propose(run: Run, target: Champion, gate: GateReport) -> Record:
    """Put on record that a version, with these very files, waits for approval."""
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
    """The newest proposal of a version.

    Raises:
        UnknownVersion: there is none.
    """
    proposals = [record for record in run.ledger.records(run.model, PROPOSAL) if record.body["version"] == version]
    if not proposals:
        raise UnknownVersion(
            f"version {version} of {run.model} has not been proposed",
            do=f"see which have: python -m retrain history {run.model}",
        )
    return proposals[-1]


def answer_proposal(run: Run, proposal: Record, verdict: Literal["approve", "reject"], by: str, reason: str) -> Record:
    """Put a person's answer to a proposal on record.

    Args:
        run: the one that proposed the version.
        proposal: the record that is answered.
        verdict: the answer.
        by: who answers.
        reason: for the record; may be empty.

    Raises:
        NotAllowed: the spec names others.
        NotApproved: the spec asks for two people, and this one has triggered the run, or is nobody.
    """
    check_access(run.spec, run.ledger, "approve", by)
    triggered_by = proposal.body["trigger"]["by"]
    if run.spec.promotion.approval.two_people and verdict == "approve" and (not by or by == triggered_by):
        raise NotApproved(
            f"{by or 'nobody'} may not approve version {proposal.body['version']}: the run was triggered by"
            f" {triggered_by}",
            do="let somebody else approve it, since promotion.approval.two_people is set",
        )
    body = {name: proposal.body[name] for name in ("version", "digest")} | {"verdict": verdict, "reason": reason}
    key = f"{proposal.key}/{by}/{verdict}"
    return run.ledger.append(
        run.model, APPROVAL, key, body, effective_at=proposal.effective_at, run=proposal.run, by=by
    )


def approval_at(run: Run, proposal: Record, now: datetime) -> tuple[Literal["approve", "reject", "wait"], str]:
    """The newest answer to a proposal that came in time, is of its very files, and comes from somebody who may give it.

    Args:
        run: the one that proposed the version.
        proposal: its record.
        now: the wall's clock. Once the proposal has expired without an answer, the spec's default is the answer.

    Returns:
        The answer, and who gave it when, for people.
    """
    rules = run.spec.promotion.approval
    expires = proposal.recorded_at + rules.expires
    answers = [
        record
        for record in run.ledger.records(run.model, APPROVAL)
        if record.body["digest"] == proposal.body["digest"]
        and record.body["version"] == proposal.body["version"]
        and record.recorded_at <= expires
        and is_allowed(run.spec, run.ledger, "approve", record.by)
        and not (
            rules.two_people and record.body["verdict"] == "approve" and record.by == proposal.body["trigger"]["by"]
        )
    ]
    if answers:
        verdict, reason, by = answers[-1].body["verdict"], answers[-1].body["reason"], answers[-1].by
        return verdict, f"{verdict} by {by}: {reason or 'no reason given'}"
    if now >= expires:
        return rules.otherwise, f"nobody answered by {expires:%Y-%m-%d %H:%M} UTC: {rules.otherwise}"
    return "wait", f"waits for a person's approval until {expires:%Y-%m-%d %H:%M} UTC"
