"""What a data registry has lost, brought back from the record: the ledger says what was published, under which tag.

The repository may have been deleted, replaced, or restored from an older backup. The bytes of each version are in the
store or in the DVC remote, under the digests on record; so the same tags come to stand for the same data again. Their
commits are others than on record, which a record of kind `data restored` says. What was anchored in the repository of
before is gone with it: the ledger's head is anchored anew.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Final

from retrain.data.versions.names import DataVersion
from retrain.data.versions.registry import DataRegistry
from retrain.errors import MissingInput, PushIncomplete, RetrainError, SnapshotCorrupt
from retrain.state.ledger import Ledger, Record
from retrain.state.run import Run

log = logging.getLogger(__name__)

RESTORED: Final = "data restored"
"""Kind of the ledger's record."""


def published(ledger: Ledger, model: str) -> dict[str, Record]:
    """The newest record of each batch and label file that was published, by its tag, oldest first."""
    records = [record for kind in ("snapshot", "labels") for record in ledger.records(model, kind)]
    return {record.body["version"]["tag"]: record for record in sorted(records, key=lambda record: record.id)}


def version_of(ledger: Ledger, record: Record) -> DataVersion:
    """The version that a record speaks of, at the commit that its tag has now by what is on record."""
    version = DataVersion(**record.body["version"])
    commits: dict[str, str] = {}
    for restored in ledger.records(record.model, RESTORED):
        commits |= restored.body["commits"]
    return DataVersion(version.path, version.md5, version.bytes, commits.get(version.tag, version.commit), version.tag)


def publish_lost(run: Run, registry: DataRegistry) -> None:
    """Publish again what is on record of a model, where the data registry does not know the newest or the interval's.

    What neither the store nor the remote holds any more is left out and named in log and record.

    Args:
        run: whose record and store are read.
        registry: what has lost it.

    Raises:
        RegistryBusy, RegistryUnavailable: as `DataRegistry.publish`.
    """
    records = published(run.ledger, run.model)
    newest = list(records)[-1:]
    own = [tag for tag, record in records.items() if record.body["interval"] == run.interval.name]
    if all(registry.lookup(tag) for tag in (*newest, *own)):
        return
    commits: dict[str, str] = {}
    gone: list[str] = []
    for tag, record in records.items():
        expected = version_of(run.ledger, record)
        try:
            version = registry.lookup(tag) or _publish(run, registry, record, expected)
        except (MissingInput, PushIncomplete, SnapshotCorrupt) as error:
            log.warning("%s cannot be restored: %s", tag, error.found)
            gone.append(tag)
            continue
        if version.commit != expected.commit:
            commits[tag] = version.commit
    log.warning(
        "the data registry had lost %s of %s versions of %s; they are published again from store and remote",
        len(commits) + len(gone), len(records), run.model,
    )  # fmt: skip
    times = len(run.ledger.records(run.model, RESTORED))
    body = {"commits": commits, "gone": gone}
    head = run.ledger.append(
        run.model, RESTORED, f"{run.key}/{times}", body, effective_at=run.as_of, run=run.key, by=run.trigger.by
    )
    try:
        registry.anchor(run.model, head.place, head.hash)
    except RetrainError as error:
        log.warning("%s: the ledger was not anchored: %s", run.model, error.found)


def _publish(run: Run, registry: DataRegistry, record: Record, version: DataVersion) -> DataVersion:
    """Publish the bytes of a version, from the store or else from the remote, which has them under their MD5."""
    stored = record.body["labels"] if record.kind == "labels" else record.body["accepted"]["batch"]
    message = f"{version.tag}: restored from the record"
    try:
        with run.store.verified(stored["key"], stored["sha256"]) as file:
            return registry.publish(file, version.path, message=message, tag=version.tag)
    except (MissingInput, SnapshotCorrupt):
        with tempfile.TemporaryDirectory(prefix="retrain-restore-") as folder:
            file = registry.fetch(version, Path(folder, "data"))
            return registry.publish(file, version.path, message=message, tag=version.tag)
