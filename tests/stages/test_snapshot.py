"""Snapshot: exact bytes come back from the data registry, published once whatever is killed or lost."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from retrain import pipeline
from retrain.data.versions import DataRegistry, DataVersion, registry_of
from retrain.errors import InvalidSpec, MissingInput, PushIncomplete, SnapshotCorrupt
from retrain.reporting import verify
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


def published(model: Model) -> dict[str, tuple[str, str, int]]:
    """Path, MD5 and size of what each tag of the data registry stands for."""
    tags = subprocess.run(["git", "tag"], cwd=model.home.registry, capture_output=True, text=True, check=True)
    versions = [registry_of(model.home).lookup(tag) for tag in tags.stdout.split()]
    return {version.tag: (version.path, version.md5, version.bytes) for version in versions if version}


def states(model: Model) -> dict[str, str]:
    names = ("anchors", "snapshots")
    return {each.what: each.finding for each in verify.verify(model.home, "churn") if each.what in names and each.ok}


@pytest.mark.usefixtures("mlflow")
@pytest.mark.parametrize(
    ("month", "also"),
    [
        ("2024-01-01", "nothing"),
        ("2024-02-01", "nothing"),
        ("2024-03-01", "store"),
        ("2024-03-01", "remote"),
        ("2024-03-01", "head start"),
    ],
)
def test_a_lost_data_registry_is_built_again_from_the_record(churn: Model, month: str, also: str) -> None:
    first, second = snapshot(accepted(churn)), accepted(churn, "2024-02-01")
    snapshot(second)
    before, registry, home = published(churn), registry_of(churn.home), churn.home
    shutil.rmtree(home.registry)
    if also == "store":
        for batch in Path(home.store, "churn", "batches").rglob("*.parquet"):
            if "2024-01-01" in str(batch):
                batch.unlink()
    elif also == "remote":
        shutil.rmtree(home.remote)
    elif also == "head start":
        registry.anchor("other", 1, "a" * 64)
    broken = {each.what: each for each in verify.verify(home, "churn") if not each.ok}
    assert broken[first.tag].do.endswith(": python -m retrain snapshot churn --interval 2024-01-01")
    assert "anchors" in broken
    run = accepted(churn, month)
    report = snapshot(run)
    assert before.items() <= published(churn).items(), "the same tags, of the same data"
    assert len(published(churn)) == 2 + (month == "2024-03-01")
    (record,) = run.ledger.records("churn", "data restored")
    assert (set(record.body["commits"]), record.body["gone"]) == (set(before), [])
    version = DataVersion(report.path, report.md5, report.bytes, report.commit, report.tag)
    assert registry.lookup(report.tag) == version, "the report names the commit that is there"
    assert states(churn).keys() == {"anchors", "snapshots"}
    assert f"before record {record.place} was lost with the data registry" in states(churn)["anchors"]
    assert registry.fetch(
        DataVersion(first.path, first.md5, first.bytes, "", first.tag), Path(home.state, "x")
    ).is_file()
    snapshot(run)
    assert len(run.ledger.records("churn", "data restored")) == 1


@pytest.mark.usefixtures("mlflow")
def test_what_nobody_holds_any_more_is_named_and_the_rest_is_built_again(churn: Model) -> None:
    first = snapshot(accepted(churn))
    second = snapshot(accepted(churn, "2024-02-01"))
    for folder in (churn.home.registry, churn.home.remote, f"{churn.home.store}/churn/batches/2024-01-01"):
        shutil.rmtree(folder)
    run = accepted(churn, "2024-03-01")
    snapshot(run)
    (record,) = run.ledger.records("churn", "data restored")
    assert (list(record.body["commits"]), record.body["gone"]) == ([second.tag], [first.tag])
    broken = {each.what: each.finding for each in verify.verify(churn.home, "churn") if not each.ok}
    assert broken[first.tag].endswith("is gone")
    assert second.tag not in broken
    snapshot(accepted(churn, "2024-04-01"))
    assert len(run.ledger.records("churn", "data restored")) == 1, "not tried again with every interval"


@pytest.mark.usefixtures("mlflow")
def test_a_data_registry_of_an_older_backup_is_brought_up_to_the_record(churn: Model, tmp_path: Path) -> None:
    snapshot(accepted(churn))
    shutil.copytree(churn.home.registry, tmp_path / "older")
    run = accepted(churn, "2024-02-01")
    snapshot(run)
    before = published(churn)
    shutil.rmtree(churn.home.registry)
    shutil.copytree(tmp_path / "older", churn.home.registry)
    snapshot(accepted(churn, "2024-03-01"))
    assert before.items() <= published(churn).items()
    (record,) = run.ledger.records("churn", "data restored")
    assert len(record.body["commits"]) == 1
    assert "snapshots" in states(churn)


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
