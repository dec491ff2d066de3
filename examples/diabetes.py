"""Lay scikit-learn's diabetes study as quarterly landing files: a regression that is not flights.

    python examples/diabetes.py data/diabetes

Source: `sklearn.datasets.load_diabetes(scaled=False)`, 442 patients, ten measurements and the progression of the
disease one year later (Efron, Hastie, Johnstone and Tibshirani 2004, "Least Angle Regression"). It ships with
scikit-learn; nothing is fetched.

**Invented, so that there is something to deliver batch by batch:**

- `id`: `patient-001` to `patient-442`, the order of the rows;
- `measured_at`: the same order spread evenly over 2024 in UTC, the first row at its beginning. The study has no dates,
  so there is no true drift to find here.

Everything else is the study's own: `age` in years, `sex` coded 1 and 2, `bmi`, `bp` (average blood pressure), `s1` to
`s6` (blood serum), `progression` the outcome. JSON lines, one file per quarter, named after the quarter's first month.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile

import pandas as pd
from sklearn.datasets import load_diabetes

START, END = pd.Timestamp("2024-01-01", tz="UTC"), pd.Timestamp("2025-01-01", tz="UTC")


def patients() -> pd.DataFrame:
    """The study's rows with the invented id and time."""
    rows: pd.DataFrame = load_diabetes(as_frame=True, scaled=False).frame.rename(columns={"target": "progression"})
    step = (END - START) / len(rows)
    rows.insert(0, "id", [f"patient-{number:03d}" for number in range(1, len(rows) + 1)])
    rows.insert(1, "measured_at", [(START + step * number).floor("s") for number in range(len(rows))])
    return rows.astype({"age": "int64", "sex": "int64"})


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
    """Write one file per quarter, and describe in one line what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    quarter = rows["measured_at"].dt.tz_localize(None).dt.to_period("Q").dt.start_time.dt.strftime("%Y-%m")
    measured_at = rows["measured_at"].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    written = 0
    for name, part in rows.assign(measured_at=measured_at).groupby(quarter):
        path = folder / f"diabetes-{name}.jsonl"
        new = land(path, part.to_json(orient="records", lines=True).encode())
        written += new
        if sys.stdout.isatty():
            print(f"  {path}  {len(part):>4} patients{'' if new else '  unchanged'}")
    return f"diabetes: {len(rows)} patients in {quarter.nunique()} files, {written} written"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python examples/diabetes.py FOLDER")
    print(lay(patients(), Path(sys.argv[1])))
