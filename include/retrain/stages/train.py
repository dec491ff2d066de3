"""Search, fit the candidates and the baselines; the holdout rows are not read here.

What leaves this stage: `refresh`, the champion's configuration (its number of trees and window included) on the rows
of today; `new`, the winner of the search, which may be the champion's configuration with another number of trees, since
that grows with the rows; `changed`, once labels have shown that the champion fell, the winner on the rows since then;
and the baselines `naive` and `simple`.
"""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Literal

import numpy as np

from retrain.data import dataset
from retrain.modeling import early_stopping, estimators, pipelines, resampling, trainer
from retrain.modeling.search import search
from retrain.monitoring.signals import with_own_signals
from retrain.registry.candidates import fit_candidate
from retrain.results import AcceptedBatch, Configuration, Context, FittedModel, Interval, TrainReport
from retrain.spec import Spec
from retrain.state.run import Run
from retrain.state.store import json_digest

FEW_TREES = 0.2
FEWEST = 100
"""Rows since a change from which something can be learnt."""


def train(run: Run) -> TrainReport:
    """Fit this run's candidates on the mature rows before the holdout rows.

    Raises:
        MissingInput: the context has not been written.
        DegenerateTraining: too few labelled rows, or nothing to learn from them.
        EstimatorRefused: a candidate that is not on the list.
        FeatureCodeRefused: the model's feature function breaks its contract.
    """
    spec = run.spec
    context = with_own_signals(run, run.read(Context, "context"))
    accepted, holdout = dataset.split(context, spec)
    labelled, unlabelled = trainer.labelled_rows(run, accepted)
    notes = [f"{unlabelled:,} rows without a label are left out"] if unlabelled else []

    incumbent = None
    if context.champion is not None and spec.training.refresh:
        if context.champion.configuration.pipeline == pipelines.pipeline_digest(spec):
            incumbent = context.champion.configuration
        else:
            notes.append("no refresh: the champion was made by another pipeline (columns, features or versions)")
    # Whether the rows since a change do better, the holdout rows show and not the search.
    everywhere = incumbent and incumbent.model_copy(update={"since": None})
    result = search(spec, labelled, everywhere, _progress)
    notes += result.notes

    plan: list[tuple[str, Literal["refresh", "new", "baseline"], Configuration, float | None]] = []
    if incumbent is not None:
        plan.append(("refresh", "refresh", incumbent, result.incumbent))
    winner = result.configuration
    if early_stopping.stops_early(spec, winner):
        winner = early_stopping.count_trees(spec, winner, labelled.window(winner.window))
        notes.append(f"new: {winner.parameters['n_estimators']} trees, by early stopping")
    if incumbent is not None and _alike(run, winner, incumbent):
        notes.append("the search kept the champion's configuration: only the refresh remains")
    else:
        plan.append(("new", "new", winner, result.score))
    plan += [(name, "baseline", pipelines.baseline(spec, name), None) for name in estimators.BASELINES]

    fitted = []
    for name, kind, configuration, inner in plan:
        _progress(f"fit: {name}, {configuration.label}")
        key = run.path("train", name)
        fitted.append(fit_candidate(run, key, name, kind, configuration, accepted, labelled, inner)[1])
    judged_from = None
    since = _change_start(spec, context, holdout)
    if since and (changed := _fit_since_change(run, since, winner, accepted, holdout)):
        fitted.append(changed)
        judged_from = changed.intervals[-1].end
        notes.append(f"changed: the rows since {since:%Y-%m-%d}; rows from {judged_from:%Y-%m-%d %H:%M} on judge")
    report = TrainReport(
        model=run.model,
        interval=run.interval,
        effective_at=run.as_of,
        fitted=tuple(fitted),
        holdout=dataset.intervals(holdout),
        judged_from=judged_from,
        search=result.tried,
        unlabelled=unlabelled,
        seed=spec.training.seed,
        notes=tuple(notes),
    )
    if not run.trigger.dry_run:  # no policy counts a rehearsal as a training
        run.ledger.append(
            run.model,
            "training",
            run.key,
            {"interval": run.interval.name, "training": dataset.training_digest(accepted), "rows": len(labelled.y)},
            effective_at=run.as_of,
            run=run.key,
        )
    return report


def _change_start(spec: Spec, context: Context, holdout: tuple[AcceptedBatch, ...]) -> datetime | None:
    """Start of the first of the latest intervals, one after the other, whose labels showed that the champion fell."""
    if "change" not in spec.training.windows:
        return None
    verdicts = {signal.interval.start: signal.verdict for signal in context.signals if signal.question == "realised"}
    first = None
    for start in reversed([accepted.batch.interval.start for accepted in context.accepted]):
        if start in verdicts and verdicts[start] != "alarm":
            break
        first = start if start in verdicts else first
    return first if first and holdout and verdicts.get(holdout[-1].batch.interval.start) == "alarm" else None


def _fit_since_change(
    run: Run,
    since: datetime,
    winner: Configuration,
    accepted: tuple[AcceptedBatch, ...],
    holdout: tuple[AcceptedBatch, ...],
) -> FittedModel | None:
    """The winner on the rows since the change, the older half of the newest holdout interval included.

    A change is in the newest rows; held out as a whole they would show that the champion fell and teach nothing. So the
    interval is cut between two blocks: the rows before the cut are learnt from, those after it judge all models.
    None where a side has too few rows or blocks.
    """
    spec = run.spec
    batches = tuple(batch for batch in (*accepted, *holdout) if batch.batch.interval.start >= since)
    known, _ = trainer.labelled_rows(run, batches, least=FEWEST)
    when = known.frame[spec.source.time]
    newest = when >= holdout[-1].batch.interval.start
    block = resampling.blocks(spec, known.frame.loc[newest])
    if spec.training.group or block.max() + 1 < 2 * spec.gate.min_blocks:
        return None
    cut = when[newest].iloc[int(np.searchsorted(block, (block.max() + 1) // 2))].to_pydatetime()
    part = known.take(np.flatnonzero(when < cut))
    if len(part.y) < FEWEST or (spec.classes and len(np.unique(part.y)) < len(spec.classes)):
        return None
    configuration = winner.model_copy(update={"window": None, "since": since})
    _, fitted = fit_candidate(run, run.path("train", "changed"), "changed", "new", configuration, batches, part)
    spans = [*fitted.intervals[:-1], Interval(start=fitted.intervals[-1].start, end=cut)]
    digest = json_digest([fitted.training, cut.isoformat()])
    return fitted.model_copy(update={"intervals": tuple(spans), "training": digest})


def _alike(run: Run, winner: Configuration, champion: Configuration) -> bool:
    """The same configuration, its number of trees within a fifth: early stopping tells no finer."""
    if not early_stopping.same_except_trees(run.spec, winner, champion):
        return False
    if not early_stopping.stops_early(run.spec, winner):
        return True
    old, new = champion.parameters["n_estimators"], winner.parameters["n_estimators"]
    return bool(abs(new - old) <= FEW_TREES * old)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"  {text}", file=sys.stderr)
