"""The DAGs of every model: one family per spec in include/models, no code per model.

Nothing heavy is imported here: reading this file must cost tenths of a second, whatever the number of specs.
A stage is imported by the task that runs it; a broken spec is shown by `broken_specs.py`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from airflow.sdk import DAG, Param, PokeReturnValue, chain, get_current_context, get_parsing_context, task
from airflow.sdk.exceptions import AirflowSkipException
from airflow.timetables.interval import CronDataIntervalTimetable
from notices import TellOwner, tell
from refusals import Refusal, final_refusals

from retrain import pipeline
from retrain.errors import BatchMissing, InvalidSpec, NotApproved
from retrain.reporting import notices
from retrain.results import (
    DecideReport,
    DriftReport,
    EstimateReport,
    Interval,
    MeasureReport,
    StageReport,
    Trigger,
)
from retrain.spec import Spec, load
from retrain.state import readiness
from retrain.state.run import Run, run_key
from retrain.state.settings import Home

Loop = Literal["retrain", "score", "monitor"]

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
    "alert": Param(
        "", type="string", maxLength=200, pattern=r"^[\w.:+-]*$", title="Alert",
        description="id of the alert that asks for this",
    ),
}  # fmt: skip


def current_run(spec: Spec, loop: Loop, context: Any = None) -> Run:
    """The run of the loop that this Airflow run is."""
    context = context or get_current_context()
    dag_run, params = context["dag_run"], context["params"]
    home, alert, known_at = Home.from_environment(), params.get("alert", ""), None
    kind = "alert" if alert else "manual" if dag_run.run_type == "manual" else "schedule"
    asked = {name: params.get(name, False) for name in ("force", "dry_run", "revise")}
    by, reason = dag_run.triggering_user_name or "", params.get("reason", "")
    trigger = Trigger(kind=kind, id=alert or dag_run.run_id, reason=reason, by=by, **asked)
    if params["interval"]:
        interval = spec.at(params["interval"])
    elif loop == "monitor" and dag_run.data_interval_end and dag_run.run_type != "manual":
        interval, known_at = newest(spec, dag_run.data_interval_end), dag_run.data_interval_end
    elif dag_run.run_type in ("scheduled", "backfill"):
        interval = spec.at(dag_run.data_interval_start)
    else:
        interval = newest(spec, datetime.now(UTC))
    run = Run(home, spec, interval, readiness.loop_run_key(loop, dag_run.run_id), trigger, loop, known_at)
    if decided := run.ledger.find(spec.model, "decision", alert) if alert else None:
        known_at = decided.effective_at  # what the monitor knew, labels above all, this run must know too
    return replace(run, known_at=known_at if known_at and known_at > interval.end else None)


def newest(spec: Spec, moment: datetime) -> Interval:
    """The newest interval that has ended."""
    ended = list(spec.intervals_until(moment))
    if not ended:
        raise AirflowSkipException(f"no interval of {spec.model} has ended by {moment:%Y-%m-%d %H:%M}")
    return ended[-1]


def perform(stage: str, run: Run) -> dict[str, Any]:
    """Run a stage as a task: a calm no skips."""
    if why := pipeline.idle(stage, run):
        raise AirflowSkipException(why)
    if stage in ("ingest", "labels"):
        lend_connections(run.spec)
    report = pipeline.run_stage(stage, run)
    log.info(pipeline.last_line(report, stage))
    for notice in noticed(report, run):
        tell(run.spec, notice, run)
    decision = getattr(report, "decision", None)
    return {
        "report": f"{run.folder}/{stage}.json",
        "verdict": decision.verdict if decision else "done",
        "reasons": list(decision.reasons) if decision else [],
        "run": run.key,
        "interval": run.interval.name,
    }


def lend_connections(spec: Spec) -> None:
    """Airflow's connections that the spec names, where `retrain` looks for them."""
    sources = (spec.source, spec.labels.source)
    for name in {one.connection for one in sources if not isinstance(one, str) and one.connection}:
        from airflow.sdk import Connection

        os.environ[f"AIRFLOW_CONN_{name.upper()}"] = Connection.get(name).get_uri()


def take_in(stage: str, run: Run) -> PokeReturnValue:
    """The first stage of a loop, or wait: for its turn, and for the batch until its owner has to be told."""
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
    """Whether the run's turn has come; a run by hand waits for nobody."""
    context = get_current_context()
    if context["dag_run"].run_type == "manual":
        return True
    found = readiness.readiness_of(
        run,
        readiness.read(run),
        now=datetime.now(UTC),
        since=context["dag_run"].start_date or datetime.now(UTC),
        paused=context["ti"].get_dag(f"{run.model}_retrain").is_paused,
    )
    if found.why:
        log.info(found.why)
    return found.ready


# --- what the owner is told


