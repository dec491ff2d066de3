"""Measure how good the champion was, now that labels are there.

Each interval whose labels have matured since the last measurement is measured (`monitoring.realised`) for the version
that answered it, whoever serves by now: the primary metric with an interval from resampled blocks, and the excess of
the realised loss over what such rows should cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from retrain.data import dataset
from retrain.errors import (
    AmbiguousKeys,
    ArtifactMissing,
    DigestMismatch,
    EstimatorRefused,
    LibrarySkew,
    ModelFormatRefused,
    NonFiniteMetric,
    RowsRejected,
    ScoringFailed,
)
from retrain.monitoring.prediction_log import JoinedPredictions
from retrain.monitoring.realised import measure_interval, undetermined
from retrain.registry.answers import AnswersOfTheTime
from retrain.rendering import html, monitoring_plots
from retrain.results import AcceptedBatch, Champion, Context, Decision, Interval, MeasureReport, RealisedPerformance
from retrain.state.run import Run

UNANSWERED = (
    *(AmbiguousKeys, RowsRejected, ScoringFailed, NonFiniteMetric),
    *(ArtifactMissing, DigestMismatch, EstimatorRefused, LibrarySkew, ModelFormatRefused),
)
"""Why an interval's rows have no answers that could be measured."""

MAX_INTERVALS = 12
"""Intervals that one run measures; older ones have been measured before, or are of no use any more."""
TOGETHER = 3
"""Intervals that are also judged as one: a slow fall shows in no single one of them."""


def measure(run: Run) -> MeasureReport:
    """Measure each interval whose labels have matured for the version of its time, the newest last."""
    context = run.read(Context, "context")
    champion = context.champion
    if champion is None:
        return _report(run, Decision(verdict="undetermined", reasons=("no champion yet",)))
    mature = dataset.mature(context, run.spec)
    answers = AnswersOfTheTime(run, keep=TOGETHER)
    doubtful = _doubtful(run, context, answers)
    realised = [
        score
        for place, accepted in enumerate(mature)
        if place >= len(mature) - MAX_INTERVALS
        if accepted.batch.interval.name not in context.measured or accepted is mature[-1]
        if (score := _measure(run, answers, mature[max(place - TOGETHER + 1, 0) : place + 1], doubtful))
    ]
    if not realised:
        reason = f"no interval since version {champion.version} has mature labels yet"
        return _report(run, Decision(verdict="undetermined", reasons=(reason,)))
    last = realised[-1]
    fallen = [
        f"{part.column} {part.value}: {part.realised:.4g} realised, {part.expected:.4g} expected on {part.rows:,} rows"
        for part in last.slices
        if part.realised is not None and part.expected is not None and part.fell
    ]
    reasons = [
        last.reason,
        *([f"fallen slices: {'; '.join(fallen[:5])}"] if fallen else []),
        last.suspect,
        last.cause_reason,
    ]
    report = _report(
        run,
        Decision(verdict=last.verdict, reasons=tuple(filter(None, reasons))),
        realised=tuple(realised),
    )
    return _with_page(run, report, champion) if run.pages else report


def _doubtful(
    run: Run, context: Context, answers: AnswersOfTheTime
) -> dict[Interval, tuple[Champion, JoinedPredictions]]:
    """The newest intervals whose labels are in doubt: the version that answered each, and its labelled rows."""
    mature = dataset.mature(context.model_copy(update={"accepted": context.doubtful}), run.spec)
    rows = {}
    for accepted in mature[-TOGETHER:]:
        champion, known = answers.version_of(accepted), _labelled(answers, accepted)
        if champion and known:
            rows[accepted.batch.interval] = (champion, known)
    return rows


def _measure(
    run: Run,
    answers: AnswersOfTheTime,
    batches: Sequence[AcceptedBatch],
    doubtful: Mapping[Interval, tuple[Champion, JoinedPredictions]],
) -> RealisedPerformance | None:
    """Measure the last of these intervals; None where nothing served yet."""
    *before, newest = batches
    champion, interval = answers.version_of(newest), newest.batch.interval
    if champion is None or interval.start < champion.trained_until:
        return None
    try:
        earlier = [
            known
            for accepted in before
            if answers.version_of(accepted) == champion and accepted.batch.interval.start >= champion.trained_until
            if (known := _labelled(answers, accepted)) is not None
        ]
        own = answers.of(newest)
    except UNANSWERED as error:
        return undetermined(champion, interval, f"{interval.name}: {error.found}")
    assert own is not None
    before_it = {span: rows for span, rows in doubtful.items() if span.start < interval.start}
    score = measure_interval(run, champion, interval, own.joined, earlier, before_it)
    return score.model_copy(update={"recomputed": own.recomputed})


def _labelled(answers: AnswersOfTheTime, accepted: AcceptedBatch) -> JoinedPredictions | None:
    """The labelled answers of an earlier interval; None where there are none."""
    try:
        own = answers.of(accepted)
    except UNANSWERED:
        return None
    known = own.joined.labelled() if own else None
    return known if known and len(known.frame) else None


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
