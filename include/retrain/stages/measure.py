"""How good was the champion, now that labels are there?

Each interval whose labels have matured since the last look is measured: the primary metric with an interval from
resampled blocks, and the excess of the realised loss over what such rows should have cost by the promise that the
champion made on its holdout rows. Months differ in how hard they are; the excess is held against the same rows, so a
hard month is no fall and a world that changed is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from retrain.data import dataset
from retrain.errors import AmbiguousKeys, DegenerateTraining, NonFiniteMetric, SchemaChanged
from retrain.modeling import metrics, resampling
from retrain.modeling.metrics import Array
from retrain.monitoring import estimation, realised
from retrain.monitoring.estimation import PerformanceEstimator
from retrain.monitoring.estimation.holdout import holdout_estimator
from retrain.monitoring.prediction_log import Joined
from retrain.rendering import html, monitoring_plots
from retrain.results import Champion, Context, Decision, Interval, Measured, MeasureReport, Realised, SliceFall
from retrain.state.run import Run

MOST = 12
"""Intervals that one look measures; older ones have been measured before, or are of no use any more."""
TOGETHER = 3
"""Intervals that are also judged as one: a slow fall shows in no single one of them."""


def measure(run: Run) -> MeasureReport:
    """Measure the champion on the intervals that it scored and whose labels have matured, the newest last."""
    context = run.read(Context, "context")
    champion = context.champion
    if champion is None:
        return _report(run, Decision(verdict="undetermined", reasons=("no champion yet",)))
    mature = dataset.intervals(dataset.mature(context, run.spec))
    looked = {one.interval.start for one in context.signals if one.question == "realised"}
    newest = [one for one in mature if one.start >= champion.trained_until][-MOST:]
    found = [
        one
        for interval in newest
        if interval.start not in looked or interval == newest[-1]
        for one in _measure(run, champion, newest[: newest.index(interval) + 1][-TOGETHER:])
    ]
    if not found:
        reason = f"no interval that version {champion.version} scored has mature labels yet"
        return _report(run, Decision(verdict="undetermined", reasons=(reason,)))
    last = found[-1]
    fallen = [
        f"{one.column} {one.value}: {one.realised:.4g} realised, {one.expected:.4g} expected on {one.rows:,} rows"
        for one in last.slices
        if one.realised is not None and one.expected is not None and one.fell
    ]
    reasons = [last.reason, *([f"fallen slices: {'; '.join(fallen[:5])}"] if fallen else []), last.suspect]
    report = _report(
        run,
        Decision(verdict=last.verdict, reasons=tuple(filter(None, reasons))),
        realised=tuple(found),
    )
    return _page(run, report, champion) if run.pages else report


def _measure(run: Run, champion: Champion, intervals: Sequence[Interval]) -> Iterator[Realised]:
    """The last of these intervals, where the champion scored it; those before it show a slow fall."""
    spec, interval = run.spec, intervals[-1]

    def unknown(reason: str, **more: object) -> Realised:
        return Realised.model_validate(
            {"interval": interval, "version": champion.version, "verdict": "undetermined", "reason": reason, **more}
        )

    try:
        joined = realised.scored(run, champion, interval)
    except AmbiguousKeys as error:
        yield unknown(error.found)
        return
    if joined is None:
        return
    known = joined.labelled()
    coverage = known.counts.share
    counted = {"rows": len(known.frame), "coverage": coverage}
    if len(known.frame) < spec.monitor.min_rows or coverage < spec.labels.min_coverage:
        reason = f"{interval.name}: {len(known.frame):,} labelled scores, {coverage:.0%} of all"
        yield unknown(f"{reason}; {spec.monitor.min_rows:,} and {spec.labels.min_coverage:.0%} are needed", **counted)
        return
    block = resampling.blocks(spec, known.frame)
    measured = _level(run, known, block)
    if measured.value is None:
        reason = f"{interval.name}: {spec.gate.metric} is undefined on {len(known.frame):,} labelled scores"
        yield unknown(reason, **counted)
        return
    surprise, slow, expected, learnt = None, None, None, None
    try:
        learnt = holdout_estimator(run, champion)
        surprise = _surprise(run, learnt, known)
        if earlier := [one for before in intervals[:-1] for one in _known(run, champion, before)]:
            slow = _surprise(run, learnt, *earlier, known)
        features = known.frame[list(spec.features)]
        if surprise and spec.gate.metric in estimation.MEANS:
            expected = surprise.expected**0.5 if spec.gate.metric == "rmse" else surprise.expected
        else:
            expected = learnt.estimate(known.prediction, features, block, level=spec.gate.level, resamples=200).value
    except (DegenerateTraining, NonFiniteMetric, SchemaChanged):
        pass  # judged by the expected level alone
    suspect = _suspect(run, known, block)
    verdict, reason = _judge(run, champion, interval, measured, surprise, slow, expected)
    yield Realised(
        interval=interval,
        version=champion.version,
        verdict=verdict,
        reason=reason,
        value=measured.value,
        low=measured.low,
        high=measured.high,
        expected_score=champion.expected_score,
        expected=expected,
        excess=surprise and surprise.relative,
        excess_low=surprise and surprise.low and surprise.low / max(abs(surprise.expected), 1e-12),
        suspect=suspect,
        slices=tuple(_slices(run, known, learnt)),
        **counted,
    )


def _known(run: Run, champion: Champion, interval: Interval) -> Iterator[Joined]:
    """The labelled scores of an earlier interval, where there are any."""
    try:
        joined = realised.scored(run, champion, interval)
    except AmbiguousKeys:
        return
    if joined and len((known := joined.labelled()).frame):
        yield known


def _surprise(run: Run, learnt: PerformanceEstimator, *parts: Joined) -> estimation.ExcessLoss | None:
    """Realised against expected loss, of one interval or several as one; half the level for each of the two looks."""
    frame = pd.concat([one.frame for one in parts], ignore_index=True) if len(parts) > 1 else parts[0].frame
    return learnt.excess_loss(
        np.concatenate([one.outcome for one in parts]),
        np.concatenate([one.prediction for one in parts]),
        frame[list(run.spec.features)],
        resampling.blocks(run.spec, frame),
        level=run.spec.monitor.level / 2,
    )


def _level(run: Run, known: Joined, block: Array) -> Measured:
    spec = run.spec
    try:
        draws = resampling.resample(
            spec.task,
            spec.gate.metric,
            known.outcome,
            known.prediction,
            block,
            resamples=spec.evaluation.resamples,
            seed=spec.training.seed,
        )
    except NonFiniteMetric:
        return Measured(value=None)
    return resampling.confidence_interval(draws, spec.gate.level)


def _judge(
    run: Run,
    champion: Champion,
    interval: Interval,
    measured: Measured,
    surprise: estimation.ExcessLoss | None,
    slow: estimation.ExcessLoss | None,
    expected: float | None,
) -> tuple[str, str]:
    """Fallen: a loss beyond what such rows should cost; without an expectation, beyond the expected level."""
    spec, value, expected_score = run.spec, measured.value, champion.expected_score
    shown = f"{interval.name}: {spec.gate.metric} {value:.4g}"
    if measured.low is not None:
        shown += f" ({1 - 2 * spec.gate.level:.0%} interval {measured.low:.4g} to {measured.high:.4g})"
    if expected_score is not None:
        shown += f", {expected_score:.4g} expected"
    if expected is not None:
        shown += f", {expected:.4g} expected of such rows"
    if surprise is not None and surprise.low is not None:
        shown += (
            f"; its loss is {_relative(run, surprise):+.1%} of that ({'beyond' if surprise.worse else 'within'} chance)"
        )
        if slow is not None:
            certain = "beyond" if slow.worse else "within"
            shown += f", with the intervals before it {_relative(run, slow):+.1%} ({certain} chance)"
        fell = [one for one in (surprise, slow) if one and one.worse and _relative(run, one) > spec.monitor.margin]
        return ("alarm" if fell else "calm"), shown
    worst = measured.high if spec.greater_is_better else measured.low
    if expected_score is None or worst is None:
        return "undetermined", shown
    return ("alarm" if realised.below_expected_score(spec, worst, expected_score) else "calm"), shown


def _relative(run: Run, surprise: estimation.ExcessLoss) -> float:
    """The excess as a share of what was expected, in the metric's own unit."""
    if run.spec.gate.metric != "rmse":
        return surprise.relative
    return float((max(surprise.realised, 0.0) / max(surprise.expected, 1e-12)) ** 0.5 - 1)


