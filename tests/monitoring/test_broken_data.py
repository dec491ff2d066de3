"""Broken data is named, and a changed world is not called broken."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from retrain.monitoring.drift import Kind, broken_columns
from tests.drift_rows import KINDS, flights


def months(count: int = 4, rows: int = 300, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Sound rows of so many months, in which the week's number always jumps and each month has a campaign."""
    month = np.repeat(np.arange(count), rows)
    rng = np.random.default_rng(seed)
    frame = flights(seed, count * rows).assign(
        week=month * 4 + rng.integers(0, 4, count * rows), campaign=[f"c{number}" for number in month], month=month
    )
    return frame, month


MONTHS: dict[str, Kind] = {
    **{name: kind for name, kind in KINDS.items() if name != "score"},
    "week": "number",
    "campaign": "category",
    "month": "number",
}


def faults(change: object = None, kinds: dict[str, Kind] = MONTHS, months_known: bool = True) -> tuple[str, ...]:
    """The faults found in the sixth month, the first four being the reference."""
    frame, month = months(6)
    before, last, now = frame[month < 4], frame[month == 4], frame[month == 5]
    if callable(change):
        now = change(now)
    of = month[month < 4] if months_known else None
    return broken_columns(before, last, now, kinds, seed=0, intervals=of)


def test_sound_and_jumping_columns_are_not_broken() -> None:
    assert faults() == ()


@pytest.mark.parametrize(
    ("factor", "name"), [(100, "× 100"), (1 / 25.4, "÷ 24 or ÷ 25.4"), (1000, "× 1000"), (1 / 3600, "÷ 3600")]
)
@pytest.mark.parametrize("known", [True, False])
def test_another_unit_is_named(factor: float, name: str, known: bool) -> None:
    sentences = faults(lambda now: now.assign(price=now["price"] * factor), months_known=known)
    assert len(sentences) == 1
    assert sentences[0].startswith(f"price: its values look {name} (distance")


def test_a_temperature_in_fahrenheit_is_named() -> None:
    before = pd.DataFrame({"t": np.random.default_rng(0).normal(15, 5, 1200)})
    now = before.assign(t=before["t"] * 1.8 + 32).head(600)
    assert "°C → °F" in broken_columns(before, before, now, {"t": "number"}, seed=0, intervals=np.arange(1200) % 4)[0]


@pytest.mark.parametrize(
    ("change", "beginning"),
    [
        ({"delay": lambda t: t["delay"].where(t.index % 2 == 0)}, "delay: 50% of its values are missing, 0% in the"),
        ({"delay": 7.5}, "delay: it stands still at '7.5'"),
        ({"carrier": "AA"}, "carrier: it stands still at 'AA'"),
        ({"carrier": lambda t: "x" + t["carrier"]}, "carrier: 100% of its rows are in categories that were never seen"),
        ({"delay": lambda t: t["delay"] ** 2 + 40}, "delay: its values lie on another range (distance 1.000"),
        ({"delay": lambda t: t["delay"].where(t.index % 2 == 0, np.inf)}, "delay: 50% of its values are missing"),
    ],
)
def test_an_abrupt_fault_is_named(change: dict[str, object], beginning: str) -> None:
    sentences = faults(lambda now: now.assign(**change))
    assert len(sentences) == 1
    assert sentences[0].startswith(beginning)


@pytest.mark.parametrize(
    "change",
    [
        {"delay": lambda t: t["delay"] + 1},
        {"price": lambda t: t["price"] * 3},
        {"carrier": lambda t: t["carrier"].where(t.index % 4 > 0, "NEW")},
        {"delay": lambda t: t["delay"].where(t.index % 5 > 0)},
        {"carrier": lambda t: np.where(t["carrier"] == "AA", "B6", t["carrier"])},
    ],
)
def test_a_changed_world_is_not_broken(change: dict[str, object]) -> None:
    assert faults(lambda now: now.assign(**change)) == ()


def test_what_came_by_degrees_is_not_broken() -> None:
    frame, month = months(6)
    frame["delay"] += np.where(month >= 4, (month - 3) * 2, 0) * 1.1
    before, last, now = frame[month < 4], frame[month == 4], frame[month == 5]
    assert broken_columns(before, None, now, MONTHS, seed=0, intervals=month[month < 4]) == ()
    assert broken_columns(before, last, last, MONTHS, seed=0, intervals=month[month < 4]) == ()


def test_a_column_that_is_not_there_and_empty_tables_say_nothing() -> None:
    frame, month = months()
    for now in (frame.drop(columns="delay"), frame.head(0), frame.assign(delay=np.nan).head(5)):
        assert not [
            sentence
            for sentence in broken_columns(frame, now, now, MONTHS, seed=0, intervals=month)
            if "price" in sentence
        ]
