"""How long Airflow needs to read the DAG folder with 1, 20 and 100 specs, and whether anything heavy is imported.

    python benchmarks/parse.py [--specs 1 20 100]

Each reading is a process of its own that has imported Airflow already, as the dag-processor and the scheduler's
workers have; what is timed is `dags/retrain_models.py` as Airflow executes it: all models, and, as for a task that
starts, one DAG of one model (`get_parsing_context`). The specs are copies of flights under other names.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from benchmarks import measure
from benchmarks.measure import Figures

READ = """
import importlib.util, json, os, sys, time
import airflow, airflow.sdk, airflow.providers.standard.operators.python
import airflow.timetables.interval, airflow.dag_processing.dagbag
heavy = {"pandas", "numpy", "pyarrow", "scipy", "sklearn", "xgboost", "matplotlib", "mlflow", "great_expectations",
         "evidently", "dvc", "skops"}
before = heavy & set(sys.modules)
sys.path.append(os.path.dirname(sys.argv[1]))  # as Airflow does with the folder of a bundle
def read():
    spec = importlib.util.spec_from_file_location("dags", sys.argv[1])
    began = time.perf_counter()
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return time.perf_counter() - began, module
first, _ = read()
again, module = read()
dags = [name for name, value in vars(module).items() if type(value).__name__ == "DAG" and name != "DAG"]
found = sorted(heavy & set(sys.modules) - before)
print(json.dumps({"first": first, "again": again, "dags": len(dags), "heavy": found}))
"""
ONE = "_AIRFLOW_PARSING_CONTEXT_DAG_ID"
"""What Airflow sets when it parses for a task of one DAG."""


@dataclass(frozen=True)
class Reading:
    """Seconds of the first reading in a process, with the imports of `retrain`, and of one after it."""

    specs: int
    first: float
    again: float
    dags: int
    heavy: tuple[str, ...]


def read(specs: int, *, task: bool = False, repeats: int = 3) -> Reading:
    """Medians over processes that read a folder of so many specs; for a task, the DAG of one of them only."""
    with tempfile.TemporaryDirectory(prefix="retrain-bench-") as folder:
        models, text = Path(folder) / "models", (measure.ROOT / "include" / "models" / "flights.yaml").read_text()
        models.mkdir()
        for number in range(specs):
            (models / f"model_{number}.yaml").write_text(text.replace("model: flights", f"model: model_{number}"))
        env = measure.env_of(
            AIRFLOW_HOME=Path(folder) / "airflow",
            AIRFLOW__CORE__LOAD_EXAMPLES=False,
            AIRFLOW__LOGGING__LOGGING_LEVEL="CRITICAL",
            RETRAIN_MODELS=models,
            RETRAIN_HOME=Path(folder) / "home",
            **({ONE: f"model_{specs - 1}_retrain"} if task else {}),
        )
        command = ["-c", READ, str(measure.ROOT / "dags" / "retrain_models.py")]
        outputs = [json.loads(measure.run(command, **env).output.splitlines()[-1]) for _ in range(repeats)]
    first, again = (statistics.median(output[name] for output in outputs) for name in ("first", "again"))
    return Reading(
        specs, first, again, outputs[0]["dags"], tuple(sorted({name for output in outputs for name in output["heavy"]}))
    )


def figures(specs: list[int], repeats: int = 3) -> list[Figures]:
    """The whole benchmark."""
    rows, heavy = [], set[str]()
    for count in specs:
        every, single = read(count, repeats=repeats), read(count, task=True, repeats=repeats)
        heavy |= {*every.heavy, *single.heavy}
        seconds = (every.first, every.again, single.first, single.again)
        rows.append((str(count), str(every.dags), *(f"{value:.3f}" for value in seconds)))
    note = f"HEAVY LIBRARIES ARE IMPORTED: {', '.join(sorted(heavy))}" if heavy else "No heavy library is imported."
    columns = ("specs", "DAGs", "all, first", "all, again", "one task's, first", "one task's, again")
    imports_note = (
        "The first reading of a process also imports retrain's light modules; a task is a fork that has them already."
    )
    return [Figures("Reading dags/retrain_models.py, in seconds", columns, tuple(rows), (note, imports_note))]


def main() -> None:
    from rich.console import Console

    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--specs", type=int, nargs="+", default=[1, 20, 100])
    for section in figures(arguments.parse_args().specs):
        Console().print(section.table())


if __name__ == "__main__":
    main()
