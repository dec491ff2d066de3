"""Ingest: one delivery, one batch, whatever is killed, repeated or delivered anew."""

from __future__ import annotations

import gzip
import hashlib
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from retrain import pipeline
from retrain.data.dataset import arrow_schema
from retrain.errors import (
    BatchMissing,
    BatchTooLarge,
    DtypeChanged,
    EmptyBatch,
    IntervalConflict,
    OutOfInterval,
    RaggedRow,
    RetrainError,
    SchemaChanged,
)
from retrain.results import IngestReport
from retrain.stages.ingest import ingest

if TYPE_CHECKING:
    from tests.conftest import Model


def accept(model: Model, start: str = "2024-01-01", **trigger: Any) -> None:
    for stage in ("ingest", "validate", "snapshot"):
        pipeline.run_stage(stage, model.run(start, **trigger))


def test_a_batch_is_published_under_its_hash(churn: Model) -> None:
    delivered = churn.deliver("2024-01-01", rows=120)
    run = churn.run()
    report = ingest(run)
    assert report.batch.rows == 120
    assert report.source == "data/churn-2024-01.csv"
    assert report.source_digest == hashlib.sha256(delivered.read_bytes()).hexdigest()
    data = run.store.read(report.batch.key)
    assert report.batch.key == f"churn/batches/2024-01-01/{hashlib.sha256(data).hexdigest()}.parquet"
    with run.store.local(report.batch.key) as path:
        table = pq.read_table(path)
    assert table.schema.equals(arrow_schema(run.spec))
    assert table["id"].to_pylist() == pd.read_csv(delivered)["id"].tolist(), "rows keep their order"


def test_the_same_bytes_are_not_read_again(churn: Model, caplog: pytest.LogCaptureFixture) -> None:
    churn.deliver("2024-01-01")
    first = ingest(churn.run(key="first"))
    with caplog.at_level("INFO"):
        assert ingest(churn.run(key="second")) == first
    assert "found done" in caplog.text
    assert len(churn.run().ledger.records("churn", "ingest")) == 1


def test_a_lost_file_is_made_again(churn: Model) -> None:
    churn.deliver("2024-01-01")
    run = churn.run()
    report = ingest(run)
    before = run.store.read(report.batch.key)
    Path(run.store.url(report.batch.key)).unlink()
    assert ingest(run) == report
    assert run.store.read(report.batch.key) == before


def test_declared_types_are_part_of_what_is_found_done(churn: Model, spec_of: Callable[[], dict[str, Any]]) -> None:
    churn.deliver("2024-01-01")
    accept(churn)
    spec = spec_of()
    spec["columns"]["visits"]["type"] = "number"
    churn.write_spec(spec)
    run = churn.run()
    with run.store.local(ingest(run).batch.key) as path:
        assert str(pq.read_schema(path).field("visits").type) == "double"


def test_other_bytes_for_an_accepted_interval_conflict(churn: Model) -> None:
    churn.deliver("2024-01-01")
    accept(churn)
    churn.deliver("2024-01-01", seed=1)
    with pytest.raises(IntervalConflict, match=r"was accepted as \w{12} with 200 rows.*\n.*--revise"):
        ingest(churn.run())
    revised = ingest(churn.run(revise=True))
    churn.deliver("2024-01-01")
    assert ingest(churn.run()).batch.sha256 != revised.batch.sha256, "the accepted bytes are still welcome"


def test_going_back_from_a_revision_is_a_revision(churn: Model) -> None:
    churn.deliver("2024-01-01")
    accept(churn)
    churn.deliver("2024-01-01", seed=1)
    accept(churn, revise=True)
    churn.deliver("2024-01-01")
    with pytest.raises(IntervalConflict):
        ingest(churn.run())
    accept(churn, revise=True)
    records = churn.run().ledger.records("churn", "snapshot")
    shas = [record.body["accepted"]["batch"]["sha256"] for record in records]
    assert len(shas) == 3
    assert shas[0] == shas[2] != shas[1]


def test_a_quarantined_interval_may_be_delivered_again(churn: Model, rows_of: Callable[..., pd.DataFrame]) -> None:
    bad = rows_of("2024-01-01")
    bad["plan"] = "gold"
    churn.deliver("2024-01-01", bad)
    run = churn.run()
    pipeline.run_stage("ingest", run)
    with pytest.raises(RetrainError, match="Quarantined"):
        pipeline.run_stage("validate", run)
    churn.deliver("2024-01-01")
    accept(churn)


def lines(rows_of: Callable[..., pd.DataFrame]) -> list[str]:
    return str(rows_of("2024-01-01", 100).to_csv(index=False)).splitlines()


def at(row: int, change: Callable[[str], str]) -> Callable[[list[str]], list[str]]:
    return lambda text: [*text[:row], change(text[row]), *text[row + 1 :]]


def put(place: int, value: str) -> Callable[[list[str]], list[str]]:
    return at(9, lambda line: fields(line, place, value))


def column(name: str) -> Callable[[list[str]], list[str]]:
    return lambda text: [f"{line},{1 if row else name}" for row, line in enumerate(text)]


