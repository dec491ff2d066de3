"""The DAGs of every model: one family per spec in include/models, no code per model.

Nothing heavy is imported here: reading this file must cost tenths of a second, whatever the number of specs.
A stage is imported by the task that runs it; a broken spec is shown by `broken_specs.py`.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, PokeReturnValue, chain, get_current_context, get_parsing_context, task
from airflow.timetables.interval import CronDataIntervalTimetable
from refusals import final_refusals
from stage_tasks import Loop, current_run, failure_notifier, notify_of, perform, perform_when_ready, start_notifier

from retrain import actions, pipeline
from retrain.errors import NotApproved
from retrain.results import SHORTEST_REASON, Trigger
from retrain.spec import Spec, load
from retrain.state.parameters import check_parameters
from retrain.state.readiness import loop_run_key
from retrain.state.run import Run
from retrain.state.settings import Home

log = logging.getLogger("retrain")

RETRY = {
    "retries": 4,
    "retry_delay": timedelta(seconds=15),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=10),
}
END = r"$(?!\n)"
"""The end of a text: `$` alone also stands before a last line break."""
MOMENT = r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])([T ]([01]\d|2[0-3]):[0-5]\d(:[0-5]\d)?(Z|[+-]\d{2}:\d{2})?)?"
PARAMS = {
    "interval": Param(
        None, type=["null", "string"], pattern=MOMENT + END, title="Interval",
        description="start of the interval to run as of, like 2013-04-01; empty: the run's own, or the newest",
    ),
    "force": Param(False, type="boolean", title="Force", description="retrain whatever the policy says"),
    "dry_run": Param(False, type="boolean", title="Dry run", description="stop before a version is registered"),
    "revise": Param(False, type="boolean", title="Revise", description="take other bytes for an accepted interval"),
    "reason": Param("", type="string", maxLength=500, title="Reason", description="for the record"),
    "alert": Param(
        "", type="string", maxLength=200, pattern=r"^[\w.:+-]*" + END, title="Alert",
        description="id of the alert that asks for this",
    ),
}  # fmt: skip


def dag_arguments(spec: Spec, loop: Loop | None, cron: str | None) -> dict[str, Any]:
    """What the DAGs of a model have in common."""
    task_arguments = {"owner": spec.owner.name, "on_failure_callback": failure_notifier(spec, loop)}
    return {
        "schedule": CronDataIntervalTimetable(cron, timezone="UTC") if cron else None,
        "start_date": spec.interval.start,
        "end_date": spec.interval.end - timedelta(seconds=1) if cron and spec.interval.end else None,
        "catchup": bool(cron),
        "max_active_runs": 1,
        "tags": ["retrain", spec.model],
        "default_args": task_arguments | (RETRY if loop else {}),
    }


def first_task(spec: Spec, loop: Loop, stage: pipeline.Stage) -> Any:
    """The task of a loop's first stage: a sensor that performs it when the run may go and the batch is there."""
    wait = max(spec.source.wait, timedelta(minutes=1))
    seldom = min(max(wait / 50, timedelta(seconds=10)), timedelta(minutes=10))
    # Another loop ends within seconds or minutes, a batch comes within its wait.
    often = {} if loop == "retrain" else {"exponential_backoff": True, "max_wait": seldom}

    @task.sensor(
        task_id=stage.name,
        mode="reschedule",
        poke_interval=10 if often else seldom.total_seconds(),
        timeout=(wait + timedelta(days=1)).total_seconds(),
        doc=stage.does,
        **often,
    )
    def perform_stage() -> PokeReturnValue:
        with final_refusals():
            return perform_when_ready(stage.name, current_run(spec, loop))

    return perform_stage()


def stage_task(spec: Spec, loop: Loop, stage: pipeline.Stage, rule: str = "all_success") -> Any:
    """The task of a later stage."""

    @task(task_id=stage.name, trigger_rule=rule, doc=stage.does)
    def perform_stage() -> dict[str, Any]:
        with final_refusals():
            return perform(stage.name, current_run(spec, loop))

    return perform_stage()


def retrain_dag(spec: Spec) -> DAG:
    """The loop of one model, one stage a task."""
    shared = dag_arguments(spec, "retrain", spec.cron)
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
    """The task that starts the approval: a DAG of its own, so that a version that waits holds up no later interval."""
    from trigger_operators import StartApproval

    return StartApproval(
        task_id="ask",
        trigger_dag_id=f"{spec.model}_approve",
        logical_date=None,
        skip_when_already_exists=True,
        doc="ask for a person's word about the version that waits, once",
    )


def score_dag(spec: Spec) -> DAG:
    """The scores of each interval, by the champion of its time."""
    does = f"Score each {spec.interval.every} of {spec.model} with the champion of its time"
    shared = dag_arguments(spec, "score", spec.cron)
    with DAG(dag_id=f"{spec.model}_score", description=does, params={"interval": PARAMS["interval"]}, **shared) as dag:
        first, *later = pipeline.SCORING
        chain(first_task(spec, "score", first), *(stage_task(spec, "score", stage) for stage in later))
    return dag


