"""Measure how good the champion was, now that labels are there.

Each interval whose labels have matured since the last monitoring run is measured (`monitoring.realised`): the primary
metric with an interval from resampled blocks, and the excess of the realised loss over what such rows should cost.
"""

from __future__ import annotations

import pandas as pd

from retrain.data import dataset
from retrain.monitoring.realised import measure_interval
from retrain.rendering import html, monitoring_plots
from retrain.results import Champion, Context, Decision, MeasureReport
from retrain.state.run import Run

MAX_INTERVALS = 12
"""Intervals that one run measures; older ones have been measured before, or are of no use any more."""
TOGETHER = 3
"""Intervals that are also judged as one: a slow fall shows in no single one of them."""


def measure(run: Run) -> MeasureReport:
    """Measure the champion on the intervals that it scored and whose labels have matured, the newest last."""
    context = run.read(Context, "context")
    champion = context.champion
    if champion is None:
        return _report(run, Decision(verdict="undetermined", reasons=("no champion yet",)))
    mature = dataset.intervals(dataset.mature(context, run.spec))
    measured = {signal.interval.start for signal in context.signals if signal.question == "realised"}
    newest = [interval for interval in mature if interval.start >= champion.trained_until][-MAX_INTERVALS:]
    realised = [
        score
        for interval in newest
        if interval.start not in measured or interval == newest[-1]
        if (score := measure_interval(run, champion, newest[: newest.index(interval) + 1][-TOGETHER:]))
    ]
    if not realised:
        reason = f"no interval that version {champion.version} scored has mature labels yet"
        return _report(run, Decision(verdict="undetermined", reasons=(reason,)))
    last = realised[-1]
    fallen = [
        f"{part.column} {part.value}: {part.realised:.4g} realised, {part.expected:.4g} expected on {part.rows:,} rows"
        for part in last.slices
        if part.realised is not None and part.expected is not None and part.fell
    ]
    reasons = [last.reason, *([f"fallen slices: {'; '.join(fallen[:5])}"] if fallen else []), last.suspect]
    report = _report(
        run,
        Decision(verdict=last.verdict, reasons=tuple(filter(None, reasons))),
        realised=tuple(realised),
    )
    return _with_page(run, report, champion) if run.pages else report


def _with_page(run: Run, report: MeasureReport, champion: Champion) -> MeasureReport:
    intervals = pd.DataFrame(
        [
            (
                score.interval.name,
                score.value,
                score.low,
                score.high,
                score.expected,
                score.rows,
                score.coverage,
                score.reason,
            )
            for score in report.realised
        ],
        columns=["interval", "realised", "low", "high", "expected", "rows", "coverage", "reason"],
    )
    slices = pd.DataFrame([part.model_dump() for part in report.realised[-1].slices])
    figure = monitoring_plots.metric_over_time(
        run.spec.gate.metric, intervals, champion.expected_score, ("realised", "expected")
    )
    key = run.path("measure", "measure.html")
    title = f"{run.model}: realised {run.spec.gate.metric} of version {champion.version}"
    tables = {"Intervals": intervals, "Slices": slices}
    run.store.write(key, html.page(title, report.decision, tables, {"Over time": figure}))
    return report.model_copy(update={"html": key})


def _report(run: Run, decision: Decision, **more: object) -> MeasureReport:
    return MeasureReport.model_validate(
        {
            "model": run.model,
            "interval": run.interval,
            "effective_at": run.as_of,
            "decision": decision,
            "metric": run.spec.gate.metric,
            **more,
        }
    )
