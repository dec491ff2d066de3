"""Take labels that come late and apart from the rows, once matured and covered, and join them by key.

Each run looks at every accepted interval that has matured by its as-of time and has no labels yet, so that late
ones are found by a later run. A missing label stays missing; it is never a negative. What is not sure is no label:
empty fields, unknown classes, keys that contradict themselves. All of it is counted.

The joined labels lie at `<model>/labels/<interval>/<sha256>.parquet`, versioned like the batches; the ledger's
record is written last, so that a killed run leaves nothing that anybody reads.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retrain.data import dataset
from retrain.data.sources import Delivered, deliver_labels, encoded
from retrain.data.versions import DataVersion, publish_lost, registry_of
from retrain.errors import BatchMissing, ContradictoryLabels, RetrainError
from retrain.results import AcceptedBatch, Decision, Interval, IntervalLabels, LabelBatch, LabelsReport
from retrain.spec import LabelSource, Spec
from retrain.state.ledger import Record
from retrain.state.run import Run
from retrain.state.store import sha256_of

log = logging.getLogger(__name__)

SHOWN = 8
"""How many intervals a reason names."""


def labels(run: Run) -> LabelsReport:
    """Take the labels of every interval whose labels have matured and were not taken before.

    An interval waits, without a failure, while nothing is delivered, while no row has a label, and while fewer than
    `labels.min_coverage` of its rows have one. Labels that were taken are not looked at again, unless this run
    revises its interval or the interval's batch was revised.

    A delivery that is refused does not keep the other intervals from their labels; it is raised at the end.

    Raises:
        ContradictoryLabels: more keys than `labels.source.contradictory` allows have different labels.
        RaggedRow, SchemaChanged, DtypeChanged, BatchTooLarge: what is wrong with a delivery.
        SourceRefused, SourceUnavailable: the source cannot be read, or not now.
        PushIncomplete, RegistryBusy, RegistryUnavailable: see `DataRegistry.publish`.
    """
    source = run.spec.labels.source
    if source == "same":
        reason = f"{run.spec.target.column} comes with the rows"
        return _report(run, Decision(verdict="same", reasons=(reason,)))
    taken, intervals, refused = _taken(run), list[IntervalLabels](), list[RetrainError]()
    matured = joined = 0
    for accepted in _accepted(run):
        batch = accepted.batch
        records = taken.get(batch.interval.name, [])
        again = bool(records) and run.trigger.revise and batch.interval == run.interval
        mature = accepted.mature_at <= run.as_of
        matured += mature
        record = records[-1] if records and records[-1].body["batch"] == batch.sha256 else None
        if (record is None and mature) or again:
            try:
                result = _take(run, source, accepted, records)
            except RetrainError as error:
                refused.append(error)
                continue
        elif record is not None and record.run == run.key:
            result = _of_record(record, batch.interval)  # a retry reports what its first attempt did
        elif record is not None and mature and record.effective_at > run.as_of:
            result = IntervalLabels(interval=batch.interval, rows=batch.rows, reason="they came later")
        else:
            joined += record is not None and mature
            continue
        intervals.append(result)
        joined += result.labels is not None and mature
    if refused:
        raise refused[0]
    return _report(run, _decision(run, matured, joined, intervals), matured, joined, tuple(intervals))


def _accepted(run: Run) -> list[AcceptedBatch]:
    newest: dict[str, AcceptedBatch] = {}
    for record in run.ledger.records(run.model, "snapshot"):
        accepted = AcceptedBatch.model_validate(record.body["accepted"])
        if max(accepted.batch.interval.end, record.effective_at) <= run.as_of:
            newest[accepted.batch.interval.name] = accepted
    return sorted(newest.values(), key=lambda accepted: accepted.batch.interval.start)


def _taken(run: Run) -> dict[str, list[Record]]:
    taken: dict[str, list[Record]] = {}
    for record in run.ledger.records(run.model, "labels"):
        taken.setdefault(record.body["interval"], []).append(record)
    return taken


def _of_record(record: Record, interval: Interval) -> IntervalLabels:
    fields = {name: value for name, value in record.body.items() if name in IntervalLabels.model_fields}
    return IntervalLabels.model_validate({**fields, "interval": interval})


def _decision(run: Run, matured: int, joined: int, intervals: list[IntervalLabels]) -> Decision:
    if not matured:
        return Decision(verdict="waiting", reasons=(f"no labels have matured by {run.as_of:%Y-%m-%d %H:%M}",))
    waiting = [f"{each.interval.name} waits: {each.reason}" for each in intervals if each.labels is None]
    new = [
        f"{each.interval.name}: {each.labelled:,} of {each.rows:,} rows ({each.coverage:.1%})" + _counted(each)
        for each in intervals
        if each.labels is not None
    ]
    summary = f"{joined} of {matured} matured intervals have their labels"
    return Decision(
        verdict="waiting" if joined < matured else "joined", reasons=(summary, *_bounded(new), *_bounded(waiting))
    )


def _counted(labels: IntervalLabels) -> str:
    counts = {
        "empty": labels.empty,
        f"of no known class ({', '.join(map(repr, labels.unknown_values))})": labels.unknown,
        "duplicated": labels.duplicates,
        "contradictory": labels.contradictory,
        "without a row": labels.strangers,
    }
    return "".join(f", {count:,} {what}" for what, count in counts.items() if count)


def _bounded(reasons: list[str]) -> Iterator[str]:
    yield from reasons[:SHOWN]
    if len(reasons) > SHOWN:
        yield f"… and {len(reasons) - SHOWN} more"


def _report(
    run: Run, decision: Decision, matured: int = 0, joined: int = 0, intervals: tuple[IntervalLabels, ...] = ()
) -> LabelsReport:
    return LabelsReport(
        model=run.model,
        interval=run.interval,
        effective_at=run.as_of,
        decision=decision,
        matured=matured,
        joined=joined,
        intervals=intervals,
    )


# --- one interval ----------------------------------------------------------------------------------


def _take(run: Run, source: LabelSource, accepted: AcceptedBatch, records: list[Record]) -> IntervalLabels:
    """Read the interval's delivery; take it if it covers enough rows."""
    interval, schema = accepted.batch.interval, dataset.labels_schema(run.spec)
    with tempfile.TemporaryDirectory(prefix="retrain-labels-") as name:
        folder = Path(name)
        try:
            delivered = deliver_labels(source, run.spec.source, interval, run.home.root, schema, folder)
        except BatchMissing as error:
            return IntervalLabels(interval=interval, rows=accepted.batch.rows, reason=error.found)
        sorted_out = _sort_out(run.spec, pq.read_table(delivered.file))
        if sorted_out.contradictory > source.contradictory * sorted_out.keys:
            raise ContradictoryLabels(
                f"{sorted_out.contradictory:,} of {sorted_out.keys:,} keys in the labels of {interval} come with"
                f" different labels, more than labels.source.contradictory {source.contradictory:g} allows",
                do="deliver one label a key; nothing was taken of this delivery",
            )
        joined, counts = _join(run, accepted, sorted_out)
        enough = run.spec.labels.min_coverage
        if not counts.labelled or counts.coverage < enough:
            share = f"{counts.labelled:,} of {counts.rows:,} rows ({counts.coverage:.1%})"
            reason = f"{share} have a label{_counted(counts)}"
            return counts.model_copy(update={"reason": f"{reason}; labels.min_coverage is {enough:g}"})
        file = folder / "joined.parquet"
        pq.write_table(encoded(joined, schema), file, compression="zstd", version="2.6")
        return _publish(run, accepted, counts, delivered, file, records)


