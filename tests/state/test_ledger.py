from __future__ import annotations

import multiprocessing
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from retrain.errors import ChainBroken, InvalidName, InvalidSpec, LedgerBusy, LedgerNewer, PromotionConflict
from retrain.state import ledger as module
from retrain.state import ledger_tables
from retrain.state.ledger import Ledger
from retrain.state.ledger_tables import REVISIONS, hash_of
from retrain.state.migrations import upgrade

WHEN = datetime(2024, 2, 1, tzinfo=UTC)
POSTGRES = "postgresql+psycopg2://postgres@127.0.0.1:5432/test"
RACERS = 6


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind; of PostgreSQL a schema of the test's own."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'state' / 'ledger.db'}"
        return
    schema, server = f"retrain_{uuid.uuid4().hex}", sa.create_engine(POSTGRES, poolclass=sa.NullPool)
    try:
        with server.begin() as connection:
            connection.execute(sa.schema.CreateSchema(schema))
    except sa.exc.OperationalError:
        pytest.skip("needs PostgreSQL on 127.0.0.1:5432 with a database `test`")
    yield f"{POSTGRES}?options=-csearch_path%3D{schema}"
    with server.begin() as connection:
        connection.execute(sa.schema.DropSchema(schema, cascade=True))


def test_a_key_is_written_once(url: str) -> None:
    ledger = Ledger(url)
    first = ledger.append("churn", "batch", "a", {"rows": 1}, effective_at=WHEN, by="ada")
    again = Ledger(url).append("churn", "batch", "a", {"rows": 2}, effective_at=WHEN)
    assert again == first
    assert [(record.body, record.by) for record in ledger.records("churn")] == [({"rows": 1}, "ada")]


def test_records_have_both_clocks_and_their_order(url: str) -> None:
    ledger = Ledger(url)
    before = datetime.now(UTC)
    for name in "cab":
        ledger.append("churn", "batch", name, {}, effective_at=WHEN, run="r1")
    ledger.append("other", "batch", "x", {}, effective_at=WHEN)
    records = ledger.records("churn", run="r1")
    assert [record.key for record in records] == ["c", "a", "b"]
    assert all(record.effective_at == WHEN and record.recorded_at >= before for record in records)
    assert ledger.models() == ["churn", "other"]


def test_a_sequence_is_taken_once(url: str) -> None:
    ledger = Ledger(url)
    ledger.append("churn", "promotion", "run-1", {}, effective_at=WHEN, sequence=1)
    with pytest.raises(PromotionConflict):
        ledger.append("churn", "promotion", "run-2", {}, effective_at=WHEN, sequence=1)
    assert len(ledger.records("churn", "promotion")) == 1
    ledger.append("other", "promotion", "run-2", {}, effective_at=WHEN, sequence=1)


def test_not_a_number_is_refused_before_it_is_written(url: str) -> None:
    ledger = Ledger(url)
    with pytest.raises(ValueError, match="not JSON compliant"):
        ledger.append("churn", "gate", "a", {"score": float("nan")}, effective_at=WHEN)
    assert ledger.records("churn") == []


@pytest.mark.parametrize(
    ("names", "most"),
    [({"model": "m" * 65}, 64), ({"key": "k" * 501}, 500), ({"run": "r" * 301}, 300), ({"by": "b" * 301}, 300)],
)
def test_a_name_that_no_column_holds_is_refused_on_every_database(url: str, names: dict[str, str], most: int) -> None:
    """SQLite would take it, and PostgreSQL answer with an error of its own."""
    ledger, about = Ledger(url), {"model": "churn", "key": "k", "run": "", "by": ""} | names
    model, key = about.pop("model"), about.pop("key")
    with pytest.raises(InvalidName, match=f"has {most + 1} characters") as refused:
        ledger.append(model, "batch", key, {}, effective_at=WHEN, **about)  # type: ignore[arg-type]
    assert refused.value.do == f"use at most {most}"
    assert ledger.models() == []


def test_other_databases_are_refused() -> None:
    with pytest.raises(InvalidSpec, match="mysql"):
        Ledger("mysql://root@127.0.0.1/test")


# --- many writers


def race(work: Callable[..., Any], *given: Any) -> list[Any]:
    """What `work(name, *given)` answers in as many processes as there are racers, which start at the same moment."""
    context = multiprocessing.get_context("fork")
    start, answers = context.Barrier(RACERS), context.SimpleQueue()

    def run(name: int) -> None:
        start.wait()
        try:
            answers.put(work(name, *given))
        except Exception as error:
            answers.put(repr(error))

    racers = [context.Process(target=run, args=(name,)) for name in range(RACERS)]
    for racer in racers:
        racer.start()
    results = [answers.get() for _ in racers]
    for racer in racers:
        racer.join()
    return results


