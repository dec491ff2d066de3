"""Lays an evaluation's metrics and tables where `dvc metrics` and `dvc plots` look: `python bin/dvc_outputs.py RUN`.

dvc.yaml names each file, whatever the task and the decision; what this evaluation does not have is written empty.
"""

from __future__ import annotations

import sys
from pathlib import Path

EMPTY = {
    "metrics.json": "{}",
    "roc.csv": "model,class,false_positive_rate,true_positive_rate",
    "pr.csv": "model,class,recall,precision",
    "calibration.csv": "model,class,predicted,observed,rows",
    "importance.csv": "model,column,loss",
}


def lay_out(run: Path) -> None:
    """Fill the folder `outputs` of a run's folder from its `evaluate`."""
    target = run / "outputs"
    target.mkdir(exist_ok=True)
    for name, empty in EMPTY.items():
        source = run / "evaluate" / name
        (target / name).write_bytes(source.read_bytes() if source.is_file() else f"{empty}\n".encode())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python bin/dvc_outputs.py RUN")
    lay_out(Path(sys.argv[1]))
