"""The pages of the plugin on a store with one run in it; who may see them is asked of a real Airflow too, elsewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from retrain import results
from retrain.results import Decision, Interval
from retrain.state.ledger import Ledger
from retrain.state.settings import Home
from retrain.state.store import Store
from tests.conftest import Model

PLUGIN = Path(__file__).parents[2] / "plugins" / "retrain_plugin.py"
RUN = "scheduled__2024-05-01T00:00:00+00:00"
FOLDER = "churn/runs/scheduled__2024-05-01T00-00-00-00-00"
PAGE = f"/dags/churn_retrain/runs/{RUN}"
ATTACK = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))
        patch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
        spec = importlib.util.spec_from_file_location("retrain_plugin", PLUGIN)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def stranger(plugin: ModuleType, home: Home) -> Any:
    """A browser that nobody has signed in."""
    from fastapi.testclient import TestClient

    return TestClient(plugin.app, follow_redirects=False)


@pytest.fixture
def reader(plugin: ModuleType, home: Home) -> Iterator[Any]:
    """A browser whose user may read the DAG; a whole Airflow says who that is."""
    from fastapi.testclient import TestClient

    plugin.app.dependency_overrides[plugin.READ[0].dependency] = lambda: None
    yield TestClient(plugin.app, follow_redirects=False)
    plugin.app.dependency_overrides.clear()


@pytest.fixture
def store(home: Home) -> Store:
    """A run that came to the gate, with reasons and file names that want to be markup."""
    interval = Interval(start=datetime(2024, 5, 1, tzinfo=UTC), end=datetime(2024, 6, 1, tzinfo=UTC))
    begin: dict[str, Any] = {"model": "churn", "interval": interval, "effective_at": interval.end}
    check = results.GateCheck(name="champion", model="new", passed=None, value=-0.01, bound=0.0, reason=ATTACK)
    warned = results.GateCheck(name="overfit", model="new", passed=False, binding=False, reason="by little")
    slow = results.GateCheck(name="latency", model="new", passed=True, value=3, bound=50, reason="3 ms a row")
    gate = results.GateReport(
        **begin, decision=Decision(verdict="inconclusive", reasons=(ATTACK,)), metric="log_loss", checks=(check, warned)
    )
    smoke_test = results.SmokeTestReport(
        **begin, decision=Decision(verdict="serves", reasons=("it answers",)), version=3, checks=(slow,)
    )
    evaluate = results.EvaluateReport(
        **begin, decision=Decision(verdict="measured", reasons=("all",)), plots=(f"{FOLDER}/evaluate/curves.png",)
    )
    store = Store(home.store)
    store.write(f"{FOLDER}/gate.json", gate.to_json().encode())
    store.write(f"{FOLDER}/smoke_test.json", smoke_test.to_json().encode())
    store.write(f"{FOLDER}/evaluate.json", evaluate.to_json().encode())
    store.write(f"{FOLDER}/evaluate/curves.png", b"\x89PNG")
    store.write(f"{FOLDER}/validate/quality.html", b"<script>draw()</script>")
    store.write(f"{FOLDER}/train/new/model.skops", b"weights")
    store.write("churn/runs/monitor-1/drift/drift.html", b"<p>the monitor's")
    store.write("churn/runs/score-1/score/score.html", b"<p>the scores'")
    store.write("churn/secret.json", b"{}")
    return store


def routes(plugin: ModuleType) -> list[str]:
    return [route.path for route in plugin.app.routes]


def test_every_route_wants_somebody_signed_in(plugin: ModuleType, stranger: Any, store: Store) -> None:
    assert len(routes(plugin)) == 5, "no schema, no interactive documentation: they would be public"
    for path in routes(plugin):
        filled = path.replace("{path:path}", "validate/quality.html").format(dag_id="churn_retrain", run_id=RUN)
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
            answer = stranger.request(method, filled)
            assert answer.status_code in (401, 403, 405), (method, path)
            assert (method == "GET") == (answer.status_code != 405), "nothing is written through the plugin"


def test_the_page_shows_what_the_reports_say_and_never_runs_it(reader: Any, store: Store) -> None:
    answer = reader.get(PAGE)
    assert answer.status_code == 200
    assert "<script" not in answer.text
    assert answer.text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 2
    assert "id='gate'" in answer.text
    assert "id='smoke_test'" in answer.text
    for word in ("unknown", "warned", "pass", "3 ms a row"):
        assert word in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_a_run_from_before_the_words_changed_shows_its_smoke_test(reader: Any, store: Store) -> None:
    """Former code called it a probe, and a check that was only reported one that does not block."""
    today = store.read(f"{FOLDER}/smoke_test.json")
    former = f"/dags/churn_retrain/runs/{RUN.replace('05', '04')}"
    where = FOLDER.replace("05", "04")
    store.write(f"{where}/probe.json", today.replace(b'"binding": true', b'"blocks": false'))
    store.write(f"{where}/probe/page.html", b"<p>as it was")
    text = reader.get(former).text
    assert "id='smoke_test'" in text
    assert "3 ms a row" in text
    (named,) = re.findall(r"href='/retrain(/[^']+)'", text)
    assert reader.get(named).text == "<p>as it was"


def test_what_the_page_links_to_is_there(reader: Any, store: Store) -> None:
    named = re.findall(r"(?:href|src)='(/retrain/[^']+)'", reader.get(PAGE).text)
    assert {name.rsplit("/", 1)[1] for name in named} == {"curves.png"}, "validate wrote no report"
    for name in named:
        assert reader.get(name.removeprefix("/retrain")).status_code == 200


def test_who_served_and_all_models_have_their_pages(everybody: Any, churn: Model) -> None:
    reader = everybody
    assert "Nobody has served yet" in reader.get("/dags/churn_monitor/history").text
    when, body = datetime(2024, 6, 1, tzinfo=UTC), {"alias": 2, "version": 1, "reason": ATTACK}
    Ledger(churn.home.ledger).append("churn", "reconciled", "by-hand", body, effective_at=when, by=ATTACK)
    shown = reader.get("/dags/churn_retrain/history").text
    assert "alias put back" in shown
    assert shown.count("&lt;script&gt;") == 2
    assert "<script" not in shown
    assert reader.get("/dags/secret_retrain/history").status_code == 404
    assert "Ada Example" in reader.get("/models").text


@pytest.fixture
def everybody(plugin: ModuleType, reader: Any) -> Any:
    """The reader, who may see the page of all models too."""
    route = next(route for route in plugin.app.routes if route.path == "/models")
    plugin.app.dependency_overrides[route.dependant.dependencies[0].call] = lambda: None
    return reader


@pytest.mark.parametrize(
    "dag_id",
    ["churn_etl", "churn_", "churn", "_retrain", "churn_retrain_retrain", "churn_retrain_etl", "other_retrain"],
)
def test_the_history_is_of_the_very_model(reader: Any, churn: Model, dag_id: str) -> None:
    assert reader.get(f"/dags/{dag_id}/history").status_code == 404, "leave to read that DAG is none to read this model"


@pytest.mark.parametrize("kind", ["retrain", "score", "monitor", "approve", "rollback"])
def test_each_dag_of_a_model_leads_to_its_history(reader: Any, churn: Model, kind: str) -> None:
    assert reader.get(f"/dags/churn_{kind}/history").status_code == 200


@pytest.mark.parametrize(
    "torn",
    [b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe", b'{"decision": 1}', b'{"checks": [{}]}', b"[" * 100_000,
     b'{"decision": {"verdict": "promote", "reasons": null}}'],
)  # fmt: skip
@pytest.mark.parametrize("stage", ["gate", "ingest", "train", "evaluate", "snapshot", "context"])
def test_a_torn_report_is_named_and_hides_no_other(reader: Any, store: Store, stage: str, torn: bytes) -> None:
    store.write(f"{FOLDER}/{stage}.json", torn)
    answer = reader.get(PAGE)
    assert answer.status_code == 200
    assert f"{FOLDER}/{stage}.json cannot be read" in answer.text
    assert "restore it from a backup, or run the stage again" in answer.text
    assert "id='smoke_test'" in answer.text


def test_a_torn_record_of_mlflow_is_named(reader: Any, store: Store) -> None:
    store.write(f"{FOLDER}/register.json", b'{"model": "chu')
    answer = reader.get(f"{PAGE}/mlflow")
    assert answer.status_code == 503
    assert f"ReportCorrupt: {FOLDER}/register.json is no RegisterReport" in answer.text


def test_a_run_is_found_by_its_folder_too(reader: Any, store: Store) -> None:
    store.write(f"{FOLDER}/context.json", b"{}")
    by_folder = reader.get(f"/dags/churn_retrain/runs/{FOLDER.rpartition('/')[2]}")
    assert (by_folder.status_code, "<b>context</b>" in by_folder.text) == (200, True), "the approval's form knows no id"


def test_a_folder_in_the_stead_of_a_report_is_named(reader: Any, store: Store) -> None:
    store.write(f"{FOLDER}/context.json/within.json", b"{}")
    assert reader.get(PAGE).status_code == 200
    assert reader.get(f"{PAGE}/files/context.json").status_code in (404, 503)


@pytest.mark.parametrize("state", ["corrupt", "locked", "no folder", "other tables", "altered"])
def test_a_ledger_that_cannot_be_read_is_named(
    everybody: Any, churn: Model, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    file = Path(churn.home.ledger.removeprefix("sqlite:///"))
    when = datetime(2024, 6, 1, tzinfo=UTC)
    Ledger(churn.home.ledger).append("churn", "stage", "k", {"stage": "gate"}, effective_at=when)
    holder = sqlite3.connect(file)
    if state == "corrupt":
        file.write_bytes(b"nothing that SQLite knows" * 100)
    elif state == "locked":
        monkeypatch.setattr("retrain.state.ledger.BUSY_SECONDS", 0.01)
        holder.execute("BEGIN EXCLUSIVE")
    elif state == "no folder":
        monkeypatch.setenv("RETRAIN_LEDGER", f"sqlite:///{churn.home.models}/churn.yaml/ledger.db")
    elif state == "other tables":
        holder.execute("DROP TABLE retrain_records")
    else:
        holder.execute("DROP TRIGGER retrain_records_no_update")
        holder.execute("UPDATE retrain_records SET body = '{'")
        holder.commit()
    history = everybody.get("/dags/churn_retrain/history")
    holder.close()
    assert history.status_code == 503
    assert "This page cannot be shown" in history.text
    assert "Traceback" not in history.text
    if state in ("locked", "altered"):
        assert ("LedgerBusy" if state == "locked" else "ChainBroken") in history.text
    models = everybody.get("/models")
    assert models.status_code in (200, 503)
    if state == "altered":
        assert "was altered" in models.text, "in the row of its model"


def test_what_nobody_foresaw_is_named_too(everybody: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from retrain.reporting import inventory

    monkeypatch.setattr(inventory, "page", lambda _: {}["<b>"])
    answer = everybody.get("/models")
    assert (answer.status_code, "KeyError: &#x27;&lt;b&gt;&#x27;" in answer.text) == (500, True)


def test_one_odd_spec_costs_no_page(everybody: Any, churn: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from retrain.reporting import inventory

    models, load = churn.home.models, inventory.load
    (models / "listed.yaml").write_text("model: listed\ntask: [regression]\n")
    (models / "folder.yaml").mkdir()
    os.mkfifo(models / "pipe.yaml")
    (models / "latin.yaml").write_bytes("objective: Zürich".encode("latin-1"))
    (models / "crash.yaml").write_text("model: crash\n")
    (models / "gone.yaml").symlink_to(models / "nowhere")

    def unforeseen(file: Path) -> Any:
        if file.stem == "crash":
            raise RuntimeError("nobody thought of this")
        return load(file)

    monkeypatch.setattr(inventory, "load", unforeseen)
    answer = everybody.get("/models")
    assert answer.status_code == 200
    for name in ("listed", "folder", "pipe", "latin", "crash", "gone", "churn"):
        assert f"<td>{name}" in answer.text, name
    assert "Ada Example" in answer.text
    assert "RuntimeError: nobody thought of this" in answer.text
    assert everybody.get("/dags/churn_retrain/history").status_code == 200
    assert everybody.get("/dags/folder_retrain/history").status_code == 200


def test_an_id_of_any_length_has_a_page(reader: Any, store: Store) -> None:
    for run_id in ("a" * 250, "ü" * 250, "a:" * 125):
        answer = reader.get(f"/dags/churn_monitor/runs/{run_id}")
        assert (answer.status_code, "Nothing is written yet" in answer.text) == (200, True)


def test_a_run_that_has_written_nothing_says_so(reader: Any) -> None:
    assert "Nothing is written yet" in reader.get("/dags/churn_retrain/runs/another").text


def test_a_report_runs_in_a_sandbox(reader: Any, store: Store) -> None:
    answer = reader.get(f"{PAGE}/files/validate/quality.html")
    assert answer.text == "<script>draw()</script>"
    assert answer.headers["content-security-policy"] == "sandbox allow-scripts"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(("loop", "stage"), [("monitor", "drift"), ("score", "score")])
def test_the_other_loops_have_their_pages(reader: Any, store: Store, loop: str, stage: str) -> None:
    assert f"the {loop}" in reader.get(f"/dags/churn_{loop}/runs/1/files/{stage}/{stage}.html").text
    assert reader.get(f"/dags/churn_{loop}/runs/1").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/dags/churn_retrain/runs/%2e%2e/files/secret.json",
        "/dags/churn_retrain/runs/x/files/%2e%2e/%2e%2e/secret.json",
        "/dags/churn_retrain/runs/x/files/..%2f..%2fsecret.json",
        "/dags/churn_retrain/runs/x/files/%2fetc%2fpasswd.json",
        "/dags/churn_retrain/runs/x/files/a%00.json",
        "/dags/churn_retrain/runs/x/files/a%5cb.json",
        "/dags/.._retrain/runs/x/files/secret.json",
        "/dags/_retrain/runs/x",
        "/dags/churn_rollback/runs/x",
        "/dags/churn_retrain/runs/monitor-1",
        "/dags/churn_retrain/runs/monitor-1/files/drift/drift.html",
        f"{PAGE}/files/train/new/model.skops",
        f"{PAGE}/files/nothing.html",
        PAGE.replace("churn_retrain", "churn"),
        PAGE.replace("churn_retrain", "churn") + "/files/gate.json",
        f"{PAGE}/mlflow",
    ],
)
def test_nothing_else_is_served(reader: Any, store: Store, path: str) -> None:
    assert reader.get(path).status_code == 404


def test_the_link_to_mlflow_goes_there(reader: Any, store: Store) -> None:
    recorded = results.RegisterReport(
        model="churn",
        interval=Interval(start=datetime(2024, 5, 1, tzinfo=UTC), end=datetime(2024, 6, 1, tzinfo=UTC)),
        effective_at=datetime(2024, 6, 1, tzinfo=UTC),
        decision=Decision(verdict="recorded", reasons=("no version",)),
        run_id="abc",
        url="http://127.0.0.1:5000/#/experiments/1/runs/abc",
    )
    store.write(f"{FOLDER}/register.json", recorded.to_json().encode())
    answer = reader.get(f"{PAGE}/mlflow")
    assert (answer.status_code, answer.headers["location"]) == (307, recorded.url)


def test_links_are_of_stage_tasks_only(plugin: ModuleType) -> None:
    class Key:
        dag_id, task_id, run_id = "churn_retrain", "gate", RUN

    class Other(Key):
        dag_id = "etl"

    links = plugin.RetrainPlugin.global_operator_extra_links
    given = {link.name: link.get_link(None, ti_key=Key) for link in links}
    assert {name for name, link in given.items() if link} == {"Retrain run", "Gate table"}
    assert len(given) == len(links), "each has a name of its own"
    assert given["Gate table"] == "/retrain/dags/churn_retrain/runs/scheduled__2024-05-01T00%3A00%3A00%2B00%3A00#gate"
    assert not any(link.get_link(None, ti_key=Other) for link in links)

    class Watch(Key):
        dag_id, task_id = "churn_monitor", "measure"

    watched = {link.name for link in links if link.get_link(None, ti_key=Watch)}
    assert watched == {"Retrain run", "Measurement"}

    class Rollout(Watch):
        task_id = "rollout"

    class SmokeTest(Key):
        task_id = "smoke_test"

    assert {link.name for link in links if link.get_link(None, ti_key=Rollout)} == {"Retrain run", "Rollout"}
    assert {link.name for link in links if link.get_link(None, ti_key=SmokeTest)} == {"Retrain run", "Smoke test"}


def test_every_stage_has_its_place_on_the_page(plugin: ModuleType) -> None:
    from retrain.pipeline import BY_NAME

    assert set(plugin.STAGES) == set(BY_NAME)
