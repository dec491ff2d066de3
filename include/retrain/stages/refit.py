"""The gated configuration on all mature rows, the holdout rows included; or, if that fails its checks, the gated model.

The metrics of the gate stay the gated candidate's: no row is left on which a refit could be measured. What can be
told of it is told here: it is finite, a copy loaded from its files repeats its answers to the golden rows, and its
mean prediction on the holdout rows lies near the gated candidate's.
"""

from __future__ import annotations

import io
import json
import math
from typing import Any

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from retrain.data import dataset
from retrain.errors import DegenerateTraining, MissingInput, NonFiniteMetric, SameModel
from retrain.modeling import estimators, trainer
from retrain.modeling.estimators import Array
from retrain.modeling.search import Rows
from retrain.registry.candidates import fit_candidate
from retrain.registry.mlflow import load_model
from retrain.results import Context, Decision, EvaluateReport, Fitted, GateCheck, GateReport, RefitReport, TrainReport
from retrain.state.run import Run

Golden = list[dict[str, Any]]

REFERENCE_ROWS = 20_000
CATEGORIES = 5_000
SAME = 1e-9
"""Two answers to one row may differ by so much; the same files in the same versions differ by nothing."""


def refit(run: Run) -> RefitReport:
    """Fit the gated configuration, its number of trees included, on every mature row of its window.

    Raises:
        MissingInput: the gate has chosen no candidate.
        SameModel: what would go on is the champion itself.
    """
    spec = run.spec
    context = run.read(Context, "context")
    gated = _gated(run)
    training, holdout = dataset.split(context, spec)
    batches = trainer.batches_in_window((*training, *holdout), gated.configuration)
    known, _ = trainer.labelled_rows(run, batches)
    with run.store.local(gated.key) as folder:
        old = load_model(folder, gated.digest)
    # A candidate on the rows since a change has seen the older half of the holdout rows.
    begin = run.read(TrainReport, "train").judged_from or holdout[0].batch.interval.start
    holdout_rows = known.frame[spec.source.time] >= begin
    judged = known.frame.loc[holdout_rows]
    before = estimators.predict(old, spec.task, judged)

    key, path = run.path("refit", "model"), run.path("refit", "golden.json")
    golden = _golden(run, known)
    fitted: Fitted | None = None
    model = old
    try:
        model, fitted = fit_candidate(run, key, gated.name, gated.kind, gated.configuration, batches, known)
        checks = _checks(run, model, fitted, golden, judged, before, known)
    except (DegenerateTraining, NonFiniteMetric) as error:
        checks = [GateCheck(name="finite", model="refit", passed=False, reason=error.found)]
    failed = [check.reason for check in checks if not check.passed]
    if failed or fitted is None:
        with run.store.local(gated.key) as folder:
            run.store.put_folder(key, folder)
        model, fitted = old, gated.model_copy(update={"key": key})
        decision = Decision(verdict="gated", reasons=("the gated candidate itself goes on", *failed))
    else:
        decision = Decision(verdict="refit", reasons=tuple(check.reason for check in checks))
    champion = context.champion
    if champion and (champion.configuration, champion.training) == (fitted.configuration, fitted.training):
        raise SameModel(
            f"the {decision.verdict} model is the configuration of version {champion.version} on the same rows",
            do="nothing: the champion keeps serving; " + "; ".join(failed or ["the gate should have kept it"]),
        )

    _write(run, path, {"rows": golden, "predictions": _answers(run, model, golden).tolist()})
    starts = pd.DatetimeIndex([batch.batch.interval.start for batch in batches])
    _reference(run, known, before, np.flatnonzero(holdout_rows.to_numpy()), starts, gated.name)
    _holdout(run, judged, known.y[holdout_rows.to_numpy()], before)
    return RefitReport(
        model=run.model,
        interval=run.interval,
        effective_at=run.as_of,
        decision=decision,
        fitted=fitted,
        golden=path,
        mean_prediction=_means(estimators.predict(model, spec.task, judged)),
        checks=tuple(checks),
    )


def _gated(run: Run) -> Fitted:
    gate, train = run.read(GateReport, "gate"), run.read(TrainReport, "train")
    for fitted in train.fitted:
        if gate.decision.verdict == "promote" and fitted.name == gate.chosen:
            return fitted
    raise MissingInput(
        f"the gate said {gate.decision.verdict}{f' ({gate.chosen})' if gate.chosen else ''}: there is nothing to refit",
        do="read the reasons in gate.json",
    )


def _checks(
    run: Run, model: Pipeline, fitted: Fitted, golden: Golden, judged: pd.DataFrame, before: Array, known: Rows
) -> list[GateCheck]:
    """Finite on a sample of all rows, the same answers from its files, and near the gated candidate."""
    spec = run.spec
    sample = dataset.sample(known.frame, REFERENCE_ROWS, spec.training.seed)
    estimators.predict(model, spec.task, sample)
    checks = [GateCheck(name="finite", model="refit", passed=True, reason=f"finite on {len(sample):,} rows")]

    with run.store.local(fitted.key) as folder:
        again = load_model(folder, fitted.digest)
    apart = float(np.abs(_answers(run, again, golden) - _answers(run, model, golden)).max())
    checks.append(
        GateCheck(
            name="golden",
            model="refit",
            passed=apart <= SAME,
            value=apart,
            bound=SAME,
            reason=f"its files repeat the answers to {len(golden)} golden rows within {apart:.1g}",
        )
    )

    # Regression: in standard deviations of the target; probabilities: as they are, 0.1 is ten points.
    scale = float(np.std(known.y)) if spec.task == "regression" else 1.0
    after = estimators.predict(model, spec.task, judged)
    moved = max(abs(new - old) for new, old in zip(_means(after), _means(before), strict=True)) / scale
    near = math.isfinite(moved) and moved <= spec.gate.refit_bound
    unit = " target standard deviations" if spec.task == "regression" else ""
    checks.append(
        GateCheck(
            name="mean prediction",
            model="refit",
            passed=near,
            value=moved if math.isfinite(moved) else None,
            bound=spec.gate.refit_bound,
            reason=f"its mean prediction moved by {moved:.3g}{unit} on the holdout rows,"
            f" {spec.gate.refit_bound:g} is allowed",
        )
    )
    return checks


