"""Labels that come late and apart from the rows: taken once matured and covered, joined by key.

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
import pyarrow.parquet as pq

from retrain.data import dataset
from retrain.data.sources import Delivered, deliver_labels, encoded
from retrain.data.versions import DataVersion, registry_of
from retrain.errors import BatchMissing, ContradictoryLabels, RetrainError
from retrain.results import Accepted, Decision, Interval, IntervalLabels, LabelBatch, LabelsReport
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
        said = f"{run.spec.target.column} comes with the rows"
        return _report(run, Decision(verdict="same", reasons=(said,)))
    taken, found, refused = _taken(run), list[IntervalLabels](), list[RetrainError]()
    matured = joined = 0
    for one in _accepted(run):
        records = taken.get(one.batch.interval.name, [])
        again = bool(records) and run.trigger.revise and one.batch.interval == run.interval
        mature = one.mature_at <= run.as_of
        matured += mature
        record = records[-1] if records and records[-1].body["batch"] == one.batch.sha256 else None
        if (record is None and mature) or again:
            try:
                seen = _look(run, source, one, records)
            except RetrainError as error:
                refused.append(error)
                continue
        elif record is not None and record.run == run.key:
            seen = _of(record, one.batch.interval)  # a retry says what its first attempt said
        elif record is not None and mature and record.effective_at > run.as_of:
            seen = IntervalLabels(interval=one.batch.interval, rows=one.batch.rows, reason="they came later")
        else:
            joined += record is not None and mature
            continue
        found.append(seen)
        joined += seen.labels is not None and mature
    if refused:
        raise refused[0]
    return _report(run, _decision(run, matured, joined, found), matured, joined, tuple(found))


def _accepted(run: Run) -> list[Accepted]:
    newest: dict[str, Accepted] = {}
    for record in run.ledger.records(run.model, "snapshot"):
        one = Accepted.model_validate(record.body["accepted"])
        if max(one.batch.interval.end, record.effective_at) <= run.as_of:
            newest[one.batch.interval.name] = one
    return sorted(newest.values(), key=lambda one: one.batch.interval.start)


def _taken(run: Run) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in run.ledger.records(run.model, "labels"):
        found.setdefault(record.body["interval"], []).append(record)
    return found


def _of(record: Record, interval: Interval) -> IntervalLabels:
    said = {name: value for name, value in record.body.items() if name in IntervalLabels.model_fields}
    return IntervalLabels.model_validate({**said, "interval": interval})


def _decision(run: Run, matured: int, joined: int, found: list[IntervalLabels]) -> Decision:
    if not matured:
        return Decision(verdict="waiting", reasons=(f"no labels have matured by {run.as_of:%Y-%m-%d %H:%M}",))
    waiting = [f"{one.interval.name} waits: {one.reason}" for one in found if one.labels is None]
    new = [
        f"{one.interval.name}: {one.labelled:,} of {one.rows:,} rows ({one.coverage:.1%})" + _counted(one)
        for one in found
        if one.labels is not None
    ]
    said = f"{joined} of {matured} matured intervals have their labels"
    return Decision(
        verdict="waiting" if joined < matured else "joined", reasons=(said, *_bounded(new), *_bounded(waiting))
    )


def _counted(one: IntervalLabels) -> str:
    counts = {
        "empty": one.empty,
        "of no known class": one.unknown,
        "duplicated": one.duplicates,
        "contradictory": one.contradictory,
        "without a row": one.strangers,
    }
    return "".join(f", {count:,} {what}" for what, count in counts.items() if count)


def _bounded(said: list[str]) -> Iterator[str]:
    yield from said[:SHOWN]
    if len(said) > SHOWN:
        yield f"… and {len(said) - SHOWN} more"


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


def _look(run: Run, source: LabelSource, one: Accepted, records: list[Record]) -> IntervalLabels:
    """Read the interval's delivery; take it if it covers enough rows."""
    interval, schema = one.batch.interval, dataset.labels_schema(run.spec)
    with tempfile.TemporaryDirectory(prefix="retrain-labels-") as name:
        folder = Path(name)
        try:
            delivered = deliver_labels(source, run.spec.source, interval, run.home.root, schema, folder)
        except BatchMissing as error:
            return IntervalLabels(interval=interval, rows=one.batch.rows, reason=error.found)
        sorted_out = _sort_out(run.spec, pq.read_table(delivered.file))
        if sorted_out.contradictory > source.contradictory * sorted_out.keys:
            raise ContradictoryLabels(
                f"{sorted_out.contradictory:,} of {sorted_out.keys:,} keys in the labels of {interval} come with"
                f" different labels, more than labels.source.contradictory {source.contradictory:g} allows",
                do="deliver one label a key; nothing was taken of this delivery",
            )
        joined, said = _join(run, one, sorted_out)
        enough = run.spec.labels.min_coverage
        if not said.labelled or said.coverage < enough:
            reason = f"{said.labelled:,} of {said.rows:,} rows ({said.coverage:.1%}) have a label" + _counted(said)
            return said.model_copy(update={"reason": f"{reason}; labels.min_coverage is {enough:g}"})
        file = folder / "joined.parquet"
        pq.write_table(encoded(joined, schema), file, compression="zstd", version="2.6")
        return _publish(run, one, said, delivered, file, records)


