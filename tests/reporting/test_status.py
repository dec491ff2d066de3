"""The table of a model's intervals: what was found of each, and how far it was looked at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from retrain.reporting import status
from retrain.state.ledger import Ledger

MONTH = datetime(2024, 4, 1, tzinfo=UTC)


@pytest.fixture
def ledger() -> Ledger:
    """An interval that was taken in and diagnosed as sound."""
    ledger = Ledger("sqlite://")
    body = {"interval": "2024-04-01", "trigger": {"dry_run": False}, "seconds": 1.0, "reasons": ["r"], "facts": {}}
    for kind, stage, verdict in (("stage", "ingest", "done"), ("monitor stage", "diagnose", "sound")):
        ledger.append("churn", kind, stage, {**body, "stage": stage, "verdict": verdict}, effective_at=MONTH, run="r")  # type: ignore[arg-type]
    return ledger


def signal(ledger: Ledger, question: str, verdict: str, months: int = 0) -> None:
    body = {"question": question, "interval": "2024-04-01", "champion": 1, "verdict": verdict}
    ledger.append("churn", "signal", f"{question}/{months}", body, effective_at=MONTH + timedelta(days=31 * months))


def monitor(ledger: Ledger) -> Any:
    (row,) = status.rows(ledger, "churn")
    return row.monitor


def test_nothing_is_sound_that_was_not_looked_at(ledger: Ledger) -> None:
    assert monitor(ledger) == "not looked at", "there was no champion yet"
    signal(ledger, "drift", "undetermined")
    signal(ledger, "kind", "sound")
    assert monitor(ledger) == "not looked at"
    signal(ledger, "drift", "calm", 1)
    assert monitor(ledger) == "sound, not measured"
    signal(ledger, "realised", "undetermined")
    assert monitor(ledger) == "sound, not measured"
    signal(ledger, "realised", "calm", 1)
    assert monitor(ledger) == "sound", "its labels came later"


def test_a_held_interval_says_so_until_it_is_released(ledger: Ledger) -> None:
    signal(ledger, "kind", "suspect")
    signal(ledger, "realised", "alarm")
    signal(ledger, "kind", "sound", 1)
    assert monitor(ledger) == "suspect, held", "a later look does not release it"
    ledger.append("churn", "release", "2024-04-01/abc", {}, effective_at=MONTH)
    assert monitor(ledger) == "suspect, released"
