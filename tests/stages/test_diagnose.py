"""What a diagnosis says of reports, and what it lets later runs learn from."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from retrain.results import (
    Champion,
    ColumnDrift,
    Configuration,
    Context,
    Decision,
    DiagnoseReport,
    DriftReport,
    Interval,
    MeasureReport,
    RealisedPerformance,
    Trigger,
)
from retrain.stages.diagnose import diagnosis

START = datetime(2024, 1, 1, tzinfo=UTC)
BEGIN = {"model": "churn", "effective_at": START + timedelta(days=90)}


def month(number: int) -> Interval:
    return Interval(start=START + timedelta(days=30 * number), end=START + timedelta(days=30 * (number + 1)))


def decided(verdict: str) -> Decision:
    return Decision(verdict=verdict, reasons=(f"it is {verdict}",))


def score(number: int, verdict: Any = "calm", **more: Any) -> RealisedPerformance:
    return RealisedPerformance(interval=month(number), version=1, verdict=verdict, reason=verdict, **more)


def diagnosed(
    *realised: RealisedPerformance,
    drift: str = "stable",
    champion: bool = True,
    predicted: Any = "stable",
    **known: Any,
) -> DiagnoseReport:
    plain = Configuration(estimator="linear", parameters={}, pipeline="")
    serving = Champion(
        version=1, run_id="", digest="", configuration=plain, training="", reference="", trained_until=START,
        effective_at=START,
    ) if champion else None  # fmt: skip
    context = Context(
        interval=month(2), spec_digest="", trigger=Trigger(), accepted=(), champion=serving, **BEGIN, **known
    )
    answers = ColumnDrift(column="prediction", role="prediction", test="", verdict=predicted, reason="moved")
    compared = DriftReport(interval=month(2), decision=decided(drift), columns=(answers,), **BEGIN)
    measure = MeasureReport(
        interval=month(2), decision=decided(realised[-1].verdict if realised else "undetermined"),
        realised=realised, **BEGIN,
    )  # fmt: skip
    return DiagnoseReport(interval=month(2), **BEGIN, **diagnosis(context, compared, None, measure))


def doubts(report: DiagnoseReport) -> dict[int, tuple[str, str]]:
    """Number of the month → kind and doubt of its signal."""
    return {
        (signal.interval.start - START).days // 30: (signal.verdict, signal.doubt) for signal in report.signals_of(1)
    }


@pytest.mark.parametrize(("cause", "kind"), [("noise", "suspect"), ("unknown", "suspect"), ("world", "changed")])
def test_the_cause_of_a_fall_decides(cause: Any, kind: str) -> None:
    report = diagnosed(score(2, "alarm", cause=cause, cause_reason="why", excess=0.6))
    assert report.decision.verdict == kind
    assert "why" in report.decision.reasons[0]
    assert doubts(report) == {2: (kind, "open" if kind == "suspect" else "")}


def test_labels_that_go_against_the_answers_are_never_lifted_by_later_intervals() -> None:
    report = diagnosed(score(2, "alarm", suspect="turned round", cause="noise"))
    assert report.decision.verdict == "suspect"
    assert report.open == ()
    assert doubts(report) == {2: ("suspect", "")}


def test_rows_that_teach_more_than_the_answers_turned_round_are_a_changed_world() -> None:
    report = diagnosed(score(2, "alarm", suspect="turned round", cause="world"))
    assert doubts(report) == {2: ("changed", "")}


def test_a_change_answers_the_months_before_it() -> None:
    report = diagnosed(score(2, "alarm", cause="world", cause_reason="why", answers=(month(1),)))
    assert report.decision.verdict == "changed"
    assert doubts(report) == {2: ("changed", ""), 1: ("changed", "answered")}
    assert "the labels of 2024-01-31 were in doubt, and are no more" in report.decision.reasons


def test_a_month_whose_labels_came_late_is_named_itself() -> None:
    report = diagnosed(score(0), score(1, "alarm"))
    assert doubts(report) == {0: ("sound", ""), 1: ("changed", ""), 2: ("changed", "")}
    calm = diagnosed(score(1), score(2), predicted="drift")
    assert doubts(calm) == {1: ("sound", ""), 2: ("changed", "")}, "its labels are as expected, its rows are others"


@pytest.mark.parametrize(
    ("realised", "more", "why"),
    [
        ((), {"champion": False}, "no champion yet"),
        ((score(1),), {"quarantined": (month(2).name,)}, "is quarantined"),
        ((score(1),), {"held": (month(2).name,)}, "is held"),
        ((score(1),), {"drift": "undetermined"}, "were not compared"),
        ((), {}, "no labels were measured"),
        ((score(2, "undetermined"),), {}, "no labels were measured"),
    ],
)
def test_sound_is_said_only_of_what_was_looked_at(
    realised: tuple[RealisedPerformance, ...], more: dict[str, Any], why: str
) -> None:
    report = diagnosed(*realised, **more)
    assert report.decision.verdict == "undetermined"
    assert why in report.decision.reasons[0]
    assert doubts(report)[2] == ("undetermined", "")
    assert diagnosed(score(2)).decision.verdict == "sound"
