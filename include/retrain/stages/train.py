"""Search, fit the candidates and the baselines; the holdout rows that judge a model are not read for it.

What leaves this stage: `recalibrated`, the champion with its answers moved as recent labels ask, where they ask for
more than chance; `refresh`, the champion's configuration (its number of trees included) on newer rows, those of the
training window whose regret shadows did best lately; `new`, the winner of the search, which may be the champion's
configuration with another number of trees, since that grows with the rows; `changed`, once labels have shown that the
champion fell, the winner on the rows since then; and the baselines `naive` and `simple`.

All of them are forward chained (`retrain.modeling.cuts`): fitted at each cut of the holdout on the rows before it, to
answer the rows up to the next. The search reads the rows before the holdout. A first model has no champion that it
could equal: all holdout rows judge it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import NamedTuple

import numpy as np

from retrain.data import dataset
from retrain.errors import RetrainError
from retrain.gate import evidence
from retrain.modeling import early_stopping, estimators, pipelines, trainer
from retrain.modeling.cuts import cuts
from retrain.modeling.folds import Rows
from retrain.modeling.recalibration import Method
from retrain.modeling.search import search
from retrain.monitoring import regret
from retrain.monitoring.signals import with_own_signals
from retrain.policy.regret import best_window
from retrain.registry.candidates import fit_candidate
from retrain.registry.recalibrated import RECALIBRATED, fit_recalibrated, method_needed
from retrain.registry.smoke_test import check_features
from retrain.results import (
    AcceptedBatch,
    CandidateKind,
    ChainLink,
    Champion,
    Configuration,
    Context,
    FittedModel,
    TrainReport,
)
from retrain.spec import Spec
from retrain.state.run import Run

FEW_TREES = 0.2
FEWEST = 100
"""Rows since a change from which something can be learnt."""


class Planned(NamedTuple):
    """A model that is to be fitted: a candidate or a baseline."""

    name: str
    kind: CandidateKind
    configuration: Configuration
    inner_score: float | None = None


def train(run: Run) -> TrainReport:
    """Fit this run's candidates and baselines, each at every cut of the fresh holdout rows.

    Raises:
        MissingInput: the context has not been written.
        DegenerateTraining: too few labelled rows, or nothing to learn from them.
        EstimatorRefused: a candidate that is not on the list.
        FeatureCodeRefused: the model's feature function breaks its contract.
        RegistryDown: the registry does not answer for the champion and there is no copy.
    """
    spec = run.spec
    context = with_own_signals(run, run.read(Context, "context"))
    accepted, holdout = dataset.split(context, spec)
    labelled, unlabelled = trainer.labelled_rows(run, accepted)
    check_features(spec, labelled.frame)
    notes = [f"{unlabelled:,} rows without a label are left out"] if unlabelled else []

    incumbent = None
    if context.champion is not None and spec.training.refresh:
        if context.champion.renewed_as.pipeline == pipelines.pipeline_digest(spec):
            incumbent = _refreshed(spec, context, context.champion, notes)
        else:
            notes.append("no refresh: the champion was made by another pipeline (columns, features or versions)")
    # Whether the rows since a change do better, the holdout rows show and not the search. A baseline wins no search.
    searched = incumbent if incumbent and incumbent.estimator not in estimators.BASELINES else None
    result = search(spec, labelled, searched and searched.model_copy(update={"since": None}), _progress)
    notes += result.notes

    known, taught, moments = labelled, accepted, _cuts(run, context, holdout)
    if moments:
        taught = (*accepted, *holdout)
        known, _ = trainer.labelled_rows(run, taught)
        notes.append(f"holdout cut at {' and '.join(f'{cut:%Y-%m-%d %H:%M}' for cut in moments)}: earlier rows teach")
    elif context.champion is not None:
        notes.append("the holdout rows are too few to be cut: they judge what was fitted before them")

    fitted: list[FittedModel] = []
    if context.champion is not None and context.champion.configuration.pipeline == pipelines.pipeline_digest(spec):
        recalibrated, why = _fit_recalibrated(run, context.champion, taught, known, moments)
        fitted += [recalibrated] if recalibrated else []
        notes.append(f"{'recalibrated' if recalibrated else 'not recalibrated'}: {why}")

    plan: list[Planned] = []
    if incumbent is not None:
        plan.append(Planned("refresh", "refresh", incumbent, result.incumbent))
    winner = result.configuration
    if early_stopping.stops_early(spec, winner):
        winner = early_stopping.count_trees(spec, winner, labelled.window(winner.window))
        notes.append(f"new: {winner.parameters['n_estimators']} trees, by early stopping")
    if incumbent is not None and _alike(run, winner, incumbent):
        notes.append("the search kept the champion's configuration: only the refresh remains")
    else:
        plan.append(Planned("new", "new", winner, result.score))
    plan += [Planned(name, "baseline", pipelines.baseline(spec, name)) for name in estimators.BASELINES]
    since = _change_start(spec, context, holdout)
    if since and moments and _learnable(spec, known, since, moments[0]):
        plan.append(Planned("changed", "new", winner.model_copy(update={"window": None, "since": since})))
        notes.append(f"changed: the rows since {since:%Y-%m-%d}")

    for planned in plan:
        _progress(f"fit: {planned.name}, {planned.configuration.label}")

        def fit(key: str, until: datetime | None, planned: Planned = planned) -> FittedModel:
            name, kind, configuration, inner_score = planned
            return fit_candidate(run, key, name, kind, configuration, taught, known, inner_score, until=until)[1]

        fitted.append(_fit_chain(run, planned.name, fit, moments))
    report = TrainReport(
        model=run.model,
        interval=run.interval,
        effective_at=run.as_of,
        fitted=tuple(fitted),
        holdout=dataset.intervals(holdout),
        judged_from=moments[0] if moments else None,
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


def _refreshed(spec: Spec, context: Context, champion: Champion, notes: list[str]) -> Configuration:
    """The champion's configuration, on the rows whose regret shadows did best lately."""
    own = champion.renewed_as
    rows = best_window(context.signals)
    configuration = regret.configurations(spec, champion).get(rows or "", own)
    if configuration.rows_label != own.rows_label:
        notes.append(f"refresh: on {rows}, whose shadows lost least lately, in place of {own.rows_label}")
    return configuration


