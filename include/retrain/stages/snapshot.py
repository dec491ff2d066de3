"""Version the accepted batch: DVC's hash and the git commit bring back its exact bytes."""

from __future__ import annotations

import logging

from retrain.data.versions import DataRegistry, DataVersion, publish_lost, registry_of, version_of
from retrain.errors import MissingInput, PushIncomplete, SnapshotCorrupt
from retrain.results import AcceptedBatch, Batch, IngestReport, SnapshotReport, ValidateReport
from retrain.state.run import Run

log = logging.getLogger(__name__)


def snapshot(run: Run) -> SnapshotReport:
    """Publish the batch that validate accepted in this run, and record that training may read it.

    Where the data registry was lost, what is on record of the model is published again first.

    Raises:
        MissingInput: validate has not accepted this run's batch, or its file is gone.
        SnapshotCorrupt: the file is not the one that was ingested.
        PushIncomplete, RegistryBusy, RegistryUnavailable: see `DataRegistry.publish`.
    """
    batch = run.read(IngestReport, "ingest").batch
    validated = run.read(ValidateReport, "validate")
    if validated.decision.verdict != "accept" or validated.sha256 != batch.sha256:
        reason = "was quarantined" if validated.sha256 == batch.sha256 else "is not the one that was validated"
        raise MissingInput(
            f"the batch {batch.sha256[:12]} of {run.interval} {reason}",
            do=f"run it first: python -m retrain validate {run.model} --interval {run.interval.name}",
        )
    registry = registry_of(run.home)
    publish_lost(run, registry)
    records = [
        record for record in run.ledger.records(run.model, "snapshot") if record.body["interval"] == run.interval.name
    ]
    if records and records[-1].body["accepted"]["batch"]["sha256"] == batch.sha256:
        version = version_of(run.ledger, records[-1])
        if _held(registry, version):
            log.info("found done: %s at commit %s", version.tag, version.commit[:12])
            return _report(run, batch, version)
    version = _publish(run, registry, batch)
    accepted = AcceptedBatch(
        batch=batch,
        md5=version.md5,
        commit=version.commit,
        mature_at=run.interval.end + run.spec.labels.mature_after,
    )
    # Going back to earlier bytes is a revision too: the newest record of an interval is the one that counts.
    again = sum(record.body["accepted"]["batch"]["sha256"] != batch.sha256 for record in records)
    run.ledger.append(
        run.model,
        "snapshot",
        f"{run.interval.name}/{batch.sha256}" + (f"/{again}" if again else ""),
        {
            "interval": run.interval.name,
            "accepted": accepted.model_dump(mode="json"),
            "version": {
                "path": version.path,
                "md5": version.md5,
                "bytes": version.bytes,
                "commit": version.commit,
                "tag": version.tag,
            },
        },
        effective_at=run.as_of,
        run=run.key,
    )
    return _report(run, batch, version)


def _held(registry: DataRegistry, version: DataVersion) -> bool:
    try:
        registry.verify(version)
    except (PushIncomplete, SnapshotCorrupt) as error:
        log.warning("%s; publishing again", error.found)
        return False
    return True


def _publish(run: Run, registry: DataRegistry, batch: Batch) -> DataVersion:
    with run.store.verified(batch.key, batch.sha256) as file:
        return registry.publish(
            file,
            f"{run.model}/{run.interval.name}.parquet",
            message=f"{run.model} {run.interval.name}: {batch.rows:,} rows",
            tag=f"{run.model}/{run.interval.name}/{batch.sha256[:12]}",
        )


def _report(run: Run, batch: Batch, version: DataVersion) -> SnapshotReport:
    return SnapshotReport(
        model=run.model,
        interval=run.interval,
        effective_at=run.as_of,
        sha256=batch.sha256,
        path=version.path,
        md5=version.md5,
        bytes=version.bytes,
        commit=version.commit,
        tag=version.tag,
    )
