"""How the owner is told: by HTTP and by mail, to servers of this test, once, and never at the cost of the task."""

from __future__ import annotations

import importlib.util
import json
import logging
import socketserver
from collections.abc import Callable, Iterator
from dataclasses import replace
from email import message_from_string, policy
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import pytest

from retrain.reporting.notices import Notice
from retrain.state.run import Run
from tests.conftest import Model, churn_spec

NOTIFIER = Path(__file__).parents[2] / "dags" / "owner_notifier.py"
SECRET = "T000-B000-XXXX"
NOTICE = Notice(
    kind="drift",
    severity="warning",
    model="churn",
    interval="2024-02-01",
    owner="Ada Example <ada@example.org>",
    happened="<b>3 of 4</b> features",
    did="No retraining.",
    link="http://127.0.0.1:8080/dags",
)
Connect = Callable[..., None]


@pytest.fixture(scope="module")
def notifier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))
        patch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
        patch.setenv("NO_PROXY", "127.0.0.1")
        spec = importlib.util.spec_from_file_location("owner_notifier", NOTIFIER)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Makes an Airflow connection."""

    def set_connection(name: str, **fields: Any) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(fields))

    return set_connection


@pytest.fixture
def run(churn: Model) -> Run:
    churn.write_spec({**churn_spec(), "owner": {"name": "Ada", "contact": "ada@example.org", "notify": ["oncall"]}})
    return churn.run("2024-02-01")


@pytest.fixture
def hook() -> Iterator[Any]:
    """A webhook: `requests` is what came, `answer` the status that it gives."""

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests.append((self.path, self.headers.get("Authorization"), body))
            self.send_response(server.answer)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server: Any = HTTPServer(("127.0.0.1", 0), Hook)
    server.requests, server.answer = [], 200
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_any_address_takes_the_fields(notifier: ModuleType, connect: Connect, hook: Any, run: Run) -> None:
    login = {"login": "ada", "password": SECRET, "extra": {"endpoint": "in/box"}}
    connect("oncall", conn_type="http", schema="http", host="127.0.0.1", port=hook.server_port, **login)
    notifier.notify_owner(run.spec, NOTICE, run)
    ((path, authorization, body),) = hook.requests
    assert (path, authorization[:6]) == ("/in/box", "Basic ")
    assert body["severity"] == "warning"
    assert body["runbook"] == "docs/runbook.md#drift"
    assert body["text"] == NOTICE.text


def test_slack_takes_the_text_alone(notifier: ModuleType, connect: Connect, hook: Any, run: Run) -> None:
    host = f"http://127.0.0.1:{hook.server_port}/services"
    connect("oncall", conn_type="slackwebhook", host=host, password=SECRET)
    notifier.notify_owner(run.spec, NOTICE, run)
    assert hook.requests == [(f"/services/{SECRET}", None, {"text": NOTICE.text})]


def test_it_is_said_once(
    notifier: ModuleType, connect: Connect, hook: Any, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    connect("oncall", conn_type="http", host=f"http://127.0.0.1:{hook.server_port}")
    with caplog.at_level(logging.INFO, "retrain"):
        for _ in range(2):
            notifier.notify_owner(run.spec, NOTICE, run)
    assert len(hook.requests) == 1
    assert caplog.text.count(NOTICE.subject) == 1
    assert [record.key for record in run.ledger.records("churn", "notice")] == ["drift/2024-02-01"]


def test_a_rehearsal_is_for_the_log_alone(
    notifier: ModuleType, connect: Connect, hook: Any, churn: Model, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    connect("oncall", conn_type="http", host=f"http://127.0.0.1:{hook.server_port}")
    rehearsal = churn.run("2024-02-01", dry_run=True)
    notifier.notify_owner(rehearsal.spec, NOTICE, rehearsal)
    assert NOTICE.subject in caplog.text
    assert (hook.requests, run.ledger.records("churn", "notice")) == ([], [])


@pytest.mark.parametrize("why", ["it answered 500", "ConnectError", "AirflowNotFoundException"])
def test_what_does_not_arrive_fails_nothing_and_gives_nothing_away(
    notifier: ModuleType, connect: Connect, hook: Any, run: Run, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    hook.answer, port = 500, 1 if why == "ConnectError" else hook.server_port
    if why != "AirflowNotFoundException":
        connect("oncall", conn_type="slackwebhook", host=f"http://127.0.0.1:{port}", password=SECRET)
    notifier.notify_owner(run.spec, NOTICE, run)
    assert f"the owner could not be told over oncall: {why}" in caplog.text
    assert SECRET not in caplog.text


def test_a_ledger_that_does_not_answer_silences_nobody(
    notifier: ModuleType, connect: Connect, hook: Any, run: Run, tmp_path: Path
) -> None:
    connect("oncall", conn_type="http", host=f"http://127.0.0.1:{hook.server_port}")
    (tmp_path / "folder").mkdir()
    lost = replace(run, home=replace(run.home, ledger=f"sqlite:///{tmp_path / 'folder'}"))
    notifier.notify_owner(run.spec, NOTICE, lost)
    assert len(hook.requests) == 1


class Mail(socketserver.StreamRequestHandler):
    """As much of SMTP as one message needs."""

    def handle(self) -> None:
        self.say("220 here")
        while line := self.rfile.readline().decode().strip():
            verb = line.split()[0].upper()
            if verb == "DATA":
                self.say("354 go on")
                lines = iter(lambda: self.rfile.readline().decode(), ".\r\n")
                self.server.requests.append("".join(lines))  # type: ignore[attr-defined]
            self.say("221 bye" if verb == "QUIT" else "250 ok")
            if verb == "QUIT":
                return

    def say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


@pytest.fixture
def mail() -> Iterator[Any]:
    server: Any = socketserver.TCPServer(("127.0.0.1", 0), Mail)
    server.requests = []
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_the_owner_is_mailed(notifier: ModuleType, connect: Connect, mail: Any, run: Run) -> None:
    extra = {"from_email": "retrain@example.org", "disable_tls": True, "disable_ssl": True}
    connect("oncall", conn_type="smtp", host="127.0.0.1", port=mail.server_address[1], extra=extra)
    notifier.notify_owner(run.spec, NOTICE, run)
    (text,) = mail.requests
    sent = message_from_string(text, policy=policy.default)
    assert (sent["To"], sent["From"]) == ("ada@example.org", "retrain@example.org")
    assert sent["Subject"] == "[warning] churn 2024-02-01: drift"
    body = sent.get_body(("html",))
    assert body is not None
    assert "&lt;b&gt;3 of 4&lt;/b&gt; features" in body.get_content(), "what comes from data is no markup"


def test_a_contact_that_is_no_address_is_named(
    notifier: ModuleType, connect: Connect, churn: Model, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    connect("oncall", conn_type="smtp", host="127.0.0.1", port=1)
    churn.write_spec({**churn_spec(), "owner": {"name": "Ada", "contact": "#team", "notify": ["oncall"]}})
    notifier.notify_owner(churn.run("2024-02-01").spec, NOTICE, run)
    assert "owner.contact '#team' is no mail address" in caplog.text
