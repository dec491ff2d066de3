"""Who may do what: asked of Airflow's API itself, under each auth manager, with the plugins and two models in it.

`open` leaves it to the auth manager, `held` names people and roles in its spec.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from retrain.spec import parse
from retrain.state.ledger import Ledger
from tests.conftest import INCLUDE, churn_spec

pytestmark = pytest.mark.airflow

ROOT = Path(__file__).parents[2]
MANAGERS = {
    "simple": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
    "fab": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
}
PEOPLE = ("", "vi", "ulla", "otto", "ada")
"""Nobody, and somebody of each role: viewer, user, op, admin."""
RISK = {"simple": "op", "fab": "Risk"}
"""A role that the spec lets roll back: under FAB one of the house, which `rhea` holds; otto is an op."""
ACCESS = {"retrain": ["ada"], "approve": ["ulla", "vi"]}
RUNS = "/api/v2/dags/{}/dagRuns"
FORM = "/api/v2/dags/{0}_approve/dagRuns/approve-v1/taskInstances/approve/-1/hitlDetails"
REASON = {"reason": "complaints from sales"}


class Api:
    """What was asked, by a name, and what was answered."""

    def __init__(self) -> None:
        self.asked: dict[str, dict[str, Any]] = {}
        self.answers: dict[str, tuple[int, str]] = {}

    def ask(self, name: str, by: str, method: str, path: str, **more: Any) -> None:
        self.asked[name] = {"by": by, "method": method, "path": path, **more}

    def start(self, name: str, by: str, dag: str, conf: Any = None, **more: Any) -> None:
        body = {"logical_date": None, "conf": conf or {}, **more}
        self.ask(name, by, "POST", RUNS.format(dag), json=body)

    def approve(self, name: str, by: str, model: str) -> None:
        body = {"chosen_options": ["Approve"], "params_input": {"reason": "looked"}}
        self.ask(name, by, "PATCH", FORM.format(model), json=body)

    def status(self, name: str) -> int:
        return self.answers[name][0]

    def row(self, action: str) -> list[int]:
        """What each of `PEOPLE` was answered."""
        return [self.status(f"{action} {by}") for by in PEOPLE]


def questions(api: Api) -> None:
    for by in PEOPLE:
        for name, path in {
            "look": RUNS.format("open_retrain"),
            "page": "/retrain/dags/open_retrain/runs/x",
            "champions": "/retrain/dags/open_retrain/history",
            "models": "/retrain/models",
        }.items():
            api.ask(f"{name} {by}", by, "GET", path)
        for kind, conf in {"retrain": {}, "score": {}, "monitor": {}, "rollback": REASON}.items():
            api.start(f"{kind} {by}", by, f"open_{kind}", conf)
            api.start(f"held {kind} {by}", by, f"held_{kind}", conf)
    for model, by in (("open", "ada"), ("held", "ulla")):
        api.start(f"form of {model}", by, f"{model}_approve", {"version": 1}, dag_run_id="approve-v1")
    for by in PEOPLE:
        api.approve(f"approve {by}", by, "open")
        api.approve(f"held approve {by}", by, "held")
    api.start("held rollback rhea", "rhea", "held_rollback", REASON)
    by_hand = {"from_date": "2024-02-01T00:00:00Z", "to_date": "2024-02-01T00:00:00Z", "max_active_runs": 1}
    for by in ("ulla", "ada"):
        api.ask(f"held backfill {by}", by, "POST", "/api/v2/backfills", json={**by_hand, "dag_id": "held_retrain"})
        body = {"dry_run": True, "dag_run_id": "approve-v1"}
        api.ask(f"held clear {by}", by, "POST", "/api/v2/dags/held_retrain/clearTaskInstances", json=body)
    for name, method, path in (
        ("dry run", "PATCH", "/api/v2/dags/held_retrain/dagRuns/none/taskInstances/gate/dry_run"),
        ("state", "PATCH", "/api/v2/dags/held_retrain/dagRuns/none"),
        ("pause", "PATCH", "/api/v2/dags/held_retrain"),
    ):
        body = {"dry run": {"new_state": "failed"}, "state": {"state": "failed"}, "pause": {"is_paused": True}}[name]
        api.ask(f"held {name} ulla", "ulla", method, path, json=body)
    # --- parameters
    wrong: dict[str, Any] = {"dryrun": True}
    for kind in ("retrain", "score", "monitor", "approve", "rollback"):
        right = {"approve": {"version": 1}, "rollback": REASON}.get(kind, {})
        api.start(f"unknown to {kind}", "ada", f"open_{kind}", {**right, **wrong})
    api.start("unknown by vi", "vi", "open_retrain", wrong)
    api.start("unknown by nobody", "", "open_retrain", wrong)
    unknown = {**by_hand, "dag_id": "open_retrain", "dag_run_conf": wrong}
    api.ask("unknown to a backfill", "ada", "POST", "/api/v2/backfills", json=unknown)
    for interval in ("2024-02-30", "2024-02-05", "2023-01-01", "0000-01-01"):
        api.start(f"interval {interval}", "ada", "open_retrain", {"interval": interval})
    api.ask("torn", "ada", "POST", RUNS.format("open_retrain"), content="{")
    api.ask("huge", "ada", "POST", RUNS.format("open_retrain"), content=" " * (1024 * 1024 + 1))
    # --- from elsewhere
    elsewhere = {"Origin": "https://elsewhere.example", "Content-Type": "text/plain"}
    for name, headers in {"foreign": elsewhere, "own": {"Origin": "http://127.0.0.1:8080"}}.items():
        for path in (RUNS.format("open_retrain"), "/retrain/models"):
            api.ask(f"{name} {path}", "ada", "POST", path, cookie=True, json={"logical_date": None}, headers=headers)


@pytest.fixture(scope="module", params=MANAGERS)
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Api:
    folder = tmp_path_factory.mktemp(request.param)
    models = folder / "include" / "models"
    models.mkdir(parents=True)
    access = {**ACCESS, "rollback": [f"role:{RISK[request.param]}"]}
    for name, more in {"open": {}, "held": {"access": access}}.items():
        (models / f"{name}.yaml").write_text(
            yaml.safe_dump({**churn_spec(), "model": name, "promotion": "approve", **more})
        )
    api = Api()
    questions(api)
    (folder / "asked.jsonl").write_text("\n".join(map(json.dumps, api.asked.values())))
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RETRAIN_", "MLFLOW_"))} | {
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__AUTH_MANAGER": MANAGERS[request.param],
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "vi:viewer,ulla:user,otto:op,ada:admin,rhea:user",
        "AIRFLOW__API__BASE_URL": "http://127.0.0.1:8080",
        "AIRFLOW__API_AUTH__JWT_SECRET": "x" * 64,
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "PYTHONPATH": str(INCLUDE),
        "RETRAIN_ROOT": str(folder),
    }
    for command in (["-m", "airflow", "db", "migrate"], [str(Path(__file__).with_name("rights.py")), str(folder)]):
        done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    answers = json.loads(done.stdout.splitlines()[-1])
    api.answers = {name: tuple(answer) for name, answer in zip(api.asked, answers, strict=True)}
    api.manager, api.folder = request.param, folder  # type: ignore[attr-defined]
    return api


def test_what_each_role_may_as_the_documentation_says(api: Api) -> None:
    """The table under Users in docs/production.md."""
    for action in ("look", "page", "champions", "models"):
        assert api.row(action) == [401, 200, 200, 200, 200], action
    for action in ("retrain", "score", "monitor", "rollback", "approve"):
        assert api.row(action) == [401, 403, 200, 200, 200], action
    assert api.status("form of open") == 200


def test_a_spec_that_names_people_keeps_the_others_out(api: Api) -> None:
    assert api.row("held retrain") == [401, 403, 403, 403, 200]
    assert api.row("held approve") == [401, 403, 200, 403, 403], "vi is named, and yet only a viewer"
    for loop in ("score", "monitor"):
        assert api.row(f"held {loop}") == api.row(loop), "nothing is retrained by these"
    assert api.status("form of held") == 200
    for what in ("backfill", "clear"):
        assert (api.status(f"held {what} ulla"), api.status(f"held {what} ada")) == (
            403,
            404 if what == "clear" else 200,
        )
    answers = [api.status(f"held {what} ulla") for what in ("dry run", "state", "pause")]
    assert answers == [404, 403, 200], "who may look may look, and who may stop it may stop it"
    assert "ulla (user) may not retrain held: access.retrain names ada" in api.answers["held retrain ulla"][1]


def test_a_role_that_is_named_lets_in(api: Api) -> None:
    simple = api.manager == "simple"  # type: ignore[attr-defined]
    assert api.row("held rollback") == [401, 403, 403, 200 if simple else 403, 403]
    assert api.status("held rollback rhea") == (403 if simple else 200)


def test_a_refused_try_is_on_record_and_so_is_a_role_that_let_in(api: Api) -> None:
    ledger = Ledger(f"sqlite:///{api.folder / '.retrain/ledger.db'}")  # type: ignore[attr-defined]
    tries = [(r.by, r.body["action"], r.body["verdict"], r.body["roles"]) for r in ledger.records("held", "access")]
    simple = api.manager == "simple"  # type: ignore[attr-defined]
    in_person, role = ("otto", "op") if simple else ("rhea", "risk")
    assert (in_person, "rollback", "allowed", [role]) in tries
    assert ("ulla", "retrain", "refused", []) in tries
    assert ("otto", "approve", "refused", []) in tries
    assert {by for by, *_ in tries if by == ""} == set(), "who has not signed in is refused by Airflow"
    assert ledger.records("open", "access") == []


def test_an_unknown_parameter_is_refused_when_the_run_is_asked_for(api: Api) -> None:
    for kind in ("retrain", "score", "monitor", "approve", "rollback"):
        status, text = api.answers[f"unknown to {kind}"]
        assert (status, f"open_{kind} has no parameter 'dryrun'" in text) == (400, True), kind
    assert "did you mean 'dry_run'?" in api.answers["unknown to retrain"][1]
    assert api.status("unknown to a backfill") == 400
    assert (api.status("unknown by nobody"), api.status("unknown by vi")) == (401, 403)


def test_a_date_that_is_none_is_refused_when_the_run_is_asked_for(api: Api) -> None:
    for interval in ("2024-02-30", "2024-02-05", "2023-01-01", "0000-01-01"):
        status, text = api.answers[f"interval {interval}"]
        assert status == 400, interval
        assert "InvalidInterval" in text, interval
    assert (api.status("torn"), api.status("huge")) == (422, 413)


def test_a_page_elsewhere_changes_nothing(api: Api) -> None:
    runs = RUNS.format("open_retrain")
    assert (api.status(f"foreign {runs}"), api.status("foreign /retrain/models")) == (403, 403)
    assert (api.status(f"own {runs}"), api.status("own /retrain/models")) == (200, 405)


def test_names_and_roles_are_plain_words() -> None:
    spec = parse(yaml.safe_dump({**churn_spec(), "access": {"retrain": ["ada@example.org", "role:Risk"]}}), "churn")
    assert spec.access.roles("retrain") == {"risk"}
