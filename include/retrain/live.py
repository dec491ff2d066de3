"""Live operation in one process: a model's three loops, interval by interval, in the order of the data's clock.

The order is the one in which Airflow's DAGs wait for each other (`retrain.state.readiness`). An interval is scored by
the champion of its start. The retraining as of its end decides. The monitor looks before the retraining promotes
anything, so that a watch is judged while its champion still serves. Then the retraining goes on, and what the monitor
has decided is started. Only then comes the next interval: each champion, decision and score is the one of its time.

What is on record is not done again, so a walk that was interrupted goes on where it stopped. What was refused is tried
again, like a task that is cleared: the delivery may have been mended.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from retrain import errors, pipeline
from retrain.errors import BatchMissing, RetrainError
from retrain.results import Interval, StageReport, Trigger
from retrain.spec import Spec
from retrain.state.ledger import Record
from retrain.state.readiness import ENDS, loop_run_key
from retrain.state.run import Run

UNTIL_DECIDE = pipeline.NAMES[: pipeline.NAMES.index("decide") + 1]
"""The stages of a retraining until it has decided; then the monitor may go."""


@dataclass(frozen=True)
class Step:
    """A stage that has run or was refused; without a stage: an interval that was on record as a whole.

    Attributes:
        run: that the stage belongs to.
        stage: its name.
        report: what it says.
        refusal: why it says nothing.
    """

    run: Run
    stage: str = ""
    report: StageReport | None = None
    refusal: RetrainError | None = None


Performed = Generator[Step, None, RetrainError | None]
"""The steps of some stages; returns the refusal that ended them."""


def ends_one_interval(error: RetrainError) -> bool:
    """Whether a refusal ends the run of its interval only; an outage ends the walk, which can be repeated.

    >>> ends_one_interval(BatchMissing("no file", do="wait"))
    True
    """
    return not error.retryable or isinstance(error, BatchMissing)


def live_through(
    newest: Run, *, anew: bool = False, begin: Callable[[Run, str], None] = lambda run, stage: None
) -> Iterator[Step]:
    """Do what is not on record yet, for every interval until that of a run.

    Args:
        newest: a retraining as of the last interval; what its trigger asks for counts for this interval only.
        anew: whether that retraining runs again where it is on record.
        begin: called before each stage.

    Yields:
        A step per stage, once it has run or was refused.

    Raises:
        RetrainError: an outage. Called again, the walk goes on from there.
    """
    plain = newest.trigger.model_copy(update={"force": False, "dry_run": False, "revise": False})
    for span in newest.spec.intervals_until(newest.interval.end):
        run = newest
        if span != newest.interval:
            run = replace(newest, interval=span, key=loop_run_key("retrain", f"laptop-{span.name}"), trigger=plain)
        steps = _steps(run, anew and run is newest, begin)
        yield next(steps, Step(run))
        yield from steps


def monitor_moments(spec: Spec, span: Interval) -> list[datetime]:
    """When the monitor looks at an interval as the newest that has ended: by its own schedule, up to now."""
    every = spec.monitor.every or spec.interval.every
    schedule = spec.interval.model_copy(update={"every": every})
    first = schedule.floor(spec.interval.start)
    schedule = schedule.model_copy(update={"start": first if first == spec.interval.start else schedule.end_of(first)})
    until = min(datetime.now(UTC), spec.interval.end_of(span.end))
    moments = [each.end for each in schedule.until(until)]
    return [moment for moment in moments if span.end <= moment < spec.interval.end_of(span.end)]


def _steps(run: Run, anew: bool, begin: Callable[[Run, str], None]) -> Iterator[Step]:
    """What is left to do for one interval."""
    if not _is_scored(run):
        scoring = replace(run, loop="score", key=loop_run_key("score", f"laptop-{run.interval.name}"))
        yield from _perform(scoring, [stage.name for stage in pipeline.SCORING], begin)
    left = pipeline.NAMES if anew else () if _has_ended(run) else _left(run)
    refusal = yield from _perform(run, [name for name in left if name in UNTIL_DECIDE], begin)
    if isinstance(refusal, BatchMissing) and datetime.now(UTC) < run.as_of + run.spec.source.wait:
        return  # it may still come, and the monitor waits for it
    moments = monitor_moments(run.spec, run.interval)
    for moment in moments:
        if moment == run.as_of:
            yield from _monitor(run, moment, begin)
    if not refusal:
        yield from _perform(run, [name for name in left if name not in UNTIL_DECIDE], begin)
    for moment in moments:
        if moment != run.as_of:
            yield from _monitor(run, moment, begin)
        yield from _start(run, moment, begin)


def _perform(run: Run, names: Sequence[str], begin: Callable[[Run, str], None]) -> Performed:
    """Run stages, those that have something to do, until one is refused."""
    for name in names:
        try:
            if pipeline.idle(name, run):
                continue
            begin(run, name)
            report = pipeline.run_stage(name, run)
        except RetrainError as error:
            if not ends_one_interval(error):
                raise
            yield Step(run, name, refusal=error)
            return error
        yield Step(run, name, report)
    return None


def _monitor(run: Run, moment: datetime, begin: Callable[[Run, str], None]) -> Iterator[Step]:
    """The monitor's look at a moment, where it is not on record."""
    if not any(
        record.body["stage"] == "decide" and record.body["verdict"] in ("retrain", "skip")
        for record in _records(run, "monitor stage", moment)
    ):
        yield from _perform(_monitoring(run, moment), [stage.name for stage in pipeline.MONITORING], begin)


