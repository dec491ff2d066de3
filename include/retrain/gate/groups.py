"""Groups between training and judgement: rows of an entity that a compared model has learnt from do not judge.

`training.group` names the column of an entity that comes again: a customer, a machine, a patient. A model that was
fitted on some of its rows knows more of its other rows than it will of a new entity's, so a split by time alone
flatters it (Roberts et al. 2017, "Cross-validation strategies for data with temporal, spatial, hierarchical, or
phylogenetic structure"). Inside the folds of the search such rows are taken from those that teach. Here the champion
has been fitted already, so they are taken from those that judge, for all models alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

import numpy as np
import pandas as pd

from retrain.data import dataset
from retrain.modeling import trainer
from retrain.modeling.metrics import Array
from retrain.results import AcceptedBatch, Champion, Context, TrainReport
from retrain.spec import Spec
from retrain.state.run import Run


def unseen(
    run: Run, context: Context, train: TrainReport, fresh: Sequence[AcceptedBatch], frame: pd.DataFrame
) -> Array:
    """Which rows, (n,), are of a group that no compared model was fitted on before it answers them.

    Args:
        run: the spec, and the store that holds the batches.
        context: the champions, and every accepted batch.
        train: the candidates and baselines.
        fresh: the batches whose rows these are.
        frame: (n) rows of these batches with group, time and target, those before the first cut included.

    Raises:
        SnapshotCorrupt, MissingInput: a batch is not the one on record, or gone.
    """
    spec, column = run.spec, str(run.spec.training.group)
    earlier = [accepted for accepted in _taught(context, train) if accepted not in fresh]
    known = dataset.read(run, earlier, [column, spec.target.column], ordered=False)
    known_groups = _names(known.loc[dataset.outcome(spec, known).notna(), column]).unique()
    cuts = {fitted.intervals[-1].end for fitted in train.fitted}
    cuts |= {link.until for fitted in train.fitted for link in fitted.chain}
    return newly_seen(spec, frame, tuple(cuts)) & ~_names(frame[column]).isin(known_groups).to_numpy()


def left_out(spec: Spec, known: int) -> str:
    """How many labelled rows do not judge, for people; empty where all do."""
    group = spec.training.group
    reason = f"{known:,} rows left out: a compared model was fitted on other rows of the same {group} (training.group)"
    return reason if known else ""


def too_few(spec: Spec, rows: int, known: int) -> str:
    """What to do where the rows that are left are not enough to judge, for people."""
    group = spec.training.group
    return (
        f"too few rows of a new {group}: {rows:,}, {spec.gate.min_rows:,} are needed; {known:,} more are of a {group}"
        " that a compared model was fitted on. Where the same come again and the model may know them, take"
        " training.group out; else judge on more intervals (evaluation.holdout)"
    )


def newly_seen(spec: Spec, frame: pd.DataFrame, cuts: Sequence[datetime]) -> Array:
    """Which rows, (n,), are of a group without a labelled row before the last cut that lies before them.

    Args:
        spec: the columns of time, group and target.
        frame: (n) rows.
        cuts: moments at which models were fitted anew, on the rows before.

    >>> from retrain.spec import EXAMPLE, parse
    >>> spec = parse(EXAMPLE.replace("candidates:", "group: id, candidates:"), "churn")
    >>> days = pd.to_datetime([f"2024-01-0{day}" for day in (1, 2, 3, 4)], utc=True)
    >>> frame = pd.DataFrame({"id": ["a", "b", "a", "b"], "signup": days, "churned": [1.0, None, 0.0, 1.0]})
    >>> newly_seen(spec, frame, [days[2].to_pydatetime()]).tolist()
    [True, True, False, True]
    """
    moments = pd.DatetimeIndex(sorted(cuts), dtype="datetime64[ns, UTC]")
    part = moments.searchsorted(pd.DatetimeIndex(frame[spec.source.time]).as_unit("ns"), side="right")
    taught = pd.Series(np.where(dataset.outcome(spec, frame).notna(), part, len(moments)), index=frame.index)
    first = taught.groupby(_names(frame[str(spec.training.group)])).transform("min").to_numpy()
    return np.asarray(first >= part)


def _names(column: pd.Series[str]) -> pd.Series[str]:
    """The group of each row by name; rows without a group are one of their own, as in the folds."""
    return column.astype(object).where(column.notna(), "(missing)").astype(str)


def _taught(context: Context, train: TrainReport) -> Iterator[AcceptedBatch]:
    """Every accepted batch that a compared model was fitted on."""
    starts = {interval.start for fitted in train.fitted for interval in fitted.intervals}
    for champion in (context.champion, context.other_reference_champion):
        if champion is not None:
            starts |= {accepted.batch.interval.start for accepted in _taught_champion(context, champion)}
    return (accepted for accepted in context.accepted if accepted.batch.interval.start in starts)


def _taught_champion(context: Context, champion: Champion) -> tuple[AcceptedBatch, ...]:
    """The batches that a champion was fitted on; where they are others by now, all until then."""
    until = tuple(accepted for accepted in context.accepted if accepted.batch.interval.end <= champion.trained_until)
    window = trainer.batches_in_window(until, champion.configuration)
    return window if dataset.training_digest(window) == champion.training else until
