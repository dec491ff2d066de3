"""A stage as an Airflow task: which run it belongs to, how it is performed, what the owner is told of it.

A stage is imported by the task that runs it, so that reading the DAG folder imports nothing heavy.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

from airflow.sdk import PokeReturnValue, get_current_context
from airflow.sdk.exceptions import AirflowSkipException
from owner_notifier import OwnerNotifier, notify_owner
from refusals import Refusal

from retrain import pipeline
from retrain.errors import BatchMissing
from retrain.reporting import notices
from retrain.results import DecideReport, DriftReport, EstimateReport, Interval, MeasureReport, StageReport, Trigger
from retrain.spec import Spec
from retrain.state import readiness
from retrain.state.parameters import check_parameters
from retrain.state.run import Run
from retrain.state.settings import Home

Loop = Literal["retrain", "score", "monitor"]

log = logging.getLogger("retrain")


def current_run(spec: Spec, loop: Loop, context: Any = None) -> Run:
    """The run of the loop that this Airflow run is.

    Args:
        spec: of the model.
        loop: of the DAG.
        context: of the task; by default the one that runs here.

    Raises:
        AirflowSkipException: no interval has ended yet.
        InvalidParameter: the run was given a parameter that its DAG does not know.
        InvalidInterval: the parameter `interval` is the start of none.
        InvalidName: the run id would take the key of another kind's run.
    """
    context = context or get_current_context()
    dag_run, params = context["dag_run"], context["params"]
    check_parameters(spec, loop, dag_run.conf)
    home, alert, known_at = Home.from_environment(), params.get("alert", ""), None
    kind = "alert" if alert else "manual" if dag_run.run_type == "manual" else "schedule"
    flags = {name: params.get(name, False) for name in ("force", "dry_run", "revise")}
    by, reason = dag_run.triggering_user_name or "", params.get("reason", "")
    trigger = Trigger(kind=kind, id=alert or dag_run.run_id, reason=reason, by=by, **flags)
    if params["interval"]:
        interval = spec.at(params["interval"])
    elif loop == "monitor" and dag_run.data_interval_end and dag_run.run_type != "manual":
        interval, known_at = newest_interval(spec, dag_run.data_interval_end), dag_run.data_interval_end
    elif dag_run.run_type in ("scheduled", "backfill"):
        interval = spec.at(dag_run.data_interval_start)
    else:
        interval = newest_interval(spec, datetime.now(UTC))
    run = Run(home, spec, interval, readiness.loop_run_key(loop, dag_run.run_id), trigger, loop, known_at)
    if decision := run.ledger.find(spec.model, "decision", alert) if alert else None:
        known_at = decision.effective_at  # what the monitor knew, labels above all, this run must know too
    return replace(run, known_at=known_at if known_at and known_at > interval.end else None)


def newest_interval(spec: Spec, moment: datetime) -> Interval:
    """The newest interval that has ended by a moment.

    Raises:
        AirflowSkipException: none has.
    """
    ended = list(spec.intervals_until(moment))
    if not ended:
        raise AirflowSkipException(f"no interval of {spec.model} has ended by {moment:%Y-%m-%d %H:%M}")
    return ended[-1]


def perform(stage: str, run: Run) -> dict[str, Any]:
    """Run a stage as a task: its verdict and the path of its report, for the tasks after it.

    Raises:
        AirflowSkipException: the stage has nothing to do.
        RetrainError: its own refusal.
    """
    if why := pipeline.idle(stage, run):
        raise AirflowSkipException(why)
    if stage in ("ingest", "labels"):
        export_connections(run.spec)
    report = pipeline.run_stage(stage, run)
    log.info(pipeline.last_line(report, stage))
    notify_of(report, run)
    decision = getattr(report, "decision", None)
    return {
        "report": f"{run.folder}/{stage}.json",
        "verdict": decision.verdict if decision else "done",
        "reasons": list(decision.reasons) if decision else [],
        "run": run.key,
        "interval": run.interval.name,
    }


def export_connections(spec: Spec) -> None:
    """Put Airflow's connections that the spec names into the environment, where `retrain` reads them."""
    sources = (spec.source, spec.labels.source)
    for name in {source.connection for source in sources if not isinstance(source, str) and source.connection}:
        from airflow.sdk import Connection

        os.environ[f"AIRFLOW_CONN_{name.upper()}"] = Connection.get(name).get_uri()


