"""Search, fit the candidates and the baselines; the sealed rows are not read here.

Three kinds of model leave this stage: `refresh`, the champion's configuration (its number of trees and window
included) on the rows of today; `new`, the winner of the search, which may be the champion's configuration with
another number of trees, since that grows with the rows; and the baselines `naive` and `simple`.
"""

from __future__ import annotations

import sys
from typing import Literal

from retrain import estimators, fitting, rows
from retrain.results import Configuration, Context, TrainReport
from retrain.run import Run
from retrain.search import count_trees, same_but_trees, search

FEW_TREES = 0.2


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
    labelled, unlabelled = fitting.labelled(run, accepted)
    notes = [f"{unlabelled:,} rows without a label are left out"] if unlabelled else []

    incumbent = None
    if context.champion is not None and spec.training.refresh:
        if context.champion.configuration.pipeline == estimators.pipeline_digest(spec):
            incumbent = context.champion.configuration
        else:
            notes.append("no refresh: the champion was made by another pipeline (columns, features or versions)")
    found = search(spec, labelled, incumbent, _say)
    notes += found.notes

    plan: list[tuple[str, Literal["refresh", "new", "baseline"], Configuration, float | None]] = []
    if incumbent is not None:
        plan.append(("refresh", "refresh", incumbent, found.incumbent))
    winner = found.configuration
    if estimators.stops_early(spec, winner):
        winner = count_trees(spec, winner, labelled.window(winner.window))
        notes.append(f"new: {winner.parameters['n_estimators']} trees, by early stopping")
    if incumbent is not None and _alike(run, winner, incumbent):
        notes.append("the search kept the champion's configuration: only the refresh remains")
    else:
        plan.append(("new", "new", winner, found.score))
    plan += [(name, "baseline", estimators.baseline(spec, name), None) for name in estimators.BASELINES]

    fitted = []
    for name, kind, one, inner in plan:
        _say(f"fit: {name}, {one.label}")
        fitted.append(fitting.fit(run, run.path("train", name), name, kind, one, accepted, labelled, inner)[1])
    report = TrainReport(
        model=run.model,
        interval=run.interval,
        effective_at=run.as_of,
        fitted=tuple(fitted),
        sealed=rows.intervals(sealed),
        search=found.tried,
        unlabelled=unlabelled,
        seed=spec.training.seed,
        notes=tuple(notes),
    )
    if not run.trigger.dry_run:  # no policy counts a rehearsal as a training
        run.ledger.append(
            run.model,
            "training",
            run.key,
            {"interval": run.interval.name, "training": rows.training_digest(accepted), "rows": len(labelled.y)},
            effective_at=run.as_of,
            run=run.key,
        )
    return report


def _alike(run: Run, one: Configuration, champion: Configuration) -> bool:
    """The same configuration, its number of trees within a fifth: early stopping tells no finer."""
    if not same_but_trees(run.spec, one, champion):
        return False
    if not estimators.stops_early(run.spec, one):
        return True
    old, new = champion.parameters["n_estimators"], one.parameters["n_estimators"]
    return bool(abs(new - old) <= FEW_TREES * old)


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"  {text}", file=sys.stderr)