def noticed(report: StageReport, run: Run) -> Iterator[notices.Notice]:
    """What a person must know of a stage that went well."""
    link = get_current_context()["ti"].log_url
    yield from notices.of_report(run.spec, report, link=link)
    if run.loop == "monitor" and isinstance(report, DecideReport):
        drift, estimate = run.read(DriftReport, "drift"), run.read(EstimateReport, "estimate")
        yield from notices.of_look(run.spec, drift, estimate, run.read(MeasureReport, "measure"), report, link=link)


def failed(spec: Spec, loop: Loop | None) -> TellOwner:
    """For `on_failure_callback`; of a task that was killed nothing but its name is known."""

    def notice(context: Any) -> tuple[notices.Notice, Run | None]:
        ti, error = context["ti"], context.get("exception")
        try:
            run = current_run(spec, loop, context) if loop else None
        except Exception:
            run = None  # what it could not make of its parameters is what failed
        error = error.error if isinstance(error, Refusal) else error
        interval = run.interval.name if run else ""
        return notices.of_error(spec, interval, ti.task_id, error, link=ti.log_url), run

    return TellOwner(spec, notice)


def started(spec: Spec) -> TellOwner:
    """For the callback of the monitor's last task."""

    def notice(context: Any) -> tuple[notices.Notice, Run | None]:
        run, ti = current_run(spec, "monitor", context), context["ti"]
        said = ti.xcom_pull(task_ids="decide")
        paused = ti.get_dag(f"{spec.model}_retrain").is_paused
        reason, key = "; ".join(said["reasons"]), f"alert-{said['run']}"
        return notices.started(spec, run.interval.name, reason, key, paused=paused, link=ti.log_url), run

    return TellOwner(spec, notice)


# --- the DAGs


def about(spec: Spec, loop: Loop | None, cron: str | None) -> dict[str, Any]:
    """What the DAGs of a model have in common."""
    told = {"owner": spec.owner.name, "on_failure_callback": failed(spec, loop)}
    return {
        "schedule": CronDataIntervalTimetable(cron, timezone="UTC") if cron else None,
        "start_date": spec.interval.start,
        "end_date": spec.interval.end - timedelta(seconds=1) if cron and spec.interval.end else None,
        "catchup": bool(cron),
        "max_active_runs": 1,
        "tags": ["retrain", spec.model],
        "default_args": told | (RETRY if loop else {}),
    }


def first_task(spec: Spec, loop: Loop, stage: pipeline.Stage) -> Any:
    """A sensor that takes the loop's first stage when its time has come."""
    wait = max(spec.source.wait, timedelta(minutes=1))
    seldom = min(max(wait / 50, timedelta(seconds=10)), timedelta(minutes=10))
    # A turn comes within seconds or minutes, a batch within its wait.
    often = {} if loop == "retrain" else {"exponential_backoff": True, "max_wait": seldom}

    @task.sensor(
        task_id=stage.name,
        mode="reschedule",
        poke_interval=10 if often else seldom.total_seconds(),
        timeout=(wait + timedelta(days=1)).total_seconds(),
        doc=stage.does,
        **often,
    )
    def link() -> PokeReturnValue:
        with final_refusals():
            return take_in(stage.name, current_run(spec, loop))

    return link()


def stage_task(spec: Spec, loop: Loop, stage: pipeline.Stage, rule: str = "all_success") -> Any:
    @task(task_id=stage.name, trigger_rule=rule, doc=stage.does)
    def perform_stage() -> dict[str, Any]:
        with final_refusals():
            return perform(stage.name, current_run(spec, loop))

    return perform_stage()


def retrain_dag(spec: Spec) -> DAG:
    """The loop of one model, one stage a task."""
    shared = about(spec, "retrain", spec.cron)
    with DAG(dag_id=f"{spec.model}_retrain", description=spec.objective, params=PARAMS, **shared) as dag:
        first, *later = pipeline.STAGES
        # A rejected candidate still leaves its run in MLflow, though refit had nothing to do.
        rules = {"register": "none_failed"}
        tasks = [stage_task(spec, "retrain", stage, rules.get(stage.name, "all_success")) for stage in later]
        if spec.promotion.mode == "approve":
            tasks.append(ask_task(spec))
        chain(first_task(spec, "retrain", first), *tasks)
    return dag


def ask_task(spec: Spec) -> Any:
    """Starts the approval: a DAG of its own, so that a version that waits holds up no later interval."""
    from starting import StartApproval

    return StartApproval(
        task_id="ask",
        trigger_dag_id=f"{spec.model}_approve",
        logical_date=None,
        skip_when_already_exists=True,
        doc="ask for a person's word about the version that waits, once",
    )


