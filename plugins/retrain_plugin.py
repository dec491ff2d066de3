"""What the Airflow UI gains: a page per run, pages of champions and models, and links on every stage task.

Loaded by every Airflow component, so it stays light: results, ledger, store and what reads them, no pandas, no MLflow.
Every route asks for a signed-in user who may read the DAG; reports run in a sandbox of their own. What cannot be read,
a torn report or a database that is gone, is named on the page, and what else there is stands beside it.
"""

from __future__ import annotations

import html
import json
import logging
import mimetypes
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from airflow.plugins_manager import AirflowPlugin
from airflow.sdk.bases.operatorlink import BaseOperatorLink
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from sqlalchemy.exc import DBAPIError

from retrain.errors import InvalidName, MissingInput, RetrainError
from retrain.rendering.text import stamp
from retrain.results import GateCheck, RegisterReport
from retrain.state.former import stage_names
from retrain.state.ledger import Ledger
from retrain.state.parameters import dag_of
from retrain.state.readiness import loop_run_key
from retrain.state.run import PLAIN
from retrain.state.settings import Home
from retrain.state.store import Store

LOOPS = ("retrain", "score", "monitor")
DATA = ("ingest", "validate", "snapshot", "labels", "context", "score")
WATCH = ("drift", "estimate", "measure", "diagnose", "regret", "rollout", "decide")
STAGES = (*DATA, *WATCH, "train", "evaluate", "gate", "refit", "register", "smoke_test", "promote")
"""The stages of all loops, in the order of the page."""
CHECKED = ("gate", "refit", "smoke_test")
"""Stages whose report has a table of checks."""
FILES = (".html", ".png", ".csv", ".json")
"""How the names of files end that are served."""
STYLE = """<style>body{font:14px system-ui,sans-serif;margin:1.5rem;max-width:70rem}table{border-collapse:collapse;
margin:.5rem 0 1.5rem}td,th{padding:.3rem .7rem;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}
img{max-width:33rem;margin:.3rem;border:1px solid #eee}
.yes{color:#127a2f}.no{color:#b3261e}.na{color:#8a6d00}</style>"""

NO_SCRIPTS = {"Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'"}

log = logging.getLogger("retrain")


class NamedFaults(APIRoute):
    """A route that answers what it could not read with a page that names it."""

    def get_route_handler(self) -> Callable[..., Any]:
        """The handler of the route, within the page of its faults."""
        handler = super().get_route_handler()

        async def named(request: Any) -> Response:
            try:
                return await handler(request)
            except HTTPException:
                raise
            except (MissingInput, InvalidName) as error:
                return fault_page(404, str(error))
            except RetrainError as error:
                return fault_page(503, str(error))
            except (DBAPIError, OSError) as error:
                log.warning("%s cannot be shown", request.url.path, exc_info=True)
                return fault_page(503, f"{type(error).__name__}: {getattr(error, 'orig', error)}"[:500])
            except Exception as error:
                log.exception("%s cannot be shown", request.url.path)
                return fault_page(500, f"{type(error).__name__}: {error}"[:500])

        return named


app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
app.router.route_class = NamedFaults
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
        key = loop_run_key(loop, run_id)
    except InvalidName:
        raise HTTPException(404, "a run of another DAG") from None
    # A form names the retraining by its folder, which is all that the record knows.
    if loop == "retrain" and PLAIN.fullmatch(run_id) and not store().keys(f"{model}/runs/{key}"):
        key = run_id
    return f"{model}/runs/{key}"


def store() -> Store:
    """Where runs keep their files."""
    return Store(Home.from_environment().store)


@app.get("/dags/{dag_id}/runs/{run_id}", dependencies=READ)
def run_page(dag_id: str, run_id: str) -> Response:
    """The run at a glance: what each stage said, the tables of checks, the plots, the reports."""
    where, files = folder(dag_id, run_id), store()
    try:
        keys = files.keys(where)
    except (FileNotFoundError, InvalidName):
        keys = []
    names = [key[len(where) + 1 :] for key in keys]
    # A stage's report bears the stage's name, that of an earlier version of this project too.
    reports = {stage: name for stage in STAGES for name in reversed(stage_names(stage)) if f"{name}.json" in names}
    rows, tables, plots = [], "", ""
    for stage, report in reports.items():
        pages = [name for name in names if name.startswith(f"{report}/") and name.endswith((".html", ".csv"))]
        links = " ".join(_link(dag_id, run_id, name) for name in pages)
        try:
            body = dict(json.loads(files.read(f"{where}/{report}.json")))
            decision = body.get("decision") or {"verdict": "done", "reasons": [_facts(stage, body)]}
            verdict, why = _text(decision["verdict"]), _text("; ".join(decision["reasons"]))
            table = _checks(stage, body.get("checks")) if stage in CHECKED else ""
            images = "".join(
                f"<img src='{_address(dag_id, run_id, key[len(where) + 1 :])}' alt='{_text(key.rsplit('/', 1)[-1])}'>"
                for key in (body.get("plots", ()) if stage == "evaluate" else ())
            )
        except Exception as error:  # one torn report hides no other
            verdict, why = "<b class=no>unreadable</b>", _text(_torn(f"{where}/{report}.json", error))
            table = images = ""
        rows.append((f"<b>{stage}</b>", verdict, why, links))
        tables, plots = tables + table, plots + images
    overview = _table(("stage", "verdict", "why", "reports"), rows) if rows else "<p>Nothing is written yet.</p>"
    return _page(run_id, f"{dag_id} · {run_id}", overview + tables + (f"<h2>Plots</h2>{plots}" if plots else ""))