def promote(name: int, url: str) -> str:
    try:
        Ledger(url).append("churn", "promotion", f"run-{name}", {}, effective_at=WHEN, sequence=1)
    except PromotionConflict:
        return "lost"
    return "won"


def test_of_six_racing_processes_one_wins(url: str) -> None:
    assert sorted(race(promote, url)) == ["lost"] * 5 + ["won"]


def write(name: int, url: str) -> list[str]:
    ledger = Ledger(url)
    keys = [key for n in range(8) for key in (f"{name}-{n}", f"shared-{n}")]
    return [ledger.append("churn", "stage", key, {"by": name}, effective_at=WHEN).hash for key in keys]


def test_many_writers_make_one_chain_and_lose_nothing(url: str) -> None:
    written = race(write, url)
    ledger = Ledger(url)
    chain = ledger.verify("churn")
    records = ledger.records("churn")
    assert len(chain) == len(records) == 8 * RACERS + 8
    assert {record.key for record in records} == {f"{n}-{i}" for n in [*range(RACERS), "shared"] for i in range(8)}
    assert {record_hash for hashes in written for record_hash in hashes} == set(chain)


def test_a_locked_database_is_named_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.1)
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    with sqlite3.connect(ledger.engine.url.database or "") as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LedgerBusy) as refused:
            ledger.append("churn", "batch", "a", {}, effective_at=WHEN)
        holder.rollback()
    assert refused.value.retryable
    assert ledger.append("churn", "batch", "a", {"now": True}, effective_at=WHEN).body == {"now": True}


@pytest.mark.parametrize("url", [pytest.param("postgresql", marks=pytest.mark.services)], indirect=True)
def test_a_writer_that_hangs_holds_up_its_model_only(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, hanging = Ledger(url), Ledger(url)
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.1)
    with hanging._exclusive("churn"):
        with pytest.raises(LedgerBusy):
            ledger.append("churn", "batch", "a", {}, effective_at=WHEN)
        ledger.append("other", "batch", "a", {}, effective_at=WHEN)
    assert ledger.append("churn", "batch", "a", {}, effective_at=WHEN).place == 1


# --- the chain


def chain(url: str, records: int = 5) -> Ledger:
    ledger = Ledger(url)
    for n in range(1, records + 1):
        ledger.append(
            "churn", "promotion", f"run-{n}", {"n": n}, effective_at=WHEN, run=f"r{n}", sequence=n, by="the loop"
        )
        ledger.append("other", "batch", f"batch-{n}", {}, effective_at=WHEN)
    return ledger


def tamper(ledger: Ledger, *changes: tuple[str, str]) -> None:
    """What somebody with the password of the database can do: take the guards away, then write.

    Args:
        changes: what to set in which of churn's records; nothing to set deletes them.
    """
    with ledger.engine.begin() as connection:
        for trigger in ("no_update", "no_delete") if ledger.engine.name == "sqlite" else ("append_only",):
            on = "" if ledger.engine.name == "sqlite" else " ON retrain_records"
            connection.exec_driver_sql(f"DROP TRIGGER retrain_records_{trigger}{on}")
        for values, where in changes:
            verb = f"UPDATE retrain_records SET {values}" if values else "DELETE FROM retrain_records"  # noqa: S608
            connection.exec_driver_sql(f"{verb} WHERE model = 'churn' AND {where}")


def test_each_record_holds_the_hash_of_the_one_before(url: str) -> None:
    ledger = chain(url)
    for model in ("churn", "other"):
        records = ledger.records(model)
        assert [record.place for record in records] == [1, 2, 3, 4, 5]
        assert [record.previous for record in records] == ["", *(record.hash for record in records[:-1])]
        assert ledger.verify(model) == tuple(record.hash for record in records)
    assert ledger.verify("nobody") == ()


CHANGES = {
    "key": "'run-9'",
    "kind": "'gate'",
    "sequence": "9",
    "run": "'r9'",
    "by": "'ada'",
    "effective_at": "'2023-02-01T00:00:00+00:00'",
    "recorded_at": "'2023-02-01T00:00:00+00:00'",
    "body": """'{"n": 9}'""",
    "previous": "''",
    "hash": "previous",
}


