"""Full disks, folders that may not be written, corrupt databases: each is one named message, and none hides another."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import sqlite3
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from retrain import cli, pipeline
from retrain.data.versions.registry import registry_of
from retrain.errors import AccessDenied, BatchMissing, DatabaseCorrupt, DiskFull, InvalidSpec, LedgerBusy
from retrain.registry import promotion  # noqa: F401  loaded before a fork that may read nothing
from retrain.state import failures
from retrain.state.ledger import Ledger
from retrain.state.settings import Home
from retrain.state.store import Store
from tests.conftest import Model, enter_home

GARBAGE = b"once a database, now something else entirely" * 60
FORK = multiprocessing.get_context("fork")


def typed(capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch, *arguments: str) -> str:
    """What a command says that ends with 1."""
    patch.setattr(sys, "argv", ["retrain", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    return capsys.readouterr().err


def apart(tmp_path: Path, before: Callable[[], object], *arguments: str) -> tuple[int, str]:
    """Exit code and message of a command in a process of its own, to which something happens first."""

    def run() -> None:
        sys.stderr = (tmp_path / "err").open("w")
        sys.argv = ["retrain", *arguments]
        before()
        cli.main()

    process = FORK.Process(target=run)
    process.start()
    process.join()
    return process.exitcode or 0, (tmp_path / "err").read_text()


# --- one message, by every command


READING = (
    *(("status",), ("status", "churn"), ("history", "churn"), ("served", "churn", "--at", "2024-02-01T00:00Z")),
    *(("explain", "churn", "1"), ("changelog", "churn"), ("inventory",), ("verify",)),
    *(("rollback", "churn", "--reason", "bad"), ("approve", "churn", "1", "--reason", "good"), ("reconcile", "churn")),
    *(("release", "churn", "--interval", "2024-01-01", "--reason", "seen"), ("reproduce", "churn", "1")),
)


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_a_ledger_that_is_no_database_is_named_by_every_command(
    churn: Model, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    file = churn.home.state / "ledger.db"
    file.parent.mkdir()
    file.write_bytes(GARBAGE)
    message = typed(capsys, monkeypatch, *arguments)
    assert f"DatabaseCorrupt: the ledger at {file}: file is not a database\n  → stop what writes to it" in message
    model = "churn · " if "churn" in arguments else ""
    assert f"{model}{arguments[0]} · DatabaseCorrupt" in message
    assert "Traceback" not in message
    assert file.read_bytes() == GARBAGE


def test_a_ledger_without_its_records_is_corrupt(churn: Model) -> None:
    Ledger(churn.home.ledger)
    with sqlite3.connect(churn.home.state / "ledger.db") as connection:
        connection.execute("DROP TABLE retrain_records")
    with pytest.raises(DatabaseCorrupt, match=r"ledger\.db: no such table"):
        Ledger(churn.home.ledger).records("churn")


def test_an_empty_file_is_an_empty_ledger(churn: Model) -> None:
    churn.home.state.mkdir()
    (churn.home.state / "ledger.db").touch()
    assert Ledger(churn.home.ledger).models() == []


def test_a_disk_that_is_full(churn: Model, tmp_path: Path) -> None:
    """A limit on the size of files is the full disk that a process can be given; what it had written stands."""
    churn.deliver("2024-01-01", rows=5000)
    Ledger(churn.home.ledger)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    code, message = apart(tmp_path, limit, "ingest", "churn", "--interval", "2024-01-01")
    assert code == 1
    assert message.startswith("churn · ingest · DiskFull: ")
    assert "→ make room" in message
    assert "Traceback" not in message
    assert Ledger(churn.home.ledger).verify("churn") == ()
    assert apart(tmp_path, lambda: None, "ingest", "churn", "--interval", "2024-01-01") == (0, "")


def test_a_home_that_may_not_be_written(churn: Model, tmp_path: Path) -> None:
    def become_nobody() -> None:
        if os.getuid() == 0:
            os.setuid(65534)

    tmp_path.chmod(0o500)
    code, message = apart(tmp_path.parent, become_nobody, "ingest", "churn", "--interval", "2024-01-01")
    tmp_path.chmod(0o700)
    assert code == 1
    assert "AccessDenied: " in message
    assert "→ give this user the right" in message
    assert "Traceback" not in message


# --- kinds


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), DiskFull),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), DiskFull),
        (OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"), DiskFull),
        (sqlite3.OperationalError("database or disk is full"), DiskFull),
        (PermissionError(errno.EACCES, "Permission denied", "batch.parquet"), AccessDenied),
        (OSError(errno.EROFS, "Read-only file system"), AccessDenied),
        (sa.exc.OperationalError("INSERT", {}, Exception("attempt to write a readonly database")), AccessDenied),
        (sa.exc.DatabaseError("SELECT 'locked'", {}, Exception("database disk image is malformed")), DatabaseCorrupt),
        (FileNotFoundError(errno.ENOENT, "No such file"), None),
        (ValueError("line 3 is not a database"), None),
        (KeyError("no such table"), None),
    ],
)
def test_what_an_error_is_called(error: Exception, kind: type[Exception] | None) -> None:
    assert type(failures.refusal_of(error)) is (kind or type(None))


@pytest.mark.parametrize("name", ["100%", "a%20b", "what?"])
def test_a_state_folder_that_databases_cannot_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path / name))
    with pytest.raises(InvalidSpec, match=r"has a % or a \?"):
        Home.from_environment()
    assert "status · InvalidSpec" in typed(capsys, monkeypatch, "status")


def test_a_difficult_folder_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "a home #1 @ it:s & [more]"
    root.mkdir()
    model = Model(enter_home(root, monkeypatch))
    model.write_spec()
    model.deliver("2024-01-01")
    for stage in pipeline.DATA_STAGES[:3]:
        pipeline.run_stage(stage, model.run())
    assert len(Ledger(model.home.ledger).verify("churn")) > 3
    assert registry_of(model.home).lookup(next(iter(_tags(model))))
    assert {path.name for path in tmp_path.iterdir()} == {root.name}, "nothing was made beside it"


def _tags(model: Model) -> list[str]:
    (record,) = Ledger(model.home.ledger).records("churn", "snapshot")
    return [record.body["version"]["tag"]]


# --- the first failure is the one that is shown


def test_a_failure_to_record_does_not_hide_the_stages_own(churn: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: Any, **__: Any) -> None:  # a database that is locked just then cannot be had from outside
        raise LedgerBusy("the ledger did not answer", do="retry")

    run = churn.run()
    monkeypatch.setattr(Ledger, "append", busy)
    with pytest.raises(BatchMissing) as caught:
        pipeline.run_stage("ingest", run)
    assert caught.value.found.endswith("; nor could this be put on record: LedgerBusy: the ledger did not answer")
    monkeypatch.setattr(pipeline, "_check_spec", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError) as crashed:
        pipeline.run_stage("ingest", run)
    assert "LedgerBusy" in crashed.value.__notes__[0]


def test_a_stage_that_cannot_be_recorded_is_refused(churn: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    churn.deliver("2024-01-01")
    run, append = churn.run(), Ledger.append

    def full(self: Ledger, model: str, kind: Any, *rest: Any, **named: Any) -> Any:
        if kind == "stage":
            raise sqlite3.OperationalError("database or disk is full")
        return append(self, model, kind, *rest, **named)

    monkeypatch.setattr(Ledger, "append", full)
    with pytest.raises(DiskFull) as caught:
        pipeline.run_stage("ingest", run)
    assert str(caught.value).startswith("churn · ingest · DiskFull: ")
    assert caught.value.retryable


# --- nobody else reads the state


@pytest.mark.parametrize("first", ["ledger", "store", "data registry"])
def test_state_is_for_its_owner_alone_whoever_makes_it(churn: Model, first: str) -> None:
    before = os.umask(0)
    try:
        if first == "ledger":
            Ledger(churn.home.ledger)
        elif first == "store":
            Store(churn.home.store).write("a", b"b")
        else:
            with suppress(Exception):
                registry_of(churn.home).anchor("churn", 1, "a" * 64)
    finally:
        os.umask(before)
    assert stat.S_IMODE(churn.home.state.stat().st_mode) == 0o700
    if first == "ledger":
        assert stat.S_IMODE((churn.home.state / "ledger.db").stat().st_mode) == 0o600


def test_a_folder_that_was_there_keeps_its_rights(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    shared.chmod(0o755)
    Store(str(shared / "store")).write("a", b"b")
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755
    assert stat.S_IMODE((shared / "store").stat().st_mode) == 0o700
