"""Readiness: whether a run of one loop may go, or waits for a run of another loop of the same model.

Live, an interval is scored and monitored when its time comes. A backfill is another matter: a year of intervals stands
in line at once, each loop would run through at its own pace, and scores would be made by whoever serves at that moment
of the wall's clock. So a run waits until the ledger shows that its turn has come on the data's clock, but only while
the others move: a paused or failed retraining keeps nothing waiting.

Airflow is not imported here: the rule is a function of ledger records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from retrain import errors
from retrain.errors import InvalidName, RetrainError
from retrain.state.ledger import Record
from retrain.state.run import Run, run_key

RUN_PREFIX = {"retrain": "", **{kind: f"{kind}-" for kind in ("score", "monitor", "rollback", "reconcile", "undo")}}
"""How the keys of runs of each kind begin: Airflow gives the runs of several DAGs the same id."""

KINDS = ("stage", "score stage", "score")
"""The kinds of records that the rule reads."""

ENDS = {
    *{("decide", "skip"), ("register", "recorded"), ("promote", "promoted"), ("promote", "kept")},
    *{("promote", "waiting"), ("promote", "shadow"), ("promote", "canary")},
}
"""Stage and verdict with which a retraining ends that went well."""

IDLE = timedelta(minutes=15)
"""A loop that has written nothing for so long is at a standstill; a late batch is looked for every ten minutes."""

START_GRACE = timedelta(minutes=1)
"""Time that a loop which was started together with this one has for its first record."""


def loop_run_key(kind: str, run_id: str) -> str:
    """The key of a run, by its loop or what else it does, and the id of its Airflow run.

    Raises:
        InvalidName: the run id of a retraining would take the key of another kind's run.

    >>> loop_run_key("score", "scheduled__2013-02-01T00:00:00+00:00")
    'score-scheduled__2013-02-01T00-00-00-00-00'
    >>> loop_run_key("retrain", "alert-42")
    'alert-42'
    """
    key = run_key(run_id)
    if kind == "retrain" and key.startswith(tuple(filter(None, RUN_PREFIX.values()))):
        raise InvalidName(
            f"the run id {run_id!r} is one of another kind of run",
            do="begin it otherwise, like alert-… for the run that an alert asks for",
        )
    return RUN_PREFIX[kind] + key


@dataclass(frozen=True)
class Readiness:
    """Whether a run may go.

    Attributes:
        why: for the log; empty where there is nothing to explain.
    """

    ready: bool
    why: str = ""


def readiness_of(run: Run, records: Sequence[Record], *, now: datetime, since: datetime, paused: bool) -> Readiness:
    """Whether a run of the score or the monitor loop may begin.

    An interval is scored once the retraining as of its start has ended, so that its champion is there. It is monitored
    once it is scored and the retraining as of its end has decided.

    Args:
        run: of the loop `score` or `monitor`.
        records: the model's records of `KINDS`, oldest first.
        now: the wall's clock.
        since: when this run was started.
        paused: whether the retraining DAG is paused.
    """
    missing = list(_missing(run, records, now))
    if not missing:
        return Readiness(True)
    awaited = " and ".join(missing)
    if run.loop == "score" and run.interval.start == run.spec.interval.start:
        return Readiness(True, "the first interval has nothing before it that could serve")
    if paused:
        return Readiness(True, f"goes on although {awaited}: the retraining DAG is paused")
    last = max((record.recorded_at for record in records), default=None)
    if now - since < START_GRACE or (last and now - last < IDLE):
        return Readiness(False, f"waits: {awaited}")
    written = f"the last record is of {last:%Y-%m-%d %H:%M} UTC" if last else "nothing is on record"
    return Readiness(True, f"goes on although {awaited}: nobody is at it, {written}")


def _missing(run: Run, records: Sequence[Record], now: datetime) -> Iterator[str]:
    """What the run would have to wait for, as clauses for people."""
    wait, name = run.spec.source.wait, run.interval.name
    moment = run.interval.start if run.loop == "score" else run.interval.end
    stages = [record for record in records if record.kind == "stage" and not record.body["trigger"]["dry_run"]]
    suffices = _ends if run.loop == "score" else _decides
    # One run at a time: a later one has begun, so the earlier ones have ended.
    if not any(record.effective_at > moment for record in stages):
        as_of = [record for record in stages if record.effective_at == moment]
        if not any(suffices(record) or _failed(record, wait, now) for record in as_of):
            yet = "ended" if run.loop == "score" else "decided"
            yield f"the retraining as of {moment:%Y-%m-%d %H:%M} has not {yet}"
    if run.loop == "monitor" and not any(_scores(record, name, wait, now) for record in records):
        yield f"{name} has not been scored"


def _decides(record: Record) -> bool:
    return record.body["stage"] == "decide" and record.body["verdict"] in ("retrain", "skip")


def _ends(record: Record) -> bool:
    return (record.body["stage"], record.body["verdict"]) in ENDS


def _scores(record: Record, name: str, wait: timedelta, now: datetime) -> bool:
    if record.kind == "score":
        return record.key == name or record.key.startswith(f"{name}/")
    if record.kind != "score stage" or record.body["interval"] != name:
        return False
    return (record.body["stage"], record.body["verdict"]) == ("score", "skipped") or _failed(record, wait, now)


def _failed(record: Record, wait: timedelta, now: datetime) -> bool:
    """A refusal that no retry will undo; a missing batch is one when it is waited for no more."""
    kind = refusal_of(record)
    if kind is None:
        return False
    return now >= record.effective_at + wait if kind is errors.BatchMissing else not kind.retryable


def refusal_of(record: Record) -> type[RetrainError] | None:
    """The kind of refusal that a stage's record ended with; None where it was none."""
    kind = getattr(errors, str(record.body["verdict"]), None)
    return kind if isinstance(kind, type) and issubclass(kind, RetrainError) else None


def readiness_records(run: Run) -> list[Record]:
    """The records that `readiness_of` reads, oldest first."""
    records = (record for kind in KINDS for record in run.ledger.records(run.model, kind))
    return sorted(records, key=lambda record: record.id)
