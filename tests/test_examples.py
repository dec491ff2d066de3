"""The example data: complete, in its months, without later knowledge, and laid only once."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
LATER = {"dep_time", "dep_delay", "arr_time", "air_time"}


@pytest.fixture(scope="module")
def flights_module() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / "flights.py"))


@pytest.fixture(scope="module")
def diabetes_module() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / "diabetes.py"))


@pytest.fixture(scope="module")
def flights(flights_module: dict[str, Any]) -> pd.DataFrame:
    return flights_module["flights"]()


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.iterdir())}


def test_every_flight_is_accounted_for(flights: pd.DataFrame) -> None:
    assert len(flights) == 336_776
    assert flights["id"].is_unique
    assert flights["scheduled_departure"].notna().all()
    assert (flights["scheduled_departure"] >= pd.Timestamp("2014-01-01", tz="UTC")).sum() == 88
    assert flights["arr_delay"].isna().sum() == 9_430


def test_departures_are_utc_on_both_sides_of_the_clock_change(flights: pd.DataFrame) -> None:
    local = flights["scheduled_departure"].dt.tz_convert("America/New_York")
    assert (local.dt.hour * 60 + local.dt.minute == flights["departure_minute"]).all()
    assert (local.dt.strftime("%Y-%m-%d") == flights["id"].str[:10]).all()


def test_weather_is_the_hour_three_hours_before(flights_module: dict[str, Any], flights: pd.DataFrame) -> None:
    weather = flights_module["table"]("weather").set_index(["origin", "time_hour"])
    some = flights[flights["temp"].notna()].iloc[::5_000]
    for row in some.itertuples():
        hour = (row.scheduled_departure - pd.Timedelta(hours=3)).strftime("%Y-%m-%dT%H:00:00Z")
        observed = weather.loc[(row.origin, hour)]
        assert (row.temp, row.humid, row.visib) == (observed["temp"], observed["humid"], observed["visib"])
    assert flights["visib"].isna().sum() == 1_201, "hours without an observation stay empty"


def test_nothing_known_only_later_is_delivered(flights: pd.DataFrame) -> None:
    assert not LATER & set(flights.columns)
    assert set(flights.select_dtypes("number").columns) >= {"arr_delay", "distance", "temp", "plane_seats"}


def test_each_month_lies_in_its_own_file_and_stays(
    flights_module: dict[str, Any], flights: pd.DataFrame, tmp_path: Path
) -> None:
    some = flights.iloc[::200]
    summary = flights_module["lay"](some, tmp_path)
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names == [f"flights-2013-{month:02d}.csv" for month in range(1, 13)]
    assert f"of {len(some):,} in 12 files, 12 written" in summary
    rows = pd.concat(
        pd.read_csv(tmp_path / name, parse_dates=["scheduled_departure"]).assign(month=name[8:15]) for name in names
    )
    assert (rows["scheduled_departure"].dt.strftime("%Y-%m") == rows["month"]).all()

    before = stamps(tmp_path)
    (tmp_path / "flights-2013-05.csv").write_text("half a file")
    assert "12 files, 1 written" in flights_module["lay"](some, tmp_path)
    after = stamps(tmp_path)
    assert {name for name in before if before[name] != after[name]} == {"flights-2013-05.csv"}


def test_whole_numbers_stay_whole(flights_module: dict[str, Any], flights: pd.DataFrame, tmp_path: Path) -> None:
    flights_module["lay"](flights.iloc[:500], tmp_path)
    text = pd.read_csv(tmp_path / "flights-2013-01.csv", dtype=str)
    for column in ("arr_delay", "plane_year", "wind_dir", "departure_minute"):
        assert text[column].dropna().str.fullmatch(r"-?\d+").all(), column


def test_the_study_comes_in_quarters_and_stays(diabetes_module: dict[str, Any], tmp_path: Path) -> None:
    rows = diabetes_module["patients"]()
    assert diabetes_module["lay"](rows, tmp_path) == "diabetes: 442 patients in 4 files, 4 written"
    files = {path.stem[-7:]: pd.read_json(path, lines=True) for path in sorted(tmp_path.iterdir())}
    assert {name: len(part) for name, part in files.items()} == {
        **{"2024-01": 110, "2024-04": 110},
        **{"2024-07": 111, "2024-10": 111},
    }
    for name, part in files.items():
        start = pd.Timestamp(name, tz="UTC")
        assert part["measured_at"].between(start, start + pd.DateOffset(months=3), inclusive="left").all()
    everything = pd.concat(files.values())
    assert everything["id"].is_unique
    assert everything["progression"].between(25, 346).all()

    before = stamps(tmp_path)
    assert diabetes_module["lay"](rows, tmp_path).endswith("0 written")
    assert stamps(tmp_path) == before
