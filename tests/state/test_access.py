"""Who may retrain, approve and roll back: by name wherever it is done, or by a role that is on record."""

from __future__ import annotations

import os
import pwd
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from retrain import actions, pipeline
from retrain.cli.options import laptop_trigger, machine_user
from retrain.errors import BatchMissing, InvalidSpec, NotAllowed, NothingToRollBack
from retrain.registry import approval
from retrain.reporting import history
from retrain.results import Champion, Configuration, Decision, GateReport
from retrain.spec import parse
from retrain.state.access import admit, check_access, is_allowed
from retrain.state.ledger import Ledger, Record
from retrain.state.run import Run
from tests.conftest import Model, churn_spec

ACCESS = {"retrain": ["ada"], "approve": ["bob", "role:Risk"], "rollback": ["role:Op"]}


@pytest.fixture
def held(churn: Model) -> Model:
    """The churn model, whose spec names people."""
    churn.write_spec({**churn_spec(), "promotion": "approve", "access": ACCESS})
    return churn


def tries(model: Model) -> list[tuple[str, str, str]]:
    records = Ledger(model.home.ledger).records("churn", "access")
    return [(record.by, record.body["action"], record.body["verdict"]) for record in records]


@pytest.mark.parametrize("trigger", [{"kind": "manual"}, {"kind": "laptop"}, {"kind": "alert", "id": "42"}])
@pytest.mark.parametrize("by", ["eve", ""])
def test_a_retraining_by_somebody_else_is_refused_and_on_record(held: Model, trigger: Any, by: str) -> None:
    run = held.run("2024-01-01", by=by, **trigger)
    with pytest.raises(NotAllowed, match=f"{by or 'nobody'} may not retrain churn: access.retrain names ada"):
        pipeline.run_stage("ingest", run)
    assert tries(held) == [(by, "retrain", "refused")]
    (record,) = run.ledger.records("churn", "stage")
    assert (record.body["verdict"], record.by) == ("NotAllowed", by)


@pytest.mark.parametrize(
    "trigger",
    [{"kind": "manual", "by": "ada"}, {"kind": "schedule"}, {"kind": "alert", "id": "monitor-x", "by": "eve"}],
)
def test_who_is_named_and_what_starts_by_itself_go_on(held: Model, trigger: Any) -> None:
    moment = datetime(2024, 2, 1, tzinfo=UTC)
    held.run().ledger.append("churn", "decision", "monitor-x", {"verdict": "retrain"}, effective_at=moment)
    with pytest.raises(BatchMissing):
        pipeline.run_stage("ingest", held.run("2024-01-01", **trigger))
    assert tries(held) == []


def test_a_decision_of_the_monitor_is_no_cover_for_more(held: Model) -> None:
    moment = datetime(2024, 2, 1, tzinfo=UTC)
    held.run().ledger.append("churn", "decision", "monitor-x", {"verdict": "retrain"}, effective_at=moment)
    with pytest.raises(NotAllowed):
        pipeline.run_stage("ingest", held.run(kind="alert", id="monitor-x", by="eve", force=True))


def test_the_other_loops_belong_to_nobody(held: Model) -> None:
    from dataclasses import replace

    with pytest.raises(BatchMissing):
        pipeline.run_stage("ingest", replace(held.run(kind="manual", by="eve"), loop="score"))


def test_a_rollback_by_somebody_else_is_refused_before_anything(held: Model) -> None:
    spec = held.home.spec("churn")
    with pytest.raises(NotAllowed, match="churn · rollback · NotAllowed: eve may not rollback churn"):
        actions.roll_back(held.home, spec, "r1", "because", by="eve")
    admit(spec, Ledger(held.home.ledger), "rollback", "otto", ["op"])
    with pytest.raises(NothingToRollBack):
        actions.roll_back(held.home, spec, "r2", "because", by="otto")
    assert tries(held) == [("eve", "rollback", "refused"), ("otto", "rollback", "allowed")]


