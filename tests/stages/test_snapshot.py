"""Snapshot: exact bytes come back from the data registry, published once whatever is killed or lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from retrain import pipeline
from retrain.data.versions import DataRegistry, DataVersion
from retrain.errors import InvalidSpec, MissingInput, PushIncomplete, SnapshotCorrupt
from retrain.results import AcceptedBatch, IngestReport, SnapshotReport, ValidateReport
from retrain.state.run import Run

if TYPE_CHECKING:
    from tests.conftest import Model


def accepted(model: Model, start: str = "2024-01-01") -> Run:
    model.deliver(start)
    run = model.run(start, key=f"laptop-{start}", kind="laptop")
    pipeline.run_stage("ingest", run)
    pipeline.run_stage("validate", run)
    return run


def snapshot(run: Run) -> SnapshotReport:
    report = pipeline.run_stage("snapshot", run)
    assert isinstance(report, SnapshotReport)
    return report


def commits(model: Model) -> list[str]:
    log = subprocess.run(
        ["git", "log", "--format=%s", "main"], cwd=model.home.registry, capture_output=True, text=True, check=True
    )
    return log.stdout.splitlines()


def test_the_report_brings_back_the_exact_bytes(churn: Model, tmp_path: Path) -> None:
    run = accepted(churn)
    report = snapshot(run)
    batch = run.read(IngestReport, "ingest").batch
    assert (report.sha256, report.bytes) == (batch.sha256, batch.bytes)
    assert report.path == "churn/2024-01-01.parquet"
    assert report.tag == f"churn/2024-01-01/{batch.sha256[:12]}"
    version = DataVersion(report.path, report.md5, report.bytes, report.commit, report.tag)
    back = DataRegistry(run.home.registry, run.home.remote).fetch(version, tmp_path / "back.parquet")
    assert back.read_bytes() == run.store.read(batch.key)


def test_training_may_read_it_once_its_labels_are_mature(churn: Model, spec_of: Any) -> None:
    spec = spec_of()
    spec["labels"] = {"mature_after": "1w"}
    churn.write_spec(spec)
    run = accepted(churn)
    report = snapshot(run)
    (record,) = run.ledger.records("churn", "snapshot")
    batch = AcceptedBatch.model_validate(record.body["accepted"])
    assert batch.mature_at == datetime(2024, 2, 8, tzinfo=UTC)
    assert (batch.md5, batch.commit) == (report.md5, report.commit)
    assert record.effective_at == datetime(2024, 2, 1, tzinfo=UTC)


def test_again_is_found_done(churn: Model, caplog: pytest.LogCaptureFixture) -> None:
    run = accepted(churn)
    first = snapshot(run)
    with caplog.at_level("INFO"):
        assert snapshot(run) == first
    assert "found done" in caplog.text
    assert len(commits(churn)) == 1
    snapshot(accepted(churn, "2024-02-01"))
    assert len(commits(churn)) == 2


def test_what_the_remote_lost_is_published_again(churn: Model) -> None:
    run = accepted(churn)
    first = snapshot(run)
    stored = Path(run.home.remote) / "files" / "md5" / first.md5[:2] / first.md5[2:]
    stored.chmod(0o600)
    stored.unlink()
    version = DataVersion(first.path, first.md5, first.bytes, first.commit, first.tag)
    with pytest.raises(PushIncomplete):
        DataRegistry(run.home.registry, run.home.remote).verify(version)
    assert snapshot(run) == first
    DataRegistry(run.home.registry, run.home.remote).verify(version)
    assert len(commits(churn)) == 1


def test_altered_bytes_are_not_versioned(churn: Model) -> None:
    run = accepted(churn)
    file = Path(run.store.url(run.read(IngestReport, "ingest").batch.key))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(SnapshotCorrupt):
        snapshot(run)
    assert not run.ledger.records("churn", "snapshot")
    assert not Path(run.home.registry).exists()


def test_only_what_validate_accepted(churn: Model) -> None:
    run = accepted(churn)
    report = run.read(ValidateReport, "validate")
    run.write(report.model_copy(update={"sha256": "0" * 64}), "validate")
    with pytest.raises(MissingInput, match="is not the one that was validated"):
        snapshot(run)
    fresh = churn.run("2024-02-01")
    with pytest.raises(MissingInput, match="ingest has not run"):
        snapshot(fresh)


def test_remote_options_come_from_the_environment_and_stay_out_of_git(
    churn: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = accepted(churn)
    monkeypatch.setenv("RETRAIN_REMOTE_NO_SUCH_OPTION", "hunter2")
    with pytest.raises(InvalidSpec) as raised:
        snapshot(run)
    assert "no_such_option" in str(raised.value)
    assert "hunter2" not in str(raised.value)


def state(model: Model) -> tuple[list[Any], list[str], list[str]]:
    run = model.run()
    records = [(record.key, {**record.body, "commit": ""}) for record in run.ledger.records("churn", "snapshot")]
    for _, body in records:
        body["accepted"]["commit"] = body["version"]["commit"] = "the time is in it"
    remote = [str(path.relative_to(model.home.remote)) for path in Path(model.home.remote).rglob("*") if path.is_file()]
    tags = subprocess.run(
        ["git", "tag"], cwd=model.home.registry, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return records, sorted(remote), tags + commits(model)


def test_killed_at_any_point_and_run_again_it_ends_the_same(churn: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepared(name: str) -> Model:
        monkeypatch.setenv("RETRAIN_HOME", str(churn.home.root / name))
        model = type(churn)(churn.home.from_environment())
        accepted(model)
        return model

    first = prepared("first")
    began = time.monotonic()
    assert first.command("snapshot", "churn", "--interval", "2024-01-01").wait() == 0
    took = time.monotonic() - began
    undisturbed = state(first)
    dice = random.Random(11)
    for attempt in range(4):
        again = prepared(f"again-{attempt}")
        process = again.command("snapshot", "churn", "--interval", "2024-01-01")
        time.sleep(took * dice.uniform(0.3, 1.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert again.command("snapshot", "churn", "--interval", "2024-01-01").wait() == 0
        assert state(again) == undisturbed
        lost = [str(path) for path in Path(again.home.remote).rglob("*.tmp") if path.is_file()]
        assert not lost, os.linesep.join(lost)