@dataclass(frozen=True)
class _Sorted:
    """One label a key, and what was left out."""

    labels: pa.Table
    keys: int
    empty: int
    unknown: int
    unknown_values: tuple[str, ...]
    duplicates: int
    contradictory: int
    keyless: int


def _sort_out(spec: Spec, table: pa.Table) -> _Sorted:
    key, target = spec.source.key, spec.target.column
    empty = table[target].null_count
    table = table.filter(table[target].is_valid())
    known = np.isfinite(dataset.outcome(spec, dataset.to_frame(table.select([target]))).to_numpy())
    strange = table[target].filter(pa.array(~known))
    table = table.filter(pa.array(known))
    numbers = dataset.identify(table, key)
    named = numbers >= 0
    table, numbers = table.filter(pa.array(named)), numbers[named]
    first = ~pd.DataFrame({"key": numbers, "label": dataset.identify(table, [target])}).duplicated().to_numpy()
    different = np.bincount(numbers[first])
    return _Sorted(
        labels=table.filter(pa.array(first & (different[numbers] == 1))),
        keys=int((different > 0).sum()),
        empty=empty,
        unknown=len(strange),
        unknown_values=tuple(sorted(str(value) for value in pc.unique(strange).to_pylist())[:SHOWN]),
        duplicates=int((~first).sum()),
        contradictory=int((different > 1).sum()),
        keyless=int((~named).sum()),
    )


