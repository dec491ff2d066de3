"""What the approver is shown, and what becomes of an answer; that Airflow carries it is shown in `test_airflow.py`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from retrain.errors import NotApproved, UnknownVersion
from retrain.registry import approval
from retrain.results import Champion, Configuration, Decision, GateCheck, GateReport, RegisterReport
from retrain.state.ledger import Record
from retrain.state.run import Run
from tests.conftest import Model, churn_spec

DAGS = Path(__file__).parents[2] / "dags"
HOSTILE = "plan=<script>|[here](javascript:x)\n# {{ 7 * 7 }}"
DIGEST = "d" * 64


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The file with the operator, read in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))
        patch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
        patch.setenv("AIRFLOW__API__BASE_URL", "http://127.0.0.1:8080")
        patch.syspath_prepend(str(DAGS))
        spec = importlib.util.spec_from_file_location("approval_operator", DAGS / "approval_operator.py")
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "approval_operator", module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def proposal(churn: Model) -> Record:
    """Version 3 waits; ada has triggered its run, and the spec asks for two."""
    rules = {"mode": "approve", "approval": {"two_people": True, "expires": "2d"}}
    churn.write_spec({**churn_spec(), "promotion": rules})
    return propose(churn.run("2024-02-01", kind="manual", by="ada", reason="as `asked` by\nsales"))


def propose(run: Run) -> Record:
    about: dict[str, Any] = {"model": "churn", "interval": run.interval, "effective_at": run.as_of}
    checks = (
        GateCheck(name="champion", model="new", passed=True, value=0.0123456, bound=0.0, reason="better"),
        GateCheck(name="slices", model="new", passed=False, value=0.2, bound=0.1, reason=HOSTILE),
    )
    gate = GateReport(
        **about, decision=Decision(verdict="promote", reasons=("it is better",)), chosen="new", kind="new",
        metric="log_loss", challenger_score=0.41, champion_score=0.44, checks=checks,
    )  # fmt: skip
    run.write(gate, "gate")
    url = "http://127.0.0.1:5000/#/runs/x"
    run.write(RegisterReport(**about, decision=gate.decision, run_id="x", version=3, url=url), "register")
    target = Champion(
        version=3, run_id="x", digest=DIGEST, training="t", reference="r", trained_until=run.as_of,
        configuration=Configuration(estimator="linear", parameters={}, pipeline="p"), effective_at=run.as_of,
    )  # fmt: skip
    return approval.propose(run, target, gate)


def context(version: int = 3, digest: str = "") -> Any:
    params = {"version": version, "digest": digest}
    return {"params": params, "task_instance": SimpleNamespace(id="x"), "dag_run": SimpleNamespace(conf=params)}


def event(option: str, user: str | None, reason: str = "looked") -> dict[str, Any]:
    """What Airflow hands back: without a user where the form expired, or nobody knows who answered."""
    by = {"id": user, "name": user} if user else None
    return {
        "chosen_options": [option],
        "params_input": {"reason": reason},
        "responded_at": datetime.now(UTC),
        "responded_by_user": by,
        "timedout": False,
    }


@pytest.fixture
def task(operator: ModuleType, churn: Model, proposal: Record) -> Any:
    return operator.approve_task(churn.run().spec)


def test_the_form_shows_what_there_is_to_decide_on(operator: ModuleType, churn: Model, proposal: Record) -> None:
    run = replace(churn.run("2024-02-01", kind="manual", by="ada", reason="sales"), key=proposal.run)
    shown = operator.form(run, proposal, datetime(2024, 3, 8, 9, tzinfo=UTC))
    assert shown.splitlines()[:9] == [
        "- **Version**: 3 (new)",
        f"- **Files**: sha256 {DIGEST}",
        "- **Interval**: 2024-02-01",
        "- **Triggered**: manual by ada sales",
        "- **log_loss**: challenger 0.41, champion 0.44",
        "- **Without an answer**: reject at 2024-03-08 09:00 UTC",
        "- **Who may answer**: anybody but ada",
        "",
        "[The run](http://127.0.0.1:8080/retrain/dags/churn_retrain/runs/test-2024-02-01) ·"
        " [in MLflow](http://127.0.0.1:8080/retrain/dags/churn_retrain/runs/test-2024-02-01/mlflow)",
    ]
    assert "| champion | new | passed | 0.01235 | 0 | better |" in shown
    (row,) = (line for line in shown.splitlines() if line.startswith("| slices"))
    assert row.count("|") - row.count("\\|") == 7, "a name from the data opens no cell"
    assert "<script" not in shown
    assert "[here](" not in shown.replace("\\[", "")


def test_the_task_asks_until_the_proposal_expires(task: Any, proposal: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.providers.standard.operators.hitl import HITLOperator

    forms: list[Any] = []
    monkeypatch.setattr(HITLOperator, "execute", lambda self, _: forms.append((self.subject, self.response_timeout)))
    task.execute(context(digest=DIGEST))
    ((subject, left),) = forms
    assert subject == "May version 3 of churn serve?"
    assert timedelta(days=1, hours=23) < left < timedelta(days=2)
    assert "{{ 7 \\* 7 }}" in task.body, "set after Airflow has rendered its templates"
    monkeypatch.setattr(task, "spec", task.spec.model_copy(update={"promotion": expired(task.spec)}))
    task.execute(context())
    assert len(forms) == 1, "nobody is asked about what has expired; the promote stage knows the answer"


def expired(spec: Any) -> Any:
    rules = spec.promotion.approval.model_copy(update={"expires": timedelta(0)})
    return spec.promotion.model_copy(update={"approval": rules})


def test_the_default_is_the_one_that_the_spec_names(operator: ModuleType, churn: Model) -> None:
    for otherwise in ("approve", "reject"):
        churn.write_spec({**churn_spec(), "promotion": {"mode": "approve", "approval": {"otherwise": otherwise}}})
        task = operator.approve_task(churn.run().spec)
        assert task.defaults == [otherwise.capitalize()]
        assert task.response_timeout == timedelta(days=7)


@pytest.mark.parametrize(("option", "by"), [("Approve", "bob"), ("Reject", "bob"), ("Reject", "ada")])
def test_an_answer_stands_on_record_with_its_name(
    task: Any, churn: Model, proposal: Record, option: str, by: str
) -> None:
    task.execute_complete(context(digest=DIGEST), event(option, by))
    (record,) = churn.run().ledger.records("churn", "approval")
    assert (record.by, record.run) == (by, proposal.run)
    assert record.body == {"version": 3, "digest": DIGEST, "verdict": option.lower(), "reason": "looked"}


def test_an_answer_without_a_name_is_none(task: Any, churn: Model) -> None:
    task.execute_complete(context(), event("Approve", None))
    assert churn.run().ledger.records("churn", "approval") == []


@pytest.mark.parametrize(
    ("given", "by", "error", "found"),
    [
        (context(), "ada", NotApproved, "ada may not approve version 3"),
        (context(digest="e" * 64), "bob", NotApproved, "was proposed with the files dddddddddddd, not eeeeeeeeeeee"),
        (context(version=4), "bob", UnknownVersion, "version 4 of churn has not been proposed"),
    ],
    ids=["who triggered", "other files", "another version"],
)
def test_what_does_not_count_is_refused_and_leaves_nothing(
    task: Any, churn: Model, given: Any, by: str, error: type[Exception], found: str
) -> None:
    with pytest.raises(Exception, match=found) as refused:
        task.execute_complete(given, event("Approve", by))
    assert isinstance(refused.value.error, error), "the failure callback tells it by its kind"  # type: ignore[attr-defined]
    assert churn.run().ledger.records("churn", "approval") == []