@dataclass(frozen=True)
class _Sorted:
    """One label a key, and what was left out."""

    labels: pa.Table
    keys: int
    empty: int
    unknown: int
    duplicates: int
    contradictory: int
    keyless: int


def _sort_out(spec: Spec, table: pa.Table) -> _Sorted:
    key, target = spec.source.key, spec.target.column
    empty = table[target].null_count
    table = table.filter(table[target].is_valid())
    known = np.isfinite(dataset.outcome(spec, dataset.to_frame(table.select([target]))).to_numpy())
    unknown, table = int((~known).sum()), table.filter(pa.array(known))
    numbers = dataset.identify(table, key)
    named = numbers >= 0
    table, numbers = table.filter(pa.array(named)), numbers[named]
    first = ~pd.DataFrame({"key": numbers, "label": dataset.identify(table, [target])}).duplicated().to_numpy()
    different = np.bincount(numbers[first])
    return _Sorted(
        labels=table.filter(pa.array(first & (different[numbers] == 1))),
        keys=int((different > 0).sum()),
        empty=empty,
        unknown=unknown,
        duplicates=int((~first).sum()),
        contradictory=int((different > 1).sum()),
        keyless=int((~named).sum()),
    )


def _join(run: Run, one: Accepted, given: _Sorted) -> tuple[pa.Table, IntervalLabels]:
    """The labels that have a row, in the order of the rows."""
    key = run.spec.source.key
    with run.store.verified(one.batch.key, one.batch.sha256) as path:
        places = dataset.match(pq.read_table(path, columns=list(key)), given.labels, key)
    used = pd.unique(places[places >= 0])
    said = IntervalLabels(
        interval=one.batch.interval,
        rows=len(places),
        labelled=int((places >= 0).sum()),
        empty=given.empty,
        unknown=given.unknown,
        duplicates=given.duplicates,
        contradictory=given.contradictory,
        strangers=len(given.labels) - len(used) + given.keyless,
    )
    return given.labels.take(pa.array(used)), said


def _publish(
    run: Run, one: Accepted, said: IntervalLabels, delivered: Delivered, file: Path, records: list[Record]
) -> IntervalLabels:
    name, sha256 = one.batch.interval.name, sha256_of(file)
    batch = LabelBatch(
        sha256=sha256, rows=pq.read_metadata(file).num_rows, key=f"{run.model}/labels/{name}/{sha256}.parquet"
    )
    said = said.model_copy(update={"labels": batch})
    run.store.put(batch.key, file)
    version: DataVersion = registry_of(run.home).publish(
        file,
        f"{run.model}/labels/{name}.parquet",
        message=f"{run.model} {name}: labels of {said.labelled:,} rows",
        tag=f"{run.model}/labels/{name}/{sha256[:12]}",
    )
    if records and (records[-1].body["labels"]["sha256"], records[-1].body["batch"]) == (sha256, one.batch.sha256):
        return said
    run.ledger.append(
        run.model,
        "labels",
        f"{name}/{sha256}" + (f"/{len(records)}" if records else ""),
        {
            **said.model_dump(mode="json"),
            "interval": name,
            "batch": one.batch.sha256,
            "coverage": said.coverage,
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
        effective_at=max(run.as_of, one.mature_at),
        run=run.key,
    )
    log.info("labels of %s: %s of %s rows, from %s", name, said.labelled, said.rows, delivered.address)
    return said
