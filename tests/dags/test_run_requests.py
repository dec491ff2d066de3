"""The door where something is broken behind it; that Airflow stands there, with its users, is in `test_rights.py`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.conftest import Model, churn_spec

PLUGIN = Path(__file__).parents[2] / "plugins" / "run_requests.py"
RUNS = "/api/v2/dags/churn_retrain/dagRuns"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))
        patch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
        patch.setenv("AIRFLOW__API__BASE_URL", "https://retrain.example")
        patch.setenv("AIRFLOW__API__ACCESS_CONTROL_ALLOW_ORIGINS", "https://friend.example")
        spec = importlib.util.spec_from_file_location("run_requests", PLUGIN)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def http(door: ModuleType, churn: Model, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A browser before the door; behind it somebody answers 200 with the body that came through."""
    from fastapi.testclient import TestClient
    from starlette.requests import Request
    from starlette.responses import Response

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        await Response(await Request(scope, receive).body())(scope, receive, send)

    # Stand in for Airflow's users: eve is an op, and may all that an op may.
    async def user(*_: Any) -> Any:
        return SimpleNamespace(get_name=lambda: "eve", role="op")

    monkeypatch.setattr(door, "get_user", user)
    monkeypatch.setattr(door, "get_auth_manager", lambda: SimpleNamespace(is_authorized_dag=lambda **_: True))
    return TestClient(door.RunRequests(behind), base_url="http://127.0.0.1:8080")


def test_what_is_let_in_comes_through_as_it_was(http: Any) -> None:
    for body in (b'{"conf": {"force": true}}', b"", b"[1]", b"{", b'{"conf": "x"}'):
        answer = http.post(RUNS, content=body)
        assert (answer.status_code, answer.content) == (200, body)
    for path in ("/api/v2/dags/etl_retrain/dagRuns", "/api/v2/dags/~/dagRuns", "/api/v2/variables"):
        assert http.post(path, json={"conf": {"sudo": 1}}).status_code == 200, "none of ours"


@pytest.mark.parametrize("broken", ["spec", "ledger", "nobody foresaw"])
def test_where_it_cannot_be_looked_up_nobody_comes_in(
    http: Any, churn: Model, door: ModuleType, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    churn.write_spec({**churn_spec(), "access": {"retrain": ["role:op"]}})
    assert http.post(RUNS, json={}).status_code == 200
    if broken == "spec":
        churn.write_spec({"model": "churn"})
    elif broken == "ledger":
        Path(churn.home.ledger.removeprefix("sqlite:///")).write_bytes(b"nothing that SQLite knows" * 100)
    else:
        monkeypatch.setattr(door, "admit", lambda *_: {}["who"])
    answer = http.post(RUNS, json={})
    assert answer.status_code == 503
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://127.0.0.1:8080", 200), ("https://retrain.example", 200), ("https://friend.example", 200), ("null", 403),
     ("https://elsewhere.example", 403), ("http://127.0.0.1:9", 403), ("https://retrain.example.evil.example", 403)],
)  # fmt: skip
def test_a_page_of_another_origin_changes_nothing(
    http: Any, monkeypatch: pytest.MonkeyPatch, origin: str, status: int
) -> None:
    for method, path in (("POST", RUNS), ("PATCH", RUNS + "/x"), ("DELETE", RUNS + "/x"), ("POST", "/retrain/models")):
        assert http.request(method, path, headers={"Origin": origin}).status_code == status, (method, path)
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "")
    assert http.post(RUNS, headers={"Origin": "null"}).status_code == 403
    assert http.get(RUNS, headers={"Origin": origin}).status_code == 200, "reading is for CORS to allow"
    token = {"Origin": origin, "Authorization": "Bearer x"}
    assert http.post(RUNS, headers=token).status_code == 200, "no browser adds a token by itself"
