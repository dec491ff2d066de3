"""What the Airflow UI gains: a page per run, and links on every stage task.

Loaded by every Airflow component, so it stays light: results, ledger, workspace and what reads them, no pandas, no
MLflow.
Every route asks for a signed-in user who may read the DAG; reports run in a sandbox of their own.
"""

from __future__ import annotations

import html
import json
import mimetypes
from typing import Any
from urllib.parse import quote

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from airflow.plugins_manager import AirflowPlugin
from airflow.sdk.bases.operatorlink import BaseOperatorLink
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from retrain.errors import InvalidName, MissingInput
from retrain.rendering.text import stamp
from retrain.results import EvaluateReport, GateCheck, RegisterReport
from retrain.state.former import stage_names
from retrain.state.ledger import Ledger
from retrain.state.readiness import loop_run_key
from retrain.state.settings import Home
from retrain.state.store import Store

LOOPS = ("retrain", "score", "monitor")
FIRST = ("ingest", "validate", "snapshot", "labels", "context", "drift", "score", "estimate", "measure", "diagnose")
SHOWN = (*FIRST, "rollout", "decide", "train", "evaluate", "gate", "refit", "register", "smoke_test", "promote")
CHECKED = ("gate", "refit", "smoke_test")
"""Stages whose report has a table of checks."""
FILES = {".html", ".png", ".csv", ".json"}
STYLE = """<style>body{font:14px system-ui,sans-serif;margin:1.5rem;max-width:70rem}table{border-collapse:collapse;
margin:.5rem 0 1.5rem}td,th{padding:.3rem .7rem;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}
img{max-width:33rem;margin:.3rem;border:1px solid #eee}
.yes{color:#127a2f}.no{color:#b3261e}.na{color:#8a6d00}</style>"""

QUIET = {"Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'"}

app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
READ = [Depends(requires_access_dag("GET", DagAccessEntity.RUN))]


def loop_of(dag_id: str) -> tuple[str, str]:
    """Model and loop of a `…_retrain`, `…_score` or `…_monitor` DAG; two empty texts of any other."""
    model, _, loop = dag_id.rpartition("_")
    return (model, loop) if model and loop in LOOPS else ("", "")


def folder(dag_id: str, run_id: str) -> str:
    """Where a run of one of a model's DAGs keeps its files."""
    model, loop = loop_of(dag_id)
    if not model:
        # Leave to read a DAG of another name is no leave to read this model's runs.
        raise HTTPException(404, "no DAG of a model")
    try:
        return f"{model}/runs/{loop_run_key(loop, run_id)}"
    except InvalidName:
        raise HTTPException(404, "a run of another DAG") from None


def store() -> Store:
    return Store(Home.from_environment().store)


@app.get("/dags/{dag_id}/runs/{run_id}", dependencies=READ)
def page(dag_id: str, run_id: str) -> Response:
    """The run at a glance: what each stage said, the gate's table, the plots, the reports."""
    where, files = folder(dag_id, run_id), store()
    try:
        keys = files.keys(where)
    except (FileNotFoundError, InvalidName):
        keys = []
    names = [key[len(where) + 1 :] for key in keys]
    reports = {stage: name for stage in SHOWN for name in reversed(stage_names(stage)) if f"{name}.json" in names}
    rows = []
    for stage, report in reports.items():
        body = _json(files, f"{where}/{report}.json")
        decision = body.get("decision") or {"verdict": "done", "reasons": [_facts(stage, body)]}
        links = " ".join(
            _link(dag_id, run_id, name) for name in names if name.startswith(f"{report}/") and _shown(name)
        )
        rows.append((f"<b>{stage}</b>", _text(decision["verdict"]), _text("; ".join(decision["reasons"])), links))
    said = _table(("stage", "verdict", "why", "reports"), rows) if rows else "<p>Nothing is written yet.</p>"
    checks = ""
    for stage in CHECKED:
        if stage in reports and (found := _json(files, f"{where}/{reports[stage]}.json").get("checks")):
            checks += f"<h2 id='{stage}'>{stage.capitalize()}</h2>" + _table(
                ("check", "model", "", "value", "bound", "why"),
                [
                    (_text(c.name), _text(c.model), _mark(c), _number(c.value), _number(c.bound), _text(c.reason))
                    for c in map(GateCheck.model_validate, found)
                ],
            )
    plots = ""
    if "evaluate.json" in names:
        shown = EvaluateReport.from_json(files.read(f"{where}/evaluate.json")).plots
        plots = "<h2>Plots</h2>" + "".join(
            f"<img src='{_address(dag_id, run_id, key[len(where) + 1 :])}' alt='{_text(key.rsplit('/', 1)[-1])}'>"
            for key in shown
        )
    head = f"<!doctype html><title>{_text(run_id)}</title>{STYLE}<h1>{_text(dag_id)} · {_text(run_id)}</h1>"
    return HTMLResponse(
        head + said + checks + plots,
        headers=QUIET,
    )


