"""Does the batch look like what the champion was trained on?

Quality stops, drift decides: a batch that comes here is sound, so a difference is a reason to retrain, never
to stop. The reference lies beside the champion's model: a sample of its training rows, with predictions where
it had not seen the row. Without a champion, or with too few rows, the answer is undetermined, and said so.
"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from retrain import estimators, rows
from retrain.results import Accepted, Champion, Context, Decision, DriftReport
from retrain.run import Run
from retrain.spec import Spec
from retrain.tools import drift as judge
from retrain.tools.registry import Registry, load_model

PREDICTION = "prediction"


def drift(run: Run) -> DriftReport:
    """Compare the run's batch with the champion's reference: features, predictions, and the target once mature."""
    context = run.read(Context, "context")
    batch = next((one for one in context.accepted if one.batch.interval == run.interval), None)
    if batch is None:
        return _report(run, Decision(verdict="undetermined", reasons=("this interval has no accepted batch",)))
    if context.champion is None:
        return _report(run, Decision(verdict="undetermined", reasons=("no champion yet, so no reference",)))
    reference, facts = _reference(run, context.champion)
    current = _current(run, batch, mature=batch.mature_at <= context.effective_at)
    scored = rows.sample(current, run.spec.drift.sample, run.spec.training.seed)
    for name, answers in _predictions(run, context.champion, scored).items():
        current[name] = pd.Series(answers, index=scored.index)

    kinds, roles = _columns(run.spec, reference, current)
    decision, columns, share, page = judge.compare(
        reference, current, kinds, roles, _limits(run.spec, kinds), seed=run.spec.training.seed, known=facts
    )
    if page:
        run.store.write(run.path("drift", "drift.html"), page)
    return _report(
        run,
        decision,
        columns=columns,
        share=share,
        reference_rows=len(reference),
        current_rows=len(current),
        html=run.path("drift", "drift.html") if page else None,
    )


def _report(run: Run, decision: Decision, **more: object) -> DriftReport:
    return DriftReport.model_validate(
        {"model": run.model, "interval": run.interval, "effective_at": run.as_of, "decision": decision, **more}
    )


def _reference(run: Run, champion: Champion) -> tuple[pd.DataFrame, dict[str, set[str]]]:
    """The champion's reference rows, and every category that its training rows had."""
    with run.store.local(f"{champion.reference}/reference.parquet") as path:
        frame = pd.read_parquet(path)
    facts = json.loads(run.store.read(f"{champion.reference}/reference.json"))
    known = {
        name: set(column["categories"])
        for name, column in facts["columns"].items()
        if column.get("categories") is not None and not column.get("capped")
    }
    return frame, known


def _current(run: Run, batch: Accepted, *, mature: bool) -> pd.DataFrame:
    frame = rows.read(run, [batch], [*run.spec.inputs, run.spec.target.column], ordered=False)
    frame["target"] = rows.outcome(run.spec, frame) if mature else np.nan
    return frame


def _predictions(run: Run, champion: Champion, frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """The champion's own answers, by its own code; one column per class above two."""
    cached = run.home.state / "models" / champion.digest
    files = Registry(run.home.mlflow).fetch(run.model, champion.version, champion.digest, cached)
    answers = estimators.predict(load_model(files, champion.digest), run.spec.task, frame)
    if answers.ndim == 1:
        return {PREDICTION: answers}
    return {f"{PREDICTION}_{place}": answers[:, place] for place in range(answers.shape[1])}


def _columns(
    spec: Spec, reference: pd.DataFrame, current: pd.DataFrame
) -> tuple[dict[str, judge.Kind], dict[str, judge.Role]]:
    """What is compared, and how: features, each prediction, and the target where labels are there."""
    kinds: dict[str, judge.Kind] = {
        name: "category" if spec.columns[name].type == "category" else "number"
        for name in spec.features
        if name not in spec.drift.ignore
    }
    roles: dict[str, judge.Role] = {}
    for name in current.columns:
        if name.startswith(PREDICTION) and name in reference.columns:
            kinds[name], roles[name] = "number", "prediction"
    if current["target"].notna().any() and "target" in reference.columns:
        kinds["target"], roles["target"] = ("category" if spec.classes else "number"), "target"
    return kinds, roles


def _limits(spec: Spec, kinds: dict[str, judge.Kind]) -> judge.Limits:
    return judge.Limits(
        min_rows=spec.drift.min_rows,
        sample=spec.drift.sample,
        missing=spec.drift.missing,
        share=spec.drift.share,
        per_column={name: limit for name, limit in spec.drift.thresholds.items() if name in kinds},
    )