@pytest.mark.parametrize("column", CHANGES)
def test_a_changed_field_is_found(url: str, column: str) -> None:
    ledger = chain(url)
    tamper(ledger, (f"{column} = {CHANGES[column]}", "place = 3"))
    with pytest.raises(ChainBroken, match=r"record 3 .* was altered"):
        ledger.verify("churn")
    assert len(ledger.verify("other")) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("", "place = 3")], r"record 3 is missing, record 4 "),
        ([("", "place = 1")], r"record 1 is missing"),
        ([("model = 'third'", "place = 3")], r"record 3 is missing"),
        ([("id = 99", "place = 3")], r"record 4 .* is out of place"),
        (
            [("place = 0", "place = 3"), ("place = 3", "place = 4"), ("place = 4", "place = 0")],
            r"record 3 .*run-4.* was altered",
        ),
    ],
    ids=["deleted", "first deleted", "moved to another model", "renumbered", "swapped"],
)
def test_a_record_that_is_gone_or_elsewhere_is_found(url: str, changes: list[tuple[str, str]], message: str) -> None:
    ledger = chain(url)
    tamper(ledger, *changes)
    with pytest.raises(ChainBroken, match=message):
        ledger.verify("churn")


def test_a_record_with_a_hash_made_to_fit_breaks_the_next(url: str) -> None:
    ledger = chain(url)
    with ledger.engine.connect() as connection:
        query = sa.text("SELECT * FROM retrain_records WHERE model = 'churn' AND place = 3")
        row = dict(connection.execute(query).mappings().one())
    fitting = hash_of({**row, "body": '{"n": 9}'})
    tamper(ledger, (f"""body = '{{"n": 9}}', hash = '{fitting}'""", "place = 3"))
    with pytest.raises(ChainBroken, match=r"record 4 .* does not follow record 3"):
        ledger.verify("churn")


@pytest.mark.parametrize("change", ["body = '{'", "effective_at = 'soon'"])
def test_a_record_that_cannot_be_read_is_named(url: str, change: str) -> None:
    ledger = chain(url)
    tamper(ledger, (change, "place = 3"))
    with pytest.raises(ChainBroken, match="record 3 "):
        ledger.records("churn")
    assert [record.place for record in ledger.records("churn", key="run-2")] == [2]


@pytest.mark.parametrize("statement", ["UPDATE retrain_records SET body = '{}'", "DELETE FROM retrain_records"])
def test_the_database_itself_refuses_to_change_a_record(url: str, statement: str) -> None:
    ledger = chain(url)
    statements = [statement] if ledger.engine.name == "sqlite" else [statement, "TRUNCATE retrain_records"]
    for refused in statements:
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), ledger.engine.begin() as connection:
            connection.exec_driver_sql(refused)
    assert len(ledger.verify("churn")) == 5


# --- revisions of the tables

OLD = [("churn", "batch", "a", None), ("other", "batch", "a", None), ("churn", "promotion", "run-1", 1)]


def older(url: str, rows: Sequence[tuple[Any, ...]] = OLD) -> sa.Engine:
    """A database as it was before there were revisions, with rows in it."""
    Path(sa.make_url(url).database or "").parent.mkdir(exist_ok=True)
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        upgrade(connection, None, "1")
        connection.exec_driver_sql("DROP TABLE retrain_version")
        table = sa.Table("retrain_records", sa.MetaData(), autoload_with=connection)
        for model, kind, key, sequence in rows:
            row = {"model": model, "kind": kind, "key": key, "sequence": sequence, "run": "r", "body": '{"n": 1}'}
            connection.execute(
                table.insert(), {**row, "effective_at": WHEN.isoformat(), "recorded_at": "2024-02-02T00:00:00+00:00"}
            )
    return engine


