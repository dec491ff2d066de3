"""Take the interval's batch as it came: staged, checked, then published whole under its content hash.

The file lies at `<model>/batches/<interval>/<sha256>.parquet`. The ledger remembers which delivered bytes became
which file, so that whoever comes second finds the work done.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from retrain.data.dataset import arrow_schema
from retrain.data.sources import Delivered, deliver, find
from retrain.errors import IntervalConflict
from retrain.results import AcceptedBatch, Batch, IngestReport
from retrain.state.ledger import Record
from retrain.state.run import Run
from retrain.state.store import json_digest, sha256_of

log = logging.getLogger(__name__)


def ingest(run: Run) -> IngestReport:
    """Publish the batch of the run's interval.

    Raises:
        BatchMissing: not delivered yet; the message says until when it is waited for.
        IntervalConflict: other bytes for an interval that has been accepted, without `revise`.
        RaggedRow, SchemaChanged, DtypeChanged, EmptyBatch, OutOfInterval, BatchTooLarge: what is wrong with it.
        SourceRefused, SourceUnavailable: the source cannot be read, or not now.
    """
    schema = arrow_schema(run.spec)
    # The same bytes under other declared types are another batch.
    written = run.spec.source.csv.model_dump(mode="json", exclude_defaults=True)
    types = ((field.name, str(field.type)) for field in schema)
    typing = json_digest([run.spec.source.time, *types, *([written] if written else [])])[:8]
    with tempfile.TemporaryDirectory(prefix="retrain-ingest-") as name:
        folder = Path(name)
        source, root = run.spec.source, run.home.root
        files = find(source, run.interval, root, folder)
        if files and (record := run.ledger.find(run.model, "ingest", _key(run, files.digest, typing))):
            batch = Batch.model_validate(record.body["batch"])
            if run.store.exists(batch.key):
                _refuse_conflict(run, batch.sha256, files.digest)
                log.info("found done: these bytes became %s rows before", f"{batch.rows:,}")
                return _report(run, batch, files.address, files.digest)
        delivered = deliver(source, run.interval, root, schema, folder, files)
        batch = _batch(run, delivered)
        _refuse_conflict(run, batch.sha256, delivered.digest)
        run.store.put(batch.key, delivered.file)
    run.ledger.append(
        run.model,
        "ingest",
        _key(run, delivered.digest, typing),
        {
            "interval": run.interval.name,
            "source": delivered.address,
            "source_digest": delivered.digest,
            "batch": batch.model_dump(mode="json"),
        },
        effective_at=run.as_of,
        run=run.key,
    )
    log.info("%s rows from %s", f"{batch.rows:,}", delivered.address)
    return _report(run, batch, delivered.address, delivered.digest)


def _key(run: Run, digest: str, typing: str) -> str:
    return f"{run.interval.name}/{digest[:16]}-{typing}"


def _batch(run: Run, delivered: Delivered) -> Batch:
    sha256 = sha256_of(delivered.file)
    return Batch(
        interval=run.interval,
        sha256=sha256,
        rows=delivered.rows,
        bytes=delivered.file.stat().st_size,
        key=f"{run.model}/batches/{run.interval.name}/{sha256}.parquet",
    )


def _report(run: Run, batch: Batch, address: str, digest: str) -> IngestReport:
    return IngestReport(
        model=run.model,
        interval=run.interval,
        effective_at=run.as_of,
        batch=batch,
        source=address,
        source_digest=digest,
    )


def _refuse_conflict(run: Run, sha256: str, digest: str) -> None:
    accepted = accepted_batch(run)
    if accepted is None or accepted.batch.sha256 == sha256 or run.trigger.revise:
        return
    # A column declared anew retypes the same delivery: nobody delivered anything else.
    if any(
        record.body["source_digest"] == digest and record.body["batch"]["sha256"] == accepted.batch.sha256
        for record in _of_interval(run, "ingest")
    ):
        return
    raise IntervalConflict(
        f"{run.interval} was accepted as {accepted.batch.sha256[:12]} with {accepted.batch.rows:,} rows,"
        f" the delivery is now {sha256[:12]}",
        do="put the delivery back, or take it as a new revision, in a run of its own: python -m retrain run"
        f" {run.model} --interval {run.interval.name} --revise, or trigger {run.model}_retrain with revise",
    )


def accepted_batch(run: Run) -> AcceptedBatch | None:
    """The batch of the run's interval that was accepted last, by whichever run; None before the first."""
    records = _of_interval(run, "snapshot")
    return AcceptedBatch.model_validate(records[-1].body["accepted"]) if records else None


def _of_interval(run: Run, kind: str) -> list[Record]:
    return [record for record in run.ledger.records(run.model, kind) if record.key.startswith(f"{run.interval.name}/")]
