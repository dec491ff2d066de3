"""The scores of an interval: as a table, where they lie, on whose record, and joined to the labels that came later.

One file per scored batch, `<model>/scores/<interval>/<sha256>.parquet`, never written over. Its columns: the spec's
key and time, `score` (binary: probability of the last class; regression: the number) or `score_<place>` of each class
and `predicted`, `version`, `data` (the batch's SHA-256), `reason` (why a row has no score). `score` is the answer that
was served and `version` whose it is. Where another version scored beside the champion, `shadow_score…` and
`shadow_version` are the other one's answer to the same row: the champion's where a canary answered, else that of the
version beside. A column of the spec that is called like one of these gets a `_` appended.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retrain.data import dataset, row_contract
from retrain.errors import AmbiguousKeys
from retrain.modeling.metrics import Array
from retrain.results import Accepted, Coverage, Disagreement, Disparity, Interval
from retrain.spec import Spec
from retrain.state.ledger import Record
from retrain.state.run import Run

KIND: Final = "score"
"""Of the ledger's records."""
SHADOW = "shadow_"
FURTHEST = 20
"""Rows that a disagreement shows."""
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True)
class Answers:
    """What a model said of n rows.

    Attributes:
        values: (n,), or (n, k) of a multiclass model.
        version: of the model.
    """

    values: Array
    version: int


@dataclass(frozen=True)
class Joined:
    """The scored rows of an interval, with the labels that are there.

    Attributes:
        frame: their inputs, slices, target, key and time, as `rows.read` gives them, in the
            batch's order.
        prediction: the champion's scores, given at the time, (n,) or (n, k), in the frame's order; its own also where
            a canary answered.
        beside: those of the version that scored beside it; None where none did.
        outcome: the labels (n,), as `rows.outcome` gives them; NaN where there is none.
        counts: of the whole interval.
    """

    frame: pd.DataFrame
    prediction: Array
    outcome: Array
    counts: Coverage
    shadow: Array | None = None

    def labelled(self) -> Joined:
        """Those with a label: a row without one is left out, it is not a no."""
        known = np.flatnonzero(np.isfinite(self.outcome))
        return Joined(
            self.frame.iloc[known].reset_index(drop=True),
            self.prediction[known],
            self.outcome[known],
            self.counts,
            None if self.shadow is None else self.shadow[known],
        )


# --- the table


def names(spec: Spec) -> dict[str, str]:
    """Key and time columns of the spec → what they are called beside the scores.

    >>> from retrain.spec import EXAMPLE, parse
    >>> names(parse(EXAMPLE.replace("[id]", "[id, visits]").replace("visits", "score"), "churn"))
    {'id': 'id', 'score': 'score_', 'signup': 'signup'}
    """
    own = list(dict.fromkeys([*spec.source.key, spec.source.time]))
    plain = [*_columns(spec), "version", "data", "reason"]
    taken = {*plain, *(f"{SHADOW}{name}" for name in plain)}
    found = {}
    for name in own:
        shown = name
        while shown in taken or (shown != name and shown in own):
            shown += "_"
        taken.add(shown)
        found[name] = shown
    return found


def _columns(spec: Spec) -> list[str]:
    if spec.task != "multiclass":
        return ["score"]
    return [*(f"score_{place}" for place in range(len(spec.classes))), "predicted"]


def canary_rows(model: str, keys: pa.Table, share: float) -> Array:
    """Which of n rows a canary answers, (n,): those whose hashed key falls below `share`.

    The same key falls at the same place in every batch, on every machine and at every step, so that the rows of a
    small share are among those of a larger one. The hash is SHA-256 of the model's name and the key as text.

    Args:
        keys: (n) the spec's key columns.

    >>> keys = pa.table({"id": [str(n) for n in range(1000)]})
    >>> few, many = canary_rows("churn", keys, 0.05), canary_rows("churn", keys, 0.25)
    >>> int(few.sum()), int(many.sum()), bool(many[few].all())
    (56, 256, True)
    """
    texts = [_plain(keys[name]).cast(pa.string()).fill_null("") for name in keys.column_names]
    joined = pc.binary_join_element_wise(*texts, "\0").to_pylist()
    place = [hashlib.sha256(f"{model}\0{one}".encode()).digest()[:8] for one in joined]
    return np.frombuffer(b"".join(place), dtype=">u8").astype(np.float64) < share * 2.0**64


