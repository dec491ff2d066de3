"""What `verify` finds in a small home, sound and broken in every way that it looks for."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa
from mlflow import MlflowClient
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from retrain.data.versions import registry_of
from retrain.registry.mlflow import Registry, save_model
from retrain.reporting import verify
from retrain.reporting.verify import Verification
from retrain.results import Champion, Configuration
from retrain.state.ledger import Ledger
from retrain.state.ledger_tables import hash_of
from retrain.state.settings import Home
from retrain.state.store import Store, sha256_of

WHEN = datetime(2024, 4, 1, tzinfo=UTC)
MONTHS = ("2024-01-01", "2024-02-01")
SOUND = {
    "chain": "11 records",
    "anchors": "2 agree, the newest with record 11 of 11",
    "champion alias": "version 2, as the ledger says",
    "versions": "2 of 2 as recorded",
    "snapshots": "3 of 3 as recorded",
    "batches": "2 of 2 as recorded",
    "labels": "1 of 1 as recorded",
    "scores": "1 of 1 as recorded",
    "evidence": "0 of 0 as recorded",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Path:
    """A home with two months of data, labels, scores and two champions, as the stages put them on record."""
    root = tmp_path_factory.mktemp("verify")
    home = home_of(root)
    Path(home.mlflow.removeprefix("sqlite:///")).parent.mkdir(parents=True)
    shutil.copyfile(empty_mlflow, home.mlflow.removeprefix("sqlite:///"))
    for month in MONTHS:
        stored = store(home, f"churn/batches/{month}.parquet", f"rows of {month}")
        note(home, "ingest", month, {"interval": month, "batch": stored})
        version = publish(home, stored["key"], f"churn/{month}.parquet")
        note(home, "snapshot", month, {"interval": month, "accepted": {"batch": stored}, "version": version})
    labels = store(home, "churn/labels/2024-01-01.parquet", "labels")
    version = publish(home, labels["key"], "churn/labels/2024-01-01.parquet")
    note(home, "labels", "2024-01-01", {"labels": labels, "version": version})
    note(home, "score", "2024-02-01", {**store(home, "churn/scores/2024-02-01.parquet", "scores"), "version": 1})
    note(home, "stage", "gate", {"verdict": "promote"})
    for n in (1, 2):
        promote(home, n, register(home, root, n))
    return root


def home_of(root: Path) -> Home:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETRAIN_ROOT", str(root))
        return Home.from_environment()


def note(home: Home, kind: str, key: str, body: dict[str, Any], sequence: int | None = None) -> None:
    Ledger(home.ledger).append("churn", kind, key, body, effective_at=WHEN, run="run", sequence=sequence)


def store(home: Home, key: str, text: str) -> dict[str, Any]:
    """A file of the store; what records say of it."""
    Store(home.store).write(key, text.encode())
    return {"key": key, "sha256": sha256_of(Path(home.store, key)), "rows": 1}


def publish(home: Home, key: str, path: str) -> dict[str, Any]:
    return asdict(registry_of(home).publish(Path(home.store, key), path, message="data", tag=f"{path}/tag"))


def register(home: Home, root: Path, n: int) -> Champion:
    rows = pd.DataFrame({"visits": [0.0, 1.0, 2.0, 3.0]})
    fitted = Pipeline([("model", LogisticRegression(C=n))]).fit(rows, [0, 1, 0, 1])
    digest = save_model(fitted, root / f"model-{n}", example=rows, requirements=["scikit-learn"])
    registry = Registry(home.mlflow)
    run_id = registry.record(
        experiment="churn", key=f"run-{n}", name="run", description="", params={}, metrics={}, tags={}, files={}
    )
    version = registry.register(
        model="churn", run_id=run_id, folder=root / f"model-{n}", digest=digest, tags={}, description=""
    )
    return Champion(
        version=version,
        run_id=run_id,
        digest=digest,
        configuration=Configuration(estimator="linear", parameters={}, pipeline="p"),
        training="t",
        reference="r",
        trained_until=WHEN,
        effective_at=WHEN,
    )


def promote(home: Home, n: int, champion: Champion, action: str = "promote", key: str = "") -> None:
    body = {"action": action, "version": champion.version, "champion": champion.model_dump(mode="json")}
    note(home, "promotion", key or f"run-{n}", body, n)
    Registry(home.mlflow).set_alias("churn", "champion", champion.version, champion.digest)
    note(home, "completed", str(n), {"version": champion.version})
    anchor(home)


def anchor(home: Home) -> None:
    head = Ledger(home.ledger).records("churn")[-1]
    registry_of(home).anchor("churn", head.place, head.hash)


@pytest.fixture
def home(root: Path, tmp_path: Path) -> Iterator[Home]:
    """The home itself, put back afterwards: MLflow keeps absolute addresses."""
    kept = tmp_path / "kept"
    shutil.copytree(root / ".retrain", kept)
    yield home_of(root)
    # In place: MLflow keeps its database open, so the file must stay the same one.
    for path in sorted((root / ".retrain").rglob("*"), reverse=True):
        same = kept / path.relative_to(root / ".retrain")
        if not same.exists() or same.is_dir() != path.is_dir():
            path.rmdir() if path.is_dir() else path.unlink()
        elif path.is_file():
            path.chmod(0o644)
    shutil.copytree(kept, root / ".retrain", dirs_exist_ok=True)


def wrong(outcomes: tuple[Verification, ...]) -> dict[str, str]:
    return {outcome.what: outcome.finding for outcome in outcomes if not outcome.ok}


def test_a_sound_home_is_sound_and_looking_changes_nothing(home: Home) -> None:
    before = {
        path: path.read_bytes() for path in Path(home.state).rglob("*") if path.is_file() and ".db" not in path.name
    }
    steps: list[str] = []
    outcomes = verify.verify(home, "churn", steps.append)
    assert wrong(outcomes) == {}
    assert [outcome.what for outcome in outcomes] == list(SOUND)
    assert all(outcome.finding.startswith(SOUND[outcome.what]) for outcome in outcomes)
    assert "snapshots: 3 of 3" in steps
    after = {
        path: path.read_bytes() for path in Path(home.state).rglob("*") if path.is_file() and ".db" not in path.name
    }
    assert after == before
    assert verify.known_models(home) == ["churn"]


def test_nothing_on_record_is_sound(home: Home) -> None:
    outcomes = verify.verify(home, "newcomer")
    assert wrong(outcomes) == {}
    assert outcomes[0].finding == "no records"
    assert "none yet" in outcomes[1].finding


# --- ways to break it, and what must be said of each


def write(file: Path, data: bytes) -> None:
    file.chmod(0o644)
    file.write_bytes(data)


def unguarded(home: Home) -> sa.Engine:
    engine = Ledger(home.ledger).engine
    with engine.begin() as connection:
        for verb in ("update", "delete"):
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS retrain_records_no_{verb}")
    return engine


def alter_a_record(home: Home) -> None:
    with unguarded(home).begin() as connection:
        connection.exec_driver_sql("""UPDATE retrain_records SET body = '{"verdict": "keep"}' WHERE kind = 'stage'""")


def cut_the_tail(home: Home) -> None:
    with unguarded(home).begin() as connection:
        connection.exec_driver_sql("DELETE FROM retrain_records WHERE place > 9")
    move_the_alias(home)


def write_the_ledger_anew(home: Home) -> None:
    engine, previous = unguarded(home), ""
    table = sa.Table("retrain_records", sa.MetaData(), autoload_with=engine)
    with engine.begin() as connection:
        for row in connection.execute(table.select().order_by(table.c.place)).mappings().all():
            forged = {**row, "previous": previous, "body": row["body"].replace('"promote"}', '"keep"}')}
            previous = forged["hash"] = hash_of(forged)
            connection.execute(table.update().where(table.c.id == row["id"]).values(forged))


def delete_the_ledger(home: Home) -> None:
    Path(home.ledger.removeprefix("sqlite:///")).unlink()
    Registry(home.mlflow).delete_alias("churn", "champion")


def move_the_alias(home: Home) -> None:
    MlflowClient(home.mlflow).set_registered_model_alias("churn", "champion", "1")


def delete_the_champion(home: Home) -> None:
    MlflowClient(home.mlflow).delete_model_version("churn", "2")


def model_file(home: Home, version: int) -> Path:
    run_id = Registry(home.mlflow).describe("churn", version)["run_id"]
    return next(Path(home.mlflow.removeprefix("sqlite:///")).parent.rglob(f"{run_id}/artifacts/model/model.skops"))


def swap_a_model_file(home: Home) -> None:
    shutil.copyfile(model_file(home, 2), model_file(home, 1))


def lose_a_model_file(home: Home) -> None:
    model_file(home, 1).unlink()


def stored_data(home: Home, month: str) -> Path:
    version = registry_of(home).lookup(f"churn/{month}.parquet/tag")
    assert version is not None
    return Path(home.remote, "files/md5", version.md5[:2], version.md5[2:])


def alter_the_remote(home: Home) -> None:
    write(stored_data(home, MONTHS[0]), f"ROWS of {MONTHS[0]}".encode())


def lose_from_the_remote(home: Home) -> None:
    stored_data(home, MONTHS[1]).unlink()


def lose_the_data_registry(home: Home) -> None:
    shutil.rmtree(home.registry)


def spoil_the_data_registry(home: Home) -> None:
    write(Path(home.registry, "HEAD"), b"")


def alter_a_batch(home: Home) -> None:
    write(Path(home.store, "churn/batches/2024-01-01.parquet"), b"other")


def lose_labels(home: Home) -> None:
    Path(home.store, "churn/labels/2024-01-01.parquet").unlink()


def alter_scores(home: Home) -> None:
    write(Path(home.store, "churn/scores/2024-02-01.parquet"), b"other")


BROKEN: dict[Callable[[Home], None], dict[str, str]] = {
    alter_a_record: {"chain": "record 7 (stage gate,"},
    cut_the_tail: {"anchors": "record 11, anchored as"},
    write_the_ledger_anew: {"anchors": "is another now"},
    delete_the_ledger: {"anchors": "is gone, the ledger ends at 0"},
    move_the_alias: {"champion alias": "points at version 1, the ledger says version 2"},
    delete_the_champion: {
        "champion alias": "was version 2, which is no longer",
        "version 2": "version 2",
        "versions": "1 of 2 ",
    },
    swap_a_model_file: {"version 1": "version 1 of churn", "versions": "1 of 2 "},
    lose_a_model_file: {"version 1": "", "versions": "1 of 2 "},
    alter_the_remote: {"churn/2024-01-01.parquet/tag": "bytes with MD5", "snapshots": "2 of 3 "},
    lose_from_the_remote: {"churn/2024-02-01.parquet/tag": "does not hold", "snapshots": "2 of 3 "},
    lose_the_data_registry: {
        "anchors": "knows none of the 3 versions on record: it was deleted",
        "churn/2024-01-01.parquet/tag": "is gone",
        "churn/2024-02-01.parquet/tag": "is gone",
        "churn/labels/2024-01-01.parquet/tag": "is gone",
        "snapshots": "0 of 3 ",
    },
    spoil_the_data_registry: {
        "anchors": "could not be asked: ",
        "churn/2024-01-01.parquet/tag": "could not be asked: ",
        "snapshots": "0 of 3 ",
    },
    alter_a_batch: {"churn/batches/2024-01-01.parquet": "digest", "batches": "1 of 2 "},
    lose_labels: {"churn/labels/2024-01-01.parquet": "not in the store", "labels": "0 of 1 "},
    alter_scores: {"churn/scores/2024-02-01.parquet": "digest", "scores": "0 of 1 "},
}


@pytest.mark.parametrize("spoil", BROKEN, ids=lambda spoil: spoil.__name__)
def test_what_is_broken_is_named_and_nothing_else_is(home: Home, spoil: Callable[[Home], None]) -> None:
    spoil(home)
    outcomes = verify.verify(home, "churn")
    faults = wrong(outcomes)
    assert list(faults) == list(BROKEN[spoil])
    assert all(text in faults[what] for what, text in BROKEN[spoil].items()), faults
    assert all(outcome.do for outcome in outcomes if not outcome.ok)


def test_the_first_of_many_faults_does_not_hide_the_others(home: Home) -> None:
    together = (alter_a_record, move_the_alias, swap_a_model_file, alter_the_remote, alter_a_batch, alter_scores)
    for spoil in together:
        spoil(home)
    expected = {what for spoil in together for what in BROKEN[spoil]}
    assert set(wrong(verify.verify(home, "churn"))) == expected


def test_what_is_down_is_an_answer(home: Home, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    down = replace(home, mlflow=f"sqlite:///{tmp_path}", remote=str(tmp_path / "file"))
    faults = wrong(verify.verify(down, "churn"))
    assert list(faults) == ["champion alias", "version 2", "versions", "churn/2024-01-01.parquet/tag", "snapshots"]
    assert [text.startswith("could not be asked") for text in faults.values()] == [True, True, False, True, False]
    (outcome,) = verify.verify(replace(home, ledger=f"sqlite:///{tmp_path / 'file'}/ledger.db"), "churn")
    assert (outcome.what, outcome.ok) == ("chain", False)
    (tmp_path / "file").write_text("this is no database, however long it may be" * 100)
    (outcome,) = verify.verify(replace(home, ledger=f"sqlite:///{tmp_path / 'file'}"), "churn")
    assert outcome.finding.startswith("could not be asked: ")


def test_a_version_that_never_served_or_came_again_under_another_number_is_not_missed(home: Home, root: Path) -> None:
    first, second = (
        Champion.model_validate(record.body["champion"]) for record in Ledger(home.ledger).records("churn", "promotion")
    )
    gone = second.model_copy(update={"version": 7, "digest": "f" * 64})
    note(home, "promotion", "run-3", {"action": "promote", "version": 7, "champion": gone.model_dump(mode="json")}, 3)
    promote(home, 4, second, "undo", "undo-3")
    MlflowClient(home.mlflow).delete_model_version("churn", "1")
    again = register(home, root, 1)
    assert (again.version, again.digest) == (3, first.digest)
    promote(home, 5, again, "restore")
    outcomes = verify.verify(home, "churn")
    assert wrong(outcomes) == {}
    assert [outcome.finding for outcome in outcomes if outcome.what == "versions"] == ["2 of 2 as recorded"]


def test_the_table_shows_hostile_names_as_they_are() -> None:
    outcomes = (Verification("[red]a[/red]", False, "[bold]x[/nonsense]", "look"), Verification("chain", True, "fine"))
    console = Console(file=io.StringIO(), width=120)
    console.print(verify.table("[link=x]churn", outcomes))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for shown in ("[link=x]churn", "[red]a[/red]", "[bold]x[/nonsense]", "wrong", "ok"):
        assert shown in text
