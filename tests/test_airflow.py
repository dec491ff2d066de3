"""The loop in a real Airflow: six short months, one of them bad, and what people do to them afterwards.

One start serves every test here, and they run in the order in which they stand: each finds what the ones before left.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from bin import local, settings
from retrain.ledger import Ledger
from retrain.pipeline import NAMES
from retrain.run import run_key
from retrain.status import Row, rows
from tests.conftest import churn_rows, churn_spec
from tests.test_dvc import Checkout
from tests.test_local import free_ports

pytestmark = pytest.mark.airflow

T = TypeVar("T")
MONTHS = tuple(f"2024-0{month}-01" for month in range(1, 7))
BAD = "2024-04-01"
DAG = "churn_retrain"
ENDED = ("success", "failed")


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
        return self.http.post(f"/api/v2/{path}", json=body)

    def unpause(self, dag: str) -> None:
        def found() -> bool:
            return self.http.patch(f"/api/v2/dags/{dag}", json={"is_paused": False}).status_code == 200

        until(f"{dag} is there", found)

    def runs(self, dag: str = DAG, **params: Any) -> list[dict[str, Any]]:
        return list(self.get(f"dags/{dag}/dagRuns", order_by="logical_date", **params)["dag_runs"])

    def ended(self, run: str, dag: str = DAG) -> dict[str, Any]:
        def asked() -> dict[str, Any] | None:
            found: dict[str, Any] = self.get(f"dags/{dag}/dagRuns/{run}")
            return found if found["state"] in ENDED else None

        return until(f"{dag} {run} ended", asked)

    def trigger(self, dag: str = DAG, **conf: Any) -> dict[str, Any]:
        """A run by hand, once it has ended."""
        answer = self.post(f"dags/{dag}/dagRuns", {"logical_date": None, "conf": conf})
        assert answer.status_code == 200, answer.text
        return self.ended(answer.json()["dag_run_id"], dag)

    def tasks(self, run: str, dag: str = DAG) -> dict[str, dict[str, Any]]:
        found = self.get(f"dags/{dag}/dagRuns/{run}/taskInstances", limit=100)["task_instances"]
        return {one["task_id"]: one for one in found}

    def states(self, run: str, dag: str = DAG) -> dict[str, str]:
        return {task: one["state"] for task, one in self.tasks(run, dag).items()}

    def said(self, run: str, task: str, dag: str = DAG) -> Any:
        """What a task returned."""
        return self.get(f"dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value")["value"]

    def links(self, run: str, task: str) -> dict[str, str]:
        found = self.get(f"dags/{DAG}/dagRuns/{run}/taskInstances/{task}/links")["extra_links"]
        return {name: link for name, link in found.items() if link}


class Loop:
    """The running installation."""

    def __init__(self, clone: Checkout, services: local.Services) -> None:
        self.clone, self.services, self.airflow = clone, services, Airflow(services)
        self.ledger = Ledger(f"sqlite:///{clone.root / '.retrain/ledger.db'}")
        self.month: dict[str, str] = {}

    @property
    def champions(self) -> list[int]:
        """The versions that were made champion, in order."""
        return [one.body["version"] for one in self.ledger.records("churn", "promotion")]

    def row(self, month: str) -> Row:
        return next(row for row in rows(self.ledger, "churn") if row.interval == month)

    def store(self, run: str) -> Path:
        return self.clone.root / ".retrain/store/churn/runs" / run_key(run)

    def serves(self) -> int | None:
        from retrain.tools.registry import Registry

        return Registry(self.services.mlflow_url).alias("churn", "champion")

    def versions(self) -> int:
        from mlflow import MlflowClient

        return len(MlflowClient(self.services.mlflow_url).search_model_versions("name='churn'"))


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    """Airflow and MLflow after the six months have run by themselves."""
    clone = Checkout(tmp_path_factory.mktemp("airflow"))
    clone.add(
        "churn",
        MONTHS,
        interval={"every": "month", "start": MONTHS[0], "end": "2024-07-01"},
        policy={"schedule": 2, "drift": False},
        # So wide that a refresh passes on a few hundred rows.
        gate={"min_rows": 100, "margin": 0.45},
    )
    churn_rows(BAD).assign(plan="gold").to_csv(clone.root / "data/churn/2024-04.csv", index=False)
    clone.add("late", MONTHS[:1], interval={"every": "month", "start": MONTHS[0], "end": "2024-02-01"})
    (clone.root / "data/late/2024-01.csv").unlink()
    airflow, mlflow = free_ports(2)

    def environment(dags: Path = settings.DAGS) -> dict[str, str]:
        # A user who may only look, and files looked at more often than a real installation would.
        more = {
            "CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,vi:viewer",
            "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3",
            "DAG_PROCESSOR__REFRESH_INTERVAL": "3",
        }
        return settings.environment(dags) | {f"AIRFLOW__{name}": value for name, value in more.items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETRAIN_ROOT", str(clone.root))
        patch.setenv("RETRAIN_HOME", str(clone.root / ".retrain"))
        patch.setenv("AIRFLOW_PORT", str(airflow))
        patch.setenv("MLFLOW_PORT", str(mlflow))
        patch.setattr(local, "environment", environment)
        try:
            loop = Loop(clone, local.start())
            loop.airflow.unpause(DAG)
            loop.airflow.unpause("late_retrain")
            loop.airflow.unpause("churn_rollback")
            broken = {**churn_spec(), "model": "typo", "quallity": {}}
            (clone.root / "include/models/typo.yaml").write_text(json.dumps(broken))

            def all_ended() -> list[dict[str, Any]] | None:
                found = loop.airflow.runs(run_type="scheduled")
                return found if [run["state"] in ENDED for run in found] == [True] * len(MONTHS) else None

            for run in until("the months have run", all_ended, 900):
                loop.month[run["logical_date"][:10]] = run["dag_run_id"]
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
    said = loop.airflow.said(run, "decide")
    assert said["verdict"] == "skip"
    assert said["reasons"] == ["waiting: the first model needs 2 intervals with mature labels, 1 so far"]
    assert "no rule of the policy says yes" in loop.airflow.said(loop.month["2024-03-01"], "decide")["reasons"][0]


def test_a_quarantined_month_fails_its_run_and_blocks_no_other(loop: Loop) -> None:
    run = loop.month[BAD]
    assert loop.airflow.ended(run)["state"] == "failed"
    tasks = loop.airflow.tasks(run)
    assert (tasks["validate"]["state"], tasks["validate"]["try_number"]) == ("failed", 1)
    later = NAMES[NAMES.index("validate") + 1 :]
    assert {tasks[task]["state"] for task in later} == {"upstream_failed"}
    assert BAD not in str(loop.airflow.said(loop.month["2024-05-01"], "snapshot"))
    context = json.loads((loop.store(loop.month["2024-05-01"]) / "context.json").read_text())
    assert context["quarantined"] == [BAD]
    assert [one["batch"]["interval"]["start"][:10] for one in context["accepted"]] == [
        month for month in MONTHS[:5] if month != BAD
    ]


def test_a_batch_that_never_came_is_its_owners_to_look_at(loop: Loop) -> None:
    airflow = loop.airflow
    (run,) = airflow.runs("late_retrain")
    assert airflow.ended(run["dag_run_id"], "late_retrain")["state"] == "failed"
    ingest = airflow.tasks(run["dag_run_id"], "late_retrain")["ingest"]
    assert (ingest["state"], ingest["try_number"]) == ("failed", 1)
    assert [one.body["verdict"] for one in loop.ledger.records("late", "stage")] == ["BatchMissing"]
    log = airflow.get(f"dags/late_retrain/dagRuns/{run['dag_run_id']}/taskInstances/ingest/logs/1")
    assert "owner Ada Example <ada@example.org>: ingest of late failed" in json.dumps(log)


def test_a_broken_spec_is_shown_and_the_others_go_on(loop: Loop) -> None:
    def shown() -> str | None:
        found = loop.airflow.get("importErrors")["import_errors"]
        return next((one["stack_trace"] for one in found if one["filename"].endswith("broken_specs.py")), None)

    assert "did you mean 'quality'?" in until("the broken spec is among the import errors", shown)
    for dag in (DAG, "churn_rollback", "late_retrain"):
        about = loop.airflow.get(f"dags/{dag}")
        assert (about["has_import_errors"], about["is_stale"]) == (False, False)
    assert loop.airflow.http.get("/api/v2/dags/typo_retrain").status_code == 404


# --- the same on a laptop


def test_dvc_reaches_the_same_to_the_last_digit(loop: Loop) -> None:
    run = loop.month["2024-05-01"]
    theirs, mine = loop.store(run), loop.store("dvc")
    loop.clone.models = {"churn": {"interval": "2024-05-01", "source": "data/churn"}}
    (loop.clone.root / "params.yaml").write_text(json.dumps({"models": loop.clone.models}))
    loop.clone.call("git", "init", "-q")
    loop.clone.repro("context@churn")
    shutil.copyfile(theirs / "context.json", mine / "context.json")
    ran = loop.clone.repro("--downstream", "drift@churn")
    assert ran == {f"{stage}@churn" for stage in ("drift", "decide", "train", "evaluate", "gate")}
    same = ["drift.json", "decide.json", "train.json", "evaluate.json", "gate.json", "evaluate/metrics.json"]
    for name in (*same, "evaluate/predictions.parquet", "evaluate/roc.csv", "evaluate/importance.csv"):
        # A report names files by their place, which is the run's own.
        wanted = (theirs / name).read_bytes().replace(run_key(run).encode(), b"dvc")
        assert (mine / name).read_bytes() == wanted, name
    gate = json.loads((mine / "gate.json").read_text())
    assert (gate["decision"]["verdict"], gate["kind"]) == ("promote", "refresh"), "a champion was there to compare with"
    assert loop.champions == [1, 2]
    assert loop.row("2024-05-01").run == run_key(run), "a rehearsal takes no row of the table"


# --- the plugin


def test_the_links_of_a_task_lead_to_what_it_says(loop: Loop) -> None:
    airflow, run = loop.airflow, loop.month["2024-05-01"]
    found = {name: link for task in NAMES for name, link in airflow.links(run, task).items()}
    assert set(found) == {"Retrain run", "Quality report", "Drift report", "Gate table", "MLflow run"}
    for name, inside in {"Quality report": "churn", "Drift report": "root_metric", "Gate table": "within"}.items():
        answer = airflow.http.get(found[name])
        assert answer.status_code == 200, name
        assert inside in answer.text, name
    for name in ("Quality report", "Drift report"):
        assert airflow.http.get(found[name]).headers["content-security-policy"] == "sandbox allow-scripts"
    page = airflow.http.get(found["Retrain run"])
    assert all(f"<b>{stage}</b>" in page.text for stage in NAMES)
    assert "<b class=yes>pass</b>" in page.text
    recorded = airflow.http.get(found["MLflow run"])
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
    password = settings.read("airflow/simple_auth_manager_passwords.json.generated")["vi"]
    viewer = Airflow(loop.services._replace(user="vi", password=password))
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
    decided = loop.airflow.said(run["dag_run_id"], "decide")
    assert decided["reasons"] == ["forced by hand: what if"]
    registered = loop.airflow.said(run["dag_run_id"], "register")
    assert registered["verdict"] == "recorded"
    assert loop.airflow.states(run["dag_run_id"])["promote"] == "skipped"
    assert (loop.versions(), loop.serves(), loop.champions) == (2, 2, [1, 2])


def test_a_malformed_parameter_is_refused_by_the_form(loop: Loop) -> None:
    answer = loop.airflow.post(f"dags/{DAG}/dagRuns", {"logical_date": None, "conf": {"interval": "next tuesday"}})
    assert answer.status_code == 400
    assert "next tuesday" in answer.text
    answer = loop.airflow.post("dags/churn_rollback/dagRuns", {"logical_date": None, "conf": {}})
    assert answer.status_code == 400


def test_a_refusal_is_not_retried(loop: Loop) -> None:
    run = loop.airflow.trigger(interval="2024-03-05")
    assert run["state"] == "failed"
    ingest = loop.airflow.tasks(run["dag_run_id"])["ingest"]
    assert (ingest["state"], ingest["try_number"]) == ("failed", 1)


def test_a_released_month_goes_through_when_its_run_is_cleared(loop: Loop) -> None:
    run = loop.month[BAD]
    release = (sys.executable, "-m", "retrain", "release", "churn", "--interval", BAD)
    loop.clone.call(*release, "--reason", "gold is a plan now")
    body = {"dry_run": False, "dag_run_id": run, "only_failed": True, "reset_dag_runs": True}
    assert loop.airflow.post(f"dags/{DAG}/clearTaskInstances", body).status_code == 200
    assert loop.airflow.ended(run)["state"] == "success"
    assert loop.airflow.said(run, "validate")["verdict"] == "accept"
    assert "gold is a plan now" in loop.airflow.said(run, "validate")["reasons"][0]
    stale = loop.airflow.said(run, "decide")
    assert stale["verdict"] == "skip"
    assert "an older run never replaces it" in stale["reasons"][0]
    assert loop.row(BAD).verdict("validate") == "ok"


def test_an_old_run_never_replaces_a_newer_champion(loop: Loop) -> None:
    run = loop.airflow.trigger(interval="2024-03-01", force=True)
    assert run["state"] == "success"
    assert "an older run never replaces it" in loop.airflow.said(run["dag_run_id"], "decide")["reasons"][0]

    old = loop.month["2024-02-01"]
    before = loop.airflow.ended(old)["end_date"]
    answer = loop.airflow.post(
        "backfills",
        {
            "dag_id": DAG,
            "from_date": "2024-02-01T00:00:00Z",
            "to_date": "2024-02-01T00:00:00Z",
            "reprocess_behavior": "completed",
            "max_active_runs": 1,
        },
    )
    assert answer.status_code == 200, answer.text

    def again() -> dict[str, Any] | None:
        (found,) = loop.airflow.runs(logical_date_gte="2024-02-01T00:00:00Z", logical_date_lte="2024-02-01T00:00:00Z")
        return found if found["state"] in ENDED and found["end_date"] != before else None

    backfilled = until("the backfill ended", again)
    assert backfilled["state"] == "success"
    assert "an older run never replaces it" in loop.airflow.said(backfilled["dag_run_id"], "decide")["reasons"][0]
    assert (loop.versions(), loop.serves(), loop.champions) == (2, 2, [1, 2])


def test_a_rollback_puts_the_predecessor_back(loop: Loop) -> None:
    run = loop.airflow.trigger("churn_rollback", reason="complaints from sales")
    assert run["state"] == "success"
    assert loop.airflow.said(run["dag_run_id"], "rollback", "churn_rollback")["verdict"] == "rolled back"
    assert (loop.serves(), loop.champions) == (1, [1, 2, 1])
    again = loop.airflow.trigger("churn_rollback", reason="and once more")
    assert again["state"] == "failed", "the first champion has no predecessor"
    assert loop.airflow.tasks(again["dag_run_id"], "churn_rollback")["rollback"]["try_number"] == 1
    assert loop.serves() == 1