def _suspect(run: Run, known: Joined, block: Array) -> str:
    """Whether outcomes go against the answers: flipped labels, or a world turned round; data alone cannot tell.

    The covariance of answer and outcome, over classes, below zero in nearly all draws of the blocks.
    """
    spec, p = run.spec, known.prediction
    if p.ndim == 1:
        pairs = [(p, known.outcome)]
    else:
        pairs = [(p[:, place], (known.outcome == place).astype(float)) for place in range(p.shape[1])]
    count = int(block.max()) + 1
    if count < 2:
        return ""
    times = np.random.default_rng(spec.training.seed).multinomial(count, np.full(count, 1 / count), size=1000)
    drawn = times @ np.bincount(block, minlength=count)
    total = np.zeros(len(times))
    for answer, outcome in pairs:
        means = [times @ np.bincount(block, one, count) / drawn for one in (answer * outcome, answer, outcome)]
        total += means[0] - means[1] * means[2]
    if float(np.mean(total < 0)) < 1 - spec.gate.level / 2:
        return ""
    return "outcomes go against the champion's answers: flipped labels, or a world turned round; a person has to tell"


def _slices(run: Run, known: Joined, learnt: PerformanceEstimator | None) -> Iterator[SliceFall]:
    """The mean loss of each slice, realised and expected."""
    spec = run.spec
    if learnt is None or not spec.evaluation.slices:
        return
    lost = estimation.loss_of(spec.task, spec.gate.metric)(known.outcome, known.prediction)
    expected = learnt.expected(known.prediction, known.frame[list(spec.features)])
    for column in spec.evaluation.slices:
        values = metrics.bands(known.frame[column], spec.columns[column].type)
        for value, place in sorted(values.groupby(values, sort=True).indices.items()):
            if len(place) < spec.gate.slice_min_rows:
                continue
            mine, theirs = float(lost[place].mean()), float(expected[place].mean())
            yield SliceFall(
                column=column,
                value=str(value),
                rows=len(place),
                realised=mine,
                expected=theirs,
                fell=mine - theirs > spec.gate.slice_margin * abs(theirs) and _beyond(lost[place] - expected[place]),
            )


def _beyond(excess: Array) -> bool:
    """A mean above zero by three of its standard errors: there are many slices."""
    return bool(excess.mean() > 3 * excess.std(ddof=1) / np.sqrt(len(excess)))


def _page(run: Run, report: MeasureReport, champion: Champion) -> MeasureReport:
    shown = pd.DataFrame(
        [
            (one.interval.name, one.value, one.low, one.high, one.expected, one.rows, one.coverage, one.reason)
            for one in report.realised
        ],
        columns=["interval", "realised", "low", "high", "expected", "rows", "coverage", "said"],
    )
    slices = pd.DataFrame([one.model_dump() for one in report.realised[-1].slices])
    figure = monitoring_plots.metric_over_time(
        run.spec.gate.metric, shown, champion.expected_score, ("realised", "expected")
    )
    key = run.path("measure", "measure.html")
    title = f"{run.model}: realised {run.spec.gate.metric} of version {champion.version}"
    tables = {"Intervals": shown, "Slices": slices}
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