def shape_of(url: str) -> dict[str, Any]:
    """What the database says of its tables."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    inspector, shape = sa.inspect(engine), dict[str, Any]()
    for table in inspector.get_table_names():
        columns = [
            (column["name"], str(column["type"]), column["nullable"], column["default"])
            for column in inspector.get_columns(table)
        ]
        unique = sorted(
            (constraint["name"] or "", constraint["column_names"])
            for constraint in inspector.get_unique_constraints(table)
        )
        shape[table] = columns, inspector.get_pk_constraint(table), unique, inspector.get_indexes(table)
    triggers = (
        "SELECT sql FROM sqlite_master WHERE type = 'trigger' ORDER BY 1"
        if engine.name == "sqlite"
        else "SELECT action_statement, event_manipulation, action_timing FROM information_schema.triggers"
        " WHERE trigger_schema = current_schema() ORDER BY 2"
    )
    with engine.connect() as connection:
        shape["triggers"] = [tuple(row) for row in connection.exec_driver_sql(triggers)]
        shape["version"] = connection.scalar(sa.text("SELECT version_num FROM retrain_version"))
    return shape


def fresh(url: str, tmp_path: Path) -> dict[str, Any]:
    """The shape of a database that was made at once; in PostgreSQL in place of the one that `url` names."""
    if url.startswith("postgresql"):
        with sa.create_engine(url, poolclass=sa.NullPool).begin() as connection:
            connection.exec_driver_sql("DROP TABLE retrain_records, retrain_version")
            connection.exec_driver_sql("DROP FUNCTION retrain_append_only")
        Ledger(url)
        return shape_of(url)
    Ledger(f"sqlite:///{tmp_path / 'fresh.db'}")
    return shape_of(f"sqlite:///{tmp_path / 'fresh.db'}")


def test_an_older_database_becomes_what_a_fresh_one_is_with_its_records_chained(url: str, tmp_path: Path) -> None:
    older(url)
    ledger = Ledger(url)
    records = ledger.records("churn")
    assert [(record.place, record.kind, record.key, record.sequence, record.by) for record in records] == [
        (1, "batch", "a", None, ""),
        (2, "promotion", "run-1", 1, ""),
    ]
    assert all(record.body == {"n": 1} and record.effective_at == WHEN and record.run == "r" for record in records)
    assert ledger.verify("churn") == tuple(record.hash for record in records)
    assert len(ledger.verify("other")) == 1
    assert ledger.append("churn", "batch", "a", {}, effective_at=WHEN) == records[0]
    assert ledger.append("churn", "batch", "b", {}, effective_at=WHEN).previous == records[1].hash
    with pytest.raises(PromotionConflict):
        ledger.append("churn", "promotion", "run-2", {}, effective_at=WHEN, sequence=1)
    migrated = shape_of(url)
    assert migrated["triggers"]
    assert migrated == fresh(url, tmp_path)


def opened(_: int, url: str) -> int:
    return len(Ledger(url).verify("churn"))


@pytest.mark.parametrize(
    ("prepare", "records"),
    [(older, 2), (lambda url: older(url, []), 0), (lambda url: None, 0)],
    ids=["older", "older and empty", "fresh"],
)
def test_several_that_open_it_at_once_bring_it_up_once(url: str, prepare: Callable[[str], Any], records: int) -> None:
    prepare(url)
    assert race(opened, url) == [records] * RACERS
    with Ledger(url).engine.connect() as connection:
        assert list(connection.scalars(sa.text("SELECT version_num FROM retrain_version"))) == [REVISIONS[-1]]


def test_an_upgrade_that_fails_leaves_the_older_database_as_it_was(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = older(url)

    def broken(row: Any) -> str:
        raise RuntimeError("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(ledger_tables, "hash_of", broken)
        with pytest.raises(RuntimeError):
            Ledger(url)
    assert sa.inspect(engine).get_table_names() == ["retrain_records"]
    assert [column["name"] for column in sa.inspect(engine).get_columns("retrain_records")][-1] == "body"
    assert len(Ledger(url).verify("churn")) == 2


def test_a_newer_database_is_refused_and_left_alone(url: str) -> None:
    with Ledger(url).engine.begin() as connection:
        connection.exec_driver_sql("UPDATE retrain_version SET version_num = '77'")
    before = shape_of(url)
    with pytest.raises(LedgerNewer, match="revision 77"):
        Ledger(url)
    assert shape_of(url) == before


def test_another_tools_revisions_in_the_same_database_stay(url: str) -> None:
    with older(url).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('airflow')")
    with Ledger(url).engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == "airflow"


def test_opening_asks_one_question(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Ledger(url)
    statements = []

    @sa.event.listens_for(sa.Engine, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    Ledger(url)
    sa.event.remove(sa.Engine, "before_cursor_execute", note)
    assert [statement for statement in statements if "retrain" in statement] == statements[-1:]


def test_alembic_is_not_imported_where_nothing_is_older(tmp_path: Path) -> None:
    code = (
        f"import sys; from retrain.state.ledger import Ledger; Ledger('sqlite:///{tmp_path}/a.db'); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(Path(module.__file__).parents[2])},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "sqlalchemy" in done.stdout.split()
    assert "alembic" not in done.stdout.split()
