"""Who waits for whom in a backfill, by ledger records alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from retrain.errors import InvalidName
from retrain.state.readiness import IDLE, Readiness, loop_run_key, readiness_of, readiness_records
from retrain.state.run import Run
from tests.conftest import Model, churn_spec

MOMENT = datetime(2024, 3, 1, tzinfo=UTC)
"""Start of the interval to score; the interval before it ends here."""
AGO = timedelta(minutes=5)


class History:
    """A ledger that is filled as the loops would."""

    def __init__(self, run: Run) -> None:
        self.run, self.n = run, 0

    def note(self, stage: str, verdict: str, at: datetime = MOMENT, kind: str = "stage", **more: Any) -> None:
        self.n += 1
        interval = "2024-03-01" if kind == "score stage" else "2024-02-01"
        body = {"stage": stage, "verdict": verdict, "interval": interval, "trigger": {"dry_run": False}} | more
        self.run.ledger.append("churn", kind, f"{stage}/{self.n}", body, effective_at=at, run=f"run-{at:%Y%m%d}")

    def readiness_of(self, loop: str = "score", *, later: timedelta = AGO, paused: bool = False) -> Readiness:
        """The readiness `later` than the last record, of a run that has waited as long."""
        records = readiness_records(self.run)
        now = max((record.recorded_at for record in records), default=datetime.now(UTC)) + later
        run = replace(self.run, loop=loop)  # type: ignore[arg-type]
        return readiness_of(run, records, now=now, since=now - later, paused=paused)


@pytest.fixture
def history(churn: Model) -> History:
    return History(churn.run("2024-03-01"))


# --- a score


def test_a_score_waits_until_the_retraining_before_it_has_ended(history: History) -> None:
    history.note("ingest", "done")
    assert not history.readiness_of().ready
    history.note("decide", "retrain")
    answer = history.readiness_of()
    assert (answer.ready, answer.why) == (False, "waits: the retraining as of 2024-03-01 00:00 has not ended")
    history.note("register", "registered")
    assert not history.readiness_of().ready, "the champion's alias has not moved yet"
    history.note("promote", "promoted")
    assert history.readiness_of() == Readiness(True)


@pytest.mark.parametrize(
    ("stage", "verdict"),
    [("decide", "skip"), ("register", "recorded"), ("validate", "Quarantined"), ("train", "DegenerateTraining")],
)
def test_a_run_may_end_before_the_promotion(history: History, stage: str, verdict: str) -> None:
    history.note("ingest", "done")
    history.note(stage, verdict)
    assert history.readiness_of().ready


@pytest.mark.parametrize("verdict", ["RegistryDown", "LedgerBusy", "crashed"])
def test_what_may_pass_by_itself_is_no_end(history: History, verdict: str) -> None:
    history.note("promote", verdict)
    assert not history.readiness_of().ready


def test_a_later_run_shows_that_the_earlier_has_ended(history: History) -> None:
    history.note("train", "crashed")
    history.note("ingest", "done", at=datetime(2024, 4, 1, tzinfo=UTC))
    assert history.readiness_of().ready


def test_a_rehearsal_ends_nothing(history: History) -> None:
    history.note("ingest", "done")
    history.note("decide", "skip", trigger={"dry_run": True})
    assert not history.readiness_of().ready


def test_a_missing_batch_is_an_end_once_it_is_waited_for_no_more(churn: Model) -> None:
    churn.write_spec({**churn_spec(), "source": {**churn_spec()["source"], "wait": "2d"}})
    history = History(churn.run("2024-03-01"))
    history.note("ingest", "BatchMissing")
    records = readiness_records(history.run)
    for waited, ready in ((timedelta(days=1), False), (timedelta(days=2), True)):
        now = MOMENT + waited
        fresh = [replace(record, recorded_at=now - AGO) for record in records]
        answer = readiness_of(replace(history.run, loop="score"), fresh, now=now, since=now - AGO, paused=False)
        assert answer.ready is ready


def test_the_first_interval_waits_for_nobody(history: History, churn: Model) -> None:
    history.run = churn.run("2024-01-01")
    history.note("ingest", "done", at=datetime(2024, 2, 1, tzinfo=UTC) - timedelta(days=31))
    answer = history.readiness_of()
    assert answer.ready
    assert "first interval" in answer.why


# --- monitoring


def test_monitoring_waits_for_the_decision_and_the_scores(history: History) -> None:
    end = datetime(2024, 4, 1, tzinfo=UTC)
    history.note("ingest", "done", at=end)
    answer = history.readiness_of("monitor")
    assert not answer.ready
    assert answer.why.endswith("has not decided and 2024-03-01 has not been scored")
    history.note("decide", "retrain", at=end)
    assert history.readiness_of("monitor").why == "waits: 2024-03-01 has not been scored"
    history.run.ledger.append("churn", "score", "2024-03-01/abc", {"version": 1}, effective_at=end, run="score-x")
    assert history.readiness_of("monitor") == Readiness(True)


@pytest.mark.parametrize(("verdict", "ready"), [("skipped", True), ("RowsRejected", True), ("RegistryDown", False)])
def test_scores_that_will_not_be_are_not_waited_for(history: History, verdict: str, ready: bool) -> None:
    end = datetime(2024, 4, 1, tzinfo=UTC)
    history.note("decide", "skip", at=end)
    history.note("score", verdict, at=end, kind="score stage")
    assert history.readiness_of("monitor").ready is ready
    assert not replace_interval(history).readiness_of("monitor").ready, (
        "another interval's scores are no scores of this one"
    )


def replace_interval(history: History) -> History:
    history.run = replace(history.run, interval=history.run.spec.at("2024-02-01"))
    return history


# --- only while the others move


def test_a_loop_that_stands_still_keeps_nobody_waiting(history: History) -> None:
    history.note("decide", "retrain")
    assert not history.readiness_of(later=IDLE - timedelta(seconds=1)).ready
    answer = history.readiness_of(later=IDLE)
    assert answer.ready
    assert "nobody is at it" in answer.why


def test_a_paused_loop_keeps_nobody_waiting(history: History) -> None:
    history.note("decide", "retrain")
    answer = history.readiness_of(paused=True)
    assert answer.ready
    assert "paused" in answer.why


def test_loops_started_together_give_each_other_a_moment(history: History) -> None:
    assert not history.readiness_of(later=timedelta(seconds=10)).ready
    assert history.readiness_of().ready, "nothing has been written since"


# --- names


def test_runs_of_several_loops_have_folders_of_their_own() -> None:
    assert len({loop_run_key(loop, "scheduled__2024-01-01") for loop in ("retrain", "score", "monitor")}) == 3


@pytest.mark.parametrize("run_id", ["monitor-scheduled__2024-01-01", "score-1", "rollback-1", "reconcile-1", "undo-3"])
def test_no_retraining_takes_the_folder_of_another_loop(run_id: str) -> None:
    with pytest.raises(InvalidName, match="another kind of run"):
        loop_run_key("retrain", run_id)
    assert loop_run_key("monitor", run_id) == f"monitor-{run_id}"
