"""Does the batch look like what the champion was trained on, and like the interval before?

Drift against the champion's reference is a reason to retrain. The reference lies beside the champion's model: a
sample of its training rows, with predictions where it had not seen the row. The interval before shows what is sudden:
a column that is far from both, as no interval of the reference was, is not a changed world but broken data, and a
reason to stop. Without a champion, or with too few rows, the answer is undetermined, and said so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from retrain.data import dataset
from retrain.modeling import pipelines
from retrain.monitoring import drift as judge
from retrain.registry.champion import load_champion
from retrain.results import Accepted, Champion, ColumnDrift, Context, Decision, DriftReport
from retrain.spec import Spec
from retrain.state.run import Run

PREDICTION = "prediction"
TIME, INTERVAL, GROUP = "__time", "__interval", "__group"
"""Columns of the reference that are no features: from what blocks of rows are made."""
RECENT_ROWS = 20_000


@dataclass(frozen=True)
class Reference:
    """The champion's reference rows, every category of all its training rows, and what each feature is worth."""

    frame: pd.DataFrame
    known: dict[str, set[str]]
    weights: dict[str, float] | None


def drift(run: Run) -> DriftReport:
    """Compare the run's batch with the champion's reference (features, predictions, and the target once mature) and
    its features with those of the newest sound batch before it."""
    context = run.read(Context, "context")
    batch = next((one for one in context.accepted if one.batch.interval == run.interval), None)
    if batch is None:
        return _report(run, Decision(verdict="undetermined", reasons=("this interval has no accepted batch",)))
    if context.champion is None:
        return _report(run, Decision(verdict="undetermined", reasons=("no champion yet, so no reference",)))
    reference = _reference(run, context.champion)
    current = _current(run, batch, mature=batch in dataset.mature(context, run.spec))
    scored = dataset.sample(current, run.spec.drift.sample, run.spec.training.seed)
    for name, answers in _predictions(run, context.champion, scored).items():
        current[name] = pd.Series(answers, index=scored.index)

    kinds, roles = _columns(run.spec, reference.frame, current)
    limits, seed = _limits(run.spec, kinds), run.spec.training.seed
    blocks, note = _blocks(run.spec, reference.frame, current)
    decision, columns, share, page = judge.compare(
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
    previous = _previous(run, context, features)
    recent, recent_page = _recent(run, previous, current, features, limits)
    suspects = {one.column for one in columns if one.verdict != "stable"}
    found: tuple[str, ...] = ()
    if len(current) >= limits.min_rows and len(reference.frame) >= limits.min_rows:
        found = judge.broken(
            reference.frame,
            previous,
            current,
            {name: kind for name, kind in features.items() if name in suspects},
            seed=seed,
            sample=limits.sample,
            intervals=_intervals(reference.frame),
            known=reference.known,
        )
    reasons = (*(f"broken: {one}" for one in found), *decision.reasons, *([note] if note else []))
    for name, text in (("drift.html", page), ("recent.html", recent_page)):
        if text:
            run.store.write(run.path("drift", name), text)
    return _report(
        run,
        Decision(verdict="broken" if found else decision.verdict, reasons=reasons),
        columns=columns,
        recent=recent,
        broken=found,
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


# --- the three tables


def _reference(run: Run, champion: Champion) -> Reference:
    with run.store.local(f"{champion.reference}/reference.parquet") as path:
        frame = pd.read_parquet(path)
    facts = json.loads(run.store.read(f"{champion.reference}/reference.json"))
    known = {
        name: set(column["categories"])
        for name, column in facts["columns"].items()
        if column.get("categories") is not None and not column.get("capped")
    }
    return Reference(frame, known, facts.get("importance"))


def _current(run: Run, batch: Accepted, *, mature: bool) -> pd.DataFrame:
    spec = run.spec
    target = [spec.target.column] if mature else []
    group = [spec.training.group] if spec.training.group else []
    frame = dataset.read(run, [batch], [*spec.inputs, *target, spec.source.time, *group], ordered=False)
    frame["target"] = dataset.outcome(spec, frame) if mature else np.nan
    return frame


def _previous(run: Run, context: Context, columns: dict[str, Any]) -> pd.DataFrame | None:
    """A sample of the newest batch before this one that nobody found broken, read a piece at a time."""
    spec, held = run.spec, set(context.held)
    before = [one for one in context.accepted if one.batch.interval.start < run.interval.start]
    before = [one for one in before if one.batch.interval.name not in held]
    if not before:
        return None
    batch, schema = before[-1].batch, dataset.arrow_schema(spec)
    wanted = {*columns, spec.source.time, spec.training.group}
    pieces, start = [], 0
    with run.store.verified(batch.key, batch.sha256) as path:
        names = [name for name in pq.read_schema(path).names if name in wanted]
        encoded = [name for name in names if pa.types.is_dictionary(schema.field(name).type)]
        with pq.ParquetFile(path, read_dictionary=encoded) as file:
            count = file.metadata.num_rows
            rng = np.random.default_rng(spec.training.seed)
            drawn = np.sort(rng.choice(count, min(RECENT_ROWS, count), replace=False, shuffle=False))
            for group in range(file.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                inside = drawn[(drawn >= start) & (drawn < end)] - start
                pieces.append(file.read_row_group(group, columns=names).take(pa.array(inside)))
                start = end
    return dataset.to_frame(pa.concat_tables(pieces, promote_options="permissive")) if pieces else None


def _recent(
    run: Run, previous: pd.DataFrame | None, current: pd.DataFrame, kinds: dict[str, judge.Kind], limits: judge.Limits
) -> tuple[tuple[ColumnDrift, ...], bytes | None]:
    if previous is None:
        return (), None
    kept = {name: limit for name, limit in limits.per_column.items() if name in kinds}
    _, columns, _, page = judge.compare(
        previous,
        current,
        kinds,
        {},
        replace(limits, per_column=kept),
        seed=run.spec.training.seed,
        blocks=_blocks(run.spec, previous, current)[0],
        html=run.pages and run.loop == "monitor",  # for whoever watches; a retraining is about the champion's reference
    )
    return columns, page


# --- what the comparison is told


def _blocks(spec: Spec, reference: pd.DataFrame, current: pd.DataFrame) -> tuple[judge.Codes | None, str]:
    """The blocks of both tables' rows, None where rows are independent; and what has to be said of it."""
    group, time = spec.training.group, spec.source.time
    block: str = spec.drift.block or ("group" if group else spec.evaluation.block)
    if block == "row":
        return None, ""
    if block == "interval":
        codes = _intervals(reference)
        if codes is not None:
            return (codes, np.zeros(len(current), dtype=np.int64)), ""
    elif block == "group":
        name = GROUP if GROUP in reference else group
        if name in reference:
            sides = [
                pd.factorize(values, use_na_sentinel=False)[0] for values in (reference[name], current[str(group)])
            ]
            return (sides[0], sides[1]), ""
    else:
        name = TIME if TIME in reference else time
        if name in reference:
            return (_spans(reference[name], block), _spans(current[time], block)), ""
    return None, f"the champion is older than blocks of drift: rows are taken as independent, not by {block}"


def _spans(times: pd.Series, block: str) -> np.ndarray:
    """The hour, day or week (from Monday) of each row as a number."""
    width = {"hour": 3600, "day": 86_400, "week": 7 * 86_400}[block]
    seconds = pd.DatetimeIndex(times).tz_localize(None).to_numpy().astype("datetime64[s]").astype(np.int64)
    return np.asarray((seconds - 4 * 86_400) // width)  # 1970-01-05 was a Monday


def _intervals(reference: pd.DataFrame) -> np.ndarray | None:
    """The interval of each reference row as integers in the order of time; None of an older champion."""
    if INTERVAL not in reference:
        return None
    return np.asarray(pd.factorize(reference[INTERVAL], sort=True)[0])


def _predictions(run: Run, champion: Champion, frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """The champion's own answers, by its own code; one column per class above two."""
    answers = pipelines.predict(load_champion(run, champion), run.spec.task, frame)
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
        effect=spec.drift.effect,
        missing=spec.drift.missing,
        share=spec.drift.share,
        false_alarms=spec.drift.false_alarms,
        per_column={name: limit for name, limit in spec.drift.thresholds.items() if name in kinds},
    )
