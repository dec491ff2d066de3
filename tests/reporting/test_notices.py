"""What a person is told: of errors, of reports, in words that give nothing away; and the runbook that goes with it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from retrain import errors, results
from retrain.errors import RetrainError
from retrain.reporting.notices import (
    KIND_OF_PROMOTE,
    KIND_OF_ROLLOUT,
    KINDS,
    LONGEST,
    Notice,
    clean,
    notice_of_error,
    notice_of_start,
    notices_of_monitoring,
    notices_of_report,
)
from retrain.results import Decision, Interval
from retrain.spec import EXAMPLE, Spec, parse

RUNBOOK = Path(__file__).parents[2] / "docs" / "runbook.md"
TASK = "http://127.0.0.1:8080/dags/churn_monitor/runs/x/tasks/decide"
INTERVAL = Interval(start=datetime(2024, 2, 1, tzinfo=UTC), end=datetime(2024, 3, 1, tzinfo=UTC))
BEGIN: dict[str, Any] = {"model": "churn", "interval": INTERVAL, "effective_at": INTERVAL.end}


@pytest.fixture(scope="module")
def spec() -> Spec:
    return parse(EXAMPLE, "churn")


def decided(verdict: str, *reasons: str) -> Decision:
    return Decision(verdict=verdict, reasons=reasons or ("because",))


# --- the runbook


def test_every_kind_has_its_section_and_no_section_is_of_nothing() -> None:
    sections = re.findall(r"^## (\S+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert sections == list(KINDS)


def test_every_section_says_what_to_do() -> None:
    for section in re.split(r"^## ", RUNBOOK.read_text(), flags=re.MULTILINE)[1:]:
        kind, text = section.split("\n", 1)
        for heading in ("What it means.", "What the system has done.", "What to do."):
            assert f"**{heading}**" in text, (kind, heading)
        assert KINDS[kind].severity in text.splitlines()[1], (kind, "its severity comes first")


# --- errors


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("Quarantined", "quarantined"),
        ("BatchMissing", "batch-missing"),
        ("SchemaChanged", "delivery-refused"),
        ("RowsRejected", "rows-rejected"),
        ("ContradictoryLabels", "suspect-labels"),
        ("OutOfBandChange", "alias-moved"),
        ("DigestMismatch", "model-damaged"),
        ("LibrarySkew", "library-skew"),
        ("NotApproved", "not-approved"),
        ("SmokeTestFailed", "smoke-test-failed"),
        ("ModelBlocked", "blocked"),
        ("ChainBroken", "chain-broken"),
        ("LedgerBusy", "task-failed"),
    ],
)
def test_an_error_has_its_kind(spec: Spec, error: str, kind: str) -> None:
    raised = getattr(errors, error)("this was found", do="then do that")
    notice = notice_of_error(spec, "2024-02-01", "ingest", raised, link=TASK)
    assert (notice.kind, notice.severity) == (kind, KINDS[kind].severity)
    assert notice.happened == "ingest: this was found → then do that"
    assert notice.did == KINDS[kind].did


def test_every_refusal_is_of_one_kind() -> None:
    named = [error for kind in KINDS.values() for error in kind.errors]
    assert len(named) == len(set(named))
    assert all(issubclass(error, RetrainError) for error in named)
    of_verdicts = {*KIND_OF_PROMOTE.values(), *KIND_OF_ROLLOUT.values()} - {"drift"}
    of_errors = {name for name, kind in KINDS.items() if kind.errors} | {"task-failed"}
    assert all(KINDS[name].did for name in of_verdicts | of_errors)


@pytest.mark.parametrize(
    ("error", "happened"),
    [(ValueError("torn"), "train: ValueError: torn"), (None, "train: the task was ended from outside")],
    ids=["exception", "killed"],
)
def test_a_crash_is_told_too(spec: Spec, error: Exception | None, happened: str) -> None:
    notice = notice_of_error(spec, "2024-02-01", "train", error, link=TASK)
    assert (notice.kind, notice.happened) == ("task-failed", happened)


def test_two_stages_that_fail_are_two_notices_and_two_tries_are_one(spec: Spec) -> None:
    keys = [
        notice_of_error(spec, "2024-02-01", stage, OSError(), link=TASK).key for stage in ("train", "train", "register")
    ]
    assert keys == ["task-failed/2024-02-01/train"] * 2 + ["task-failed/2024-02-01/register"]


# --- reports


def test_a_message_says_who_what_and_where(spec: Spec) -> None:
    report = results.PromoteReport(**BEGIN, decision=decided("promoted", "new is better"), version=3, previous=2)
    (notice,) = notices_of_report(spec, report, link=TASK)
    assert notice.text.splitlines() == [
        "[info] churn 2024-02-01: promoted",
        "What happened: version 3 serves, version 2 before: new is better",
        "What the system did: The champion alias was moved, on record; a rollback puts the predecessor back.",
        "Owner: Ada Example <ada@example.org>",
        f"Where to look: {TASK}",
        "Runbook: docs/runbook.md#promoted",
    ]
    assert notice.key == "promoted/2024-02-01/v3"
    assert notice.fields["runbook"] == "docs/runbook.md#promoted"
    assert notice.fields["text"] == notice.text
    assert notice.fields["link"] == notice.fields["look"] == TASK


@pytest.mark.parametrize(
    ("report", "kind"),
    [
        (results.DiagnoseReport(**BEGIN, decision=decided("broken"), of=((INTERVAL, "broken"),)), "broken-data"),
        (results.DiagnoseReport(**BEGIN, decision=decided("suspect"), of=((INTERVAL, "suspect"),)), "suspect-labels"),
        (results.DiagnoseReport(**BEGIN, decision=decided("changed"), of=((INTERVAL, "changed"),)), ""),
        (results.DiagnoseReport(**BEGIN, decision=decided("sound")), ""),
        (results.GateReport(**BEGIN, decision=decided("keep")), "kept"),
        (results.GateReport(**BEGIN, decision=decided("inconclusive")), "kept"),
        (results.GateReport(**BEGIN, decision=decided("promote")), ""),
        (results.PromoteReport(**BEGIN, decision=decided("kept")), ""),
        (results.ScoreReport(**BEGIN, decision=decided("scored")), ""),
        (results.ScoreReport(**BEGIN, decision=decided("scored"), alias_moved="it is at 7"), "alias-moved"),
        (
            results.ScoreReport(**BEGIN, decision=decided("scored"), library_skew=("numpy is 2, 1 is pinned",)),
            "library-skew",
        ),
    ],
    ids=[
        *("broken", "suspect", "changed", "sound", "keep", "inconclusive", "gate", "nothing to promote"),
        *("scored", "alias", "libraries"),
    ],
)
def test_a_report_is_told_where_a_person_must_know(spec: Spec, report: results.StageReport, kind: str) -> None:
    assert [notice.kind for notice in notices_of_report(spec, report, link=TASK)] == [kind] * bool(kind)


def test_other_libraries_are_told_once_and_not_for_every_interval(spec: Spec) -> None:
    def key(month: str, skew: str, version: int = 3) -> str:
        begin = {**BEGIN, "interval": spec.at(month)}
        report = results.ScoreReport(**begin, decision=decided("scored"), version=version, library_skew=(skew,))
        return next(notices_of_report(spec, report, link=TASK)).key

    first = key("2024-02-01", "numpy is 2, 1 is pinned")
    assert key("2024-03-01", "numpy is 2, 1 is pinned") == first
    assert (
        len({first, key("2024-03-01", "numpy is 3, 1 is pinned"), key("2024-03-01", "numpy is 2, 1 is pinned", 4)}) == 3
    )


@pytest.mark.parametrize(
    ("verdict", "did", "kinds"),
    [
        ("promote", "naive goes on to serve in its place.", ["lost-to-baseline"]),
        ("inconclusive", "Nothing may replace it; it serves on.", ["kept", "lost-to-baseline"]),
    ],
)
def test_a_champion_that_loses_to_a_baseline_is_told(spec: Spec, verdict: str, did: str, kinds: list[str]) -> None:
    about = {"chosen": "naive", "lost_to": "naive", "metric": "log_loss", "champion_score": 8.32}
    report = results.GateReport(**BEGIN, decision=decided(verdict, "so it is"), **about)
    notices = list(notices_of_report(spec, report, link=TASK))
    assert [notice.kind for notice in notices] == kinds
    assert (notices[-1].severity, notices[-1].did) == ("critical", did)
    assert "log_loss 8.32 and loses to the baseline naive" in notices[-1].happened


@pytest.mark.parametrize(
    ("report", "verdict", "kind"),
    [
        (results.PromoteReport, "promoted", "promoted"),
        (results.PromoteReport, "waiting", "approval-wanted"),
        (results.PromoteReport, "kept", "not-approved"),
        (results.PromoteReport, "shadow", "challenger-shadow"),
        (results.PromoteReport, "canary", "challenger-shadow"),
        (results.PromoteReport, "rolled back", "rolled-back"),
        (results.RolloutReport, "advanced", "rollout-advanced"),
        (results.RolloutReport, "promoted", "promoted"),
        (results.RolloutReport, "stopped", "rollout-stopped"),
        (results.RolloutReport, "rolled back", "rolled-back"),
        (results.RolloutReport, "drift", "drift"),
        *((results.RolloutReport, verdict, "") for verdict in ("idle", "waiting", "held", "watched", "ended")),
    ],
)
def test_what_becomes_of_a_version_is_told(spec: Spec, report: Any, verdict: str, kind: str) -> None:
    notices = list(notices_of_report(spec, report(**BEGIN, decision=decided(verdict), version=3), link=TASK))
    assert [notice.kind for notice in notices] == [kind] * bool(kind)
    assert all("because" in notice.happened and notice.did for notice in notices)


def test_the_same_version_may_be_put_back_twice(spec: Spec) -> None:
    reports = [
        results.PromoteReport(**BEGIN, decision=decided("rolled back"), version=1, sequence=number)
        for number in (3, 3, 5)
    ]
    keys = [notice.key for report in reports for notice in notices_of_report(spec, report, link=TASK)]
    assert keys == ["rolled-back/2024-02-01/v1/3"] * 2 + ["rolled-back/2024-02-01/v1/5"]


def test_a_drift_of_both_models_is_told_apart_from_one_of_the_rows(spec: Spec) -> None:
    report = results.RolloutReport(**BEGIN, decision=decided("drift"), purpose="watch", version=1)
    (of_both,) = notices_of_report(spec, report, link=TASK)
    (of_rows,) = monitored(spec, drift=decided("drift"))
    assert of_both.key != of_rows.key
    assert of_both.did == "Nothing was put back: both fell together."


def monitored(spec: Spec, verdict: str = "skip", **others: Any) -> list[Notice]:
    answers = {"drift": decided("stable"), "estimate": decided("calm"), "measure": decided("calm")} | others
    return list(
        notices_of_monitoring(
            spec,
            results.DriftReport(**BEGIN, decision=answers["drift"]),
            results.EstimateReport(**BEGIN, decision=answers["estimate"], reliable=answers.get("reliable")),
            results.MeasureReport(**BEGIN, decision=answers["measure"]),
            results.DecideReport(**BEGIN, decision=decided(verdict, "no new data: the alarm stands until labels")),
            link=TASK,
        )
    )


def test_a_monitor_that_finds_nothing_is_silent(spec: Spec) -> None:
    assert monitored(spec) == monitored(spec, reliable=True) == []


def test_an_alarm_says_what_was_decided_about_it(spec: Spec) -> None:
    (notice,) = monitored(spec, drift=decided("drift", "3 of 4 features"))
    assert (notice.kind, notice.happened) == ("drift", "3 of 4 features")
    assert notice.did == "No retraining: no new data: the alarm stands until labels"
    notices = monitored(spec, "retrain", estimate=decided("alarm"), measure=decided("alarm"))
    assert [notice.kind for notice in notices] == ["estimate-fell", "performance-fell"]
    assert all(notice.did.startswith("A retraining is started") for notice in notices)


def test_an_estimate_that_did_not_hold_is_told(spec: Spec) -> None:
    assert [notice.kind for notice in monitored(spec, reliable=False)] == ["estimate-unreliable"]


@pytest.mark.parametrize("paused", [True, False])
def test_a_start_says_whether_anybody_runs_it(spec: Spec, paused: bool) -> None:
    notice = notice_of_start(spec, "2024-02-01", "it fell", "alert-monitor-x", paused=paused, link=TASK)
    assert "alert-monitor-x of churn_retrain" in notice.did
    assert ("unpauses" in notice.did) is paused


# --- nothing that is nobody's business


@pytest.mark.parametrize(
    "text",
    [
        "mysql://ada:hunter2@db/x",
        "https://ada:hunter2@host/path",
        "https://h/a?api_key=hunter2&x=1",
        "AWS_SECRET_ACCESS_KEY=hunter2 was refused",
        "password: hunter2",
        "X-Auth-Token: hunter2;",
        "s3://b?X-Amz-Signature=hunter2",
    ],
)
def test_secrets_are_not_said(spec: Spec, text: str) -> None:
    assert "hunter2" not in clean(text)
    assert "hunter2" not in notice_of_error(spec, "2024-02-01", "ingest", OSError(text), link=TASK).text


def test_a_message_is_bounded(spec: Spec) -> None:
    notice = notice_of_error(spec, "2024-02-01", "ingest", OSError("x" * 100_000), link=TASK)
    assert len(notice.happened) == LONGEST
