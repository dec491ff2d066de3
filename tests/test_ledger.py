from __future__ import annotations

import multiprocessing
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from retrain import ledger as module
from retrain.errors import LedgerBusy, PromotionConflict
from retrain.ledger import Ledger

WHEN = datetime(2024, 2, 1, tzinfo=UTC)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'state' / 'ledger.db'}"


def test_a_key_is_written_once(url: str) -> None:
    ledger = Ledger(url)
    first = ledger.append("churn", "batch", "a", {"rows": 1}, effective_at=WHEN)
    again = Ledger(url).append("churn", "batch", "a", {"rows": 2}, effective_at=WHEN)
    assert again == first
    assert [record.body for record in ledger.records("churn")] == [{"rows": 1}]


def test_records_have_both_clocks_and_their_order(url: str) -> None:
    ledger = Ledger(url)
    before = datetime.now(UTC)
    for name in "cab":
        ledger.append("churn", "batch", name, {}, effective_at=WHEN, run="r1")
    ledger.append("other", "batch", "x", {}, effective_at=WHEN)
    found = ledger.records("churn", run="r1")
    assert [record.key for record in found] == ["c", "a", "b"]
    assert all(record.effective_at == WHEN and record.recorded_at >= before for record in found)


def test_a_sequence_is_taken_once(url: str) -> None:
    ledger = Ledger(url)
    ledger.append("churn", "promotion", "run-1", {}, effective_at=WHEN, sequence=1)
    with pytest.raises(PromotionConflict):
        ledger.append("churn", "promotion", "run-2", {}, effective_at=WHEN, sequence=1)
    assert len(ledger.records("churn", "promotion")) == 1
    ledger.append("other", "promotion", "run-2", {}, effective_at=WHEN, sequence=1)


def _race(url: str, name: int) -> str:
    try:
        Ledger(url).append("churn", "promotion", f"run-{name}", {}, effective_at=WHEN, sequence=1)
    except PromotionConflict:
        return "lost"
    return "won"


def test_of_six_racing_processes_one_wins(url: str) -> None:
    with multiprocessing.get_context("fork").Pool(6) as pool:
        outcomes = pool.starmap(_race, [(url, name) for name in range(6)])
    assert sorted(outcomes) == ["lost"] * 5 + ["won"]


def test_a_locked_database_is_named_and_nothing_is_lost(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.1)
    ledger = Ledger(url)
    with sqlite3.connect(ledger.engine.url.database or "") as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LedgerBusy) as refused:
            ledger.append("churn", "batch", "a", {}, effective_at=WHEN)
        holder.rollback()
    assert refused.value.retryable
    assert ledger.append("churn", "batch", "a", {"now": True}, effective_at=WHEN).body == {"now": True}


def test_not_a_number_is_refused_before_it_is_written(url: str) -> None:
    ledger = Ledger(url)
    with pytest.raises(ValueError, match="not JSON compliant"):
        ledger.append("churn", "gate", "a", {"score": float("nan")}, effective_at=WHEN)
    assert ledger.records("churn") == []


@pytest.mark.services
def test_postgresql_keeps_the_same_promises() -> None:
    url = "postgresql+psycopg2://postgres@127.0.0.1:5432/test"
    import sqlalchemy as sa

    try:
        ledger = Ledger(url)
    except (LedgerBusy, sa.exc.OperationalError):
        pytest.skip("needs PostgreSQL on 127.0.0.1:5432 with a database `test`")
    model = f"t{datetime.now(UTC).timestamp():.6f}"
    first = ledger.append(model, "promotion", "a", {"n": 1}, effective_at=WHEN, sequence=1)
    assert ledger.append(model, "promotion", "a", {"n": 2}, effective_at=WHEN, sequence=1) == first
    with pytest.raises(PromotionConflict):
        ledger.append(model, "promotion", "b", {}, effective_at=WHEN, sequence=1)
    with ledger.engine.begin() as connection:
        connection.execute(sa.text("delete from retrain_records where model = :model"), {"model": model})
