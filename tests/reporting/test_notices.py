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
    DID,
    KINDS,
    LONGEST,
    OF_ERROR,
    OF_PROMOTE,
    OF_ROLLOUT,
    Notice,
    clean,
    of_error,
    of_look,
    of_report,
    started,
)
from retrain.results import Decision, Interval
from retrain.spec import EXAMPLE, Spec, parse

RUNBOOK = Path(__file__).parents[2] / "docs" / "runbook.md"
LOOK = "http://127.0.0.1:8080/dags/churn_monitor/runs/x/tasks/decide"
INTERVAL = Interval(start=datetime(2024, 2, 1, tzinfo=UTC), end=datetime(2024, 3, 1, tzinfo=UTC))
BEGIN: dict[str, Any] = {"model": "churn", "interval": INTERVAL, "effective_at": INTERVAL.end}


@pytest.fixture(scope="module")
def spec() -> Spec:
    return parse(EXAMPLE, "churn")


def said(verdict: str, *reasons: str) -> Decision:
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
        assert f"{KINDS[kind]}" in text.splitlines()[1], (kind, "its severity comes first")


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
        ("NotApproved", "not-approved"),
        ("SmokeTestFailed", "smoke test-failed"),
        ("ModelBlocked", "blocklist"),
        ("ChainBroken", "chain-broken"),
        ("LedgerBusy", "task-failed"),
    ],
)
def test_an_error_has_its_kind(spec: Spec, error: str, kind: str) -> None:
    raised = getattr(errors, error)("this was found", do="then do that")
    notice = of_error(spec, "2024-02-01", "ingest", raised, link=LOOK)
    assert (notice.kind, notice.severity) == (kind, KINDS[kind])
    assert notice.happened == "ingest: this was found → then do that"
    assert notice.did == DID[kind]


def test_every_refusal_is_of_one_kind() -> None:
    named = [error for kind in OF_ERROR.values() for error in kind]
    assert len(named) == len(set(named))
    assert set(OF_ERROR) | {"task-failed"} <= set(DID) <= set(KINDS)
    assert {*OF_PROMOTE.values(), *OF_ROLLOUT.values()} - {"drift"} <= set(DID)
    assert all(issubclass(error, RetrainError) for error in named)


@pytest.mark.parametrize(
    ("error", "happened"),
    [(ValueError("torn"), "train: ValueError: torn"), (None, "train: the task was ended from outside")],
    ids=["exception", "killed"],
)
def test_a_crash_is_told_too(spec: Spec, error: Exception | None, happened: str) -> None:
    notice = of_error(spec, "2024-02-01", "train", error, link=LOOK)
    assert (notice.kind, notice.happened) == ("task-failed", happened)


def test_two_stages_that_fail_are_two_notices_and_two_tries_are_one(spec: Spec) -> None:
    keys = [of_error(spec, "2024-02-01", stage, OSError(), link=LOOK).key for stage in ("train", "train", "register")]
    assert keys == ["task-failed/2024-02-01/train"] * 2 + ["task-failed/2024-02-01/register"]


# --- reports


def test_a_message_says_who_what_and_where(spec: Spec) -> None:
    report = results.PromoteReport(**BEGIN, decision=said("promoted", "new is better"), version=3, previous=2)
    (notice,) = of_report(spec, report, link=LOOK)
    assert notice.text.splitlines() == [
        "[info] churn 2024-02-01: promoted",
        "What happened: version 3 serves, version 2 before: new is better",
        "What the system did: The champion alias was moved, on record; a rollback puts the predecessor back.",
        "Owner: Ada Example <ada@example.org>",
        f"Where to look: {LOOK}",
        "Runbook: docs/runbook.md#promoted",
    ]
    assert notice.key == "promoted/2024-02-01/v3"
    assert notice.fields["runbook"] == "docs/runbook.md#promoted"
    assert notice.fields["text"] == notice.text


