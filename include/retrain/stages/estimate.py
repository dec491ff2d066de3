"""Estimate how good the champion is on this interval, though its labels are not there yet.

Blind to a change in how outcomes depend on the features: an estimate may raise an alarm and never veto one. Once labels
land, earlier estimates are held against them; when they did not hold, this one is marked unreliable and is no alarm.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from retrain.errors import DegenerateTraining, NonFiniteMetric, SchemaChanged
from retrain.modeling import resampling
from retrain.monitoring.estimation import Backtest, Estimate, PastEstimate, backtest, past_estimates
from retrain.monitoring.estimation.holdout import holdout_estimator
from retrain.monitoring.prediction_log import join_champion
from retrain.monitoring.realised import below_expected_score
from retrain.rendering import html, monitoring_plots
from retrain.results import Champion, Context, Decision, EstimateReport
from retrain.state.run import Run


def estimate(run: Run) -> EstimateReport:
    """Estimate the primary metric on the run's interval, with an interval, against what was expected at the gate."""
    context = run.read(Context, "context")
    champion = context.champion
    if champion is None:
        return _report(run, Decision(verdict="undetermined", reasons=("no champion yet",)))
    joined = join_champion(run, champion, run.interval)
    if joined is None:
        reason = f"version {champion.version} has not scored {run.interval.name}"
        return _report(run, Decision(verdict="undetermined", reasons=(reason,)))
    if len(joined.frame) < run.spec.monitor.min_rows:
        reason = f"{len(joined.frame):,} scored rows, at least {run.spec.monitor.min_rows:,} are needed"
        return _report(run, Decision(verdict="undetermined", reasons=(reason,)))
    try:
        estimator = holdout_estimator(run, champion)
        block = resampling.blocks(run.spec, joined.frame)
        features = joined.frame[list(run.spec.features)]
        estimated = estimator.estimate(
            joined.prediction, features, block, level=run.spec.gate.level, seed=run.spec.training.seed
        )
    except (DegenerateTraining, NonFiniteMetric, SchemaChanged) as error:
        return _report(run, Decision(verdict="undetermined", reasons=(error.found,)))
    if estimated.value is None or estimated.low is None or estimated.high is None:
        return _report(run, Decision(verdict="undetermined", reasons=(estimated.reason or "no interval",)))
    past = past_estimates(run, {champion.version, *context.lineage})
    held = backtest([old for _, old in past], level=run.spec.gate.level)
    report = _report(
        run,
        _judge(run, champion, estimated, held),
        value=estimated.value,
        low=estimated.low,
        high=estimated.high,
        expected_score=champion.expected_score,
        rows=estimated.rows,
        reliable=None if held.verdict == "undetermined" else held.reliable,
    )
    return _with_page(run, report, champion, past) if run.pages else report


def _judge(run: Run, champion: Champion, estimated: Estimate, held: Backtest) -> Decision:
    spec, expected_score = run.spec, champion.expected_score
    metric, confidence = spec.gate.metric, f"{1 - 2 * spec.gate.level:.0%} interval"
    reason = f"{metric} {estimated.value:.4g} estimated ({confidence} {estimated.low:.4g} to {estimated.high:.4g})"
    if expected_score is None:
        return Decision(verdict="undetermined", reasons=(f"{reason}; no expected level is on record", held.reason))
    reason += f", {expected_score:.4g} expected at the gate"
    favourable = estimated.high if spec.greater_is_better else estimated.low
    assert favourable is not None
    fell = below_expected_score(spec, favourable, expected_score)
    if not held.reliable:
        return Decision(verdict="undetermined", reasons=(f"{reason}; not to be relied on: {held.reason}",))
    return Decision(verdict="alarm" if fell else "calm", reasons=(reason, held.reason))


def _with_page(
    run: Run, report: EstimateReport, champion: Champion, past: Sequence[tuple[str, PastEstimate]]
) -> EstimateReport:
    key = run.path("estimate", "estimate.html")
    newest = (run.interval.name, report.value, report.low, report.high, None)
    rows = [*((name, old.value, old.low, old.high, old.realised) for name, old in past), newest]
    table = pd.DataFrame(rows, columns=["interval", "estimated", "low", "high", "realised"])
    figure = monitoring_plots.metric_over_time(run.spec.gate.metric, table, champion.expected_score)
    title = f"{run.model}: estimated {run.spec.gate.metric}, {run.interval.name}"
    run.store.write(key, html.page(title, report.decision, {"Intervals": table}, {"Over time": figure}))
    return report.model_copy(update={"html": key})


def _report(run: Run, decision: Decision, **more: object) -> EstimateReport:
    champion = run.read(Context, "context").champion
    return EstimateReport.model_validate(
        {
            "model": run.model,
            "interval": run.interval,
            "effective_at": run.as_of,
            "decision": decision,
            "version": champion and champion.version,
            "metric": run.spec.gate.metric,
            **more,
        }
    )