def _join(run: Run, accepted: AcceptedBatch, given: _Sorted) -> tuple[pa.Table, IntervalLabels]:
    """The labels that have a row, in the order of the rows."""
    key = run.spec.source.key
    with run.store.verified(accepted.batch.key, accepted.batch.sha256) as path:
        places = dataset.match(pq.read_table(path, columns=list(key)), given.labels, key)
    used = pd.unique(places[places >= 0])
    counts = IntervalLabels(
        interval=accepted.batch.interval,
        rows=len(places),
        labelled=int((places >= 0).sum()),
        empty=given.empty,
        unknown=given.unknown,
        unknown_values=given.unknown_values,
        duplicates=given.duplicates,
        contradictory=given.contradictory,
        strangers=len(given.labels) - len(used) + given.keyless,
    )
    return given.labels.take(pa.array(used)), counts


def _publish(
    run: Run, accepted: AcceptedBatch, counts: IntervalLabels, delivered: Delivered, file: Path, records: list[Record]
) -> IntervalLabels:
    name, sha256 = accepted.batch.interval.name, sha256_of(file)
    batch = LabelBatch(
        sha256=sha256, rows=pq.read_metadata(file).num_rows, key=f"{run.model}/labels/{name}/{sha256}.parquet"
    )
    taken = counts.model_copy(update={"labels": batch})
    run.store.put(batch.key, file)
    registry = registry_of(run.home)
    publish_lost(run, registry)
    version: DataVersion = registry.publish(
        file,
        f"{run.model}/labels/{name}.parquet",
        message=f"{run.model} {name}: labels of {taken.labelled:,} rows",
        tag=f"{run.model}/labels/{name}/{sha256[:12]}",
    )
    if records and (records[-1].body["labels"]["sha256"], records[-1].body["batch"]) == (sha256, accepted.batch.sha256):
        return taken
    run.ledger.append(
        run.model,
        "labels",
        f"{name}/{sha256}" + (f"/{len(records)}" if records else ""),
        {
            **taken.model_dump(mode="json"),
            "interval": name,
            "batch": accepted.batch.sha256,
            "coverage": taken.coverage,
            "source": delivered.address,
            "source_digest": delivered.digest,
            "version": {
                "path": version.path,
                "md5": version.md5,
                "bytes": version.bytes,
                "commit": version.commit,
                "tag": version.tag,
            },
        },
        # A revision may be asked for in a run of the interval itself: nobody before their maturity knows of labels.
        effective_at=max(run.as_of, accepted.mature_at),
        run=run.key,
    )
    log.info("labels of %s: %s of %s rows, from %s", name, taken.labelled, taken.rows, delivered.address)
    return taken