def monitor_dag(spec: Spec) -> DAG:
    """The watch over the champion, one question a task; what it decides, it starts."""
    from trigger_operators import StartRetraining

    does = f"Watch the champion of {spec.model}, and start a retraining where the policy says so"
    shared = dag_arguments(spec, "monitor", spec.monitor_cron)
    with DAG(
        dag_id=f"{spec.model}_monitor", description=does, params={"interval": PARAMS["interval"]}, **shared
    ) as dag:
        first, *later = pipeline.MONITORING
        tasks = {first.name: first_task(spec, "monitor", first)}
        tasks |= {stage.name: stage_task(spec, "monitor", stage) for stage in later}
        questions = [tasks.pop(name) for name in ("drift", "estimate", "measure")]
        labels, context, diagnose, regret, rollout, decide = tasks.values()
        start = StartRetraining(
            task_id="start",
            trigger_dag_id=f"{spec.model}_retrain",
            logical_date=None,
            skip_when_already_exists=True,
            on_success_callback=start_notifier(spec),
            doc="start the retraining that was decided, once",
        )
        chain(labels, context, questions, diagnose, regret, rollout, decide, start)
    return dag


def approve_dag(spec: Spec) -> DAG:
    """A person's word about a version that waits, and what follows from it."""
    from approval_operator import approve_task, proposed

    with DAG(
        dag_id=f"{spec.model}_approve",
        description=f"Ask a person whether a version of {spec.model} may serve",
        params={
            "version": Param(type="integer", minimum=1, title="Version", description="that waits for an answer"),
            "digest": Param(
                "", type="string", pattern="^([0-9a-f]{64})?" + END, title="Digest",
                description="of its files; empty: those that were proposed",
            ),
        },
        # Nobody would miss a form that a paused DAG never shows.
        is_paused_upon_creation=False,
        **dag_arguments(spec, None, None) | {"max_active_runs": 16},
    ) as dag:  # fmt: skip

        @task(**RETRY)
        def promote() -> dict[str, Any]:
            with final_refusals():
                run, proposal = proposed(spec, get_current_context()["params"])
                outcome = perform("promote", run)
                if outcome["verdict"] == "waiting":
                    raise NotApproved(
                        f"version {proposal.body['version']} still waits: nobody who is signed in has answered",
                        do=f"trigger {spec.model}_approve again, and answer it",
                    ).at(spec.model, "promote")
            return outcome

        approve_task(spec) >> promote()
    return dag


def rollback_dag(spec: Spec) -> DAG:
    """Put the champion's predecessor, or an earlier version, back, by hand."""
    with DAG(
        dag_id=f"{spec.model}_rollback",
        description=f"Put an earlier champion of {spec.model} back",
        params={
            "reason": Param(
                type="string", minLength=SHORTEST_REASON, maxLength=500, title="Reason", description="for the record"
            ),
            "to": Param(
                None, type=["null", "integer"], minimum=1, title="To",
                description="version to put back; empty: the champion's predecessor",
            ),
        },
        # In an emergency nobody should have to find out that the way back is paused.
        is_paused_upon_creation=False,
        **dag_arguments(spec, None, None),
    ) as dag:  # fmt: skip

        @task
        def rollback() -> dict[str, Any]:
            context = get_current_context()
            home, params = Home.from_environment(), context["params"]
            key, by = context["dag_run"].run_id, context["dag_run"].triggering_user_name or ""
            with final_refusals():
                check_parameters(spec, "rollback", context["dag_run"].conf)
                report = actions.roll_back(home, spec, key, params["reason"], to=params["to"], by=by)
            log.info(pipeline.last_line(report, "rollback"))
            trigger = Trigger(kind="manual", by=by, reason=params["reason"])
            run = Run(home, spec, report.interval, loop_run_key("rollback", key), trigger)
            notify_of(report, run)
            return report.decision.model_dump()

        rollback()
    return dag


MAKERS = {
    "retrain": retrain_dag,
    "score": score_dag,
    "monitor": monitor_dag,
    "approve": approve_dag,
    "rollback": rollback_dag,
}
"""The DAGs of a model: the end of their id → what makes them."""


def build_dags() -> dict[str, DAG]:
    """The DAGs that this reading of the file is for: all of them, or the one that a task belongs to."""
    wanted = get_parsing_context().dag_id
    dags: dict[str, DAG] = {}
    for file in Home.from_environment().specs:
        makers = {f"{file.stem}_{name}": make for name, make in MAKERS.items()}
        if wanted and wanted not in makers:
            continue
        try:
            spec = load(file)
        except Exception:
            continue  # shown by broken_specs.py, which takes no other DAG with it
        if spec.promotion.mode != "approve":
            del makers[f"{spec.model}_approve"]
        try:
            dags |= {name: make(spec) for name, make in makers.items() if wanted in (None, name)}
        except Exception:  # whatever stands in one spec, the other models keep their DAGs
            if wanted:
                raise
            log.exception("%s · dags · the DAGs of this spec cannot be made; those of the others stand", spec.model)
    return dags


globals().update(build_dags())