def _monitoring(run: Run, moment: datetime) -> Run:
    """The monitor's run as of a moment."""
    name = f"laptop-{run.interval.name}" + (f"-{moment:%Y-%m-%dT%H}" if moment != run.interval.end else "")
    plain = Trigger(kind=run.trigger.kind, by=run.trigger.by)
    known_at = moment if moment != run.interval.end else None
    return replace(run, loop="monitor", key=loop_run_key("monitor", name), trigger=plain, known_at=known_at)


def _start(run: Run, moment: datetime, begin: Callable[[Run, str], None]) -> Iterator[Step]:
    """The retraining that the monitor has decided on at a moment, once, as the task `start` of its DAG starts it."""
    decision = run.ledger.find(run.model, "decision", _monitoring(run, moment).key)
    if decision is None or decision.body["verdict"] != "retrain":
        return
    trigger = Trigger(kind="alert", id=decision.key, reason="; ".join(decision.body["reasons"])[:500])
    known_at = moment if moment != run.interval.end else None
    started = replace(run, key=loop_run_key("retrain", f"alert-{decision.key}"), trigger=trigger, known_at=known_at)
    if not any(_is_end(record) for record in run.ledger.records(run.model, "stage", run=started.key)):
        yield from _perform(started, _left(started), begin)


# --- what is on record


def _records(run: Run, kind: str, moment: datetime) -> list[Record]:
    """The records of a kind of stage about the run's interval as of a moment, rehearsals left out."""
    return [
        record
        for record in run.ledger.records(run.model, kind)
        if record.body["interval"] == run.interval.name
        and record.effective_at == moment
        and not record.body["trigger"]["dry_run"]
    ]


def _is_scored(run: Run) -> bool:
    """Whether the interval has its scores, or nothing served that could have scored it."""
    name = run.interval.name
    return any(
        record.key == name or record.key.startswith(f"{name}/") for record in run.ledger.records(run.model, "score")
    ) or any(
        (record.body["stage"], record.body["verdict"]) == ("score", "skipped")
        for record in _records(run, "score stage", run.as_of)
    )


def _has_ended(run: Run) -> bool:
    """Whether a retraining as of the interval's end, by this run or another, has ended well."""
    return any(
        _is_end(record) and record.body["trigger"]["kind"] != "alert" for record in _records(run, "stage", run.as_of)
    )


def _is_end(record: Record) -> bool:
    return (record.body["stage"], record.body["verdict"]) in ENDS


def _left(run: Run) -> tuple[str, ...]:
    """The stages of a retraining that are left: what comes after the last one, where it was interrupted once decided.

    The context that it decided by is older than what the monitor has found since, and is not written anew.
    """
    records = run.ledger.records(run.model, "stage", run=run.key)
    if not records:
        return pipeline.NAMES
    last = records[-1].body
    if last["spec"] != run.spec.digest or last["trigger"]["dry_run"] or last["stage"] not in pipeline.NAMES:
        return pipeline.NAMES
    refusal = getattr(errors, str(last["verdict"]), None)
    if isinstance(refusal, type) and issubclass(refusal, RetrainError) and not refusal.retryable:
        return pipeline.NAMES
    ran = refusal is None and last["verdict"] != "crashed"
    left = pipeline.NAMES[pipeline.NAMES.index(last["stage"]) + ran :]
    return pipeline.NAMES if set(left) & set(UNTIL_DECIDE) else left
