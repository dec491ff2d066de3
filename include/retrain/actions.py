"""What a person does to the champion: roll back, reconcile, answer a version that waits for approval.

Command line and DAGs call the same functions; the registry is imported only when one runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal

from retrain.errors import NotApproved, RetrainError
from retrain.pipeline import run_stage
from retrain.results import Interval, PromoteReport, StageReport, Trigger
from retrain.spec import Spec
from retrain.state.access import check_access
from retrain.state.ledger import Ledger, Record
from retrain.state.readiness import loop_run_key
from retrain.state.run import Run, former_run_key
from retrain.state.settings import Home


def roll_back(home: Home, spec: Spec, key: str, reason: str, *, to: int | None = None, by: str = "") -> PromoteReport:
    """Put the champion's predecessor, or version `to`, back.

    Args:
        home: the installation.
        spec: the model's.
        key: of the request; the same one twice is one rollback.
        reason: why, for the record.
        to: a version that was champion before.
        by: who asks for it.

    Raises:
        NotAllowed: the spec names others.
        NothingToRollBack: nothing served before.
        RetrainError: the target does not load or answer, or somebody else promoted in between.
    """
    from retrain.registry.rollback import roll_back as roll_back_run

    with named_refusals(spec, "rollback"):
        check_access(spec, Ledger(home.ledger), "rollback", by)
        run = _run_of_no_batch(home, spec, _rollback_key(home, spec, key, reason), reason, by)
        return roll_back_run(run, reason, to=to)


def _rollback_key(home: Home, spec: Spec, key: str, reason: str) -> str:
    """The key of a rollback on record; of one that an earlier version made and that is tried again, the key of then."""
    former = Ledger(home.ledger).find(spec.model, "promotion", former_run_key(key))
    if former and former.body["action"] == "rollback" and former.body["trigger"].get("reason") == reason:
        return former.key
    return loop_run_key("rollback", key)


def reconcile(
    home: Home, spec: Spec, key: str, take: Literal["", "ledger", "alias"], reason: str, *, by: str = ""
) -> str:
    """Make ledger and alias agree again.

    Args:
        home: the installation.
        spec: the model's.
        key: of the request.
        take: which of the two is right, where they differ; empty where nobody has said.
        reason: why, for the record.
        by: who asks for it.

    Returns:
        What was done, for people.

    Raises:
        OutOfBandChange: they differ, and `take` is empty.
    """
    from retrain.registry.reconcile import reconcile as reconcile_run

    with named_refusals(spec, "reconcile"):
        return reconcile_run(_run_of_no_batch(home, spec, loop_run_key("reconcile", key), reason, by), take, reason)


def proposed_run(home: Home, spec: Spec, version: int, digest: str = "") -> tuple[Run, Record]:
    """The run that proposed a version, as it was, and its proposal on record.

    Raises:
        UnknownVersion: it has not been proposed.
        NotApproved: it was proposed with other files than those of `digest`.
    """
    from retrain.registry.approval import proposal_of

    with named_refusals(spec, "approve"):
        proposal = proposal_of(_run_of_no_batch(home, spec, f"answer-{version}"), version)
        if digest not in ("", proposal.body["digest"]):
            raise NotApproved(
                f"version {version} was proposed with the files {proposal.body['digest'][:12]}, not {digest[:12]}",
                do="look at the version that waits, and answer that",
            )
        trigger = Trigger.model_validate(proposal.body["trigger"])
        run = Run(home, spec, spec.at(proposal.body["interval"]), proposal.run, trigger)
        return replace(run, known_at=proposal.effective_at), proposal


def answer(
    home: Home, spec: Spec, version: int, verdict: Literal["approve", "reject"], by: str, reason: str
) -> StageReport:
    """Approve or reject a version; its run's promote stage then does what follows.

    Returns:
        The report of promote.

    Raises:
        UnknownVersion: it has not been proposed.
        NotAllowed: the spec names others.
        NotApproved: this person may not approve it.
    """
    from retrain.registry.approval import answer_proposal

    run, proposal = proposed_run(home, spec, version)
    with named_refusals(spec, "approve"):
        answer_proposal(run, proposal, verdict, by, reason)
    return run_stage("promote", run)


@contextmanager
def named_refusals(spec: Spec, action: str) -> Iterator[None]:
    """Give a refusal in the body the model's name and the action's."""
    try:
        yield
    except RetrainError as error:
        raise error.at(spec.model, action) from None


def _run_of_no_batch(home: Home, spec: Spec, key: str, reason: str = "", by: str = "") -> Run:
    """A run for an action: its interval is empty, at the moment of the newest promotion."""
    promotions = Ledger(home.ledger).records(spec.model, "promotion")
    first = next(spec.intervals_until(datetime.max.replace(tzinfo=UTC)))
    moment = promotions[-1].effective_at if promotions else first.end
    trigger = Trigger(kind="manual", reason=reason, by=by)
    return Run(home=home, spec=spec, interval=Interval(start=moment, end=moment), key=key, trigger=trigger)
