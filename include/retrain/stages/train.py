"""Search, fit the candidates and the baselines; the sealed rows are not read here.

Three kinds of model leave this stage: `new`, the winner of the search; `refresh`, the champion's configuration
(its number of trees and window included) on the rows of today; and the baselines `naive` and `simple`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from retrain import estimators, rows
from retrain.errors import DegenerateTraining
from retrain.results import Accepted, Configuration, Context, Fitted, TrainReport
from retrain.run import Run
from retrain.search import Found, Rows, count_trees, search
from retrain.tools.registry import save_model


def train(run: Run) -> TrainReport:
    """Fit this run's candidates on the mature rows before the sealed ones.

    Raises:
        MissingInput: the context has not been written.
        DegenerateTraining: too few labelled rows, or nothing to learn from them.
        EstimatorRefused: a candidate that is not on the list.
        FeatureCodeRefused: the model's feature function breaks its promise.
    """
    spec = run.spec
    context = run.read(Context, "context")
    accepted, sealed = rows.split(context, spec)
    labelled, unlabelled = _read(run, accepted)
    notes = [f"{unlabelled:,} rows without a label are left out"] if unlabelled else []

    incumbent = None
    if context.champion is not None and spec.training.refresh:
        if context.champion.configuration.pipeline == estimators.pipeline_digest(spec):
            incumbent = context.champion.configuration
        else:
            notes.append("no refresh: the champion was made by another pipeline (columns, features or versions)")
    found = search(spec, labelled, incumbent, _say)
    notes += found.notes

    plan: list[tuple[str, Configuration]] = []
    if incumbent is not None:
        plan.append(("refresh", incumbent))
    winner = found.configuration
    if winner != incumbent and not found.fixed and estimators.stops_early(spec, winner):
        winner = count_trees(spec, winner, labelled.window(winner.window))
        notes.append(f"new: {winner.parameters['n_estimators']} trees, by early stopping")
    if winner == incumbent:
        notes.append("the search kept the champion's configuration: only the refresh remains")
    else:
        plan.append(("new", winner))
    plan += [(name, estimators.baseline(spec, name)) for name in estimators.BASELINES]

    fitted = tuple(_fit(run, name, one, accepted, labelled, found) for name, one in plan)
    report = TrainReport(
        model=run.model,
        interval=run.interval,
        effective_at=run.as_of,
        fitted=fitted,
        sealed=rows.intervals(sealed),
        search=found.tried,
        unlabelled=unlabelled,
        seed=spec.training.seed,
        notes=tuple(notes),
    )
    run.ledger.append(
        run.model,
        "training",
        run.key,
        {"interval": run.interval.name, "training": rows.training_digest(accepted), "rows": len(labelled.y)},
        effective_at=run.as_of,
        run=run.key,
    )
    return report


def _read(run: Run, accepted: tuple[Accepted, ...]) -> tuple[Rows, int]:
    """The labelled rows of these batches, and how many have no label."""
    spec = run.spec
    group = (spec.training.group,) if spec.training.group else ()
    frame = rows.read(run, accepted, (*spec.inputs, spec.target.column, *group))
    y = rows.outcome(spec, frame).to_numpy()
    labelled = np.isfinite(y)
    if labelled.sum() < spec.training.min_rows:
        raise DegenerateTraining(
            f"{int(labelled.sum()):,} labelled rows in {len(accepted)} training intervals,"
            f" training.min_rows is {spec.training.min_rows:,}",
            do="wait for more batches or labels, or lower training.min_rows",
        )
    starts = pd.DatetimeIndex([one.batch.interval.start for one in accepted])
    place = starts.searchsorted(pd.DatetimeIndex(frame[spec.source.time]).as_unit(starts.unit), side="right") - 1
    kept = frame.loc[labelled].drop(columns=spec.target.column).reset_index(drop=True)
    return Rows(kept, y[labelled], np.asarray(place)[labelled]), int((~labelled).sum())


def _fit(
    run: Run, name: str, one: Configuration, accepted: tuple[Accepted, ...], labelled: Rows, found: Found
) -> Fitted:
    part = labelled.window(one.window)
    batches = accepted[-one.window :] if one.window else accepted
    _say(f"fit: {name}, {one.label}, {len(part.y):,} rows")
    model = estimators.fit(run.spec, one, part.frame, part.y)
    key = run.path("train", name)
    with tempfile.TemporaryDirectory(prefix="retrain-") as temporary:
        folder = Path(temporary)
        digest = save_model(
            model,
            folder / "model",
            example=part.frame[list(run.spec.inputs)].head(100),
            requirements=estimators.requirements(),
            code=[estimators.carry(folder)],
        )
        run.store.put_folder(key, folder / "model")
    return Fitted(
        name=name,
        kind="baseline" if name in estimators.BASELINES else "refresh" if name == "refresh" else "new",
        configuration=one,
        training=rows.training_digest(batches),
        intervals=rows.intervals(batches),
        rows=len(part.y),
        key=key,
        digest=digest,
        inner_score=found.scores.get((found.configuration if name == "new" else one).to_json()),
    )


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"  {text}", file=sys.stderr)
