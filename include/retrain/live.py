"""Live operation in one process: a model's three loops, interval by interval, in the order of the data's clock.

The order is the one in which Airflow's DAGs wait for each other (`retrain.state.readiness`). An interval is scored by
the champion of its start. The retraining as of its end decides. The monitor looks before the retraining promotes
anything, so that a watch is judged while its champion still serves. Then the retraining goes on, and what the monitor
has decided is started. Only then comes the next interval: each champion, decision and score is the one of its time.

What is on record is not done again, so a walk that was interrupted goes on where it stopped. What was refused is tried
again, like a task that is cleared: the delivery may have been mended.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from retrain import pipeline
from retrain.errors import BatchMissing, MissingInput, RetrainError
from retrain.results import Context, Decision, IngestReport, Interval, StageReport, Trigger
from retrain.spec import Spec
from retrain.state import evidence
from retrain.state.ledger import Record
from retrain.state.readiness import ENDS, loop_run_key, refusal_of
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

    @property
    def verdict(self) -> str:
        """What the stage decided; empty where it decides nothing."""
        decision: Decision | None = getattr(self.report, "decision", None)
        return decision.verdict if decision else ""


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
    on_record: dict[str, list[Record]] = {}
    for record in newest.ledger.records(newest.model):
        if record.kind in ("score", *pipeline.STAGE_KINDS.values()):
            on_record.setdefault(record.body["interval"], []).append(record)
    for span in newest.spec.intervals_until(newest.interval.end):
        run = newest
        if span != newest.interval:
            run = replace(newest, interval=span, key=loop_run_key("retrain", f"laptop-{span.name}"), trigger=plain)
        steps = _steps(run, on_record.get(span.name, ()), anew and run is newest, begin)
        yield next(steps, Step(run))
        yield from steps


def run_to_go_on_with(run: Run) -> Run:
    """The run itself; the next of its name, `…-2` and so on, where it has made a version and another is asked for.

    The same spec and the same bytes are the same run, however often it is called, and after a kill. Another are an
    edited spec, a revision, `--force`, a rehearsal, and another champion to be held against.

    Args:
        run: by the first key of its name.
    """
    keys = itertools.chain([run.key], (f"{run.key}-{number}" for number in itertools.count(2)))
    return next(this for this in (replace(run, key=key) for key in keys) if not _is_another(this))


def _is_another(run: Run) -> bool:
    """Whether a run is sealed, and what is asked for is not what it has done."""
    seal, trigger = evidence.seal_of(run), run.trigger
    if seal is None:
        return False
    if trigger.dry_run or not evidence.is_same_spec(run, seal.spec):
        return True
    try:
        context, batch = run.read(Context, "context"), run.read(IngestReport, "ingest").batch
    except MissingInput:
        return True
    from retrain.stages import ingest, labels

    if trigger.revise:
        if ingest.ingest(run).batch.sha256 != batch.sha256:
            return True
        labels.labels(run)
    accepted = ingest.accepted_batch(run)
    if accepted is not None and accepted.batch.sha256 != batch.sha256:
        return True
    joined = [own.labels.sha256 for own in context.accepted if own.batch == batch and own.labels]
    taken = [record.body for record in run.ledger.records(run.model, "labels")]
    newest = [body["labels"]["sha256"] for body in taken if body["interval"] == run.interval.name]
    if joined and newest and joined[-1] != newest[-1]:
        return True
    champions = [record.body["champion"] for record in run.ledger.records(run.model, "promotion")]
    if any(champion["reference"] == run.path("refit") for champion in champions):
        if trigger.force and champions[-1]["reference"] != run.path("refit"):
            return True  # it has served, and does so no more
    elif champions and (context.champion is None or context.champion.digest != champions[-1]["digest"]):
        return True  # it can serve no more
    return trigger.force and not context.trigger.force


def monitor_moments(spec: Spec, span: Interval) -> Iterator[datetime]:
    """When the monitor looks at an interval as the newest that has ended: by its own schedule, up to now."""
    schedule = spec.interval.model_copy(update={"every": spec.monitor.every or spec.interval.every})
    last = spec.interval.end is not None and span.end >= spec.interval.end
    start = schedule.floor(span.end - timedelta(microseconds=1))
    while (moment := schedule.end_of(start)) <= datetime.now(UTC) and (last or moment < spec.interval.end_of(span.end)):
        if spec.interval.end is not None and start >= spec.interval.end:
            return
        if start >= spec.interval.start:
            yield moment
        start = moment


def _steps(run: Run, on_record: Sequence[Record], anew: bool, begin: Callable[[Run, str], None]) -> Iterator[Step]:
    """What is left to do for one interval, by what was on record of it when the walk began."""
    if not _is_scored(run, on_record):
        scoring = replace(run, loop="score", key=loop_run_key("score", f"laptop-{run.interval.name}"))
        yield from _perform(scoring, [stage.name for stage in pipeline.SCORING], begin)
    left: tuple[str, ...] = ()
    if anew or not _has_ended(run, on_record):
        run = run_to_go_on_with(run)
        left = pipeline.NAMES if anew else _left(run)
    refusal = yield from _perform(run, [name for name in left if name in UNTIL_DECIDE], begin)
    if isinstance(refusal, BatchMissing) and datetime.now(UTC) < run.as_of + run.spec.source.wait:
        return  # it may still come, and the monitor waits for it
    moments = list(monitor_moments(run.spec, run.interval))
    for moment in moments:
        if moment == run.as_of:
            yield from _monitor(run, on_record, moment, begin)
    if not refusal:
        yield from _perform(run, [name for name in left if name not in UNTIL_DECIDE], begin)
    for moment in moments:
        if moment != run.as_of:
            yield from _monitor(run, on_record, moment, begin)
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


def _monitor(
    run: Run, on_record: Sequence[Record], moment: datetime, begin: Callable[[Run, str], None]
) -> Iterator[Step]:
    """The monitor's look at a moment, where it is not on record."""
    if not any(
        record.body["stage"] == "decide" and record.body["verdict"] in ("retrain", "skip")
        for record in _of(on_record, "monitor stage", moment)
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
    of_alert = (
        record for record in run.ledger.records(run.model, "stage") if record.body["trigger"]["id"] == trigger.id
    )
    if not any(_is_end(record) for record in of_alert):
        started = run_to_go_on_with(started)
        yield from _perform(started, _left(started), begin)


# --- what is on record


def _of(on_record: Sequence[Record], kind: str, moment: datetime) -> Iterator[Record]:
    """The records of a kind of stage as of a moment, rehearsals left out."""
    for record in on_record:
        if record.kind == kind and record.effective_at == moment and not record.body["trigger"]["dry_run"]:
            yield record


def _is_scored(run: Run, on_record: Sequence[Record]) -> bool:
    """Whether the interval has its scores, or nothing served that could have scored it."""
    skipped = ("score", "skipped")
    stages = _of(on_record, "score stage", run.as_of)
    return any(record.kind == "score" for record in on_record) or any(
        (record.body["stage"], record.body["verdict"]) == skipped for record in stages
    )


def _has_ended(run: Run, on_record: Sequence[Record]) -> bool:
    """Whether a retraining as of the interval's end, by this run or another, has ended well."""
    stages = _of(on_record, "stage", run.as_of)
    return any(_is_end(record) and record.body["trigger"]["kind"] != "alert" for record in stages)


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
    refusal = refusal_of(records[-1])
    if refusal and not refusal.retryable:
        return pipeline.NAMES
    ran = refusal is None and last["verdict"] != "crashed"
    left = pipeline.NAMES[pipeline.NAMES.index(last["stage"]) + ran :]
    return pipeline.NAMES if set(left) & set(UNTIL_DECIDE) else left
