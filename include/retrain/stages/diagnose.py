"""Diagnose the interval: broken data, wrong labels, a changed world, or nothing.

Broken data and wrong labels are for a person: nothing trains on them until they are released. A changed world is a
reason to retrain. The signs are in the reports of drift, estimate and measure; here they are put together.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from retrain.rendering import html
from retrain.results import (
    ColumnDrift,
    Context,
    Decision,
    DiagnoseReport,
    DriftReport,
    EstimateReport,
    Interval,
    MeasureReport,
)
from retrain.state.run import Run


def diagnose(run: Run) -> DiagnoseReport:
    """Put the signs together: the diagnosis is a pure function of the run's reports."""
    drift, measured = run.read(DriftReport, "drift"), run.read(MeasureReport, "measure")
    estimate = run.read(EstimateReport, "estimate") if run.loop == "monitor" else None
    decision, of = diagnosis(run.interval, drift, estimate, measured)
    report = DiagnoseReport(model=run.model, interval=run.interval, effective_at=run.as_of, decision=decision, of=of)
    if not run.pages:
        return report
    key = run.path("diagnose", "diagnose.html")
    serving = run.read(Context, "context").champion
    decisions = {"drift": drift.decision, "measure": measured.decision}
    decisions |= {"estimate": estimate.decision} if estimate else {}
    questions = pd.DataFrame(
        [(stage, answer.verdict, "; ".join(answer.reasons)) for stage, answer in decisions.items()],
        columns=["question", "verdict", "why"],
    )
    title = f"{run.model}: {run.interval.name}, {f'version {serving.version}' if serving else 'no champion'}"
    run.store.write(key, html.page(title, decision, {"What was asked": questions}))
    return report.model_copy(update={"html": key})


def diagnosis(
    interval: Interval, drift: DriftReport, estimate: EstimateReport | None, measured: MeasureReport
) -> tuple[Decision, tuple[tuple[Interval, str], ...]]:
    """The kind with its reasons, and the kind of each interval that it is about."""
    if drift.broken:
        return Decision(verdict="broken", reasons=drift.broken), ((interval, "broken"),)
    suspect = [score for score in measured.realised if score.suspect]
    if suspect:
        reasons = tuple(f"{score.interval.name}: {score.suspect}" for score in suspect)
        return Decision(verdict="suspect", reasons=reasons), tuple((score.interval, "suspect") for score in suspect)
    signs = list(_signs(drift, estimate, measured))
    if signs:
        return Decision(verdict="changed", reasons=tuple(signs)), ((interval, "changed"),)
    return Decision(verdict="sound", reasons=("nothing speaks of a change",)), ((interval, "sound"),)


def _signs(drift: DriftReport, estimate: EstimateReport | None, measured: MeasureReport) -> Iterator[str]:
    # A champion outside a limit may be as good as ever: that is no change.
    fell = measured.decision.verdict == "alarm" and (not measured.realised or measured.realised[-1].fell)
    moved = _drifted(drift.columns, "feature")
    if fell:
        kind = "outcomes follow the features otherwise than before (concept drift)"
        yield f"{kind}: {measured.decision.reasons[0]}"
    if drift.decision.verdict == "drift" and moved:
        yield f"the rows are others (covariate shift): {drift.decision.reasons[0]}"
    if target := _drifted(drift.columns, "target"):
        yield f"outcomes come in other shares (label shift): {target[0].reason}"
    if answers := _drifted(drift.columns, "prediction"):
        yield f"the champion's answers moved: {answers[0].reason}"
    if estimate and estimate.decision.verdict == "alarm":
        yield f"without labels it looks worse: {estimate.decision.reasons[0]}"


def _drifted(columns: tuple[ColumnDrift, ...], role: str) -> list[ColumnDrift]:
    return [column for column in columns if column.role == role and column.verdict == "drift"]
