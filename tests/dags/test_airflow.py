"""The loops in a real Airflow: six short months, one of them bad, and what people do to them afterwards.

With them a second model, whose world changes in its fourth month: it is scored, watched and retrained on its own.
And a third, whose versions serve only after a person has said so.

One start serves every test here, and they run in the order in which they stand: each finds what the ones before left.
"""

from __future__ import annotations

import getpass
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest

from bin import local, settings
from retrain.pipeline import MONITORING, NAMES
from retrain.reporting.status import IntervalStatus, rows
from retrain.state.ledger import Ledger
from retrain.state.run import run_key
from tests.conftest import churn_rows, churn_spec
from tests.servers.test_local import free_ports
from tests.test_dvc import AFTER, Checkout

pytestmark = pytest.mark.airflow

T = TypeVar("T")
MONTHS = tuple(f"2024-0{month}-01" for month in range(1, 7))
BAD = "2024-04-01"
DAG = "churn_retrain"
ENDED = ("success", "failed")
FALLEN = MONTHS[:4]
WATCH = "fallen_monitor"
ASKED = MONTHS[:3]
APPROVE = "asked_approve"


def until(what: str, ask: Callable[[], T | None], seconds: float = 420) -> T:
    """The first answer that is one."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := ask():
            return answer
        time.sleep(0.3)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


class Airflow:
    """Questions to the REST API, as one user."""

    def __init__(self, services: local.Services) -> None:
        self.token = services.token()
        headers = {"Authorization": f"Bearer {self.token}"}
        self.http = httpx.Client(base_url=services.airflow_url, headers=headers, timeout=60, trust_env=False)

    def get(self, path: str, **params: Any) -> Any:
        return self.http.get(f"/api/v2/{path}", params=params).raise_for_status().json()

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        def answered() -> httpx.Response | None:
            # Airflow gives up at once where its SQLite database is written to at that moment, and nothing is done.
            answer = self.http.post(f"/api/v2/{path}", json=body)
            return None if answer.status_code == 500 and "Database error" in answer.text else answer

        return until(f"{path} is answered", answered)

    def unpause(self, dag: str) -> None:
        def is_there() -> bool:
            return self.http.patch(f"/api/v2/dags/{dag}", json={"is_paused": False}).status_code == 200

        until(f"{dag} is there", is_there)

    def runs(self, dag: str = DAG, **params: Any) -> list[dict[str, Any]]:
        return list(self.get(f"dags/{dag}/dagRuns", order_by="logical_date", **params)["dag_runs"])

    def clear(self, run: str, dag: str = DAG, **which: Any) -> None:
        body = {"dry_run": False, "dag_run_id": run, "reset_dag_runs": True, **which}
        assert self.post(f"dags/{dag}/clearTaskInstances", body).status_code == 200

    def ended(self, run: str, dag: str = DAG) -> dict[str, Any]:
        def ended_run() -> dict[str, Any] | None:
            answer: dict[str, Any] = self.get(f"dags/{dag}/dagRuns/{run}")
            return answer if answer["state"] in ENDED else None

        return until(f"{dag} {run} ended", ended_run)

    def start(self, dag: str = DAG, **conf: Any) -> str:
        """A run by hand."""
        answer = self.post(f"dags/{dag}/dagRuns", {"logical_date": None, "conf": conf})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["dag_run_id"])

    def trigger(self, dag: str = DAG, **conf: Any) -> dict[str, Any]:
        """A run by hand, once it has ended."""
        return self.ended(self.start(dag, **conf), dag)

    def waiting(self, run: str) -> dict[str, Any]:
        """The form of a run of the approval DAG, once it waits for an answer."""
        parked = f"task_id=approve, run_id={re.escape(run)}, .*state=awaiting_input"

        def form() -> dict[str, Any] | None:
            # An answer that comes before the scheduler has noticed that the task waits would fail the task.
            if not re.search(parked, (settings.home() / "logs/scheduler.log").read_text()):
                return None
            forms = self.get(f"dags/{APPROVE}/dagRuns/{run}/hitlDetails", response_received=False)["hitl_details"]
            return forms[0] if forms else None

        return until(f"{run} waits", form)

    def answer(self, run: str, option: str, reason: str = "looked at it") -> httpx.Response:
        return self.http.patch(
            f"/api/v2/dags/{APPROVE}/dagRuns/{run}/taskInstances/approve/-1/hitlDetails",
            json={"chosen_options": [option], "params_input": {"reason": reason}},
        )

    def tasks(self, run: str, dag: str = DAG) -> dict[str, dict[str, Any]]:
        tasks = self.get(f"dags/{dag}/dagRuns/{run}/taskInstances", limit=100)["task_instances"]
        return {task["task_id"]: task for task in tasks}

    def states(self, run: str, dag: str = DAG) -> dict[str, str]:
        return {name: task["state"] for name, task in self.tasks(run, dag).items()}

    def returned(self, run: str, task: str, dag: str = DAG) -> Any:
        """What a task returned."""
        return self.get(f"dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value")["value"]

    def log(self, run: str, task: str, dag: str = DAG) -> str:
        tries = self.tasks(run, dag)[task]["try_number"]
        return json.dumps(self.get(f"dags/{dag}/dagRuns/{run}/taskInstances/{task}/logs/{tries}"))

    def links(self, run: str, task: str, dag: str = DAG) -> dict[str, str]:
        links = self.get(f"dags/{dag}/dagRuns/{run}/taskInstances/{task}/links")["extra_links"]
        return {name: link for name, link in links.items() if link}


@contextmanager
def listener(notices: list[dict[str, str]]) -> Iterator[int]:
    """Somebody's webhook on this machine: takes what is posted, if the caller knows the word."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            welcome = (self.path, self.headers["X-Word"]) == ("/notices", "sesame")
            if welcome:
                notices.append(json.loads(body))
            self.send_response(204 if welcome else 403)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer((settings.LOOPBACK, 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


class Loop:
    """The running installation."""

    def __init__(self, clone: Checkout, services: local.Services, notices: list[dict[str, str]]) -> None:
        self.notices = notices
        self.clone, self.services, self.airflow = clone, services, Airflow(services)
        self.ledger = Ledger(f"sqlite:///{clone.root / '.retrain/ledger.db'}")
        self.month: dict[str, str] = {}
        self.monitored: dict[str, str] = {}
        self.of_asked: dict[str, str] = {}

    @property
    def champions(self) -> list[int]:
        """The versions that were made champion, in order."""
        return self.champions_of("churn")

    def champions_of(self, model: str) -> list[int]:
        return [record.body["version"] for record in self.ledger.records(model, "promotion")]

    def row(self, month: str) -> IntervalStatus:
        return next(row for row in rows(self.ledger, "churn") if row.interval == month)

    def store(self, run: str) -> Path:
        return self.clone.root / ".retrain/store/churn/runs" / run_key(run)

    def serves(self, model: str = "churn") -> int | None:
        from retrain.registry.mlflow import Registry

        return Registry(self.services.mlflow_url).alias(model, "champion")

    def versions(self, model: str = "churn") -> int:
        from mlflow import MlflowClient

        return len(MlflowClient(self.services.mlflow_url).search_model_versions(f"name='{model}'"))

    def user(self, name: str) -> Airflow:
        """Airflow as somebody else sees it."""
        password = settings.read("airflow/simple_auth_manager_passwords.json.generated")[name]
        return Airflow(self.services._replace(user=name, password=password))

    def answers(self) -> list[tuple[int, str, str]]:
        """The answers on record: version, verdict, and whose."""
        approvals = self.ledger.records("asked", "approval")
        return [(record.body["version"], record.body["verdict"], record.by) for record in approvals]

    def alert(self, number: str, **conf: Any) -> httpx.Response:
        """As somebody outside sends it: the run's id is made of the alert's."""
        body = {"dag_run_id": f"alert-{number}", "logical_date": None, "conf": {"alert": number, **conf}}
        return self.airflow.post(f"dags/{DAG}/dagRuns", body)


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    """Airflow and MLflow after all months have run by themselves."""
    clone = Checkout(tmp_path_factory.mktemp("airflow"))
    notices: list[dict[str, str]] = []
    owner = {"name": "Ada Example", "contact": "ada@example.org"}
    clone.add(
        "churn",
        MONTHS,
        interval={"every": "month", "start": MONTHS[0], "end": "2024-07-01"},
        owner={**owner, "notify": ["hook"]},
        policy={"schedule": 2, "drift": False},
        # So wide that a refresh passes on a few hundred rows.
        gate={"min_rows": 100, "margin": 0.45},
    )
    churn_rows(BAD).assign(plan="gold").to_csv(clone.root / "data/churn/2024-04.csv", index=False)
    clone.add(
        "late",
        MONTHS[:1],
        interval={"every": "month", "start": MONTHS[0], "end": "2024-02-01"},
        owner={**owner, "notify": ["nowhere", "closed"]},
    )
    (clone.root / "data/late/2024-01.csv").unlink()
    clone.add(
        "fallen",
        FALLEN,
        interval={"every": "month", "start": MONTHS[0], "end": "2024-05-01"},
        owner={**owner, "notify": ["hook"]},
        # The estimate is the monitor's alone: what it finds, only an alert can start.
        policy={"schedule": 0, "drift": False, "estimated": True},
        # Nobody who has learnt from the months before is calibrated on the one that fell.
        gate={"min_rows": 100, "margin": 0.45, "calibration": None},
    )
    for month in FALLEN:
        frame = churn_rows(month, 500)
        if month == FALLEN[-1]:  # visits say little from now on, and the plan decides
            chance = np.random.default_rng(4)
            frame["visits"] = chance.integers(18, 24, len(frame))
            frame["churned"] = chance.random(len(frame)) < np.where(frame["plan"] == "basic", 0.85, 0.1)
        frame.to_csv(clone.root / f"data/fallen/{month[:7]}.csv", index=False)
    clone.add(
        "asked",
        ASKED,
        interval={"every": "month", "start": MONTHS[0], "end": "2024-04-01"},
        owner={**owner, "notify": ["hook"]},
        policy={"schedule": 0, "drift": False},
        gate={"min_rows": 100, "margin": 0.45},
        promotion={"mode": "approve", "approval": {"two_people": True}},
        access={"rollback": ["bob"]},
    )
    (clone.root / "data/asked/2024-03.csv").unlink()
    airflow, mlflow = free_ports(2)

    def environment(dags: Path = settings.DAGS) -> dict[str, str]:
        # A user who may only look, and files looked at more often than a real installation would.
        more = {
            "CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,bob:user,vi:viewer",
            "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3",
            "DAG_PROCESSOR__REFRESH_INTERVAL": "3",
        }
        hook = {"conn_type": "http", "schema": "http", "host": settings.LOOPBACK, "port": port}
        hook["extra"] = {"endpoint": "/notices", "headers": {"X-Word": "sesame"}}
        closed = hook | {"extra": {"endpoint": "/hidden-in-the-address"}}
        connections = {"HOOK": json.dumps(hook), "CLOSED": json.dumps(closed)}
        return (
            settings.environment(dags)
            | {f"AIRFLOW__{name}": value for name, value in more.items()}
            | {f"AIRFLOW_CONN_{name}": value for name, value in connections.items()}
        )

    with listener(notices) as port, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETRAIN_ROOT", str(clone.root))
        patch.setenv("RETRAIN_HOME", str(clone.root / ".retrain"))
        patch.setenv("AIRFLOW_PORT", str(airflow))
        patch.setenv("MLFLOW_PORT", str(mlflow))
        patch.setattr(local, "environment", environment)
        try:
            loop = Loop(clone, local.start(), notices)
            fallen = ("fallen_retrain", "fallen_score", WATCH)
            for dag in (DAG, *fallen, "late_retrain", "asked_retrain"):
                loop.airflow.unpause(dag)
            broken = {**churn_spec(), "model": "typo", "quallity": {}}
            (clone.root / "include/models/typo.yaml").write_text(json.dumps(broken))

            def all_ended(dag: str, months: tuple[str, ...]) -> list[dict[str, Any]] | None:
                runs = loop.airflow.runs(dag, run_type="scheduled")
                return runs if [run["state"] in ENDED for run in runs] == [True] * len(months) else None

            scheduled = (
                (DAG, MONTHS, loop.month),
                (WATCH, FALLEN, loop.monitored),
                ("asked_retrain", ASKED, loop.of_asked),
            )
            for dag, months, runs in scheduled:
                for run in until(f"the months of {dag} have run", lambda d=dag, m=months: all_ended(d, m), 900):  # type: ignore[misc]
                    runs[run["logical_date"][:10]] = run["dag_run_id"]
            yield loop
        finally:
            local.stop()


# --- the schedule


def test_the_months_run_one_after_the_other_to_a_champion(loop: Loop) -> None:
    runs = loop.airflow.runs(run_type="scheduled")
    assert [run["logical_date"][:10] for run in runs] == list(MONTHS)
    for earlier, later in itertools.pairwise(runs):
        assert earlier["end_date"] <= later["start_date"]
    table = [(row.interval, row.verdict("decide"), row.outcome, row.champion) for row in rows(loop.ledger, "churn")]
    assert table == [
        ("2024-01-01", "skip", "", None),
        ("2024-02-01", "retrain", "promote", 1),
        ("2024-03-01", "skip", "", 1),
        ("2024-04-01", "", "validate: quarantined", 1),
        ("2024-05-01", "retrain", "promote", 2),
        ("2024-06-01", "skip", "", 2),
    ]
    assert loop.champions == [1, 2]
    assert loop.serves() == loop.versions() == 2


def test_a_calm_no_is_a_green_run_with_its_reason(loop: Loop) -> None:
    run = loop.month["2024-01-01"]
    states = loop.airflow.states(run)
    after = NAMES[NAMES.index("decide") + 1 :]
    assert {task for task, state in states.items() if state == "skipped"} == set(after)
    assert {state for task, state in states.items() if task not in after} == {"success"}
    assert loop.airflow.ended(run)["state"] == "success"
    decided = loop.airflow.returned(run, "decide")
    assert decided["verdict"] == "skip"
    assert decided["reasons"] == ["waiting: the first model needs 2 intervals with mature labels, 1 so far"]
    assert "no rule of the policy says yes" in loop.airflow.returned(loop.month["2024-03-01"], "decide")["reasons"][0]


def test_a_quarantined_month_fails_its_run_and_blocks_no_other(loop: Loop) -> None:
    run = loop.month[BAD]
    assert loop.airflow.ended(run)["state"] == "failed"
    tasks = loop.airflow.tasks(run)
    assert (tasks["validate"]["state"], tasks["validate"]["try_number"]) == ("failed", 1)
    later = NAMES[NAMES.index("validate") + 1 :]
    assert {tasks[task]["state"] for task in later} == {"upstream_failed"}
    assert BAD not in str(loop.airflow.returned(loop.month["2024-05-01"], "snapshot"))
    context = json.loads((loop.store(loop.month["2024-05-01"]) / "context.json").read_text())
    assert context["quarantined"] == [BAD]
    assert [accepted["batch"]["interval"]["start"][:10] for accepted in context["accepted"]] == [
        month for month in MONTHS[:5] if month != BAD
    ]


def test_a_batch_that_never_came_is_its_owners_to_look_at(loop: Loop) -> None:
    airflow = loop.airflow
    (run,) = airflow.runs("late_retrain")
    assert airflow.ended(run["dag_run_id"], "late_retrain")["state"] == "failed"
    ingest = airflow.tasks(run["dag_run_id"], "late_retrain")["ingest"]
    assert (ingest["state"], ingest["try_number"]) == ("failed", 1)
    assert [record.body["verdict"] for record in loop.ledger.records("late", "stage")] == ["BatchMissing"]
    log = airflow.log(run["dag_run_id"], "ingest", "late_retrain")
    assert "[warning] late 2024-01-01: batch-missing" in log
    assert "Owner: Ada Example <ada@example.org>" in log
    assert "Runbook: docs/runbook.md#batch-missing" in log
    for connection, why in {"nowhere": "AirflowNotFoundException", "closed": "it answered 403"}.items():
        assert f"the owner could not be told over {connection}: {why}" in log, "and the task ends as it would have"
    assert "hidden-in-the-address" not in log


def test_a_broken_spec_is_shown_and_the_others_go_on(loop: Loop) -> None:
    def shown() -> str | None:
        errors = loop.airflow.get("importErrors")["import_errors"]
        return next((error["stack_trace"] for error in errors if error["filename"].endswith("broken_specs.py")), None)

    assert "did you mean 'quality'?" in until("the broken spec is among the import errors", shown)
    for dag in (DAG, "churn_rollback", "late_retrain"):
        about = loop.airflow.get(f"dags/{dag}")
        assert (about["has_import_errors"], about["is_stale"]) == (False, False)
    assert loop.airflow.http.get("/api/v2/dags/typo_retrain").status_code == 404


# --- scored, watched, and started by what the monitor found


def test_each_month_is_scored_by_the_champion_of_its_time(loop: Loop) -> None:
    scored = {record.key[:10]: record.body["version"] for record in loop.ledger.records("fallen", "score")}
    assert scored == {"2024-03-01": 1, "2024-04-01": 1}, "also where a later one serves by now"
    returned = {
        run["logical_date"][:10]: loop.airflow.returned(run["dag_run_id"], "score", "fallen_score")
        for run in loop.airflow.runs("fallen_score")
    }
    assert [returned[month]["verdict"] for month in FALLEN] == ["skipped", "skipped", "scored", "scored"]
    assert "no champion yet" in returned["2024-01-01"]["reasons"][0]


def test_a_monitor_before_any_champion_is_calm(loop: Loop) -> None:
    run = loop.monitored["2024-01-01"]
    assert loop.airflow.ended(run, WATCH)["state"] == "success"
    states = loop.airflow.states(run, WATCH)
    assert states == {stage.name: "success" for stage in MONITORING} | {"start": "skipped"}
    decided = loop.airflow.returned(run, "decide", WATCH)
    assert decided["reasons"] == ["waiting: the first model needs 2 intervals with mature labels, 1 so far"]


def test_an_alarm_of_the_monitor_starts_one_retraining_that_ends_in_the_registry(loop: Loop) -> None:
    airflow = loop.airflow
    decided = [airflow.returned(loop.monitored[month], "decide", WATCH)["verdict"] for month in FALLEN]
    assert decided == ["skip", "skip", "skip", "retrain"]
    watch = loop.monitored["2024-04-01"]
    assert " estimated (90% interval " in airflow.returned(watch, "estimate", WATCH)["reasons"][0]
    assert airflow.states(watch, WATCH)["start"] == "success"

    key = f"monitor-{run_key(watch)}"
    assert airflow.ended(f"alert-{key}", "fallen_retrain")["state"] == "success"
    answer = airflow.returned(f"alert-{key}", "decide", "fallen_retrain")
    assert answer["verdict"] == "retrain"
    assert answer["reasons"][0].startswith(f"alert {key} from the monitor: estimated: ")
    assert loop.champions_of("fallen") == [1, 2]
    assert loop.serves("fallen") == loop.versions("fallen") == 2


def test_the_same_decision_again_starts_nothing(loop: Loop) -> None:
    airflow, watch = loop.airflow, loop.monitored["2024-04-01"]
    before = airflow.runs("fallen_retrain")
    airflow.clear(watch, WATCH, task_ids=["start"], only_failed=False)
    assert airflow.ended(watch, WATCH)["state"] == "success"
    assert airflow.states(watch, WATCH)["start"] == "skipped"
    assert "Dag Run already exists" in airflow.log(watch, "start", WATCH)
    assert airflow.runs("fallen_retrain") == before


def test_the_owner_is_told_once_of_each_thing(loop: Loop) -> None:
    counts = Counter((notice["model"], notice["interval"], notice["kind"]) for notice in loop.notices)
    assert counts == {
        ("churn", "2024-02-01", "promoted"): 1,
        ("churn", BAD, "quarantined"): 1,
        ("churn", "2024-05-01", "promoted"): 1,
        ("fallen", "2024-02-01", "promoted"): 1,
        ("fallen", "2024-04-01", "drift"): 1,
        ("fallen", "2024-04-01", "estimate-fell"): 1,
        ("fallen", "2024-04-01", "retraining-started"): 1,
        ("fallen", "2024-04-01", "promoted"): 1,
        ("asked", "2024-02-01", "approval-wanted"): 1,
        ("asked", "2024-03-01", "batch-missing"): 1,
    }
    (fell,) = (notice for notice in loop.notices if notice["kind"] == "estimate-fell")
    assert fell["owner"] == "Ada Example <ada@example.org>"
    assert fell["did"].startswith("A retraining is started: estimated: ")
    assert fell["runbook"] == "docs/runbook.md#estimate-fell"
    assert fell["link"].startswith(f"{loop.services.airflow_url}/dags/{WATCH}/runs/")


def test_scores_and_monitors_have_their_pages(loop: Loop) -> None:
    airflow, watch = loop.airflow, loop.monitored["2024-04-01"]
    links = {name: link for stage in MONITORING for name, link in airflow.links(watch, stage.name, WATCH).items()}
    links.pop("Rollout")  # a link of the task, which had nothing beside the champion to show
    assert set(links) == {"Retrain run", "Drift report", "Estimate", "Measurement", "Diagnosis"}
    (score,) = (run for run in airflow.runs("fallen_score") if run["logical_date"].startswith("2024-04"))
    links |= {"Scores": airflow.links(score["dag_run_id"], "score", "fallen_score")["Scores"]}
    for name, link in links.items():
        assert airflow.http.get(link).status_code == 200, name
    page = airflow.http.get(links["Retrain run"]).text
    assert all(f"<b>{stage.name}</b>" in page for stage in MONITORING)


# --- the same on a laptop


def test_dvc_reaches_the_same_to_the_last_digit(loop: Loop) -> None:
    run = loop.month["2024-05-01"]
    in_airflow, on_laptop = loop.store(run), loop.store("dvc")
    loop.clone.models = {"churn": {"interval": "2024-05-01", "source": "data/churn"}}
    (loop.clone.root / "params.yaml").write_text(json.dumps({"models": loop.clone.models}))
    loop.clone.call("git", "init", "-q")
    loop.clone.repro("context@churn")
    shutil.copyfile(in_airflow / "context.json", on_laptop / "context.json")
    ran = loop.clone.repro("--downstream", "drift@churn")
    assert ran == {f"{stage}@churn" for stage in AFTER}
    same = ["drift.json", "decide.json", "train.json", "evaluate.json", "gate.json", "evaluate/metrics.json"]
    for name in (*same, "evaluate/predictions.parquet", "evaluate/roc.csv", "evaluate/importance.csv"):
        # A report names files by their place, which is the run's own.
        wanted = (in_airflow / name).read_bytes().replace(run_key(run).encode(), b"dvc")
        assert (on_laptop / name).read_bytes() == wanted, name
    gate = json.loads((on_laptop / "gate.json").read_text())
    assert (gate["decision"]["verdict"], gate["kind"]) == ("promote", "refresh"), "a champion was there to compare with"
    assert loop.champions == [1, 2]
    assert loop.row("2024-05-01").run == run_key(run), "a rehearsal takes no row of the table"


# --- the plugin


def test_the_links_of_a_task_lead_to_what_it_says(loop: Loop) -> None:
    airflow, run = loop.airflow, loop.month["2024-05-01"]
    links = {name: link for task in NAMES for name, link in airflow.links(run, task).items()}
    of_stages = {"Quality report", "Drift report", "Measurement", "Diagnosis", "Gate table", "Smoke test"}
    assert set(links) - {"Regret"} == {"Retrain run", *of_stages, "MLflow run"}
    insides = {
        "Quality report": "churn",
        "Drift report": "root_metric",
        "Gate table": "within",
        "Smoke test": "id='smoke_test'",
    }
    for name, inside in insides.items():
        answer = airflow.http.get(links[name])
        assert answer.status_code == 200, name
        assert inside in answer.text, name
    for name in ("Quality report", "Drift report"):
        assert airflow.http.get(links[name]).headers["content-security-policy"] == "sandbox allow-scripts"
    page = airflow.http.get(links["Retrain run"])
    assert all(f"<b>{stage}</b>" in page.text for stage in NAMES)
    assert "<b class=yes>pass</b>" in page.text
    recorded = airflow.http.get(links["MLflow run"])
    assert recorded.status_code == 307
    assert recorded.headers["location"].startswith(loop.services.mlflow_url)
    assert httpx.get(recorded.headers["location"], trust_env=False).status_code == 200


def test_a_failed_run_has_its_evidence(loop: Loop) -> None:
    link = loop.airflow.links(loop.month[BAD], "validate")["Quality report"]
    assert "gold" in loop.airflow.http.get(link.replace("quality.html", "failing_rows.csv")).text
    page = loop.airflow.http.get(loop.airflow.links(loop.month[BAD], "validate")["Retrain run"]).text
    assert "quarantine" in page
    assert "failing_rows.csv" in page


def test_no_page_without_somebody_signed_in(loop: Loop) -> None:
    run = loop.month["2024-05-01"]
    base = f"{loop.services.airflow_url}/retrain/dags/{DAG}/runs/{run.replace('+', '%2B')}"
    cookie = {"_token": loop.airflow.token}
    with httpx.Client(trust_env=False) as stranger:
        for path in ("", "/files/validate/quality.html", "/files/gate.json", "/mlflow"):
            assert stranger.get(base + path).status_code in (401, 403)
            wrong = {"Authorization": "Bearer " + loop.airflow.token[:-4] + "AAAA"}
            assert stranger.get(base + path, headers=wrong).status_code in (401, 403)
        for path in ("docs", "redoc", "openapi.json"):
            assert stranger.get(f"{loop.services.airflow_url}/retrain/{path}").status_code in (401, 403, 404)
    with httpx.Client(trust_env=False, cookies=cookie) as browser:
        assert browser.get(base).status_code == 200, "the tab in the UI sends a cookie and no header"


def test_who_may_look_may_look_and_no_more(loop: Loop) -> None:
    viewer = loop.user("vi")
    link = loop.airflow.links(loop.month["2024-05-01"], "gate")["Retrain run"]
    assert viewer.http.get(link).status_code == 200
    assert viewer.post(f"dags/{DAG}/dagRuns", {"logical_date": None}).status_code == 403
    assert (
        viewer.post("dags/churn_rollback/dagRuns", {"logical_date": None, "conf": {"reason": "mine"}}).status_code
        == 403
    )


# --- what people do


def test_by_hand_with_force_and_as_a_dry_run(loop: Loop) -> None:
    run = loop.airflow.trigger(force=True, dry_run=True, reason="what if", interval="2024-06-01")
    assert run["state"] == "success"
    decided = loop.airflow.returned(run["dag_run_id"], "decide")
    assert decided["reasons"] == ["forced by hand: what if"]
    registered = loop.airflow.returned(run["dag_run_id"], "register")
    assert registered["verdict"] == "recorded"
    assert loop.airflow.states(run["dag_run_id"])["promote"] == "skipped"
    assert (loop.versions(), loop.serves(), loop.champions) == (2, 2, [1, 2])


def test_a_malformed_parameter_is_refused_by_the_form(loop: Loop) -> None:
    answer = loop.airflow.post(f"dags/{DAG}/dagRuns", {"logical_date": None, "conf": {"interval": "next tuesday"}})
    assert answer.status_code == 400
    assert "next tuesday" in answer.text
    answer = loop.airflow.post("dags/churn_rollback/dagRuns", {"logical_date": None, "conf": {}})
    assert answer.status_code == 400


def test_what_the_dag_does_not_know_is_refused_by_the_api(loop: Loop) -> None:
    for conf, words in (({"dryrun": True}, "did you mean 'dry_run'"), ({"interval": "2024-03-05"}, "not the start of")):
        answer = loop.airflow.post(f"dags/{DAG}/dagRuns", {"logical_date": None, "conf": conf})
        assert (answer.status_code, words in answer.text) == (400, True)


def from_the_command_line(loop: Loop, dag: str, **conf: Any) -> str:
    """A run by whoever has a shell: no API is asked, and Airflow's name for them is the machine's."""
    run = f"by-command-{dag}"
    command = (sys.executable, "-m", "airflow", "dags", "trigger", dag, "--run-id", run, "--conf", json.dumps(conf))
    subprocess.run(command, env={**os.environ, **local.environment()}, capture_output=True, check=True)
    return run


def test_a_refusal_is_not_retried(loop: Loop) -> None:
    run = from_the_command_line(loop, DAG, dryrun=True)
    assert loop.airflow.ended(run)["state"] == "failed"
    ingest = loop.airflow.tasks(run)["ingest"]
    assert (ingest["state"], ingest["try_number"]) == ("failed", 1)
    assert "churn_retrain has no parameter" in loop.airflow.log(run, "ingest")


def test_a_released_month_goes_through_when_its_run_is_cleared(loop: Loop) -> None:
    run = loop.month[BAD]
    release = (sys.executable, "-m", "retrain", "release", "churn", "--interval", BAD)
    loop.clone.call(*release, "--reason", "gold is a plan now")
    loop.airflow.clear(run, only_failed=True)
    assert loop.airflow.ended(run)["state"] == "success"
    assert loop.airflow.returned(run, "validate")["verdict"] == "accept"
    assert "gold is a plan now" in loop.airflow.returned(run, "validate")["reasons"][0]
    stale = loop.airflow.returned(run, "decide")
    assert stale["verdict"] == "skip"
    assert "an older run never replaces it" in stale["reasons"][0]
    assert loop.row(BAD).verdict("validate") == "ok"


def test_an_old_run_never_replaces_a_newer_champion(loop: Loop) -> None:
    run = loop.airflow.trigger(interval="2024-03-01", force=True)
    assert run["state"] == "success"
    assert "an older run never replaces it" in loop.airflow.returned(run["dag_run_id"], "decide")["reasons"][0]

    old = loop.month["2024-02-01"]
    before = loop.airflow.ended(old)["end_date"]
    backfill = {
        "dag_id": DAG,
        "from_date": "2024-02-01T00:00:00Z",
        "to_date": "2024-02-01T00:00:00Z",
        "reprocess_behavior": "completed",
        "max_active_runs": 1,
    }

    def accepted() -> bool:
        answer = loop.airflow.post("backfills", backfill)
        # Airflow gives up at once where its SQLite database is written to at that moment.
        assert answer.status_code in (200, 503), answer.text
        return answer.status_code == 200

    until("the backfill is accepted", accepted)

    def again() -> dict[str, Any] | None:
        (run,) = loop.airflow.runs(logical_date_gte="2024-02-01T00:00:00Z", logical_date_lte="2024-02-01T00:00:00Z")
        return run if run["state"] in ENDED and run["end_date"] != before else None

    backfilled = until("the backfill ended", again)
    assert backfilled["state"] == "success"
    promoted = loop.airflow.returned(backfilled["dag_run_id"], "promote")
    assert promoted["reasons"] == ["promoted before; the champion has changed since"], "what made a version is read"
    assert (loop.versions(), loop.serves(), loop.champions) == (2, 2, [1, 2])


def test_a_rollback_puts_the_predecessor_back(loop: Loop) -> None:
    run = loop.airflow.trigger("churn_rollback", reason="complaints from sales")
    assert run["state"] == "success"
    assert loop.airflow.returned(run["dag_run_id"], "rollback", "churn_rollback")["verdict"] == "rolled back"
    assert (loop.serves(), loop.champions) == (1, [1, 2, 1])
    assert loop.ledger.records("churn", "promotion")[-1].by == "admin"
    (notice,) = (notice for notice in loop.notices if notice["kind"] == "rolled-back")
    assert notice["severity"] == "critical"
    assert "complaints from sales" in notice["happened"]
    again = loop.airflow.trigger("churn_rollback", reason="and once more")
    assert again["state"] == "failed", "the first champion has no predecessor"
    assert loop.airflow.tasks(again["dag_run_id"], "churn_rollback")["rollback"]["try_number"] == 1
    assert loop.serves() == 1


# --- a person's word


def test_a_version_waits_and_holds_nothing_up(loop: Loop) -> None:
    airflow, run = loop.airflow, loop.of_asked["2024-02-01"]
    assert airflow.ended(run, "asked_retrain")["state"] == "success"
    assert airflow.returned(run, "promote", "asked_retrain")["verdict"] == "waiting"
    assert airflow.states(run, "asked_retrain")["ask"] == "success"
    later = airflow.ended(loop.of_asked["2024-03-01"], "asked_retrain")
    assert later["state"] == "failed", "its batch never came, though nothing held it up"
    form = airflow.waiting("approve-v1")
    assert (form["options"], form["defaults"]) == (["Approve", "Reject"], ["Reject"])
    assert form["subject"] == "May version 1 of asked serve?"
    for inside in ("**Version**: 1 (first)", "| check | model | verdict |", "| passed |", "reject at 20"):
        assert inside in form["body"], inside
    (link,) = re.findall(r"\[The run\]\((.*?)\)", form["body"])
    page = airflow.http.get(link)
    assert (page.status_code, "<b>promote</b>" in page.text) == (200, True)
    assert (loop.serves("asked"), loop.champions_of("asked")) == (None, [])


def test_who_may_only_look_answers_nothing(loop: Loop) -> None:
    assert loop.user("vi").answer("approve-v1", "Approve").status_code == 403
    assert loop.user("vi").post(f"dags/{APPROVE}/dagRuns", {"logical_date": None, "conf": {}}).status_code == 403
    assert loop.answers() == []


def test_an_approved_version_serves(loop: Loop) -> None:
    assert loop.airflow.answer("approve-v1", "Approve").status_code == 200
    assert loop.airflow.ended("approve-v1", APPROVE)["state"] == "success"
    assert loop.airflow.answer("approve-v1", "Reject").status_code == 409
    assert loop.answers() == [(1, "approve", "admin")], "the schedule triggered it: one person is enough"
    assert (loop.serves("asked"), loop.champions_of("asked")) == (1, [1])


def test_who_triggered_may_not_approve(loop: Loop) -> None:
    churn_rows("2024-03-01").to_csv(loop.clone.root / "data/asked/2024-03.csv", index=False)
    run = loop.airflow.trigger("asked_retrain", force=True, interval="2024-03-01", reason="new month")
    assert run["state"] == "success"
    (proposal,) = (record for record in loop.ledger.records("asked", "proposal") if record.body["version"] == 2)
    assert proposal.by == "admin"
    assert "anybody but admin" in loop.airflow.waiting("approve-v2")["body"]
    assert loop.airflow.answer("approve-v2", "Approve").status_code == 200
    assert loop.airflow.ended("approve-v2", APPROVE)["state"] == "failed"
    assert loop.airflow.states("approve-v2", APPROVE) == {"approve": "failed", "promote": "upstream_failed"}
    (notice,) = (notice for notice in loop.notices if notice["kind"] == "not-approved")
    assert "admin may not approve version 2" in notice["happened"]
    assert (loop.serves("asked"), len(loop.answers())) == (1, 1)


def test_a_no_keeps_the_champion_and_somebody_elses_yes_promotes(loop: Loop) -> None:
    outcomes = {}
    for who, option in (("admin", "Reject"), ("bob", "Approve")):
        airflow = loop.user(who)
        run = airflow.start(APPROVE, version=2)
        airflow.waiting(run)
        assert airflow.answer(run, option, f"as {who} sees it").status_code == 200
        assert airflow.ended(run, APPROVE)["state"] == "success"
        outcomes[who] = airflow.returned(run, "promote", APPROVE)
    assert outcomes["admin"]["verdict"] == "kept"
    assert "reject by admin: as admin sees it" in outcomes["admin"]["reasons"][0]
    assert outcomes["bob"]["verdict"] == "promoted"
    assert loop.answers()[1:] == [(2, "reject", "admin"), (2, "approve", "bob")]
    assert (loop.serves("asked"), loop.champions_of("asked")) == (2, [1, 2])


def test_a_rollback_by_somebody_whom_the_spec_does_not_name_is_refused(loop: Loop) -> None:
    conf = {"reason": "mine"}
    answer = loop.airflow.post("dags/asked_rollback/dagRuns", {"logical_date": None, "conf": conf})
    assert (answer.status_code, "access.rollback names bob" in answer.text) == (403, True)
    run = from_the_command_line(loop, "asked_rollback", **conf)
    assert loop.airflow.ended(run, "asked_rollback")["state"] == "failed"
    assert "NotAllowed" in loop.airflow.log(run, "rollback", "asked_rollback")
    tries = [(record.by, record.body["verdict"]) for record in loop.ledger.records("asked", "access")]
    assert tries == [("admin", "refused"), (getpass.getuser(), "refused")]
    assert loop.champions_of("asked") == [1, 2]


def test_a_rollback_goes_to_the_version_that_is_named(loop: Loop) -> None:
    run = loop.user("bob").trigger("asked_rollback", reason="better then", to=1)
    assert run["state"] == "success"
    assert (loop.serves("asked"), loop.champions_of("asked")) == (1, [1, 2, 1])
    assert loop.ledger.records("asked", "promotion")[-1].by == "bob"


# --- alerts from outside


def test_a_malformed_alert_is_refused_with_its_reason(loop: Loop) -> None:
    for conf in ({"alert": "x; y"}, {"alert": ["x"]}, {"alert": "x", "interval": "tomorrow"}):
        answer = loop.airflow.post(f"dags/{DAG}/dagRuns", {"dag_run_id": "alert-x", "logical_date": None, "conf": conf})
        assert answer.status_code == 400
        assert ("InvalidInterval" if "interval" in conf else "Invalid input for param") in answer.text


def as_the_readme_says(loop: Loop) -> int:
    """Its commands, pasted; the status that Airflow answered."""
    if not shutil.which("curl"):
        return loop.alert("42", reason="share of late flights doubled").status_code
    text = (settings.ROOT / "README.md").read_text()
    (block,) = (block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "dagRuns" in block)
    script = block.replace("http://127.0.0.1:8080", loop.services.airflow_url).replace("flights_retrain", DAG)
    script = script.replace("curl -X POST", "curl -s -o /dev/null -w '%{http_code}' -X POST")
    env = {**os.environ, "PASSWORD": loop.services.password, "NO_PROXY": settings.LOOPBACK}
    return int(subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=True).stdout)


def test_alerts_at_once_are_one_training(loop: Loop) -> None:
    """The first comes twice, and another one comes while it is at work."""
    answers = [as_the_readme_says(loop), loop.alert("43").status_code, loop.alert("42").status_code]
    assert answers == [200, 200, 409]
    first, second = (loop.airflow.ended(f"alert-{number}") for number in ("42", "43"))
    assert first["state"] == second["state"] == "success"
    assert first["end_date"] <= second["start_date"], "one at a time"
    decided = [loop.airflow.returned(f"alert-{number}", "decide") for number in ("42", "43")]
    assert decided[0]["reasons"] == ["alert 42 from outside: share of late flights doubled"]
    assert (decided[1]["verdict"], decided[1]["reasons"][0][:16]) == ("skip", "answered already")
    assert [record.key for record in loop.ledger.records("churn", "alert")] == ["42", "43"]
    assert (loop.serves(), loop.versions(), loop.champions) == (3, 3, [1, 2, 1, 3])


def test_nobody_outside_speaks_for_the_monitor(loop: Loop) -> None:
    run = loop.airflow.trigger(alert="monitor-made-up", reason="trust me")
    assert run["state"] == "failed"
    assert "no decision 'monitor-made-up' is on record" in loop.airflow.log(run["dag_run_id"], "context")
    answer = loop.airflow.post(f"dags/{DAG}/dagRuns", {"dag_run_id": "monitor-2", "logical_date": None})
    assert answer.status_code == 200
    assert loop.airflow.ended("monitor-2")["state"] == "failed"
    assert "one of another kind of run" in loop.airflow.log("monitor-2", "ingest")
    assert loop.champions == [1, 2, 1, 3]
