"""Measure what the champion loses above a model that would have been fitted later.

Each interval whose labels have matured since the last run, and that no earlier run has measured, is measured
(`monitoring.regret`): one cheap fit per training window. Intervals whose data or labels are in doubt neither judge nor
teach.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pandas as pd

from retrain.data import dataset
from retrain.errors import FeatureCodeRefused
from retrain.monitoring.regret import measure_regret
from retrain.monitoring.signals import doubted_intervals
from retrain.policy.regret import added_up, recent_loss, totals
from retrain.registry.champion import load_champion
from retrain.registry.smoke_test import check_features
from retrain.rendering import html, monitoring_plots
from retrain.results import Champion, Context, Decision, RegretReport, Signal
from retrain.state.run import Run

MAX_INTERVALS = 12
"""Intervals that one run measures; older ones have been measured before, or are of no use any more."""


def regret(run: Run) -> RegretReport:
    """Measure the champion's regret on the intervals since its newest training row, and add it up.

    Raises:
        MissingInput: the context has not been written, or a batch is gone.
        SnapshotCorrupt: a batch is not the one on record.
        ArtifactMissing, DigestMismatch, RegistryDown: the champion cannot be loaded.
    """
    context = run.read(Context, "context")
    champion, policy = context.champion, run.spec.policy.regret
    if policy is None:
        return _report(run, Decision(verdict="undetermined", reasons=("the policy does not ask: policy.regret",)))
    if champion is None:
        return _report(run, Decision(verdict="undetermined", reasons=("no champion yet",)))

    doubted = {interval.name for interval in doubted_intervals(run)}
    mature = [batch for batch in dataset.mature(context, run.spec) if batch.batch.interval.name not in doubted]
    since = [batch for batch in mature if batch.batch.interval.start >= champion.trained_until]
    of_regret = [signal for signal in context.signals if signal.question == "regret"]
    measured = [signal for signal in of_regret if signal.champion == champion.version]
    earlier = {signal.interval.start for signal in measured}
    unmeasured = [batch for batch in since if batch.batch.interval.start not in earlier]
    new = [batch for batch in unmeasured if batch in since[-MAX_INTERVALS:]]
    if new:
        try:
            check_features(run.spec, dataset.read(run, new[-1:], run.spec.inputs))
        except FeatureCodeRefused as error:  # measured later, once the function is mended
            return _report(run, Decision(verdict="undetermined", reasons=(error.found,)))
        model = load_champion(run, champion)
        measured += [measure_regret(run, champion, model, mature, batch) for batch in new]
    measured.sort(key=lambda signal: signal.interval.start)

    loss, trained = recent_loss([*of_regret, *measured]), context.last_training_at or champion.trained_until
    sums = totals(signal for signal in measured if signal.interval.start >= trained)
    names = sorted({*context.held, *doubted})
    report = _report(
        run,
        _decision(champion, measured, run, len(unmeasured) - len(new)),
        version=champion.version,
        measured=tuple(measured),
        left_out=tuple(name for name in names if run.spec.at(name).start >= champion.trained_until),
        price=policy.price,
        sums={window: gain / loss if loss else 0.0 for window, gain in sums.items()},
    )
    return _with_page(run, report, context.trainings, loss) if run.pages and measured else report


def _decision(champion: Champion, measured: Sequence[Signal], run: Run, older: int) -> Decision:
    if not measured:
        reason = f"no interval since the newest training row of version {champion.version} has mature labels yet"
        return Decision(verdict="undetermined", reasons=(reason,))
    if not any(signal.regret for signal in measured):
        return Decision(verdict="blind", reasons=(measured[-1].reason,))
    reasons = [signal.reason for signal in measured if signal.effective_at == run.as_of]
    reasons = reasons or [f"nothing new; {measured[-1].reason}"]
    reasons += [f"{older} older interval(s) are not measured"] if older else []
    return Decision(verdict="measured", reasons=tuple(reasons))


def _with_page(run: Run, report: RegretReport, trainings: Sequence[datetime], loss: float) -> RegretReport:
    assert report.price is not None
    table = _table(report.measured, trainings, loss)
    figures = {"Added up": monitoring_plots.regret_over_time(table, report.price)} if len(table) else {}
    reasons = pd.DataFrame([(each.interval.name, each.reason) for each in report.measured], columns=["interval", "why"])
    sums = pd.DataFrame(report.sums.items(), columns=["window", "regret since the last training"])
    key = run.path("regret", "regret.html")
    title = f"{run.model}: regret of version {report.version}, in losses of one interval"
    tables = {"Since the last training": sums, "Per interval and window": table, "What was said": reasons}
    run.store.write(key, html.page(title, report.decision, tables, figures))
    return report.model_copy(update={"html": key})


def _table(measured: Sequence[Signal], trainings: Sequence[datetime], loss: float) -> pd.DataFrame:
    """A row per interval and window; `sum` is what had added up by then, since the last training before."""
    rows, sums, began = [], dict[str, float](), datetime.min.replace(tzinfo=UTC)
    for signal in measured:
        last = max((moment for moment in trainings if moment <= signal.interval.start), default=began)
        if last > began:
            sums, began = {}, last
        for of in signal.regret:
            sums[of.window] = added_up(sums.get(of.window, 0.0), of.gain / loss)
            figures = (of.relative, sums[of.window], of.loss, of.gain, of.error, of.aged, of.rows, of.blocks, of.note)
            rows.append((signal.interval.name, of.window, *figures))
    names = ["regret", "sum", "loss", "gain", "error", "an interval of age", "rows", "blocks", "note"]
    return pd.DataFrame(rows, columns=["interval", "window", *names])


def _report(run: Run, decision: Decision, **more: object) -> RegretReport:
    return RegretReport.model_validate(
        {"model": run.model, "interval": run.interval, "effective_at": run.as_of, "decision": decision, **more}
    )
