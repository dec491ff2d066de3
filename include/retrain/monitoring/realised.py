"""Realised performance: the champion on an interval whose labels are there, against what such rows should cost.

Months differ in how hard they are. The realised loss is held against the expected one of the same rows, which is
learnt from the champion's holdout rows: a hard month is no fall, and a changed world is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from retrain.errors import DegenerateTraining, NonFiniteMetric, SchemaChanged
from retrain.modeling import limits, metrics, resampling
from retrain.modeling.metrics import Array
from retrain.monitoring import estimation, fall_cause
from retrain.monitoring.estimation import ExcessLoss, PerformanceEstimator
from retrain.monitoring.estimation.holdout import holdout_estimator
from retrain.monitoring.fall_cause import FallenRows
from retrain.monitoring.prediction_log import JoinedPredictions
from retrain.results import Champion, Interval, MetricEstimate, RealisedPerformance, SliceFall
from retrain.spec import Spec
from retrain.state.run import Run


def below_expected_score(spec: Spec, value: float, expected_score: float) -> bool:
    """Whether a score is worse than the expected one by more than the monitor's margin."""
    margin = spec.monitor.margin * abs(expected_score)
    return value < expected_score - margin if spec.greater_is_better else value > expected_score + margin


def undetermined(champion: Champion, interval: Interval, reason: str, **more: object) -> RealisedPerformance:
    """What is said of an interval on which the champion could not be measured."""
    return RealisedPerformance.model_validate(
        {"interval": interval, "version": champion.version, "verdict": "undetermined", "reason": reason, **more}
    )


def measure_interval(
    run: Run,
    champion: Champion,
    interval: Interval,
    joined: JoinedPredictions,
    earlier: Sequence[JoinedPredictions],
    doubtful: Mapping[Interval, tuple[Champion, JoinedPredictions]] | None = None,
) -> RealisedPerformance:
    """Measure the version that answered an interval on the labels that are there; undetermined where they are too few.

    Args:
        run: the spec, and the store that holds the champion's holdout rows.
        champion: the version whose answers `joined` has.
        interval: that it answered.
        joined: the interval's rows with answers and labels.
        earlier: the labelled rows of the intervals before it that the same version answered: they show a slow fall.
        doubtful: earlier interval whose labels are in doubt → the version that answered it, and its labelled rows.
    """
    spec = run.spec
    known = joined.labelled()
    coverage = known.counts.share
    counted = {"rows": len(known.frame), "coverage": coverage}
    if len(known.frame) < spec.monitor.min_rows or coverage < spec.labels.min_coverage:
        reason = f"{interval.name}: {len(known.frame):,} labelled scores, {coverage:.0%} of all"
        needed = f"{spec.monitor.min_rows:,} and {spec.labels.min_coverage:.0%} are needed"
        return undetermined(champion, interval, f"{reason}; {needed}", **counted)
    block = resampling.blocks(spec, known.frame)
    measured = _score(run, known, block)
    if measured.value is None:
        reason = f"{interval.name}: {spec.gate.metric} is undefined on {len(known.frame):,} labelled scores"
        return undetermined(champion, interval, reason, **counted)
    excess, slow, expected, estimator = None, None, None, None
    try:
        estimator = holdout_estimator(run, champion)
        excess = _excess_loss(run, estimator, known)
        if earlier:
            slow = _excess_loss(run, estimator, *earlier, known)
        features = known.frame[list(spec.features)]
        if excess and spec.gate.metric in estimation.MEANS:
            expected = excess.expected**0.5 if spec.gate.metric == "rmse" else excess.expected
        else:
            expected = estimator.estimate(known.prediction, features, block, level=spec.gate.level, resamples=200).value
    except (DegenerateTraining, NonFiniteMetric, SchemaChanged):
        pass  # judged by the expected score alone
    fall = _cause(run, estimator, known, doubtful or {}) if estimator else {}
    verdict, reason = _judge(run, champion, interval, measured, excess, slow, expected)
    fell = verdict == "alarm"
    if outside := limits.broken(spec, known.frame, known.outcome, known.prediction):
        verdict, reason = "alarm", f"{reason}; outside gate.limits: {'; '.join(outside)}"
    return RealisedPerformance(
        interval=interval,
        version=champion.version,
        verdict=verdict,
        reason=reason,
        value=measured.value,
        low=measured.low,
        high=measured.high,
        expected_score=champion.expected_score,
        expected=expected,
        excess=excess and excess.relative,
        excess_low=excess and excess.low and excess.low / max(abs(excess.expected), 1e-12),
        outside=outside,
        fell=fell,
        suspect=_suspect_labels(run, known, block),
        slices=tuple(_slices(run, known, estimator)),
        **fall,
        **counted,
    )


def _cause(
    run: Run,
    estimator: PerformanceEstimator,
    known: JoinedPredictions,
    doubtful: Mapping[Interval, tuple[Champion, JoinedPredictions]],
) -> dict[str, Any]:
    """What explains a great fall, and the doubtful intervals before it that the same explains; empty without a fall."""
    excess = _excess_loss(run, estimator, known, level=fall_cause.ASKED)
    if not fall_cause.is_far(excess):
        return {}
    fallen = _fallen_rows(run, estimator, known)
    fall, answers = fall_cause.cause_of_fall(run.spec, fallen), []
    for before, (version, rows) in doubtful.items():
        together = fall_cause.cause_of_fall(run.spec, _fallen_rows(run, holdout_estimator(run, version), rows), fallen)
        if together.changed:
            answers.append(before)
            fall = fall if fall.changed else together
    if fall.cause == "unknown" and not fall_cause.is_very_far(excess):
        return {}
    return {"cause": fall.cause, "cause_reason": fall.reason, "answers": tuple(answers)}


