"""Scores joined by key with the rows that they were given to, and with the labels that came later."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from retrain.data import dataset, row_contract
from retrain.errors import AmbiguousKeys
from retrain.modeling.metrics import Array
from retrain.monitoring.prediction_log.records import read_table, records
from retrain.monitoring.prediction_log.table import column_names, scores_of_version
from retrain.results import AcceptedBatch, Champion, Context, Coverage, Interval
from retrain.state.ledger import Record
from retrain.state.run import Run


@dataclass(frozen=True)
class JoinedPredictions:
    """The scored rows of an interval, with the labels that are there.

    Attributes:
        frame: their inputs, slices, target, key and time, as `dataset.read` gives them, in the batch's order.
        prediction: the champion's scores, given at the time, (n,) or (n, k), in the frame's order; its own also where
            a canary answered.
        outcome: the labels (n,), as `dataset.outcome` gives them; NaN where there is none.
        counts: of the whole interval.
        shadow: the scores of the shadow model; None where there was none.
    """

    frame: pd.DataFrame
    prediction: Array
    outcome: Array
    counts: Coverage
    shadow: Array | None = None

    def labelled(self) -> JoinedPredictions:
        """The rows with a label: one without is left out, it is not a no."""
        known = np.flatnonzero(np.isfinite(self.outcome))
        return JoinedPredictions(
            self.frame.iloc[known].reset_index(drop=True),
            self.prediction[known],
            self.outcome[known],
            self.counts,
            None if self.shadow is None else self.shadow[known],
        )


def join_champion(run: Run, champion: Champion, interval: Interval) -> JoinedPredictions | None:
    """Join the champion's scores of an interval with its rows and the labels that are there.

    Returns:
        None where it has not scored the interval, or the interval has no accepted batch.

    Raises:
        AmbiguousKeys: a key stands for several rows of the batch, so a score belongs to none of them.
        SnapshotCorrupt, MissingInput: a file is another one, or gone.
    """
    context = run.read(Context, "context")
    accepted = next((batch for batch in context.accepted if batch.batch.interval == interval), None)
    own = [record for record in records(run, interval) if record.body["version"] == champion.version]
    if accepted is None or not own:
        return None
    # Of the very batch that was accepted, else of another revision of it: what was answered at the time.
    same = [record for record in own if record.body["data"] == accepted.batch.sha256]
    return join_labels(run, (same or own)[-1], accepted)


def join_labels(run: Run, record: Record, accepted: AcceptedBatch) -> JoinedPredictions:
    """Join the scores of a record with the rows and labels of the interval's batch, one to one by key.

    The batch may be a later revision of the one that was scored. A label whose row has no score is left out and
    counted.

    Raises:
        AmbiguousKeys: a key stands for several rows of the batch, so a score belongs to none of them.
        SnapshotCorrupt, MissingInput: a file is another one, or gone.
    """
    table, names = read_table(run, record), column_names(run.spec)
    log = table.to_pandas()
    prediction, other = scores_of_version(run.spec, log, record.body["version"]), record.body.get("shadow")
    shadow = scores_of_version(run.spec, log, other["version"]) if other and other["failed"] is None else None
    keys = pa.table({name: table[names[name]] for name in run.spec.source.key})
    return _join(run, accepted, keys, prediction, shadow)


def join_answers(run: Run, accepted: AcceptedBatch, sound: Array, answered: Array) -> JoinedPredictions:
    """Join answers that were computed again with the rows and labels of the batch, as `join_labels` joins scores.

    Args:
        run: the spec, and the store that holds the files.
        accepted: the batch.
        sound: (n,) which of its rows were answered.
        answered: (m,) or (m, k) the answers to those m rows, in the batch's order.

    Raises:
        AmbiguousKeys, SnapshotCorrupt, MissingInput: as of `join_labels`.
    """
    prediction = np.full((len(sound), *answered.shape[1:]), np.nan)
    prediction[sound] = answered
    with run.store.verified(accepted.batch.key, accepted.batch.sha256) as path:
        keys = pq.read_table(path, columns=list(run.spec.source.key))
    return _join(run, accepted, keys, prediction, None)


def _join(
    run: Run, accepted: AcceptedBatch, answered: pa.Table, prediction: Array, shadow: Array | None
) -> JoinedPredictions:
    """Join (n) scores whose keys are `answered` with the batch; NaN where a row has no score."""
    spec, key = run.spec, list(run.spec.source.key)
    group = [spec.training.group] if spec.training.group else []
    own = [*spec.inputs, *spec.evaluation.slices, *group, spec.source.time, spec.target.column]
    frame = dataset.read(run, [accepted], own, ordered=False)
    outcome = dataset.outcome(spec, frame).to_numpy(dtype=np.float64)
    with run.store.verified(accepted.batch.key, accepted.batch.sha256) as path:
        batch = pq.read_table(path, columns=key)
    for name in key:
        # As delivered: as a float, a large whole number is another one.
        frame[name] = batch[name].to_pandas()

    scored = np.flatnonzero(~np.isnan(prediction if prediction.ndim == 1 else prediction[:, 0]))
    keys = answered.take(pa.array(scored))
    for what, side in ((f"the batch of {accepted.batch.interval}", batch), ("its scores", keys)):
        if count := int(row_contract.repeated(side, key).sum()):
            raise AmbiguousKeys(
                f"{count:,} rows of {what} share their key ({', '.join(key)}) with another row",
                do="deliver rows whose key is unique, or name more columns in source.key",
            )
    place = dataset.match(batch, keys, key)
    known = np.flatnonzero(place >= 0)
    labels, both = int(np.isfinite(outcome).sum()), int(np.isfinite(outcome[known]).sum())
    return JoinedPredictions(
        frame=frame.iloc[known].reset_index(drop=True),
        prediction=prediction[scored[place[known]]],
        outcome=outcome[known],
        shadow=None if shadow is None else shadow[scored[place[known]]],
        counts=Coverage(
            predictions=len(scored),
            labels=labels,
            both=both,
            unlabelled=len(scored) - both,
            unpredicted=labels - both,
            gone=len(scored) - int((place >= 0).sum()),
        ),
    )
