"""The evidence of a version: the files that its run has written, which stay as they are once a version is made of them.

Before a run registers a version, the SHA-256 of each of them goes on record, once, under the run's key. From then on
the run is sealed (`retrain.pipeline`): its stages up to `register` are read, not run, and something else is a run of
its own. Whoever lets the version serve holds the files against the record first, and `verify` does at any time.

The reports of `register` and `smoke_test` come later: each stage's record in the ledger has the SHA-256 of its report.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from retrain.errors import EvidenceChanged, InvalidSpec, MissingInput
from retrain.spec import parse
from retrain.state.ledger import Record
from retrain.state.run import Run
from retrain.state.store import sha256_of

EVIDENCE: Final = "evidence"
"""Kind of the ledger's records: the files that a version points to."""
LEFT_OUT = ("train/", "register", "smoke_test", "probe", "promote")
"""What is no evidence: the candidates' files, whose digests are in the reports, and what later stages write."""


@dataclass(frozen=True)
class Seal:
    """What a sealed run rests on.

    Attributes:
        spec: digest of the spec that it was run with.
        version: that it has made; None while it is being made.
        files: file in the run's folder → its SHA-256; empty of a run from before they were put on record.
    """

    spec: str
    version: int | None
    files: Mapping[str, str] = field(default_factory=dict)


def seal_of(run: Run) -> Seal | None:
    """What a run rests on, by the ledger; None of one that has begun to make no version."""
    record = run.ledger.find(run.model, EVIDENCE, run.key)
    registered = [
        stage
        for stage in run.ledger.records(run.model, "stage", run=run.key)
        if stage.body.get("stage") == "register" and stage.body["facts"].get("version")
    ]
    version = registered[-1].body["facts"]["version"] if registered else None
    if record is not None:
        return Seal(record.body["spec"], version, record.body["files"])
    return Seal(registered[-1].body["spec"], version) if registered else None


def is_same_spec(run: Run, digest: str) -> bool:
    """Whether a run's spec is the one of a digest; or the one that the run has kept, once its keys were renamed."""
    key = run.path("spec", "spec.yaml")
    if run.spec.digest == digest or not run.store.exists(key):
        return run.spec.digest == digest
    try:
        text = run.store.read(key).decode()
        kept = parse(text, run.model, code=run.spec.code, cases=run.spec.cases, former=True)
    except (InvalidSpec, UnicodeDecodeError):
        return False
    then, now = (spec.model_dump(exclude={"digest", "text"}) for spec in (kept, run.spec))
    return kept.digest == digest and then == now


def seal(run: Run, spec: str = "") -> None:
    """Put on record what the version that a run is about to make rests on.

    Args:
        run: the one that makes the version.
        spec: digest of the spec that it was run with; by default the run's.

    Raises:
        EvidenceChanged: it was put on record before, and is not the same any more.
    """
    files = {}
    for key in run.store.keys(run.folder):
        name = key.removeprefix(f"{run.folder}/")
        if not name.startswith(LEFT_OUT):
            with run.store.local(key) as path:
                files[name] = sha256_of(path)
    body = {"spec": spec or run.spec.digest, "files": files}
    record = run.ledger.append(run.model, EVIDENCE, run.key, body, effective_at=run.as_of, run=run.key)
    if record.body != body:
        check_files(run)


def check_files(run: Run, *names: str) -> None:
    """Hold the files of a run against the record; those of a run from before there was one are taken as they are.

    Args:
        run: by its key.
        names: only these files; by default all that are on record.

    Raises:
        EvidenceChanged: one is gone, or is another.
    """
    record = run.ledger.find(run.model, EVIDENCE, run.key)
    for name, sha256 in record.body["files"].items() if record else ():
        if not names or name in names:
            check_file(run, name, sha256)


def check_reports(run: Run, *stages: str) -> None:
    """Hold the reports of stages against the digests of their newest records; as `check_files`."""
    written = report_digests(run.ledger.records(run.model, "stage", run=run.key))
    for stage in stages:
        if stage in written:
            check_file(run, f"{stage}.json", written[stage])


def report_digests(records: list[Record]) -> dict[str, str]:
    """Stage → SHA-256 of its report, by the newest of a run's records that has one."""
    return {record.body["stage"]: record.body["report"] for record in records if record.body.get("report")}


def check_file(run: Run, name: str, sha256: str) -> bytes:
    """The bytes of a file in a run's folder, once they have shown the digest on record.

    Raises:
        EvidenceChanged: it is gone, or is another.
    """
    key = f"{run.folder}/{name}"
    try:
        data = run.store.read(key)
    except MissingInput:
        finding = "is gone"
    else:
        digest = hashlib.sha256(data).hexdigest()
        if digest == sha256:
            return data
        finding = f"has the digest {digest[:12]}, not {sha256[:12]}"
    raise EvidenceChanged(
        f"{key} {finding}, which is on record", do="bring the file back from a backup of the store, or start a new run"
    )
