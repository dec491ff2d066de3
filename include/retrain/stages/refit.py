"""The gated configuration on all mature rows, the holdout rows included; or, if that fails its checks, the gated model.

The metrics of the gate stay the gated candidate's: no row is left on which a refit could be measured. What can be
checked of it is checked here: it is finite, a copy loaded from its files repeats its answers to the golden rows, and
its mean prediction on the holdout rows lies near the gated candidate's.
"""

from __future__ import annotations

import io
import json
from typing import Any

import pandas as pd

from retrain.data import dataset
from retrain.errors import DegenerateTraining, MissingInput, NonFiniteMetric, SameModel
from retrain.gate.refit_checks import Golden, mean_prediction, predict_golden, refit_checks
from retrain.modeling import pipelines, trainer
from retrain.modeling.folds import Rows
from retrain.monitoring import reference
from retrain.registry.candidates import fit_candidate
from retrain.registry.chain import load_chain
from retrain.registry.mlflow import load_model
from retrain.registry.recalibrated import fit_recalibrated
from retrain.results import (
    Context,
    Decision,
    EvaluateReport,
    FittedModel,
    GateCheck,
    GateReport,
    RefitReport,
    TrainReport,
)
from retrain.state.run import Run


def refit(run: Run) -> RefitReport:
    """Fit the gated configuration, its number of trees included, on every mature row of its window.

    Of a recalibrated champion it is the calibration that is fitted, on the newest rows.

    Raises:
        MissingInput: the gate has chosen no candidate.
        SameModel: what would go on is the champion itself.
    """
    spec = run.spec
    context = run.read(Context, "context")
    gated = _gated(run)
    training, holdout = dataset.split(context, spec)
    mature = (*training, *holdout)
    batches = trainer.batches_in_window(mature, gated.configuration)
    known, _ = trainer.labelled_rows(run, batches)
    chain = load_chain(run, gated)
    # The rows before the first cut of the holdout have taught the candidate.
    begin = run.read(TrainReport, "train").judged_from or holdout[0].batch.interval.start
    in_holdout = (known.frame[spec.source.time] >= begin).to_numpy()
    judged = known.frame.loc[in_holdout]
    gated_prediction = chain.predict(spec, judged)

    key, golden_key = run.path("refit", "model"), run.path("refit", "golden.json")
    golden = _golden(run, known)
    fitted: FittedModel | None = None
    model = chain.last
    checks: tuple[GateCheck, ...]
    try:
        if context.champion and (recalibrated := gated.configuration.recalibrated):
            model, fitted = fit_recalibrated(run, key, context.champion, recalibrated.method, mature, known)
        else:
            model, fitted = fit_candidate(run, key, gated.name, gated.kind, gated.configuration, batches, known)
        with run.store.local(fitted.key) as folder:
            reloaded = load_model(folder, fitted.digest)
        checks = refit_checks(spec, model, reloaded, golden, known, judged, gated_prediction)
    except (DegenerateTraining, NonFiniteMetric) as error:
        checks = (GateCheck(name="finite", model="refit", passed=False, reason=error.found),)
    failed = [check.reason for check in checks if not check.passed]
    if failed or fitted is None:
        with run.store.local(gated.key) as folder:
            run.store.put_folder(key, folder)
        model, fitted = chain.last, gated.model_copy(update={"key": key})
        decision = Decision(verdict="gated", reasons=("the gated candidate itself goes on", *failed))
    else:
        decision = Decision(verdict="refit", reasons=tuple(check.reason for check in checks))
    champion = context.champion
    if champion and (champion.configuration, champion.training) == (fitted.configuration, fitted.training):
        raise SameModel(
            f"the {decision.verdict} model is the configuration of version {champion.version} on the same rows",
            do="nothing: the champion keeps serving; " + "; ".join(failed or ["the gate should have kept it"]),
        )

    _write_json(run, golden_key, {"rows": golden, "predictions": predict_golden(spec, model, golden).tolist()})
    starts = pd.DatetimeIndex([accepted.batch.interval.start for accepted in batches])
    rows = reference.reference_rows(spec, known, in_holdout, gated_prediction, starts)
    _write_sample(run, "reference.parquet", rows)
    facts: dict[str, Any] = {name: reference.column_facts(rows[name]) for name in (*spec.inputs, "target")}
    importance = _importance(run, gated.name)
    _write_json(
        run,
        run.path("refit", "reference.json"),
        {"rows": len(rows), "columns": facts} | ({"importance": importance} if importance else {}),
    )
    _write_sample(run, "holdout.parquet", reference.holdout_rows(spec, judged, known.y[in_holdout], gated_prediction))
    return RefitReport(
        model=run.model,
        interval=run.interval,
        effective_at=run.as_of,
        decision=decision,
        fitted=fitted,
        golden=golden_key,
        mean_prediction=mean_prediction(pipelines.predict(model, spec.task, judged)),
        checks=checks,
    )


def _gated(run: Run) -> FittedModel:
    """The candidate that the gate has chosen to promote."""
    gate, train = run.read(GateReport, "gate"), run.read(TrainReport, "train")
    for fitted in train.fitted:
        if gate.decision.verdict == "promote" and fitted.name == gate.chosen:
            return fitted
    raise MissingInput(
        f"the gate said {gate.decision.verdict}{f' ({gate.chosen})' if gate.chosen else ''}: there is nothing to refit",
        do="read the reasons in gate.json",
    )


def _golden(run: Run, known: Rows) -> Golden:
    """A sample of the rows of the newest mature interval, as JSON has them."""
    newest = known.frame.loc[known.interval == known.interval.max(), list(run.spec.inputs)]
    sample = dataset.sample(newest, run.spec.evaluation.golden_rows, run.spec.training.seed)
    text = sample.to_json(orient="records", date_format="iso", date_unit="us", double_precision=15)
    records: Golden = json.loads(text)
    return records


def _importance(run: Run, gated: str) -> dict[str, float]:
    """Feature → loss of the gated model without it, at least 0; empty where it was not measured."""
    if not run.store.exists(f"{run.folder}/evaluate.json"):
        return {}
    measured = run.read(EvaluateReport, "evaluate").importance.get(gated, {})
    return {name: max(loss, 0.0) for name, loss in measured.items()}


def _write_sample(run: Run, name: str, rows: pd.DataFrame) -> None:
    buffer = io.BytesIO()
    dataset.sample(rows, reference.ROWS, run.spec.training.seed).to_parquet(buffer, index=False)
    run.store.write(run.path("refit", name), buffer.getvalue())


def _write_json(run: Run, key: str, value: dict[str, Any]) -> None:
    run.store.write(key, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())