def _means(prediction: Array) -> tuple[float, ...]:
    return tuple(float(mean) for mean in np.atleast_1d(prediction.mean(axis=0)))


# --- golden rows


def _golden(run: Run, known: Rows) -> Golden:
    """Rows of the newest mature interval as JSON has them, so that a replay goes the way a request goes."""
    newest = known.frame.loc[known.interval == known.interval.max(), list(run.spec.inputs)]
    chosen = dataset.sample(newest, run.spec.evaluation.golden_rows, run.spec.training.seed)
    text = chosen.to_json(orient="records", date_format="iso", date_unit="us", double_precision=15)
    records: Golden = json.loads(text)
    return records


def _answers(run: Run, model: Pipeline, golden: Golden) -> Array:
    return estimators.predict(model, run.spec.task, pd.DataFrame(golden, columns=list(run.spec.inputs)))


# --- the reference that drift compares later batches with


def _reference(run: Run, known: Rows, before: Array, holdout: Array, starts: pd.DatetimeIndex, gated: str) -> None:
    """A sample of the rows with target and prediction, whole-table facts, and what each feature is worth.

    Only holdout rows have a prediction, the gated candidate's: on rows that a model was fitted on its answers
    are surer than on new ones, and every later batch would look drifted. Time, interval and group tell which rows
    depend on each other.
    """
    spec = run.spec
    frame = known.frame[list(spec.inputs)].assign(target=known.y)
    answers = before.reshape(len(before), -1)
    for place in range(answers.shape[1]):
        name = "prediction" if before.ndim == 1 else f"prediction_{place}"
        frame[name] = pd.Series(answers[:, place], index=frame.index[holdout]).reindex(frame.index)
    frame["__time"], frame["__interval"] = known.frame[spec.source.time], starts[known.interval]
    if spec.training.group:
        frame["__group"] = known.frame[spec.training.group]
    buffer = io.BytesIO()
    dataset.sample(frame, REFERENCE_ROWS, spec.training.seed).to_parquet(buffer, index=False)
    run.store.write(run.path("refit", "reference.parquet"), buffer.getvalue())
    facts: dict[str, Any] = {name: _facts(frame[name]) for name in (*spec.inputs, "target")}
    worth = {"importance": found} if (found := _importance(run, gated)) else {}
    _write(run, run.path("refit", "reference.json"), {"rows": len(frame), "columns": facts} | worth)


def _importance(run: Run, gated: str) -> dict[str, float]:
    """Feature → loss of the gated model without it, at least 0; empty where it was not measured."""
    if not run.store.exists(f"{run.folder}/evaluate.json"):
        return {}
    measured = run.read(EvaluateReport, "evaluate").importance.get(gated, {})
    return {name: max(loss, 0.0) for name, loss in measured.items()}


def _holdout(run: Run, judged: pd.DataFrame, y: Array, before: Array) -> None:
    """A sample of the holdout rows with target and the gated candidate's answers: what is expected of the champion."""
    spec = run.spec
    group = [spec.training.group] if spec.training.group else []
    frame = judged[list(dict.fromkeys([*spec.inputs, spec.source.time, *group]))].assign(target=y)
    answers = before.reshape(len(before), -1)
    for place in range(answers.shape[1]):
        frame["prediction" if before.ndim == 1 else f"prediction_{place}"] = answers[:, place]
    buffer = io.BytesIO()
    dataset.sample(frame.reset_index(drop=True), REFERENCE_ROWS, spec.training.seed).to_parquet(buffer, index=False)
    run.store.write(run.path("refit", "holdout.parquet"), buffer.getvalue())


def _facts(values: pd.Series[Any]) -> dict[str, Any]:
    present = values.dropna()
    facts: dict[str, Any] = {"missing": float(values.isna().mean())}
    if isinstance(values.dtype, pd.CategoricalDtype):
        counts = present.value_counts()
        counts = counts[counts > 0]
        order = sorted(zip(-counts.to_numpy(), counts.index.astype(str), strict=True))
        facts |= {
            "categories": {name: int(-count) for count, name in order[:CATEGORIES]},
            "distinct": len(order),
            "capped": len(order) > CATEGORIES,
        }
    elif len(present) and pd.api.types.is_numeric_dtype(values.dtype):
        facts |= {"min": float(present.min()), "max": float(present.max()), "mean": float(present.mean())}
    elif len(present) and isinstance(values.dtype, pd.DatetimeTZDtype):
        facts |= {"min": present.min().isoformat(), "max": present.max().isoformat()}
    return facts


def _write(run: Run, key: str, value: dict[str, Any]) -> None:
    run.store.write(key, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())