def perform_when_ready(stage: str, run: Run) -> PokeReturnValue:
    """Perform the first stage of a loop, or wait: for the other loops, and for the batch while the spec waits for it.

    Raises:
        Refusal: the batch is not there, and it is waited for no more.
    """
    if run.loop != "retrain" and not is_ready(run):
        return PokeReturnValue(is_done=False)
    try:
        return PokeReturnValue(is_done=True, xcom_value=perform(stage, run))
    except BatchMissing as error:
        if datetime.now(UTC) < run.interval.end + run.spec.source.wait:
            log.info("not there yet, looking again later: %s", error.found)
            return PokeReturnValue(is_done=False)
        raise Refusal(error) from None


def is_ready(run: Run) -> bool:
    """Whether the run may go, or waits for another loop; a run by hand waits for nobody."""
    context = get_current_context()
    if context["dag_run"].run_type == "manual":
        return True
    answer = readiness.readiness_of(
        run,
        readiness.readiness_records(run),
        now=datetime.now(UTC),
        since=context["dag_run"].start_date or datetime.now(UTC),
        paused=context["ti"].get_dag(f"{run.model}_retrain").is_paused,
    )
    if answer.why:
        log.info(answer.why)
    return answer.ready


# --- what the owner is told


def notify_of(report: StageReport, run: Run) -> None:
    """Tell the owner what a person must know of a stage that went well."""
    for notice in _notices(report, run, get_current_context()["ti"].log_url):
        notify_owner(run.spec, notice, run)


def _notices(report: StageReport, run: Run, link: str) -> Iterator[notices.Notice]:
    yield from notices.notices_of_report(run.spec, report, link=link)
    if run.loop == "monitor" and isinstance(report, DecideReport):
        drift, estimate = run.read(DriftReport, "drift"), run.read(EstimateReport, "estimate")
        measure = run.read(MeasureReport, "measure")
        yield from notices.notices_of_monitoring(run.spec, drift, estimate, measure, report, link=link)


def failure_notifier(spec: Spec, loop: Loop | None) -> OwnerNotifier:
    """The notifier for `on_failure_callback`.

    Args:
        spec: of the model, which names the owner.
        loop: of the DAG; None of a DAG whose runs are none of a loop.
    """

    def notice(context: Any) -> tuple[notices.Notice, Run | None]:
        ti, error = context["ti"], context.get("exception")
        try:
            run = current_run(spec, loop, context) if loop else None
        except Exception:
            run = None  # what it could not make of its parameters is what failed; of a killed task it has none
        error = error.error if isinstance(error, Refusal) else error
        interval = run.interval.name if run else ""
        return notices.notice_of_error(spec, interval, ti.task_id, error, link=ti.log_url), run

    return OwnerNotifier(spec, notice)


def start_notifier(spec: Spec) -> OwnerNotifier:
    """The notifier for the success of the monitor's last task, which has started a retraining."""

    def notice(context: Any) -> tuple[notices.Notice, Run | None]:
        run, ti = current_run(spec, "monitor", context), context["ti"]
        decision = ti.xcom_pull(task_ids="decide")
        paused = ti.get_dag(f"{spec.model}_retrain").is_paused
        reason, run_id = "; ".join(decision["reasons"]), f"alert-{decision['run']}"
        return notices.notice_of_start(spec, run.interval.name, reason, run_id, paused=paused, link=ti.log_url), run

    return OwnerNotifier(spec, notice)