@pytest.mark.parametrize(
    ("report", "kind"),
    [
        (results.DiagnoseReport(**BEGIN, decision=said("broken"), of=((INTERVAL, "broken"),)), "broken-data"),
        (results.DiagnoseReport(**BEGIN, decision=said("suspect"), of=((INTERVAL, "suspect"),)), "suspect-labels"),
        (results.DiagnoseReport(**BEGIN, decision=said("changed"), of=((INTERVAL, "changed"),)), ""),
        (results.DiagnoseReport(**BEGIN, decision=said("sound")), ""),
        (results.GateReport(**BEGIN, decision=said("keep")), "kept"),
        (results.GateReport(**BEGIN, decision=said("inconclusive")), "kept"),
        (results.GateReport(**BEGIN, decision=said("promote")), ""),
        (results.PromoteReport(**BEGIN, decision=said("kept")), ""),
        (results.ScoreReport(**BEGIN, decision=said("scored")), ""),
        (results.ScoreReport(**BEGIN, decision=said("scored"), alias_moved="it is at 7"), "alias-moved"),
    ],
    ids=[
        *("broken", "suspect", "changed", "sound", "keep", "inconclusive", "gate", "nothing to promote"),
        *("scored", "alias"),
    ],
)
def test_a_report_is_told_where_a_person_must_know(spec: Spec, report: results.StageReport, kind: str) -> None:
    assert [notice.kind for notice in of_report(spec, report, link=LOOK)] == [kind] * bool(kind)


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
    told = list(of_report(spec, report(**BEGIN, decision=said(verdict), version=3), link=LOOK))
    assert [one.kind for one in told] == [kind] * bool(kind)
    assert all("because" in one.happened and one.did for one in told)


def test_the_same_version_may_be_put_back_twice(spec: Spec) -> None:
    reports = [
        results.PromoteReport(**BEGIN, decision=said("rolled back"), version=1, sequence=number) for number in (3, 3, 5)
    ]
    keys = [one.key for report in reports for one in of_report(spec, report, link=LOOK)]
    assert keys == ["rolled-back/2024-02-01/v1/3"] * 2 + ["rolled-back/2024-02-01/v1/5"]


def test_a_drift_of_both_is_told_beside_that_of_the_rows(spec: Spec) -> None:
    report = results.RolloutReport(**BEGIN, decision=said("drift"), purpose="watch", version=1)
    (told,) = of_report(spec, report, link=LOOK)
    (rows,) = link(spec, drift=said("drift"))
    assert told.key != rows.key
    assert told.did == "Nothing was put back: both fell together."


def link(spec: Spec, verdict: str = "skip", **others: Any) -> list[Notice]:
    calm = {"drift": said("stable"), "estimate": said("calm"), "measure": said("calm")} | others
    return list(
        of_look(
            spec,
            results.DriftReport(**BEGIN, decision=calm["drift"]),
            results.EstimateReport(**BEGIN, decision=calm["estimate"], reliable=calm.get("reliable")),
            results.MeasureReport(**BEGIN, decision=calm["measure"]),
            results.DecideReport(**BEGIN, decision=said(verdict, "no new data: the alarm stands until labels")),
            link=LOOK,
        )
    )


def test_a_calm_look_is_silent(spec: Spec) -> None:
    assert link(spec) == link(spec, reliable=True) == []


def test_an_alarm_says_what_was_decided_about_it(spec: Spec) -> None:
    (notice,) = link(spec, drift=said("drift", "3 of 4 features"))
    assert (notice.kind, notice.happened) == ("drift", "3 of 4 features")
    assert notice.did == "No retraining: no new data: the alarm stands until labels"
    told = link(spec, "retrain", estimate=said("alarm"), measure=said("alarm"))
    assert [notice.kind for notice in told] == ["estimate-fell", "performance-fell"]
    assert all(notice.did.startswith("A retraining is started") for notice in told)


def test_an_estimate_that_did_not_hold_is_told(spec: Spec) -> None:
    assert [notice.kind for notice in link(spec, reliable=False)] == ["estimate-unreliable"]


@pytest.mark.parametrize("paused", [True, False])
def test_a_start_says_whether_anybody_runs_it(spec: Spec, paused: bool) -> None:
    notice = started(spec, "2024-02-01", "it fell", "alert-monitor-x", paused=paused, link=LOOK)
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
    assert "hunter2" not in of_error(spec, "2024-02-01", "ingest", OSError(text), link=LOOK).text


def test_a_message_is_bounded(spec: Spec) -> None:
    notice = of_error(spec, "2024-02-01", "ingest", OSError("x" * 100_000), link=LOOK)
    assert len(notice.happened) == LONGEST