@app.get("/dags/{dag_id}/runs/{run_id}/files/{path:path}", dependencies=READ)
def run_file(dag_id: str, run_id: str, path: str) -> Response:
    """One file of a run."""
    if not path.endswith(FILES):
        raise HTTPException(404, "no such report")
    try:
        data = store().read(f"{folder(dag_id, run_id)}/{path}")
    except (MissingInput, InvalidName):
        raise HTTPException(404, "no such report") from None
    # A report holds values from the data: its scripts may draw, but reach nothing of this origin.
    headers = {"Content-Security-Policy": "sandbox allow-scripts", "X-Content-Type-Options": "nosniff"}
    return Response(data, media_type=mimetypes.guess_type(path)[0], headers=headers)


@app.get("/dags/{dag_id}/runs/{run_id}/mlflow", dependencies=READ)
def run_in_mlflow(dag_id: str, run_id: str) -> Response:
    """Leads to the run in MLflow."""
    try:
        report = store().read_report(RegisterReport, f"{folder(dag_id, run_id)}/register.json")
    except (MissingInput, InvalidName):
        raise HTTPException(404, "this run has not been recorded in MLflow") from None
    if not report.url:
        raise HTTPException(404, f"MLflow has no web address here; the run is {report.run_id}")
    return RedirectResponse(report.url)


@app.get("/dags/{dag_id}/history", dependencies=READ)
def history_page(dag_id: str) -> Response:
    """Every change of the model's champion, and what was refused."""
    from retrain.reporting import history

    model, home = dag_of(dag_id)[0], Home.from_environment()
    if f"{model}.yaml" not in {file.name for file in home.specs}:
        raise HTTPException(404, "no DAG of a model")
    rows = [
        (str(event.place), stamp(event.effective_at), stamp(event.recorded_at), *map(_text, cells))
        for event in history.rows(Ledger(home.ledger), model)
        for cells in [(event.what, event.change, event.who, event.why, event.evidence)]
    ]
    head = ("place", "as of", "recorded", "what", "version", "by", "why", "evidence")
    table = _table(head, rows) if rows else "<p>Nobody has served yet.</p>"
    return _page(model, f"{model}: who served, and what was refused", table)


@app.get("/models", dependencies=[Depends(requires_access_dag("GET"))])
def models_page() -> Response:
    """All models: owner, champion, age, health."""
    from retrain.reporting import inventory

    return HTMLResponse(inventory.page(inventory.entries(Home.from_environment())), headers=NO_SCRIPTS)


def _page(title: str, heading: str, body: str) -> Response:
    head = f"<!doctype html><title>{_text(title)}</title>{STYLE}<h1>{_text(heading)}</h1>"
    return HTMLResponse(head + body, headers=NO_SCRIPTS)


def fault_page(status: int, what: str) -> Response:
    """A page that names what could not be read, with what to do."""
    page = _page("Retrain", "This page cannot be shown", f"<pre>{_text(what)}</pre>")
    page.status_code = status
    return page


def _torn(key: str, error: Exception) -> str:
    what = str(error)[:200]
    return f"{key} cannot be read ({type(error).__name__}: {what}): restore it from a backup, or run the stage again"


def _checks(stage: str, checks: list[dict[str, Any]] | None) -> str:
    if not checks:
        return ""
    rows = [
        (_text(c.name), _text(c.model), _mark(c), _number(c.value), _number(c.bound), _text(c.reason))
        for c in map(GateCheck.model_validate, checks)
    ]
    heading = stage.replace("_", " ").capitalize()
    return f"<h2 id='{stage}'>{heading}</h2>" + _table(("check", "model", "", "value", "bound", "why"), rows)


def _facts(stage: str, body: dict[str, Any]) -> str:
    """The reason that is shown of a stage that decides nothing."""
    if stage == "ingest":
        return f"{body['batch']['rows']:,} rows, sha256 {body['batch']['sha256'][:12]}, from {body['source']}"
    if stage == "snapshot":
        return f"DVC md5 {body['md5']}, commit {body['commit'][:12]}, tag {body['tag']}"
    if stage == "context":
        serving = f"version {body['champion']['version']} serves" if body["champion"] else "no champion"
        return f"{len(body['accepted'])} accepted batches, {serving}"
    fitted = [
        f"{model['name']}: {model['configuration']['estimator']} on {model['rows']:,} rows" for model in body["fitted"]
    ]
    return "; ".join([*fitted, f"{body['unlabelled']:,} rows without a label left out", *body["notes"]])


def _address(dag_id: str, run_id: str, name: str) -> str:
    return f"/retrain/dags/{quote(dag_id)}/runs/{quote(run_id, safe='')}/files/{quote(name)}"


def _link(dag_id: str, run_id: str, name: str) -> str:
    return f"<a href='{_address(dag_id, run_id, name)}'>{_text(name.split('/', 1)[1])}</a>"


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def _mark(check: GateCheck) -> str:
    """A check's outcome; one that does not hold a model back says so."""
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
        """The address of the page; empty where the task has none."""
        if not loop_of(ti_key.dag_id)[0] or ti_key.task_id not in self.tasks:
            return ""
        return f"/retrain/dags/{quote(ti_key.dag_id)}/runs/{quote(ti_key.run_id, safe='')}{self.path}"


LINKS = (
    StageLink("Retrain run", "", *STAGES, "start", "ask"),
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