@app.get("/dags/{dag_id}/runs/{run_id}/files/{path:path}", dependencies=READ)
def file(dag_id: str, run_id: str, path: str) -> Response:
    """One file of a run."""
    if not any(path.endswith(suffix) for suffix in FILES):
        raise HTTPException(404, "no such report")
    try:
        data = store().read(f"{folder(dag_id, run_id)}/{path}")
    except (MissingInput, InvalidName):
        raise HTTPException(404, "no such report") from None
    # A report holds values from the data: its scripts may draw, but reach nothing of this origin.
    headers = {"Content-Security-Policy": "sandbox allow-scripts", "X-Content-Type-Options": "nosniff"}
    return Response(data, media_type=mimetypes.guess_type(path)[0], headers=headers)


@app.get("/dags/{dag_id}/runs/{run_id}/mlflow", dependencies=READ)
def mlflow(dag_id: str, run_id: str) -> Response:
    """To the run in MLflow."""
    try:
        report = RegisterReport.from_json(store().read(f"{folder(dag_id, run_id)}/register.json"))
    except (MissingInput, InvalidName):
        raise HTTPException(404, "this run has not been recorded in MLflow") from None
    if not report.url:
        raise HTTPException(404, f"MLflow has no web address here; the run is {report.run_id}")
    return RedirectResponse(report.url)


@app.get("/dags/{dag_id}/history", dependencies=READ)
def history(dag_id: str) -> Response:
    """Every change of the model's champion, and what was refused."""
    from retrain.reporting import history as told

    model, home = dag_id.rpartition("_")[0], Home.from_environment()
    if f"{model}.yaml" not in {file.name for file in home.specs}:
        raise HTTPException(404, "no DAG of a model")
    rows = [
        (str(row.place), stamp(row.effective_at), stamp(row.recorded_at), *map(_text, cells))
        for row in told.rows(Ledger(home.ledger), model)
        for cells in [(row.what, row.change, row.who, row.why, row.evidence)]
    ]
    head = ("place", "as of", "recorded", "what", "version", "by", "why", "evidence")
    shown = _table(head, rows) if rows else "<p>Nobody has served yet.</p>"
    title = (
        f"<!doctype html><title>{_text(model)}</title>{STYLE}<h1>{_text(model)}: who served, and what was refused</h1>"
    )
    return HTMLResponse(title + shown, headers=QUIET)


@app.get("/models", dependencies=[Depends(requires_access_dag("GET"))])
def models() -> Response:
    """All models: owner, champion, age, health."""
    from retrain.reporting import inventory

    return HTMLResponse(inventory.page(inventory.entries(Home.from_environment())), headers=QUIET)


