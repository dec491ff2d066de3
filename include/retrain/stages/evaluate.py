"""Candidates, champion, reference champion and baselines on the same holdout rows.

The rows are newer than anything that a compared model was fitted on, the champion included: of the holdout
intervals only those count that begin after its newest training row. The champion is measured here and now, by
its own fitted pipeline; its score of the day it was promoted is never read.

A look at holdout rows is on record, and its level fixed, before a model answers them
(`retrain.gate.alpha_spending`); candidates of one run share that level (Bonferroni).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline

from retrain.data import dataset
from retrain.errors import MissingInput, NonFiniteMetric, RegistryDown, RetrainError, ScoringFailed
from retrain.gate import alpha_spending, checks
from retrain.modeling import estimators, metrics, resampling
from retrain.modeling.metrics import Array
from retrain.registry.champion import load_champion
from retrain.registry.mlflow import load_model
from retrain.rendering import plots
from retrain.results import Accepted, Context, Decision, EvaluateReport, Measured, Paired, Slice, TrainReport
from retrain.spec import METRICS, Spec
from retrain.state.run import Run

CHAMPION, REFERENCE_CHAMPION = "champion", "reference_champion"
IMPORTANCE_ROWS, IMPORTANCE_CELLS, IMPORTANCE_REPEATS = 2_000, 200_000, 2
"""Rows of the sample, rows of all its shuffled copies together, and how often each column is shuffled."""
SECONDARY_RESAMPLES = 200
"""Metrics that the gate does not read need no sharper intervals."""


def evaluate(run: Run) -> EvaluateReport:
    """Measure every model of this run on the fresh labelled rows, with intervals, slices and figures.

    Raises:
        ScoringFailed: a model cannot score the rows; the champion keeps serving.
        NonFiniteMetric: a model answers with NaN.
        ArtifactMissing, DigestMismatch: the champion's files are gone, or are others.
        RegistryDown: the registry does not answer and there is no copy of a champion.
        LedgerBusy: the look could not be put on record; nothing was looked at.
    """
    context, train, spec = run.read(Context, "context"), run.read(TrainReport, "train"), run.spec
    run.store.write(run.path("evaluate", "metrics.json"), b"{}\n")
    holdout = tuple(one for one in context.accepted if one.batch.interval in train.holdout)
    if len(holdout) != len(train.holdout):
        raise MissingInput("a holdout interval of train is not in context.json", do="run train again")
    fresh = _fresh(context, train, holdout)
    if not fresh:
        return _inconclusive(run, f"no fresh labels: {_seen(context, holdout)}")
    models = _models(run, context, train)
    reference_champion, lost = _reference_champion(run, context)
    others = [models[CHAMPION]] if CHAMPION in models else []
    frame, y, unlabelled = _labelled(
        run, fresh, [*others, reference_champion] if reference_champion else others, train.judged_from
    )
    if frame.empty:
        return _inconclusive(run, f"no fresh labels: none of {unlabelled} rows from {_span(fresh)} has a label")
    analysis = alpha_spending.begin_interim_analysis(run, context, train, fresh)
    if not analysis.level:
        said = f"{analysis.earlier} earlier looks at rows of {_span(fresh)} have spent gate.level; wait for newer ones"
        return _inconclusive(run, said, analysis.earlier)
    predictions = {name: _predict(name, model, spec, frame) for name, model in models.items()}
    if reference_champion:
        try:
            predictions[REFERENCE_CHAMPION] = _predict(REFERENCE_CHAMPION, reference_champion, spec, frame)
        except RetrainError as error:
            lost = error.found
    block = resampling.blocks(spec, frame)
    measured, draws = _measure(spec, y, predictions, block)
    asked = _asked(context, train)
    level = analysis.level / max(asked, 1)
    problem, pairs = _compare(spec, train, draws, level)
    report = EvaluateReport(
        model=run.model,
        interval=run.interval,
        effective_at=run.as_of,
        decision=Decision(
            verdict="inconclusive" if problem else "measured",
            reasons=(
                *problem,
                f"{len(frame):,} labelled rows of {_span(fresh)} in {block.max() + 1} blocks"
                + (f", {unlabelled:,} without a label left out" if unlabelled else ""),
                _paid(analysis, asked),
                *([f"the reference champion is lost: {lost}"] if lost else []),
            ),
        ),
        level=level,
        earlier_analyses=analysis.earlier,
        lost=lost,
        holdout=dataset.intervals(fresh),
        rows=len(frame),
        blocks=int(block.max()) + 1,
        metrics=measured,
        paired=pairs,
        slices=tuple(_slices(spec, frame, y, predictions)),
        importance={
            one.name: found
            for one in train.fitted
            if one.kind != "baseline" and (found := _importance(spec, models[one.name], frame, y))
        },
        unknown_categories=_unknown(frame, models),
        findings=checks.examine(run, train, models, frame, y, {name: predictions[name] for name in models}, block),
    )
    return _publish(run, frame, y, predictions, report)


# --- which rows, which models


def _fresh(context: Context, train: TrainReport, holdout: tuple[Accepted, ...]) -> tuple[Accepted, ...]:
    """The holdout batches that begin after every training row of every model."""
    until = [interval.end for one in train.fitted for interval in one.intervals]
    until += [one.trained_until for one in (context.champion, context.reference_champion) if one]
    return tuple(one for one in holdout if all(_begin(train, one) >= end for end in until))


def _begin(train: TrainReport, one: Accepted) -> datetime:
    """Where the rows of a holdout batch that judge begin."""
    start = one.batch.interval.start
    return max(start, train.judged_from) if train.judged_from and one.batch.interval in train.holdout[-1:] else start


def _seen(context: Context, holdout: tuple[Accepted, ...]) -> str:
    if not holdout:
        return "there is no holdout interval"
    known = [one for one in (context.champion, context.reference_champion) if one]
    if known:
        newest = max(known, key=lambda one: one.trained_until)
        return f"champion v{newest.version} was fitted on rows until {newest.trained_until:%Y-%m-%d}"
    return f"the candidates were fitted on rows of {_span(holdout)}"


def _span(accepted: tuple[Accepted, ...]) -> str:
    first, last = accepted[0].batch.interval.name, accepted[-1].batch.interval.name
    return first if first == last else f"{first} to {last}"


def _inconclusive(run: Run, reason: str, earlier_analyses: int = 0) -> EvaluateReport:
    decision = Decision(verdict="inconclusive", reasons=(reason,))
    return EvaluateReport(
        model=run.model,
        interval=run.interval,
        effective_at=run.as_of,
        decision=decision,
        earlier_analyses=earlier_analyses,
    )


def _models(run: Run, context: Context, train: TrainReport) -> dict[str, Pipeline]:
    models = {}
    for one in train.fitted:
        with run.store.local(one.key) as folder:
            models[one.name] = load_model(folder, one.digest)
    if champion := context.champion:
        models[CHAMPION] = load_champion(run, champion)
    return models


def _reference_champion(run: Run, context: Context) -> tuple[Pipeline | None, str]:
    """The reference champion, where it is another than the one that serves, or why there is none any more."""
    reference_champion = context.other_reference_champion
    if reference_champion is None:
        return None, ""
    try:
        return load_champion(run, reference_champion), ""
    except RegistryDown:
        raise  # it may be back for the next try
    except RetrainError as error:
        return None, error.found


def _asked(context: Context, train: TrainReport) -> int:
    """How many candidates share the level; without a champion the gate asks only one."""
    candidates = sum(one.kind != "baseline" for one in train.fitted)
    return candidates if context.champion else min(candidates, 1)


def _paid(analysis: alpha_spending.InterimAnalysis, asked: int) -> str:
    """What this look may cost, for people."""
    each = f", {analysis.level / asked:.2%} for each of {asked} candidates" if asked > 1 else ""
    said = f"the chance of a wrong promotion is held below {analysis.level:.2%}{each}"
    times = "once" if analysis.earlier == 1 else f"{analysis.earlier} times"
    return f"these rows were looked at {times} before, which costs: {said}" if analysis.earlier else said


def _labelled(
    run: Run, fresh: tuple[Accepted, ...], champions: Sequence[Pipeline], since: datetime | None
) -> tuple[pd.DataFrame, Array, int]:
    """The rows that judge and have a label, their outcomes, and how many had none."""
    spec = run.spec
    # A champion from before a change of the spec may read a column that is no feature any more.
    others = [name for one in champions for name in getattr(one[0], "columns", ()) if name in spec.columns]
    group = [spec.training.group] if spec.training.group else []
    frame = dataset.read(
        run,
        fresh,
        [*spec.inputs, spec.target.column, *spec.evaluation.slices, *spec.gate.fairness.columns, *group, *others],
    )
    if since is not None:
        frame = frame.loc[frame[spec.source.time] >= since].reset_index(drop=True)
    y = dataset.outcome(spec, frame).to_numpy()
    there = np.isfinite(y)
    return frame[there].reset_index(drop=True), y[there], int((~there).sum())


def _predict(name: str, model: Pipeline, spec: Spec, frame: pd.DataFrame) -> Array:
    classes = tuple(str(one) for one in spec.classes)
    do = "see what changed since that model was trained; until it can be measured nothing replaces the champion"
    if tuple(model[0].outcomes) != classes:
        raise ScoringFailed(f"{name} knows the classes {model[0].outcomes}, the spec now has {classes}", do=do)
    try:
        return estimators.predict(model, spec.task, frame)
    except RetrainError as error:
        raise type(error)(f"{name}: {error.found}", do=error.do) from error
    except Exception as error:
        raise ScoringFailed(
            f"{name} failed on the holdout rows: {type(error).__name__}: {str(error)[:300]}", do=do
        ) from error


# --- what is measured

Drawn = dict[str, resampling.Draws]


def _measure(
    spec: Spec, y: Array, predictions: Mapping[str, Array], block: Array
) -> tuple[dict[str, dict[str, Measured]], Drawn]:
    """Every metric of every model, and the draws of the primary one where it is defined."""
    measured: dict[str, dict[str, Measured]] = {}
    primary: Drawn = {}
    for name, prediction in predictions.items():
        measured[name] = {}
        for metric, value in metrics.measure(spec.task, y, prediction).items():
            measured[name][metric] = Measured(value=value)
            if value is None or metric not in METRICS[spec.task]:
                continue
            count = spec.evaluation.resamples
            draws = resampling.draw(
                spec.task,
                metric,
                y,
                prediction,
                block,
                resamples=count if metric == spec.gate.metric else min(count, SECONDARY_RESAMPLES),
                seed=spec.training.seed,
                leave_out=metric == spec.gate.metric,
            )
            measured[name][metric] = resampling.interval(draws, spec.gate.level)
            if metric == spec.gate.metric:
                primary[name] = draws
    return measured, primary


def _compare(spec: Spec, train: TrainReport, draws: Drawn, level: float) -> tuple[tuple[str, ...], tuple[Paired, ...]]:
    """Why there is nothing to compare, if so; else each candidate against champions, refresh and baselines."""
    pairs = []
    try:
        for one in train.fitted:
            others = [
                CHAMPION,
                REFERENCE_CHAMPION,
                *(other.name for other in train.fitted if other.name != one.name and other.kind != "new"),
            ]
            for other in others if one.kind == "new" else [name for name in others if one.kind == "refresh"]:
                if one.name in draws and other in draws:
                    pair = resampling.paired(
                        spec.task,
                        (one.name, draws[one.name]),
                        (other, draws[other]),
                        level,
                        margin=spec.gate.margin,
                        seed=spec.training.seed,
                    )
                    pairs.append(pair)
    except NonFiniteMetric as error:
        return (error.found,), ()
    if not draws:
        return (f"{spec.gate.metric} is undefined on the holdout rows: their outcomes do not differ",), ()
    return (), tuple(pairs)


def _slices(spec: Spec, frame: pd.DataFrame, y: Array, predictions: Mapping[str, Array]) -> Iterator[Slice]:
    for column in spec.evaluation.slices:
        values = metrics.bands(frame[column], spec.columns[column].type)
        for value, place in sorted(values.groupby(values, sort=True).indices.items()):
            scores = {
                name: metrics.measure(spec.task, y[place], prediction[place], only=spec.gate.metric)[spec.gate.metric]
                for name, prediction in predictions.items()
            }
            yield Slice(column=column, value=str(value), rows=len(place), scores=scores)


def _importance(spec: Spec, model: Pipeline, frame: pd.DataFrame, y: Array) -> dict[str, float]:
    """How much of the primary metric is lost when a column is shuffled (Breiman 2001), on a sample.

    Every shuffled copy is in one frame: a pipeline's steps cost far more per call than per row.
    """
    inputs = list(spec.inputs)
    part = dataset.sample(frame, min(IMPORTANCE_ROWS, IMPORTANCE_CELLS // len(inputs)), spec.training.seed)
    outcome = y[part.index]
    if len(np.unique(outcome)) < 2:
        return {}
    rng = np.random.default_rng(spec.training.seed)
    size, sign = len(part), 1.0 if spec.greater_is_better else -1.0

    def score(prediction: Array) -> float:
        return sign * metrics.score(spec.task, spec.gate.metric, outcome, prediction)

    whole = score(estimators.predict(model, spec.task, part))
    copies = pd.concat([part[inputs]] * len(inputs), ignore_index=True)
    lost = np.zeros(len(inputs))
    for _ in range(IMPORTANCE_REPEATS):
        places = {name: np.arange(len(copies)) for name in inputs}
        for n, name in enumerate(inputs):
            places[name][n * size : (n + 1) * size] = n * size + rng.permutation(size)
        shuffled = pd.DataFrame({name: copies[name].array.take(places[name]) for name in inputs})
        said = estimators.predict(model, spec.task, shuffled)
        lost += [whole - score(said[n * size : (n + 1) * size]) for n in range(len(inputs))]
    return {name: float(loss) / IMPORTANCE_REPEATS for name, loss in zip(inputs, lost, strict=True)}


def _unknown(frame: pd.DataFrame, models: Mapping[str, Pipeline]) -> dict[str, int]:
    """Rows per column with a category that no fitted encoder has seen."""
    known: dict[str, set[Any]] = {}
    for model in models.values():
        for step in model.named_steps.values():
            if not isinstance(step, ColumnTransformer):
                continue
            for _, transformer, columns in step.transformers_:
                # `Codes` leaves rare categories out; the simple baseline's one-hot encoder has them all.
                seen = dict(zip(columns, getattr(transformer, "categories_", ()), strict=False))
                for column, categories in {**seen, **getattr(transformer, "known_", {})}.items():
                    known.setdefault(column, set()).update(categories)
    counted = {
        column: int((frame[column].notna() & ~frame[column].astype(object).isin(categories)).sum())
        for column, categories in known.items()
        if column in frame
    }
    return {column: count for column, count in sorted(counted.items()) if count}


# --- what is written


def _publish(
    run: Run, frame: pd.DataFrame, y: Array, predictions: Mapping[str, Array], report: EvaluateReport
) -> EvaluateReport:
    """Write predictions, metrics, figures and tables; the report with their keys."""
    columns: dict[str, Array] = {"y": y}
    for name, prediction in predictions.items():
        if prediction.ndim == 1:
            columns[name] = prediction
        else:
            columns |= {f"{name}:{code}": prediction[:, code] for code in range(prediction.shape[1])}
    told = frame[[*run.spec.source.key, run.spec.source.time]]
    # A key that is called like a model steps aside.
    told = told.rename(columns={name: f"{name}_" for name in told if name in columns})
    table = pd.concat([told, pd.DataFrame(columns)], axis=1)
    run.store.write(run.path("evaluate", "predictions.parquet"), table.to_parquet(index=False))
    flat = {
        f"{model}.{metric}": measured.value
        for model, of in report.metrics.items()
        for metric, measured in of.items()
        if measured.value is not None
    }
    files = plots.draw(report, run.spec, y, predictions) if run.pages else {}
    files["metrics.json"] = (json.dumps(flat, indent=2) + "\n").encode()
    for name, data in files.items():
        run.store.write(run.path("evaluate", name), data)
    return report.model_copy(
        update={
            "plots": tuple(run.path("evaluate", name) for name in files if name.endswith(".png")),
            "tables": tuple(run.path("evaluate", name) for name in files if name.endswith(".csv")),
        }
    )
