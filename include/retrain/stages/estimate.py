"""How good is the champion on this interval, though its labels are not there yet?

Blind to a change in how outcomes hang on the features: an estimate may raise an alarm and never veto one. Once labels
land, earlier estimates are held against them; when they did not hold, this one is marked unreliable and is no alarm.
"""

from __future__ import annotations

import pandas as pd

from retrain.errors import DegenerateTraining, NonFiniteMetric, SchemaChanged
from retrain.modeling import resampling
from retrain.monitoring import estimation, realised
from retrain.monitoring.estimation.holdout import holdout_estimator
from retrain.rendering import html, monitoring_plots
from retrain.results import Champion, Context, Decision, EstimateReport
from retrain.state.run import Run


def estimate(run: Run) -> EstimateReport:
    """Estimate the primary metric on the run's interval, with an interval, against what was expected at the gate."""
    champion = run.read(Context, "context").champion
    if champion is None:
        return _report(run, Decision(verdict="undetermined", reasons=("no champion yet",)))
    joined = realised.scored(run, champion, run.interval)
    if joined is None:
        reason = f"version {champion.version} has not scored {run.interval.name}"
        return _report(run, Decision(verdict="undetermined", reasons=(reason,)))
    if len(joined.frame) < run.spec.monitor.min_rows:
        reason = f"{len(joined.frame):,} scored rows, at least {run.spec.monitor.min_rows:,} are needed"
        return _report(run, Decision(verdict="undetermined", reasons=(reason,)))
    try:
        learnt = holdout_estimator(run, champion)
        block = resampling.blocks(run.spec, joined.frame)
        features = joined.frame[list(run.spec.features)]
        told = learnt.estimate(
            joined.prediction, features, block, level=run.spec.gate.level, seed=run.spec.training.seed
        )
    except (DegenerateTraining, NonFiniteMetric, SchemaChanged) as error:
        return _report(run, Decision(verdict="undetermined", reasons=(error.found,)))
    if told.value is None or told.low is None or told.high is None:
        return _report(run, Decision(verdict="undetermined", reasons=(told.reason or "no interval",)))
    past = _past(run, champion)
    back = estimation.backtest([one for _, one in past], level=run.spec.gate.level)
    report = _report(
        run,
        _judge(run, champion, told, back),
        value=told.value,
        low=told.low,
        high=told.high,
        expected_score=champion.expected_score,
        rows=told.rows,
        reliable=None if back.verdict == "undetermined" else back.reliable,
    )
    if not run.pages:
        return report
    key = run.path("estimate", "estimate.html")
    newest = (run.interval.name, told.value, told.low, told.high, None)
    shown = [*((name, one.value, one.low, one.high, one.realised) for name, one in past), newest]
    table = pd.DataFrame(shown, columns=["interval", "estimated", "low", "high", "realised"])
    figure = monitoring_plots.metric_over_time(run.spec.gate.metric, table, champion.expected_score)
    title = f"{run.model}: estimated {run.spec.gate.metric}, {run.interval.name}"
    run.store.write(key, html.page(title, report.decision, {"Intervals": table}, {"Over time": figure}))
    return report.model_copy(update={"html": key})


def _judge(run: Run, champion: Champion, told: estimation.Estimate, back: estimation.Backtest) -> Decision:
    spec, expected_score = run.spec, champion.expected_score
    metric, confidence = spec.gate.metric, f"{1 - 2 * spec.gate.level:.0%} interval"
    said = f"{metric} {told.value:.4g} estimated ({confidence} {told.low:.4g} to {told.high:.4g})"
    if expected_score is None:
        return Decision(verdict="undetermined", reasons=(f"{said}; no expected level is on record", back.reason))
    said += f", {expected_score:.4g} expected"
    favourable = told.high if spec.greater_is_better else told.low
    assert favourable is not None
    fell = realised.below_expected_score(spec, favourable, expected_score)
    if not back.reliable:
        reason = f"{said}; not to be relied on: {back.reason}"
        return Decision(verdict="undetermined", reasons=(reason,))
    return Decision(verdict="alarm" if fell else "calm", reasons=(said, back.reason))


def _past(run: Run, champion: Champion) -> list[tuple[str, estimation.PastEstimate]]:
    """Earlier estimates of this champion whose labels have landed since."""
    estimates: dict[str, dict[str, float]] = {}
    realised: dict[str, float] = {}
    for record in run.ledger.records(run.model):
        facts = record.body.get("facts", {})
        if not record.kind.endswith("stage") or record.effective_at > run.as_of or not facts:
            continue
        if record.body["stage"] == "estimate" and facts.get("version") == champion.version:
            estimates[record.body["interval"]] = facts
        if record.body["stage"] == "measure":
            realised |= {name: value for name, value in facts["realised"].items() if value is not None}
    return [
        (name, estimation.PastEstimate(one["estimated"], one["low"], one["high"], realised[name]))
        for name, one in sorted(estimates.items())
        if name in realised and one["estimated"] is not None
    ]


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