def _facts(stage: str, body: dict[str, Any]) -> str:
    """What a stage that decides nothing has to tell."""
    if stage == "ingest":
        return f"{body['batch']['rows']:,} rows, sha256 {body['batch']['sha256'][:12]}, from {body['source']}"
    if stage == "snapshot":
        return f"DVC md5 {body['md5']}, commit {body['commit'][:12]}, tag {body['tag']}"
    if stage == "context":
        serving = f"version {body['champion']['version']} serves" if body["champion"] else "no champion"
        return f"{len(body['accepted'])} accepted batches, {serving}"
    fitted = [f"{one['name']}: {one['configuration']['estimator']} on {one['rows']:,} rows" for one in body["fitted"]]
    return "; ".join([*fitted, f"{body['unlabelled']:,} rows without a label left out", *body["notes"]])


def _json(files: Store, key: str) -> dict[str, Any]:
    return dict(json.loads(files.read(key)))


def _address(dag_id: str, run_id: str, name: str) -> str:
    return f"/retrain/dags/{quote(dag_id)}/runs/{quote(run_id, safe='')}/files/{quote(name)}"


def _link(dag_id: str, run_id: str, name: str) -> str:
    return f"<a href='{_address(dag_id, run_id, name)}'>{_text(name.split('/', 1)[1])}</a>"


def _shown(name: str) -> bool:
    return name.endswith((".html", ".csv"))


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def _mark(check: GateCheck) -> str:
    """A check that does not hold back says so."""
    if check.passed is None:
        return f"<b class=na>{'unknown' if check.binding else 'reported'}</b>"
    if check.passed:
        return "<b class=yes>pass</b>"
    return "<b class=no>fail</b>" if check.binding else "<b class=na>warned</b>"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    cells = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{cells}</table>"


class StageLink(BaseOperatorLink):
    """A link on a stage's task, where that stage has something to show."""

    name = ""

    def __init__(self, name: str, path: str, *tasks: str) -> None:
        self.name, self.path, self.tasks = name, path, tasks

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        if not loop_of(ti_key.dag_id)[0] or ti_key.task_id not in self.tasks:
            return ""
        return f"/retrain/dags/{quote(ti_key.dag_id)}/runs/{quote(ti_key.run_id, safe='')}{self.path}"


LINKS = (
    StageLink("Retrain run", "", *SHOWN, "start", "ask"),
    StageLink("Quality report", "/files/validate/quality.html", "validate"),
    StageLink("Drift report", "/files/drift/drift.html", "drift", "decide"),
    StageLink("Scores", "/files/score/score.html", "score"),
    StageLink("Estimate", "/files/estimate/estimate.html", "estimate"),
    StageLink("Measurement", "/files/measure/measure.html", "measure"),
    StageLink("Diagnosis", "/files/diagnose/diagnose.html", "diagnose"),
    StageLink("Rollout", "/files/rollout/rollout.html", "rollout"),
    StageLink("Gate table", "#gate", "evaluate", "gate", "refit", "promote", "ask"),
    StageLink("Smoke test", "#smoke_test", "smoke_test", "promote"),
    StageLink("MLflow run", "/mlflow", "register", "promote"),
)


class RetrainPlugin(AirflowPlugin):
    """Registers the pages, the tab on a run, and the links on a task."""

    name = "retrain"
    fastapi_apps = [{"app": app, "url_prefix": "/retrain", "name": "retrain"}]  # noqa: RUF012 - the interface of Airflow
    external_views = [  # noqa: RUF012
        {
            "name": "Retrain",
            "href": "/retrain/dags/{DAG_ID}/runs/{RUN_ID}",
            "destination": "dag_run",
            "url_route": "retrain",
        },
        {
            "name": "Champions",
            "href": "/retrain/dags/{DAG_ID}/history",
            "destination": "dag",
            "url_route": "retrain-history",
        },
        {"name": "Models", "href": "/retrain/models", "destination": "nav", "url_route": "retrain-models"},
    ]
    global_operator_extra_links = list(LINKS)  # noqa: RUF012