def score_dag(spec: Spec) -> DAG:
    """The scores of each interval, by the champion of its time."""
    said = f"Score each {spec.interval.every} of {spec.model} with the champion of its time"
    shared = about(spec, "score", spec.cron)
    with DAG(dag_id=f"{spec.model}_score", description=said, params={"interval": PARAMS["interval"]}, **shared) as dag:
        first, *later = pipeline.SCORING
        chain(first_task(spec, "score", first), *(stage_task(spec, "score", stage) for stage in later))
    return dag


def monitor_dag(spec: Spec) -> DAG:
    """The watch over the champion, one question a task; what it decides, it starts."""
    from starting import StartRetraining

    said = f"Watch the champion of {spec.model}, and start a retraining where the policy says so"
    shared = about(spec, "monitor", spec.monitor_cron)
    with DAG(
        dag_id=f"{spec.model}_monitor", description=said, params={"interval": PARAMS["interval"]}, **shared
    ) as dag:
        first, *later = pipeline.MONITORING
        tasks = {first.name: first_task(spec, "monitor", first)}
        tasks |= {stage.name: stage_task(spec, "monitor", stage) for stage in later}
        questions = [tasks.pop(name) for name in ("drift", "estimate", "measure")]
        labels, context, diagnose, rollout, decide = tasks.values()
        start = StartRetraining(
            task_id="start",
            trigger_dag_id=f"{spec.model}_retrain",
            logical_date=None,
            skip_when_already_exists=True,
            on_success_callback=started(spec),
            doc="start the retraining that was decided, once",
        )
        chain(labels, context, questions, diagnose, rollout, decide, start)
    return dag


def approve_dag(spec: Spec) -> DAG:
    """A person's word about a version that waits, and what follows from it."""
    from asking import approve_task, proposed

    with DAG(
        dag_id=f"{spec.model}_approve",
        description=f"Ask a person whether a version of {spec.model} may serve",
        params={
            "version": Param(type="integer", minimum=1, title="Version", description="that waits for an answer"),
            "digest": Param(
                "", type="string", pattern="^([0-9a-f]{64})?$", title="Digest",
                description="of its files; empty: those that were proposed",
            ),
        },
        # Nobody would miss a form that a paused DAG never shows.
        is_paused_upon_creation=False,
        **about(spec, None, None) | {"max_active_runs": 16},
    ) as dag:  # fmt: skip

        @task(**RETRY)
        def promote() -> dict[str, Any]:
            with final_refusals():
                run, proposal = proposed(spec, get_current_context()["params"])
                said = perform("promote", run)
                if said["verdict"] == "waiting":
                    raise NotApproved(
                        f"version {proposal.body['version']} still waits: nobody who is signed in has answered",
                        do=f"trigger {spec.model}_approve again, and answer it",
                    ).at(spec.model, "promote")
            return said

        approve_task(spec) >> promote()
    return dag


def rollback_dag(spec: Spec) -> DAG:
    """Put the champion's predecessor, or an earlier version, back, by hand."""
    with DAG(
        dag_id=f"{spec.model}_rollback",
        description=f"Put an earlier champion of {spec.model} back",
        params={
            "reason": Param(type="string", minLength=3, maxLength=500, title="Reason", description="for the record"),
            "to": Param(
                None, type=["null", "integer"], minimum=1, title="To",
                description="version to put back; empty: the champion's predecessor",
            ),
        },
        # In an emergency nobody should have to find out that the way back is paused.
        is_paused_upon_creation=False,
        **about(spec, None, None),
    ) as dag:  # fmt: skip

        @task
        def rollback() -> dict[str, Any]:
            context = get_current_context()
            home, params = Home.from_environment(), context["params"]
            key, by = run_key(context["dag_run"].run_id), context["dag_run"].triggering_user_name or ""
            with final_refusals():
                report = pipeline.roll_back(home, spec, key, params["reason"], to=params["to"], by=by)
            log.info(pipeline.last_line(report, "rollback"))
            run = Run(home, spec, report.interval, key, Trigger(kind="manual", by=by, reason=params["reason"]))
            for notice in noticed(report, run):
                tell(spec, notice, run)
            return report.decision.model_dump()

        rollback()
    return dag


FAMILY = {
    "retrain": retrain_dag,
    "score": score_dag,
    "monitor": monitor_dag,
    "approve": approve_dag,
    "rollback": rollback_dag,
}


def build() -> dict[str, DAG]:
    """The DAGs that this reading of the file is for: all of them, or the one that a task belongs to."""
    wanted = get_parsing_context().dag_id
    dags: dict[str, DAG] = {}
    for file in Home.from_environment().specs:
        families = {f"{file.stem}_{name}": make for name, make in FAMILY.items()}
        if wanted and wanted not in families:
            continue
        try:
            spec = load(file)
        except InvalidSpec:
            continue  # shown by broken_specs.py, which takes no other DAG with it
        if spec.promotion.mode != "approve":
            del families[f"{spec.model}_approve"]
        dags |= {name: make(spec) for name, make in families.items() if wanted in (None, name)}
    return dags


globals().update(build())
