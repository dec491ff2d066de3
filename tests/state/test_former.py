"""What an earlier version wrote into the ledger is read with today's words, and stays as it was written."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from retrain import errors, pipeline
from retrain.errors import RetrainError
from retrain.results import Champion, Rollout
from retrain.state.former import ERRORS, KEYS, KINDS, STAGES, current_body, kinds_of
from retrain.state.ledger import Ledger

WHEN = datetime(2024, 2, 1, tzinfo=UTC)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger("sqlite://")


@pytest.mark.parametrize("former", KINDS)
def test_a_record_of_a_former_kind_is_found_under_today_s(ledger: Ledger, former: str) -> None:
    today = KINDS[former]
    written = ledger.append("churn", former, "a", {"level": 0.05}, effective_at=WHEN)
    newer = ledger.append("churn", today, "b", {}, effective_at=WHEN)
    assert [(record.kind, record.key) for record in ledger.records("churn", today)] == [(today, "a"), (today, "b")]
    assert ledger.find("churn", today, "a") == written
    assert ledger.append("churn", today, "a", {"level": 1.0}, effective_at=WHEN) == written, "nothing is spent twice"
    assert ledger.verify("churn") == (written.hash, newer.hash)


def test_the_database_keeps_what_was_written(ledger: Ledger) -> None:
    ledger.append("churn", "look", "a", {"bars": 1}, effective_at=WHEN)
    with ledger.engine.connect() as connection:
        stored = connection.execute(sa.text("SELECT kind, body FROM retrain_records")).one()
    assert tuple(stored) == ("look", '{"bars": 1}')
    (record,) = ledger.records("churn", "interim_analysis")
    assert (record.kind, record.body) == ("interim_analysis", {"blocked": 1})


@pytest.mark.parametrize("former", KEYS)
def test_a_former_key_of_a_body_has_today_s_name(former: str) -> None:
    assert current_body("rollout", {former: 1, "reason": "x"}) == {KEYS[former]: 1, "reason": "x"}
    for name in ("rollout", "was"):
        assert current_body("rollout", {name: {former: 1}}) == {name: {KEYS[former]: 1}}
    assert current_body("rollout", {"rollout": None}) == {"rollout": None}


@pytest.mark.parametrize("kind", ["stage", "score stage", "monitor stage"])
def test_a_stage_s_record_names_stage_and_refusal_as_today(kind: str) -> None:
    assert current_body(kind, {"stage": "probe", "verdict": "ProbeFailed"}) == {
        "stage": "smoke_test",
        "verdict": "SmokeTestFailed",
    }
    assert current_body(kind, {"stage": "promote", "verdict": "Barred"})["verdict"] == "ModelBlocked"
    assert current_body("gate", {"stage": "probe"}) == {"stage": "probe"}, "no stage's record"


def test_today_s_names_exist_and_the_former_are_gone() -> None:
    assert set(STAGES.values()) <= set(pipeline.BY_NAME)
    assert not set(STAGES) & set(pipeline.BY_NAME)
    for former, today in ERRORS.items():
        assert issubclass(getattr(errors, today), RetrainError)
        assert not hasattr(errors, former)
    for former, today in KEYS.items():
        fields = {**Champion.model_fields, **Rollout.model_fields}
        assert former not in fields
        assert {former, today}.isdisjoint(KINDS)
    assert all(kinds_of(today) == (today, former) for former, today in KINDS.items())