def table(
    spec: Spec,
    lead: pa.Table,
    champion: Answers,
    shadow: Answers | None,
    canary: Array | None = None,
    *,
    data: str,
    reason: Sequence[str | None],
) -> bytes:
    """The Parquet file of these scores; the same scores give the same bytes.

    Args:
        lead: (n) the key and time columns, as they were delivered.
        champion: its answers; NaN where a row has no score.
        beside: those of the version that scores beside it.
        canary: (n,) which rows get the answer of the version beside.
        data: SHA-256 of the batch.
        reason: (n) why a row has no score; None where it has one.
    """
    n = lead.num_rows
    turned = np.zeros(n, dtype=bool) if canary is None or shadow is None else canary
    made = {shown: _plain(lead[name]) for name, shown in names(spec).items()}
    made |= _served(spec, champion, shadow, turned, "")
    made["data"] = pa.repeat(pa.scalar(data, pa.string()), n)
    made["reason"] = pa.array(reason, pa.string())
    if shadow is not None:
        made |= _served(spec, shadow, champion, turned, SHADOW)
    buffer = io.BytesIO()
    pq.write_table(pa.table(made), buffer)
    return buffer.getvalue()


def _served(spec: Spec, one: Answers, other: Answers | None, turned: Array, prefix: str) -> dict[str, pa.Array]:
    """The columns of a version's answers, those of the other one at the turned rows."""
    values, version = one.values, np.full(len(turned), one.version, dtype=np.int64)
    if other is not None and turned.any():
        at = turned if values.ndim == 1 else turned[:, None]
        values, version = np.where(at, other.values, values), np.where(turned, other.version, version)
    return _answers(spec, values, prefix) | {f"{prefix}version": pa.array(version, pa.int64())}