def _fallen_rows(run: Run, estimator: PerformanceEstimator, known: JoinedPredictions) -> FallenRows:
    loss = estimation.loss_of(run.spec.task, run.spec.gate.metric)(known.outcome, known.prediction)
    excess = loss - estimator.expected(known.prediction, known.frame[list(run.spec.features)])
    return FallenRows(known.frame, known.outcome, known.prediction, excess)


def _excess_loss(
    run: Run, estimator: PerformanceEstimator, *parts: JoinedPredictions, level: float | None = None
) -> ExcessLoss | None:
    """The excess loss of one interval or several as one; by default half the level for each of the two tests."""
    frame = pd.concat([part.frame for part in parts], ignore_index=True) if len(parts) > 1 else parts[0].frame
    return estimator.excess_loss(
        np.concatenate([part.outcome for part in parts]),
        np.concatenate([part.prediction for part in parts]),
        frame[list(run.spec.features)],
        resampling.blocks(run.spec, frame),
        level=level or run.spec.monitor.level / 2,
    )


def _score(run: Run, known: JoinedPredictions, block: Array) -> MetricEstimate:
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
        return MetricEstimate(value=None)
    return resampling.confidence_interval(draws, spec.gate.level)


def _judge(
    run: Run,
    champion: Champion,
    interval: Interval,
    measured: MetricEstimate,
    excess: ExcessLoss | None,
    slow: ExcessLoss | None,
    expected: float | None,
) -> tuple[str, str]:
    """Alarm at a loss beyond what such rows should cost; without an expectation, beyond the expected score."""
    spec, value, expected_score = run.spec, measured.value, champion.expected_score
    reason = f"{interval.name}: {spec.gate.metric} {value:.4g}"
    if measured.low is not None:
        reason += f" ({1 - 2 * spec.gate.level:.0%} interval {measured.low:.4g} to {measured.high:.4g})"
    if expected_score is not None:
        reason += f", {expected_score:.4g} expected at the gate"
    if expected is not None:
        reason += f", {expected:.4g} expected of such rows"
    if excess is not None and excess.low is not None:
        reason += (
            f"; its loss is {_relative(run, excess):+.1%} of that ({'beyond' if excess.worse else 'within'} chance)"
        )
        if slow is not None:
            certain = "beyond" if slow.worse else "within"
            reason += f", with the intervals before it {_relative(run, slow):+.1%} ({certain} chance)"
        fell = [loss for loss in (excess, slow) if loss and loss.worse and _relative(run, loss) > spec.monitor.margin]
        return ("alarm" if fell else "calm"), reason
    worst = measured.high if spec.greater_is_better else measured.low
    if expected_score is None or worst is None:
        return "undetermined", reason
    return ("alarm" if below_expected_score(spec, worst, expected_score) else "calm"), reason


def _relative(run: Run, excess: ExcessLoss) -> float:
    """The excess as a share of what was expected, in the metric's own unit."""
    if run.spec.gate.metric != "rmse":
        return excess.relative
    return float((max(excess.realised, 0.0) / max(excess.expected, 1e-12)) ** 0.5 - 1)


def _suspect_labels(run: Run, known: JoinedPredictions, block: Array) -> str:
    """Whether outcomes go against the predictions: flipped labels, or a reversed world; data alone cannot tell.

    The covariance of prediction and outcome, over classes, below zero in nearly all draws of the blocks.
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
    for prediction, outcome in pairs:
        products = (prediction * outcome, prediction, outcome)
        means = [times @ np.bincount(block, values, count) / drawn for values in products]
        total += means[0] - means[1] * means[2]
    if float(np.mean(total < 0)) < 1 - spec.gate.level / 2:
        return ""
    return "outcomes go against the champion's answers: flipped labels, or a world turned round; a person has to tell"


def _slices(run: Run, known: JoinedPredictions, estimator: PerformanceEstimator | None) -> Iterator[SliceFall]:
    """The mean loss of each slice, realised and expected."""
    spec = run.spec
    if estimator is None or not spec.evaluation.slices:
        return
    lost = estimation.loss_of(spec.task, spec.gate.metric)(known.outcome, known.prediction)
    expected = estimator.expected(known.prediction, known.frame[list(spec.features)])
    for column in spec.evaluation.slices:
        values = metrics.bands(known.frame[column], spec.columns[column].type)
        for value, place in sorted(values.groupby(values, sort=True).indices.items()):
            if len(place) < spec.gate.slice_min_rows:
                continue
            realised_mean, expected_mean = float(lost[place].mean()), float(expected[place].mean())
            yield SliceFall(
                column=column,
                value=str(value),
                rows=len(place),
                realised=realised_mean,
                expected=expected_mean,
                fell=realised_mean - expected_mean > spec.gate.slice_margin * abs(expected_mean)
                and _beyond_chance(lost[place] - expected[place]),
            )


def _beyond_chance(excess: Array) -> bool:
    """A mean above zero by three of its standard errors: there are many slices."""
    return bool(excess.mean() > 3 * excess.std(ddof=1) / np.sqrt(len(excess)))
