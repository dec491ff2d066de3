"""What the gate judges by: which holdout rows are fresh, and the scores, gains and slices of all models on them.

Holdout rows are fresh when they are newer than anything that the model that answers them was fitted on: of the holdout
intervals only those count that begin after a champion's newest training row, and of their rows those from the first cut
on, since a candidate was fitted on those before (`retrain.modeling.cuts`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline

from retrain.errors import NonFiniteMetric
from retrain.gate.checks.holdout import CHAMPION, REFERENCE_CHAMPION
from retrain.modeling import gains, metrics, resampling
from retrain.modeling.metrics import Array
from retrain.results import AcceptedBatch, Champion, Context, MetricEstimate, PairedGain, Slice, TrainReport
from retrain.spec import METRICS, Spec

SECONDARY_RESAMPLES = 200
"""Metrics that the gate does not read need no sharper intervals."""

DrawsOf = dict[str, resampling.Draws]
"""Model → a metric on resampled blocks, where it is defined."""


# --- which rows, which candidates


def unseen_by_champions(context: Context, holdout: Sequence[AcceptedBatch]) -> tuple[AcceptedBatch, ...]:
    """The holdout batches that begin after every training row of the champions."""
    until = [champion.trained_until for champion in _champions(context)]
    return tuple(accepted for accepted in holdout if all(accepted.batch.interval.start >= end for end in until))


def fresh_holdout(context: Context, train: TrainReport, holdout: Sequence[AcceptedBatch]) -> tuple[AcceptedBatch, ...]:
    """The holdout batches with rows that judge and that no model was fitted on before it answers them."""
    until, cut = [fitted.answers_from for fitted in train.fitted], train.judged_from
    return tuple(
        accepted
        for accepted in unseen_by_champions(context, holdout)
        if (cut is None or accepted.batch.interval.end > cut)
        and all(max(accepted.batch.interval.start, cut or accepted.batch.interval.start) >= end for end in until)
    )


def why_not_fresh(context: Context, holdout: Sequence[AcceptedBatch]) -> str:
    """Why no holdout batch is fresh, for people."""
    if not holdout:
        return "there is no holdout interval"
    if champions := _champions(context):
        newest = max(champions, key=lambda champion: champion.trained_until)
        return f"champion v{newest.version} was fitted on rows until {newest.trained_until:%Y-%m-%d}"
    return f"the candidates were fitted on rows of {span(holdout)}"


def span(accepted: Sequence[AcceptedBatch]) -> str:
    """The names of the first and the last interval, for people."""
    first, last = accepted[0].batch.interval.name, accepted[-1].batch.interval.name
    return first if first == last else f"{first} to {last}"


def count_judged(context: Context, train: TrainReport) -> int:
    """How many candidates share the level: those that are to be shown better than the champion, or the first model.

    What serves already, with newer rows, is promoted unless it is shown worse: it spends none.
    """
    new = sum(fitted.kind == "new" for fitted in train.fitted)
    return max(new, 1) if context.champion else 1


def _champions(context: Context) -> list[Champion]:
    return [champion for champion in (context.champion, context.reference_champion) if champion]


# --- what is measured


def measure_models(
    spec: Spec, y: Array, predictions: Mapping[str, Array], block: Array
) -> tuple[dict[str, dict[str, MetricEstimate]], dict[str, DrawsOf]]:
    """Measure every metric of every model, with intervals from resampled blocks.

    Args:
        spec: the primary metric, `gate.level` and how often blocks are resampled.
        y: (n,) outcomes.
        predictions: model → (n,) or (n, k) predictions.
        block: (n,) codes 0 … k-1 of the blocks of rows that depend on each other.

    Returns:
        model → metric → value with interval; and the draws of the primary metric and of its companion.
    """
    measured: dict[str, dict[str, MetricEstimate]] = {}
    compared: dict[str, DrawsOf] = {metric: {} for metric in (spec.gate.metric, spec.companion) if metric}
    for name, prediction in predictions.items():
        measured[name] = {}
        for metric, value in metrics.metric_values(spec.task, y, prediction).items():
            measured[name][metric] = MetricEstimate(value=value)
            if value is None or metric not in METRICS[spec.task]:
                continue
            count = spec.evaluation.resamples
            draws = resampling.resample(
                spec.task,
                metric,
                y,
                prediction,
                block,
                resamples=count if metric == spec.gate.metric else min(count, SECONDARY_RESAMPLES),
                seed=spec.training.seed,
                leave_out=metric in compared,
            )
            measured[name][metric] = resampling.confidence_interval(draws, spec.gate.level)
            if metric in compared:
                compared[metric][name] = draws
    return measured, compared


def paired_gains(
    spec: Spec, train: TrainReport, compared: Mapping[str, DrawsOf], level: float
) -> tuple[PairedGain, ...]:
    """Compare each candidate with champions, refresh and baselines on the same draws of the primary metric.

    With the champion also by the companion metric, where there is one.

    Args:
        spec: the metrics and the margin.
        train: the candidates and baselines.
        compared: metric → draws, of `measure_models`.
        level: chance of a wrong promotion that each comparison may have.

    Raises:
        NonFiniteMetric: there is nothing to compare: the metric is undefined on these rows, or on too many draws.
    """
    if not compared[spec.gate.metric]:
        raise NonFiniteMetric(
            f"{spec.gate.metric} is undefined on the holdout rows: their outcomes do not differ",
            do="judge on more intervals (evaluation.holdout), or by a metric that is always defined",
        )
    pairs = []
    for metric, draws in compared.items():
        for candidate in train.fitted:
            if candidate.kind == "baseline" or candidate.name not in draws:
                continue
            fitted = [other.name for other in train.fitted if other.name != candidate.name and other.kind != "new"]
            others = (CHAMPION, REFERENCE_CHAMPION, *fitted) if metric == spec.gate.metric else (CHAMPION,)
            for other in others:
                if other in draws:
                    pair = gains.paired_gain(
                        spec.task,
                        (candidate.name, draws[candidate.name]),
                        (other, draws[other]),
                        level,
                        margin=spec.gate.margin,
                        seed=spec.training.seed,
                    )
                    pairs.append(pair)
    return tuple(pairs)


def measure_slices(spec: Spec, frame: pd.DataFrame, y: Array, predictions: Mapping[str, Array]) -> Iterator[Slice]:
    """Score every model on each value, or band of numbers, of the columns of `evaluation.slices`.

    Args:
        spec: the columns, and the primary metric.
        frame: (n) rows with those columns.
        y: (n,) outcomes.
        predictions: model → (n,) or (n, k) predictions.
    """
    metric = spec.gate.metric
    for column in spec.evaluation.slices:
        values = metrics.bands(frame[column], spec.columns[column].type)
        for value, place in sorted(values.groupby(values, sort=True).indices.items()):
            scores = {
                name: metrics.metric_values(spec.task, y[place], prediction[place], only=metric)[metric]
                for name, prediction in predictions.items()
            }
            yield Slice(column=column, value=str(value), rows=len(place), scores=scores)


def unknown_categories(frame: pd.DataFrame, models: Mapping[str, Pipeline]) -> dict[str, int]:
    """Count per column the rows with a category that no fitted encoder has seen; columns without are left out."""
    known: dict[str, set[Any]] = {}
    for model in models.values():
        for step in model.named_steps.values():
            if not isinstance(step, ColumnTransformer):
                continue
            for _, transformer, columns in step.transformers_:
                # `Codes` leaves rare categories out; the simple baseline's one-hot encoder has them all.
                fitted = dict(zip(columns, getattr(transformer, "categories_", ()), strict=False))
                for column, categories in {**fitted, **getattr(transformer, "known_", {})}.items():
                    known.setdefault(column, set()).update(categories)
    counts = {
        column: int((frame[column].notna() & ~frame[column].astype(object).isin(categories)).sum())
        for column, categories in known.items()
        if column in frame
    }
    return {column: count for column, count in sorted(counts.items()) if count}