FAULTS: list[tuple[str, type[RetrainError], Callable[[list[str]], list[str]], str]] = [
    ("a field too many", RaggedRow, at(6, lambda line: line + ",1"), "line 7 has 8 fields, the header has 7"),
    ("a field too few", RaggedRow, at(3, lambda line: line.rpartition(",")[0]), "line 4 has 6 fields"),
    ("no rows", EmptyBatch, lambda text: text[:1], "has no rows"),
    ("nothing at all", EmptyBatch, lambda text: [], "has no rows"),
    ("a column gone", SchemaChanged, lambda text: [line.partition(",")[2] for line in text], "missing: id"),
    ("a column more", SchemaChanged, column("new"), "not declared: new"),
    ("a column twice", SchemaChanged, column("id"), "doubled: id"),
    (
        "fractions among integers",
        DtypeChanged,
        put(3, "7.5"),
        "line 10, column 'visits': '7.5' is not of the declared type",
    ),
    ("text in a boolean", DtypeChanged, put(6, "maybe"), "column 'churned': 'maybe'"),
    ("a date of no calendar", DtypeChanged, put(1, "2024-02-30"), "column 'signup'"),
    ("another month", OutOfInterval, put(1, "2024-02-01"), "1 rows of other intervals, such as 2024-02-01 00:00:00"),
    ("no time", OutOfInterval, put(1, ""), "1 rows without a time"),
]


def fields(line: str, place: int, value: str) -> str:
    parts = line.split(",")
    parts[place] = value
    return ",".join(parts)


@pytest.mark.parametrize(("error", "breaks", "says"), [case[1:] for case in FAULTS], ids=[case[0] for case in FAULTS])
def test_a_broken_delivery_has_a_name(
    churn: Model,
    rows_of: Callable[..., pd.DataFrame],
    error: type[RetrainError],
    breaks: Callable[[list[str]], list[str]],
    says: str,
) -> None:
    churn.deliver("2024-01-01", "\n".join(breaks(lines(rows_of))) + "\n")
    with pytest.raises(error) as raised:
        pipeline.run_stage("ingest", churn.run())
    assert says in raised.value.found
    assert str(raised.value).startswith(f"churn · ingest · {error.__name__}: ")
    assert not churn.run().store.keys("churn/batches"), "nothing half is visible"
    (record,) = churn.run().ledger.records("churn", "stage")
    assert record.body["verdict"] == error.__name__


def test_a_blank_among_integers_stays_an_integer(churn: Model, rows_of: Callable[..., pd.DataFrame]) -> None:
    frame = rows_of("2024-01-01", 100)
    frame.loc[5, "visits"] = pd.NA
    churn.deliver("2024-01-01", frame)
    run = churn.run()
    with run.store.local(ingest(run).batch.key) as path:
        column = pq.read_table(path)["visits"]
    assert str(column.type) == "int64"
    assert column.null_count == 1


def test_a_batch_that_is_not_there_is_waited_for(churn: Model, spec_of: Callable[[], dict[str, Any]]) -> None:
    spec = spec_of()
    spec["source"]["wait"] = "2d"
    churn.write_spec(spec)
    with pytest.raises(BatchMissing, match="waited for until 2024-02-03 00:00 UTC") as raised:
        ingest(churn.run())
    assert raised.value.retryable


@pytest.mark.parametrize(("cap", "says"), [("max_rows", "source.max_rows 50"), ("max_bytes", "source.max_bytes is 50")])
def test_a_batch_has_bounds(churn: Model, spec_of: Callable[[], dict[str, Any]], cap: str, says: str) -> None:
    spec = spec_of()
    spec["source"][cap] = 50
    churn.write_spec(spec)
    churn.deliver("2024-01-01")
    with pytest.raises(BatchTooLarge, match=says):
        ingest(churn.run())


def test_a_bomb_is_stopped_while_it_unpacks(churn: Model, spec_of: Callable[[], dict[str, Any]]) -> None:
    spec = spec_of()
    spec["source"]["path"] += ".gz"
    churn.write_spec(spec)
    header = ",".join(spec["columns"])
    row = "a,2024-01-01,basic,1,1,true,true\n" * 30_000
    packed = gzip.compress((header + "\n").encode(), 1) + gzip.compress(row.encode(), 9) * 90
    (churn.home.root / "data").mkdir()
    (churn.home.root / "data" / "churn-2024-01.csv.gz").write_bytes(packed)
    with pytest.raises(BatchTooLarge, match="unpacks to more than 200 times"):
        ingest(churn.run())


def state(model: Model) -> tuple[list[str], list[tuple[str, str, dict[str, Any]]]]:
    run = model.run()
    keys = [key for key in run.store.keys("churn/batches") if "/." not in key]
    return keys, [(record.kind, record.key, record.body) for record in run.ledger.records("churn", "ingest")]


def test_killed_at_any_point_and_run_again_it_ends_the_same(churn: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    churn.deliver("2024-01-01", rows=20_000)
    began = time.monotonic()
    assert churn.command("ingest", "churn", "--interval", "2024-01-01").wait() == 0
    took = time.monotonic() - began
    undisturbed = state(churn)
    report = churn.run(key="laptop-2024-01-01").read(IngestReport, "ingest")
    dice = random.Random(7)
    for attempt in range(4):
        monkeypatch.setenv("RETRAIN_HOME", str(churn.home.root / f"again-{attempt}"))
        again = type(churn)(churn.home.from_environment())
        process = again.command("ingest", "churn", "--interval", "2024-01-01")
        # The first half of the time is imports.
        time.sleep(took * dice.uniform(0.4, 1.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert again.command("ingest", "churn", "--interval", "2024-01-01").wait() == 0
        assert state(again) == undisturbed
        assert again.run(key="laptop-2024-01-01").read(IngestReport, "ingest") == report
