"""Candidates, champion, reference champion and baselines on the same fresh holdout rows.

The champion is measured here and now, by its own fitted pipeline; its score of the day it was promoted is never read.
An interim analysis of holdout rows is on record, and its level fixed, before a model answers them
(`retrain.gate.alpha_spending`); candidates of one run share that level (Bonferroni).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from retrain.data import dataset
from retrain.errors import MissingInput, NonFiniteMetric, RegistryDown, RetrainError, ScoringFailed
from retrain.gate import alpha_spending, checks, evidence, face_value, groups
from retrain.gate.checks.holdout import CHAMPION, REFERENCE_CHAMPION
from retrain.modeling import resampling
from retrain.modeling.importance import permutation_importance
from retrain.modeling.metrics import Array
from retrain.registry.chain import Chain, load_chain
from retrain.registry.champion import load_champion
from retrain.rendering import plots
from retrain.results import AcceptedBatch, Champion, Context, Decision, EvaluateReport, PairedGain, TrainReport
from retrain.spec import Spec
from retrain.state.run import Run


def evaluate(run: Run) -> EvaluateReport:
    """Measure every model of this run on the fresh labelled rows, with intervals, slices and figures.

    Raises:
        ScoringFailed: a model cannot score the rows; the champion keeps serving.
        NonFiniteMetric: a model answers with NaN.
        ArtifactMissing, DigestMismatch: the champion's files are gone, or are others.
        RegistryDown: the registry does not answer and there is no copy of a champion.
        LedgerBusy: the interim analysis could not be put on record; no row was scored.
    """
    context, train, spec = run.read(Context, "context"), run.read(TrainReport, "train"), run.spec
    run.store.write(run.path("evaluate", "metrics.json"), b"{}\n")
    holdout = tuple(accepted for accepted in context.accepted if accepted.batch.interval in train.holdout)
    if len(holdout) != len(train.holdout):
        raise MissingInput("a holdout interval of train is not in context.json", do="run train again")
    fresh = evidence.fresh_holdout(context, train, holdout)
    if not fresh:
        return _inconclusive(run, f"no fresh labels: {evidence.why_not_fresh(context, holdout)}")
    models = _models(run, context, train)
    reference_champion, lost = _reference_champion(run, context)
    champions = [chain.last for chain in (models.get(CHAMPION), reference_champion) if chain is not None]
    frame, y, unlabelled, known = _labelled(run, context, train, fresh, champions)
    span = evidence.span(fresh)
    if len(frame) < spec.gate.min_rows <= len(frame) + known:
        return _inconclusive(run, groups.too_few(spec, len(frame), known))
    if frame.empty:
        return _inconclusive(run, f"no fresh labels: none of {unlabelled} rows from {span} has a label")
    analysis = alpha_spending.begin_interim_analysis(run, context, train, fresh)
    if not analysis.level:
        reason = (
            f"{analysis.earlier} earlier interim analyses of rows of {span} have spent gate.level; wait for newer ones"
        )
        return _inconclusive(run, reason, analysis.earlier)

    fitted = {name: _predict(name, model, spec, frame) for name, model in models.items()}
    predictions = dict(fitted)
    if reference_champion is not None:
        try:
            predictions[REFERENCE_CHAMPION] = _predict(REFERENCE_CHAMPION, reference_champion, spec, frame)
        except RetrainError as error:
            lost = error.found
    block = resampling.blocks(spec, frame)
    measured, compared = evidence.measure_models(spec, y, predictions, block)
    scores = {name: of_model[spec.gate.metric].value for name, of_model in measured.items()}
    candidates = evidence.count_judged(context, train)
    level = analysis.level / max(candidates, 1)
    pairs: tuple[PairedGain, ...] = ()
    no_interval = ""
    try:
        pairs = evidence.paired_gains(spec, train, compared, level)
    except NonFiniteMetric as error:
        no_interval = error.found
    importance = {}
    for candidate in train.fitted:
        if candidate.kind != "baseline":
            chain = models[candidate.name]
            unseen = chain.unseen(spec, frame)
            rows = frame.loc[unseen].reset_index(drop=True)
            importance[candidate.name] = permutation_importance(spec, chain.last, rows, y[unseen])
    last = {name: chain.last for name, chain in models.items()}
    at_face_value = face_value.decides(context.champion, face_value.lost_to(spec, scores))
    without_label = f", {unlabelled:,} without a label left out" if unlabelled else ""
    taught = f", from {train.judged_from:%Y-%m-%d %H:%M} on" if train.judged_from else ""
    reasons = (
        no_interval,
        f"{len(frame):,} labelled rows of {span}{taught} in {block.max() + 1} blocks{without_label}",
        groups.left_out(spec, known),
        analysis.describe(candidates),
        f"the reference champion is lost: {lost}" if lost else "",
    )
    report = EvaluateReport(
        model=run.model,
        interval=run.interval,
        effective_at=run.as_of,
        decision=Decision(
            verdict="measured" if compared[spec.gate.metric] else "inconclusive",
            reasons=tuple(reason for reason in reasons if reason),
        ),
        level=level,
        earlier_analyses=analysis.earlier,
        lost=lost,
        holdout=dataset.intervals(fresh),
        rows=len(frame),
        blocks=int(block.max()) + 1,
        metrics=measured,
        paired=pairs,
        slices=tuple(evidence.measure_slices(spec, frame, y, predictions)),
        importance={name: losses for name, losses in importance.items() if losses},
        unknown_categories=evidence.unknown_categories(frame, last),
        findings=checks.examine(run, train, last, frame, y, fitted, block, with_baselines=at_face_value),
    )
    return _publish(run, frame, y, predictions, report)


def _inconclusive(run: Run, reason: str, earlier_analyses: int = 0) -> EvaluateReport:
    return EvaluateReport(
        model=run.model,
        interval=run.interval,
        effective_at=run.as_of,
        decision=Decision(verdict="inconclusive", reasons=(reason,)),
        earlier_analyses=earlier_analyses,
    )


# --- what is read


def _models(run: Run, context: Context, train: TrainReport) -> dict[str, Chain]:
    """The candidates, the baselines and the champion by name."""
    models = {fitted.name: load_chain(run, fitted) for fitted in train.fitted}
    if champion := context.champion:
        models[CHAMPION] = _served(run, champion)
    return models


def _served(run: Run, champion: Champion) -> Chain:
    return Chain(((champion.trained_until, load_champion(run, champion)),))


def _reference_champion(run: Run, context: Context) -> tuple[Chain | None, str]:
    """The reference champion, where it is another than the one that serves, or why it is lost."""
    reference_champion = context.other_reference_champion
    if reference_champion is None:
        return None, ""
    try:
        return _served(run, reference_champion), ""
    except RegistryDown:
        raise  # it may be back for the next try
    except RetrainError as error:
        return None, error.found


def _labelled(
    run: Run,
    context: Context,
    train: TrainReport,
    fresh: tuple[AcceptedBatch, ...],
    champions: Sequence[Pipeline],
) -> tuple[pd.DataFrame, Array, int, int]:
    """The rows that judge and have a label, their outcomes, how many had none, and how many are of a known group."""
    spec = run.spec
    # A champion from before a change of the spec may read a column that is no feature any more.
    former = [name for model in champions for name in getattr(model[0], "columns", ()) if name in spec.columns]
    group = [spec.training.group] if spec.training.group else []
    frame = dataset.read(
        run,
        fresh,
        [*spec.inputs, spec.target.column, *spec.evaluation.slices, *spec.gate.fairness.columns, *group, *former],
    )
    unseen = groups.unseen(run, context, train, fresh, frame) if group else np.ones(len(frame), dtype=bool)
    if train.judged_from is not None:
        later = (frame[spec.source.time] >= train.judged_from).to_numpy()
        frame, unseen = frame.loc[later].reset_index(drop=True), unseen[later]
    y = dataset.outcome(spec, frame).to_numpy()
    labelled = np.isfinite(y)
    judging = labelled & unseen
    known = int((labelled & ~unseen).sum())
    return frame[judging].reset_index(drop=True), y[judging], int((~labelled).sum()), known


def _predict(name: str, chain: Chain, spec: Spec, frame: pd.DataFrame) -> Array:
    """A model's predictions for the holdout rows; a refusal names the model."""
    name, classes = name.replace("_", " "), tuple(str(label) for label in spec.classes)
    do = "see what changed since that model was trained; until it can be measured nothing replaces the champion"
    if (known := tuple(chain.last[0].outcomes)) != classes:
        raise ScoringFailed(f"{name} knows the classes {known}, the spec now has {classes}", do=do)
    try:
        return chain.predict(spec, frame)
    except RetrainError as error:
        raise type(error)(f"{name}: {error.found}", do=error.do) from error
    except Exception as error:
        raise ScoringFailed(
            f"{name} failed on the holdout rows: {type(error).__name__}: {str(error)[:300]}", do=do
        ) from error


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
    keys = frame[[*run.spec.source.key, run.spec.source.time]]
    # A key that is called like a model steps aside.
    keys = keys.rename(columns={name: f"{name}_" for name in keys if name in columns})
    table = pd.concat([keys, pd.DataFrame(columns)], axis=1)
    run.store.write(run.path("evaluate", "predictions.parquet"), table.to_parquet(index=False))
    flat = {
        f"{model}.{metric}": measured.value
        for model, of_model in report.metrics.items()
        for metric, measured in of_model.items()
        if measured.value is not None
    }
    files = plots.evaluation_files(report, run.spec, y, predictions) if run.pages else {}
    files["metrics.json"] = (json.dumps(flat, indent=2) + "\n").encode()
    for name, data in files.items():
        run.store.write(run.path("evaluate", name), data)
    return report.model_copy(
        update={
            "plots": tuple(run.path("evaluate", name) for name in files if name.endswith(".png")),
            "tables": tuple(run.path("evaluate", name) for name in files if name.endswith(".csv")),
        }
    )