def _plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without a dictionary: its order is that of arrival."""
    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values


def _answers(spec: Spec, values: Array, prefix: str) -> dict[str, pa.Array]:
    """The score columns; a NaN is an empty score."""
    if spec.task != "multiclass":
        return {f"{prefix}score": pa.array(values, pa.float64(), from_pandas=True)}
    made = {
        f"{prefix}score_{place}": pa.array(values[:, place], pa.float64(), from_pandas=True)
        for place in range(len(spec.classes))
    }
    classes = np.asarray([str(name) for name in spec.classes], dtype=object)
    # NaN stands for a whole row: the place that argmax finds there is not used.
    named = np.where(np.isnan(values).any(axis=1), None, classes[np.argmax(values, axis=1)])
    return made | {f"{prefix}predicted": pa.array(named, pa.string())}


def of_version(spec: Spec, frame: pd.DataFrame, version: int) -> Array:
    """What a version said of the rows of a frame that `read` gave, served or not; NaN where it said nothing."""
    found = np.full_like(answers(spec, frame), np.nan)
    for shadow, column in ((False, "version"), (True, f"{SHADOW}version")):
        if column in frame:
            mine = (frame[column] == version).to_numpy()
            found[mine] = answers(spec, frame, shadow=shadow)[mine]
    return found


def answers(spec: Spec, frame: pd.DataFrame, *, shadow: bool = False) -> Array:
    """The scores served, of a frame that `read` gave, or the others: (n,), or (n, k); NaN where a row has none."""
    prefix = SHADOW if shadow else ""
    if spec.task != "multiclass":
        return frame[f"{prefix}score"].to_numpy(dtype=np.float64)
    return frame[[f"{prefix}score_{place}" for place in range(len(spec.classes))]].to_numpy(dtype=np.float64)


# --- two models


def disagreement(spec: Spec, keys: pa.Table, champion: Answers, shadow: Answers) -> Disagreement:
    """How the challenger's answers to the same n rows differ from the champion's.

    Args:
        keys: (n) with the spec's key columns.
    """
    ours, theirs = one_number(champion.values, champion.values), one_number(champion.values, shadow.values)
    apart = theirs - ours
    furthest = np.argsort(-np.abs(apart), kind="stable")[:FURTHEST]
    named = keys.take(pa.array(furthest)).to_pylist()
    otherwise = None
    if spec.task == "binary":
        otherwise = float(((ours >= 0.5) != (theirs >= 0.5)).mean())
    elif spec.task == "multiclass":
        otherwise = float((champion.values.argmax(axis=1) != shadow.values.argmax(axis=1)).mean())
    varies = len(np.unique(ours)) > 1 and len(np.unique(theirs)) > 1
    return Disagreement(
        version=shadow.version,
        rows=len(apart),
        mean_champion=float(ours.mean()),
        mean_shadow=float(theirs.mean()),
        mean_absolute=float(np.abs(apart).mean()),
        correlation=float(pd.Series(ours).corr(pd.Series(theirs), method="spearman")) if varies else None,
        decided_otherwise=otherwise,
        quantiles={f"{q:g}": float(value) for q, value in zip(QUANTILES, np.quantile(apart, QUANTILES), strict=True)},
        furthest=tuple(
            Disparity(
                key=tuple(str(row[name]) for name in spec.source.key), champion=float(ours[n]), shadow=float(theirs[n])
            )
            for n, row in zip(furthest, named, strict=True)
        ),
    )


def one_number(champion: Array, values: Array) -> Array:
    """(n,) of what is said of n rows; of (n, k) the probability of the class that the champion names.

    >>> one_number(np.array([[0.1, 0.9], [0.6, 0.4]]), np.array([[0.3, 0.7], [0.2, 0.8]])).tolist()
    [0.7, 0.2]
    """
    return values if values.ndim == 1 else values[np.arange(len(values)), champion.argmax(axis=1)]


# --- what is on record


def records(run: Run, interval: Interval) -> list[Record]:
    """What was scored of an interval, oldest first: its first batch, then each revision."""
    return [
        one
        for one in run.ledger.records(run.model, KIND)
        if one.key == interval.name or one.key.startswith(f"{interval.name}/")
    ]


def found(run: Run, interval: Interval, data: str) -> Record | None:
    """The record of this very batch, by its SHA-256; None if it has not been scored."""
    return next((one for one in records(run, interval) if one.body["data"] == data), None)


def read(run: Run, record: Record) -> pd.DataFrame:
    """The scores of a record, in the order of the batch.

    Raises:
        SnapshotCorrupt: the file is not the one on record.
        MissingInput: the file is gone.
    """
    frame: pd.DataFrame = _table(run, record).to_pandas()
    return frame


def _table(run: Run, record: Record) -> pa.Table:
    with run.store.verified(record.body["key"], record.body["sha256"]) as path:
        return pq.read_table(path)


def joined(run: Run, record: Record, accepted: Accepted) -> Joined:
    """The scores of a record with the rows and labels of the interval's batch, joined one to one by key.

    The batch may be a later revision of the one that was scored. A label whose row has no score is left out and
    counted.

    Raises:
        AmbiguousKeys: a key stands for several rows of the batch, so a score belongs to none of them.
        SnapshotCorrupt, MissingInput: a file is another one, or gone.
    """
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

    told, called = _table(run, record), names(spec)
    shown = told.to_pandas()
    given, other = of_version(spec, shown, record.body["version"]), record.body.get("shadow")
    shadow = of_version(spec, shown, other["version"]) if other and other["failed"] is None else None
    scored = np.flatnonzero(~np.isnan(given if given.ndim == 1 else given[:, 0]))
    keys = pa.table({name: told[called[name]] for name in key}).take(pa.array(scored))
    for what, side in ((f"the batch of {accepted.batch.interval}", batch), ("its scores", keys)):
        if count := int(row_contract.repeated(side, key).sum()):
            raise AmbiguousKeys(
                f"{count:,} rows of {what} share their key ({', '.join(key)}) with another row",
                do="deliver rows whose key is unique, or name more columns in source.key",
            )
    place = dataset.match(batch, keys, key)
    known = np.flatnonzero(place >= 0)
    labels, both = int(np.isfinite(outcome).sum()), int(np.isfinite(outcome[known]).sum())
    return Joined(
        frame=frame.iloc[known].reset_index(drop=True),
        prediction=given[scored[place[known]]],
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
