"""The DAGs of every model: one family per spec in include/models, no code per model.

Nothing heavy is imported here: reading this file must cost tenths of a second, whatever the number of specs.
A stage is imported by the task that runs it; a broken spec is shown by `broken_specs.py`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Param, PokeReturnValue, chain, get_current_context, get_parsing_context, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.timetables.interval import CronDataIntervalTimetable

from retrain import pipeline
from retrain.errors import BatchMissing, InvalidSpec, RetrainError
from retrain.results import Trigger
from retrain.run import Run, run_key
from retrain.spec import Spec, load
from retrain.workspace import Home

log = logging.getLogger("retrain")

RETRY = {
    "retries": 4,
    "retry_delay": timedelta(seconds=15),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=10),
}
PARAMS = {
    "interval": Param(
        None, type=["null", "string"], pattern=r"^\d{4}-\d{2}-\d{2}", title="Interval",
        description="start of the interval to run as of, like 2013-04-01; empty: the run's own, or the newest",
    ),
    "force": Param(False, type="boolean", title="Force", description="retrain whatever the policy says"),
    "dry_run": Param(False, type="boolean", title="Dry run", description="stop before a version is registered"),
    "revise": Param(False, type="boolean", title="Revise", description="take other bytes for an accepted interval"),
    "reason": Param("", type="string", maxLength=500, title="Reason", description="for the record"),
    "alert": Param("", type="string", maxLength=200, title="Alert", description="id of the alert that asks for this"),
}  # fmt: skip


def tell_owner(spec: Spec) -> Callable[[Any], None]:
    """Say who is asked to look, and what was found; the default notifier is the log."""

    def tell(context: Any) -> None:
        what = f"{context['task_instance'].task_id} of {spec.model} failed: {context.get('exception')}"
        log.error("owner %s <%s>: %s", spec.owner.name, spec.owner.contact, what)

    return tell


@contextmanager
def final_refusals() -> Iterator[None]:
    """Our own refusals fail the task at once; what may pass by itself is left to the retries."""
    try:
        yield
    except RetrainError as error:
        if error.retryable:
            raise
        raise AirflowFailException(str(error)) from None


def current_run(spec: Spec) -> Run:
    """The run of the loop that this Airflow run is."""
    context = get_current_context()
    dag_run, params = context["dag_run"], context["params"]
    if params["interval"]:
        interval = spec.at(params["interval"])
    elif dag_run.run_type in ("scheduled", "backfill"):
        interval = spec.at(dag_run.data_interval_start)
    else:
        ended = list(spec.intervals_until(datetime.now(UTC)))
        if not ended:
            raise AirflowFailException(f"no interval of {spec.model} has ended yet")
        interval = ended[-1]
    kind = "alert" if params["alert"] else "manual" if dag_run.run_type == "manual" else "schedule"
    trigger = Trigger(
        kind=kind, id=params["alert"] or dag_run.run_id, force=params["force"], dry_run=params["dry_run"],
        revise=params["revise"], reason=params["reason"],
    )  # fmt: skip
    return Run(home=Home.from_environment(), spec=spec, interval=interval, key=run_key(dag_run.run_id), trigger=trigger)


def perform(stage: str, run: Run) -> dict[str, Any]:
    """Run a stage as a task: a calm no skips."""
    if why := pipeline.idle(stage, run):
        raise AirflowSkipException(why)
    report = pipeline.run_stage(stage, run)
    log.info(pipeline.last_line(report, stage))
    decision = getattr(report, "decision", None)
    return {
        "report": f"{run.folder}/{stage}.json",
        "verdict": decision.verdict if decision else "done",
        "reasons": list(decision.reasons) if decision else [],
    }


def wait_for_batch(spec: Spec) -> PokeReturnValue:
    """Ingest, or wait for the batch until its owner has to be told."""
    run = current_run(spec)
    if spec.source.connection:
        from airflow.sdk import Connection

        os.environ[f"AIRFLOW_CONN_{spec.source.connection.upper()}"] = Connection.get(spec.source.connection).get_uri()
    try:
        return PokeReturnValue(is_done=True, xcom_value=perform("ingest", run))
    except BatchMissing as error:
        if datetime.now(UTC) < run.interval.end + spec.source.wait:
            log.info("not there yet, looking again later: %s", error.found)
            return PokeReturnValue(is_done=False)
        raise AirflowFailException(str(error)) from None


def retrain_dag(spec: Spec) -> DAG:
    """The loop of one model, one stage a task."""
    wait = max(spec.source.wait, timedelta(minutes=1))
    with DAG(
        dag_id=f"{spec.model}_retrain",
        description=spec.objective,
        schedule=CronDataIntervalTimetable(spec.cron, timezone="UTC"),
        start_date=spec.interval.start,
        end_date=spec.interval.end - timedelta(seconds=1) if spec.interval.end else None,
        catchup=True,
        max_active_runs=1,
        tags=["retrain", spec.model],
        params=PARAMS,
        default_args={"owner": spec.owner.name, "on_failure_callback": tell_owner(spec), **RETRY},
    ) as dag:

        @task.sensor(
            mode="reschedule",
            poke_interval=min(max(wait / 50, timedelta(seconds=10)), timedelta(minutes=10)).total_seconds(),
            timeout=(wait + timedelta(days=1)).total_seconds(),
            doc=pipeline.STAGES[0].does,
        )
        def ingest() -> PokeReturnValue:
            with final_refusals():
                return wait_for_batch(spec)

        def stage_task(stage: pipeline.Stage) -> Any:
            # A rejected candidate still leaves its run in MLflow, though refit had nothing to do.
            rule = "none_failed" if stage.name == "register" else "all_success"

            @task(task_id=stage.name, trigger_rule=rule, doc=stage.does)
            def perform_stage() -> dict[str, Any]:
                with final_refusals():
                    return perform(stage.name, current_run(spec))

            return perform_stage()

        chain(ingest(), *(stage_task(stage) for stage in pipeline.STAGES[1:]))
    return dag


def rollback_dag(spec: Spec) -> DAG:
    """Put the champion's predecessor back, by hand."""
    with DAG(
        dag_id=f"{spec.model}_rollback",
        description=f"Put the predecessor of the champion of {spec.model} back",
        schedule=None,
        start_date=spec.interval.start,
        max_active_runs=1,
        tags=["retrain", spec.model],
        params={
            "reason": Param(type="string", minLength=3, maxLength=500, title="Reason", description="for the record")
        },
        default_args={"owner": spec.owner.name, "on_failure_callback": tell_owner(spec)},
    ) as dag:

        @task
        def rollback() -> dict[str, Any]:
            context = get_current_context()
            with final_refusals():
                report = pipeline.roll_back(
                    Home.from_environment(), spec, run_key(context["dag_run"].run_id), context["params"]["reason"]
                )
            log.info(pipeline.last_line(report, "rollback"))
            return report.decision.model_dump()

        rollback()
    return dag


def build() -> dict[str, DAG]:
    """The DAGs that this reading of the file is for: all of them, or the one that a task belongs to."""
    wanted = get_parsing_context().dag_id
    dags: dict[str, DAG] = {}
    for file in Home.from_environment().specs:
        families = {f"{file.stem}_retrain": retrain_dag, f"{file.stem}_rollback": rollback_dag}
        if wanted and wanted not in families:
            continue
        try:
            spec = load(file)
        except InvalidSpec:
            continue  # shown by broken_specs.py, which takes no other DAG with it
        dags |= {name: make(spec) for name, make in families.items() if wanted in (None, name)}
    return dags


globals().update(build())