def _cuts(run: Run, context: Context, holdout: tuple[AcceptedBatch, ...]) -> tuple[datetime, ...]:
    """Where the holdout rows that no champion was fitted on are cut.

    Where they are too few, at their beginning: what the champion was fitted on teaches the candidates too. For a first
    model, nowhere.
    """
    if context.champion is None:
        return ()
    fresh = evidence.unseen_by_champions(context, holdout)
    moments = cuts(run.spec, trainer.labelled_rows(run, fresh, least=0)[0].frame) if fresh else ()
    return moments or tuple(accepted.batch.interval.start for accepted in fresh[:1] if fresh != holdout)


def _fit_chain(
    run: Run, name: str, fit: Callable[[str, datetime | None], FittedModel], moments: tuple[datetime, ...]
) -> FittedModel:
    """Fit a model at each cut; what is on record is the last one, with the earlier ones as its chain.

    Args:
        run: whose store the models are laid in.
        name: of the model in this run.
        fit: from a key in the store and a cut to the model that earlier rows have taught.
        moments: the cuts.
    """
    chain: list[ChainLink] = []
    for place, cut in enumerate(moments[:-1], start=1):
        key = run.path("train", f"{name}-{place}")
        link = fit(key, cut)
        chain.append(ChainLink(until=cut, key=key, digest=link.digest, rows=link.rows))
    fitted = fit(run.path("train", name), moments[-1] if moments else None)
    return fitted.model_copy(update={"chain": tuple(chain)})


def _fit_recalibrated(
    run: Run, champion: Champion, batches: tuple[AcceptedBatch, ...], known: Rows, moments: tuple[datetime, ...]
) -> tuple[FittedModel | None, str]:
    """The champion recalibrated at each cut, where the rows before the last one ask for it; and why, or why not.

    A champion whose files are gone is not missed here: evaluate refuses the run.
    """

    def fit(method: Method, key: str, until: datetime | None) -> FittedModel:
        return fit_recalibrated(run, key, champion, method, batches, known, until=until)[1]

    try:
        method, why = method_needed(run, champion, known, until=moments[-1] if moments else None)
        if method is None:
            return None, why
        _progress(f"fit: {RECALIBRATED}, {why}")
        return _fit_chain(run, RECALIBRATED, partial(fit, method), moments), why
    except RetrainError as error:
        if error.retryable:
            raise
        return None, error.found


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


def _learnable(spec: Spec, known: Rows, since: datetime, cut: datetime) -> bool:
    """Whether there is something to learn from the rows since a change up to the first cut.

    A change is in the newest rows; held out as a whole they would show that the champion fell and teach nothing.
    """
    when = known.frame[spec.source.time]
    y = known.y[((when >= since) & (when < cut)).to_numpy()]
    return len(y) >= FEWEST and (not spec.classes or len(np.unique(y)) == len(spec.classes))


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
