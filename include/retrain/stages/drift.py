"""Compare the batch with what the champion was trained on, and with the interval before.

Drift against the champion's reference is a reason to retrain. The interval before shows what is sudden: a column that
is far from both, as no interval of the reference was, is not a changed world but broken data, and a reason to stop.
Without a champion, or with too few rows, the verdict is undetermined, with the reason.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from retrain.data import dataset
from retrain.modeling import pipelines
from retrain.monitoring.drift import Kind, Limits, broken_columns, compare
from retrain.monitoring.drift.batches import read_current, sample_previous
from retrain.monitoring.drift.blocks import block_codes, interval_codes
from retrain.monitoring.drift.limits import compared_columns, limits_of
from retrain.monitoring.stored_reference import PREDICTION, load_reference
from retrain.registry.champion import load_champion
from retrain.results import Champion, ColumnDrift, Context, Decision, DriftReport
from retrain.state.run import Run


def drift(run: Run) -> DriftReport:
    """Compare the run's batch with the champion's reference, and its features with the newest sound batch before it.

    Features and predictions are compared, and the target once its labels are mature.
    """
    context = run.read(Context, "context")
    batch = next((accepted for accepted in context.accepted if accepted.batch.interval == run.interval), None)
    if batch is None:
        return _report(run, Decision(verdict="undetermined", reasons=("this interval has no accepted batch",)))
    if context.champion is None:
        return _report(run, Decision(verdict="undetermined", reasons=("no champion yet, so no reference",)))
    reference = load_reference(run, context.champion)
    current = read_current(run, batch, mature=batch in dataset.mature(context, run.spec))
    predicted = dataset.sample(current, run.spec.drift.sample, run.spec.training.seed)
    for name, values in _predictions(run, context.champion, predicted).items():
        current[name] = pd.Series(values, index=predicted.index)

    kinds, roles = compared_columns(run.spec, reference.frame, current)
    limits, seed = limits_of(run.spec, kinds), run.spec.training.seed
    blocks, note = block_codes(run.spec, reference.frame, current)
    decision, columns, share, page = compare(
        reference.frame,
        current,
        kinds,
        roles,
        limits,
        seed=seed,
        known=reference.known,
        blocks=blocks,
        weights=reference.weights,
        html=run.pages,
    )
    features = {name: kind for name, kind in kinds.items() if name not in roles}
    previous = sample_previous(run, context, features)
    recent, recent_page = _recent(run, previous, current, features, limits)
    suspects = {verdict.column for verdict in columns if verdict.verdict != "stable"}
    broken: tuple[str, ...] = ()
    if len(current) >= limits.min_rows and len(reference.frame) >= limits.min_rows:
        broken = broken_columns(
            reference.frame,
            previous,
            current,
            {name: kind for name, kind in features.items() if name in suspects},
            seed=seed,
            sample=limits.sample,
            intervals=interval_codes(reference.frame),
            known=reference.known,
        )
    reasons = (*(f"broken: {fault}" for fault in broken), *decision.reasons, *([note] if note else []))
    for name, text in (("drift.html", page), ("recent.html", recent_page)):
        if text:
            run.store.write(run.path("drift", name), text)
    return _report(
        run,
        Decision(verdict="broken" if broken else decision.verdict, reasons=reasons),
        columns=columns,
        recent=recent,
        broken=broken,
        share=share,
        reference_rows=len(reference.frame),
        current_rows=len(current),
        html=run.path("drift", "drift.html") if page else None,
        recent_html=run.path("drift", "recent.html") if recent_page else None,
    )


def _report(run: Run, decision: Decision, **more: object) -> DriftReport:
    return DriftReport.model_validate(
        {"model": run.model, "interval": run.interval, "effective_at": run.as_of, "decision": decision, **more}
    )


def _recent(
    run: Run, previous: pd.DataFrame | None, current: pd.DataFrame, kinds: dict[str, Kind], limits: Limits
) -> tuple[tuple[ColumnDrift, ...], bytes | None]:
    """The verdicts against the interval before, and their page."""
    if previous is None:
        return (), None
    kept = {name: limit for name, limit in limits.per_column.items() if name in kinds}
    _, columns, _, page = compare(
        previous,
        current,
        kinds,
        {},
        replace(limits, per_column=kept),
        seed=run.spec.training.seed,
        blocks=block_codes(run.spec, previous, current)[0],
        html=run.pages and run.loop == "monitor",  # for whoever watches; a retraining is about the champion's reference
    )
    return columns, page


def _predictions(run: Run, champion: Champion, frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """The champion's own predictions, by its own code; one column per class above two."""
    values = pipelines.predict(load_champion(run, champion), run.spec.task, frame)
    if values.ndim == 1:
        return {PREDICTION: values}
    return {f"{PREDICTION}_{place}": values[:, place] for place in range(values.shape[1])}
