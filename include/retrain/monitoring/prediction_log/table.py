"""The file of a scored batch: how scores become a table, and are read from it again."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retrain.modeling.metrics import Array
from retrain.spec import Spec

SHADOW = "shadow_"
"""Begins the names of the other version's columns."""


@dataclass(frozen=True)
class Scores:
    """The scores that a version of the model gave to n rows.

    Attributes:
        values: (n,), or (n, k) of a multiclass model.
        version: of the model.
    """

    values: Array
    version: int


def column_names(spec: Spec) -> dict[str, str]:
    """Key and time columns of the spec → their names in the file.

    >>> from retrain.spec import EXAMPLE, parse
    >>> column_names(parse(EXAMPLE.replace("[id]", "[id, visits]").replace("visits", "score"), "churn"))
    {'id': 'id', 'score': 'score_', 'signup': 'signup'}
    """
    own = list(dict.fromkeys([*spec.source.key, spec.source.time]))
    plain = [*_score_columns(spec), "version", "data", "reason"]
    taken = {*plain, *(f"{SHADOW}{name}" for name in plain)}
    names = {}
    for name in own:
        free = name
        while free in taken or (free != name and free in own):
            free += "_"
        taken.add(free)
        names[name] = free
    return names


def _score_columns(spec: Spec) -> list[str]:
    if spec.task != "multiclass":
        return ["score"]
    return [*(f"score_{place}" for place in range(len(spec.classes))), "predicted"]


def canary_rows(model: str, keys: pa.Table, share: float) -> Array:
    """Which of n rows a canary answers, (n,): those whose hashed key falls below `share`.

    The same key falls at the same place in every batch, on every machine and at every step, so that the rows of a
    small share are among those of a larger one. The hash is SHA-256 of the model's name and the key as text.

    Args:
        model: its name.
        keys: (n) the spec's key columns.
        share: between 0 and 1.

    >>> keys = pa.table({"id": [str(n) for n in range(1000)]})
    >>> few, many = canary_rows("churn", keys, 0.05), canary_rows("churn", keys, 0.25)
    >>> int(few.sum()), int(many.sum()), bool(many[few].all())
    (56, 256, True)
    """
    texts = [_without_dictionary(keys[name]).cast(pa.string()).fill_null("") for name in keys.column_names]
    joined = pc.binary_join_element_wise(*texts, "\0").to_pylist()
    place = [hashlib.sha256(f"{model}\0{key}".encode()).digest()[:8] for key in joined]
    return np.frombuffer(b"".join(place), dtype=">u8").astype(np.float64) < share * 2.0**64


def to_parquet(
    spec: Spec,
    lead: pa.Table,
    champion: Scores,
    shadow: Scores | None,
    canary: Array | None = None,
    *,
    data: str,
    reason: Sequence[str | None],
) -> bytes:
    """Write scores as a Parquet file; the same scores give the same bytes.

    Args:
        spec: names the key, the time and the classes.
        lead: (n) the key and time columns, as they were delivered.
        champion: its scores; NaN where a row has none.
        shadow: those of the shadow model.
        canary: (n,) which rows are served the shadow model's score.
        data: SHA-256 of the batch.
        reason: (n) why a row has no score; None where it has one.
    """
    n = lead.num_rows
    swapped = np.zeros(n, dtype=bool) if canary is None or shadow is None else canary
    columns = {free: _without_dictionary(lead[name]) for name, free in column_names(spec).items()}
    columns |= _version_columns(spec, champion, shadow, swapped, "")
    columns["data"] = pa.repeat(pa.scalar(data, pa.string()), n)
    columns["reason"] = pa.array(reason, pa.string())
    if shadow is not None:
        columns |= _version_columns(spec, shadow, champion, swapped, SHADOW)
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def _version_columns(
    spec: Spec, scores: Scores, other: Scores | None, swapped: Array, prefix: str
) -> dict[str, pa.Array]:
    """The columns of a version's scores, those of the other one at the swapped rows."""
    values, version = scores.values, np.full(len(swapped), scores.version, dtype=np.int64)
    if other is not None and swapped.any():
        at = swapped if values.ndim == 1 else swapped[:, None]
        values, version = np.where(at, other.values, values), np.where(swapped, other.version, version)
    return _score_arrays(spec, values, prefix) | {f"{prefix}version": pa.array(version, pa.int64())}


def _without_dictionary(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Plain values: a dictionary's order is that of arrival."""
    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values


def _score_arrays(spec: Spec, values: Array, prefix: str) -> dict[str, pa.Array]:
    """The score columns; a NaN is an empty score."""
    if spec.task != "multiclass":
        return {f"{prefix}score": pa.array(values, pa.float64(), from_pandas=True)}
    arrays = {
        f"{prefix}score_{place}": pa.array(values[:, place], pa.float64(), from_pandas=True)
        for place in range(len(spec.classes))
    }
    classes = np.asarray([str(name) for name in spec.classes], dtype=object)
    # NaN stands for a whole row: the place that argmax finds there is not used.
    named = np.where(np.isnan(values).any(axis=1), None, classes[np.argmax(values, axis=1)])
    return arrays | {f"{prefix}predicted": pa.array(named, pa.string())}


def scores_of_version(spec: Spec, frame: pd.DataFrame, version: int) -> Array:
    """The scores that a version gave to the rows of a frame, served or not; NaN where it gave none.

    Args:
        spec: of the model.
        frame: n rows, as `read` gives them.
        version: of the model.

    Returns:
        (n,), or (n, k) of a multiclass model.
    """
    scores = np.full_like(scores_in(spec, frame), np.nan)
    for shadow, column in ((False, "version"), (True, f"{SHADOW}version")):
        if column in frame:
            own = (frame[column] == version).to_numpy()
            scores[own] = scores_in(spec, frame, shadow=shadow)[own]
    return scores


def scores_in(spec: Spec, frame: pd.DataFrame, *, shadow: bool = False) -> Array:
    """The scores that were served, of a frame that `read` gave, or the others: (n,), or (n, k); NaN where none is."""
    prefix = SHADOW if shadow else ""
    if spec.task != "multiclass":
        return frame[f"{prefix}score"].to_numpy(dtype=np.float64)
    return frame[[f"{prefix}score_{place}" for place in range(len(spec.classes))]].to_numpy(dtype=np.float64)
