"""Diagnose the interval: broken data, wrong labels, a changed world, or nothing.

Broken data and wrong labels are for a person: nothing trains on them until they are released. A changed world is a
reason to retrain. The signs are in the reports of drift, estimate and measure; here they are put together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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
    RealisedPerformance,
)
from retrain.state.run import Run


def diagnose(run: Run) -> DiagnoseReport:
    """Put the signs together: the diagnosis is a pure function of the run's reports."""
    context = run.read(Context, "context")
    drift, measured = run.read(DriftReport, "drift"), run.read(MeasureReport, "measure")
    estimate = run.read(EstimateReport, "estimate") if run.loop == "monitor" else None
    fields = diagnosis(context, drift, estimate, measured)
    report = DiagnoseReport(model=run.model, interval=run.interval, effective_at=run.as_of, **fields)
    if not run.pages:
        return report
    key = run.path("diagnose", "diagnose.html")
    serving = context.champion
    decisions = {"drift": drift.decision, "measure": measured.decision}
    decisions |= {"estimate": estimate.decision} if estimate else {}
    questions = pd.DataFrame(
        [(stage, answer.verdict, "; ".join(answer.reasons)) for stage, answer in decisions.items()],
        columns=["question", "verdict", "why"],
    )
    title = f"{run.model}: {run.interval.name}, {f'version {serving.version}' if serving else 'no champion'}"
    run.store.write(key, html.page(title, report.decision, {"What was asked": questions}))
    return report.model_copy(update={"html": key})


def diagnosis(
    context: Context, drift: DriftReport, estimate: EstimateReport | None, measured: MeasureReport
) -> dict[str, Any]:
    """The fields of the report: the kind with its reasons, and the kind of each interval that it is about.

    An interval is called sound only where its rows were compared and its labels measured.
    """
    if drift.broken:
        return _report("broken", drift.broken, {context.interval: "broken"})
    suspect = {score.interval: reason for score in measured.realised if (reason := _suspicion(score))}
    answered = tuple(dict.fromkeys(interval for score in measured.realised for interval in score.answers))
    of = {score.interval: "changed" if _fell(score) else "sound" for score in measured.realised if _told(score)}
    signs = list(_signs(drift, estimate, measured))
    if signs:
        of[context.interval] = "changed"
    of |= dict.fromkeys(answered, "changed") | dict.fromkeys(suspect, "suspect")
    doubts = {
        "open": tuple(score.interval for score in measured.realised if score.interval in suspect and not score.suspect),
        "answered": answered,
    }
    if suspect:
        reasons = [f"{interval.name}: {reason}" for interval, reason in suspect.items()]
        return _report("suspect", reasons, of, **doubts)
    if answered:
        signs.append(f"the labels of {', '.join(each.name for each in answered)} were in doubt, and are no more")
    if signs:
        return _report("changed", signs, of, **doubts)
    if unseen := _unseen(context, drift, measured):
        of.setdefault(context.interval, "undetermined")
        return _report("undetermined", [unseen], of)
    return _report("sound", ["nothing speaks of a change"], of)


def _report(verdict: str, reasons: Sequence[str], of: Mapping[Interval, str], **more: Any) -> dict[str, Any]:
    return {"decision": Decision(verdict=verdict, reasons=tuple(reasons)), "of": tuple(of.items()), **more}


def _suspicion(score: RealisedPerformance) -> str:
    """Why the labels of an interval may be wrong; empty where they look right.

    Flipped labels are the champion's answers turned round, and teach nothing beside them; a changed world does.
    """
    if score.suspect and score.cause != "world":
        return score.suspect
    if score.cause not in ("noise", "unknown"):
        return ""
    share = "" if score.excess is None else f"its loss is {score.excess:+.0%} of that of such rows; "
    return f"{share}{score.cause_reason}"


def _fell(score: RealisedPerformance) -> bool:
    # A champion outside a limit may be as good as ever: that is no change.
    return (score.verdict == "alarm" and score.fell) or score.cause in ("world", "rate")


def _told(score: RealisedPerformance) -> bool:
    return score.verdict != "undetermined"


def _unseen(context: Context, drift: DriftReport, measured: MeasureReport) -> str:
    """Why the interval is not called sound, though nothing speaks of a change: what was not looked at."""
    name = context.interval.name
    if context.champion is None:
        return "no champion yet: there is nothing to hold the rows and labels against"
    if name in context.quarantined:
        return f"the batch of {name} is quarantined: nothing of it was looked at"
    if name in context.held:
        return f"{name} is held: nothing of it is looked at until it is released"
    if drift.decision.verdict == "undetermined":
        return f"the rows of {name} were not compared: {drift.decision.reasons[0]}"
    if not any(map(_told, measured.realised)):
        return f"the rows of {name} are as before, no labels were measured: {measured.decision.reasons[0]}"
    return ""


def _signs(drift: DriftReport, estimate: EstimateReport | None, measured: MeasureReport) -> Iterator[str]:
    moved = _drifted(drift.columns, "feature")
    for score in measured.realised:
        if _fell(score):
            kind = "outcomes follow the features otherwise than before (concept drift)"
            yield f"{kind}: {score.reason}{f'; {score.cause_reason}' if score.cause_reason else ''}"
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