def proposed(run: Run) -> Record:
    gate = GateReport(
        model="churn", interval=run.interval, effective_at=run.as_of, kind="new",
        decision=Decision(verdict="promote", reasons=("better",)),
    )  # fmt: skip
    target = Champion(
        version=3, run_id="x", digest="d" * 64, training="t", reference="r", trained_until=run.as_of,
        configuration=Configuration(estimator="linear", parameters={}, pipeline="p"), effective_at=run.as_of,
    )  # fmt: skip
    return approval.propose(run, target, gate)


def test_only_the_answer_of_somebody_who_is_named_counts(held: Model) -> None:
    run = held.run("2024-02-01")
    proposal, now = proposed(run), datetime.now(UTC)
    with pytest.raises(NotAllowed, match=r"eve may not approve churn: access\.approve names bob, role:Risk"):
        approval.answer_proposal(run, proposal, "reject", "eve", "mine")
    body = {"version": 3, "digest": "d" * 64, "verdict": "approve", "reason": "slipped in"}
    run.ledger.append("churn", "approval", "elsewhere", body, effective_at=run.as_of, by="eve")
    assert approval.approval_at(run, proposal, now)[0] == "wait", "whatever way it came"
    approval.answer_proposal(run, proposal, "reject", "bob", "no")
    assert approval.approval_at(run, proposal, now)[0] == "reject"
    admit(run.spec, run.ledger, "approve", "rhea", ["Viewer", "risk"])
    approval.answer_proposal(run, proposal, "approve", "rhea", "yes")
    assert approval.approval_at(run, proposal, now + timedelta(minutes=1))[1] == "approve by rhea: yes"


def test_a_role_that_is_gone_lets_nobody_in_any_more(held: Model) -> None:
    spec, ledger = held.home.spec("churn"), Ledger(held.home.ledger)
    admit(spec, ledger, "approve", "rhea", ["Risk"])
    assert is_allowed(spec, ledger, "approve", "rhea")
    assert not is_allowed(spec, ledger, "rollback", "rhea"), "a role that let in to something else"
    with pytest.raises(NotAllowed, match=r"rhea \(user\) may not approve"):
        admit(spec, ledger, "approve", "rhea", ["User"])
    assert not is_allowed(spec, ledger, "approve", "rhea")


def test_a_try_moves_no_clock_of_the_data(held: Model) -> None:
    run = held.run("2024-02-01")
    moment = datetime(2024, 3, 1, tzinfo=UTC)
    run.ledger.append("churn", "decision", "d", {}, effective_at=moment)
    with pytest.raises(NotAllowed):
        check_access(run.spec, run.ledger, "rollback", "eve" * 200)
    assert run.ledger.records("churn", "access")[0].effective_at == moment


def test_the_history_shows_who_tried(held: Model) -> None:
    spec, ledger = held.home.spec("churn"), Ledger(held.home.ledger)
    admit(spec, ledger, "approve", "rhea", ["Risk"])
    with pytest.raises(NotAllowed):
        check_access(spec, ledger, "rollback", "eve")
    (event,) = history.rows(ledger, "churn")
    assert (event.what, event.why, event.who) == ("refused: NotAllowed", "access.rollback names others", "eve")


def test_where_nobody_is_named_anybody_may(churn: Model) -> None:
    spec = churn.home.spec("churn")
    for by in ("eve", ""):
        check_access(spec, Ledger(churn.home.ledger), "rollback", by)
    assert tries(churn) == []


@pytest.mark.parametrize("entry", ["", "role:", "a b", "group:risk", "ada:eve"])
def test_an_entry_is_a_name_or_a_role(entry: str) -> None:
    with pytest.raises(InvalidSpec, match=r"access\.approve"):
        parse(yaml.safe_dump({**churn_spec(), "access": {"approve": [entry]}}), "churn")


def test_on_the_command_line_the_machine_says_who_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    own = pwd.getpwuid(os.geteuid()).pw_name
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "ada")
    assert laptop_trigger().by == machine_user() == own
    monkeypatch.setattr(os, "geteuid", lambda: 2**31 - 7)
    assert machine_user() == f"uid {2**31 - 7}"
