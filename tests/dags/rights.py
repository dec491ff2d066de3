"""Asks a real API server of Airflow, in this process, who may do what: `python rights.py FOLDER`, answers as JSON.

A process of its own, since Airflow's configuration is read once: `test_rights.py` starts it for each auth manager.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from airflow.api_fastapi.app import create_app
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
from airflow.models.hitl import HITLDetail
from airflow.models.taskinstance import TaskInstance
from airflow.settings import Session
from fastapi.testclient import TestClient
from sqlalchemy import select

PEOPLE = {"vi": "Viewer", "ulla": "User", "otto": "Op", "ada": "Admin", "rhea": "Risk"}
"""Somebody of each role; Risk is a role of the house, where the auth manager has such."""


def passwords(folder: Path) -> dict[str, str]:
    """Of each person, once they are known to the auth manager."""
    file = folder / "airflow/simple_auth_manager_passwords.json.generated"
    if file.exists():
        return dict(json.loads(file.read_text()))
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

    with get_application_builder() as builder:
        manager = builder.sm
        manager.add_role("Risk")
        for action, resource in [*manager.VIEWER_PERMISSIONS, *manager.USER_PERMISSIONS]:
            manager.add_permission_to_role(manager.find_role("Risk"), manager.create_permission(action, resource))
        for name, role in PEOPLE.items():
            about = (name, name, "Example", f"{name}@example.org")
            assert manager.add_user(*about, manager.find_role(role), password=f"{name}-secret")
    return {name: f"{name}-secret" for name in PEOPLE}


def main(folder: Path) -> None:
    DagBundlesManager().sync_bundles_to_db()
    dags = str(Path(__file__).parents[2] / "dags")
    sync_bag_to_db(BundleDagBag(dags, bundle_path=Path(dags), bundle_name="dags-folder"), "dags-folder", None)
    with TestClient(create_app(), base_url="http://127.0.0.1:8080", follow_redirects=False) as http:
        tokens = {}
        for name, password in passwords(folder).items():
            login = http.post("/auth/token", json={"username": name, "password": password})
            tokens[name] = login.json()["access_token"]
        asked = [json.loads(line) for line in (folder / "asked.jsonl").read_text().splitlines()]
        print(json.dumps([answer(http, tokens, **one) for one in asked]))


def answer(
    http: TestClient, tokens: dict[str, str], *, by: str, method: str, path: str, cookie: bool = False, **more: Any
) -> list[Any]:
    """Status and text of one question; a form to answer is laid out before it is answered."""
    if path.endswith("/hitlDetails") and method == "PATCH":
        lay_form(path.split("/")[4], path.split("/")[6])
    headers = dict(more.pop("headers", {}))
    http.cookies.clear()
    if by and cookie:
        http.cookies.set("_token", tokens[by])
    elif by:
        headers["Authorization"] = f"Bearer {tokens[by]}"
    got = http.request(method, path, headers=headers, **more)
    return [got.status_code, got.text[:2000]]


def lay_form(dag_id: str, run_id: str) -> None:
    """A form that waits, as the task `approve` of the run lays it out."""
    session = Session()
    task = session.scalar(
        select(TaskInstance).where(
            TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id, TaskInstance.task_id == "approve"
        )
    )
    assert task
    session.query(HITLDetail).filter(HITLDetail.ti_id == task.id).delete()
    session.add(HITLDetail(ti_id=task.id, options=["Approve", "Reject"], subject="May it serve?", multiple=False))
    session.commit()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
