"""The DAG folder as Airflow reads it, in a process of its own: what is there, what is broken, what it costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import INCLUDE, churn_spec

DAGS = Path(__file__).parents[1] / "dags"
READ = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1], bundle_name="dags")
heavy = {"pandas", "numpy", "sklearn", "xgboost", "mlflow", "great_expectations", "evidently", "dvc", "pyarrow"}
print(json.dumps({
    "dags": {name: [task.task_id for task in dag.topological_sort()] for name, dag in bag.dags.items()},
    "params": {name: dag.params.dump() for name, dag in bag.dags.items()},
    "about": {name: [str(d.start_date), str(d.end_date), d.catchup, d.max_active_runs] for name, d in bag.dags.items()},
    "errors": bag.import_errors,
    "heavy": sorted(heavy & set(sys.modules)),
}))
"""


def read(root: Path, **environment: str) -> dict[str, Any]:
    env = {
        **os.environ,
        "AIRFLOW_HOME": str(root / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(root / "none"),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL",
        "PYTHONPATH": str(INCLUDE),
        "RETRAIN_ROOT": str(root),
        **environment,
    }
    done = subprocess.run([sys.executable, "-c", READ, str(DAGS)], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sound specs and two broken ones."""
    root = tmp_path_factory.mktemp("dags")
    models = root / "include" / "models"
    models.mkdir(parents=True)
    ended = {**churn_spec(), "interval": {"every": "month", "start": "2024-01-01", "end": "2024-07-01"}}
    (models / "churn.yaml").write_text(yaml.safe_dump(ended))
    (models / "weekly.yaml").write_text(
        yaml.safe_dump({**churn_spec(), "model": "weekly", "interval": {"every": "week", "start": "2024-01-01"}})
    )
    (models / "typo.yaml").write_text(yaml.safe_dump({**churn_spec(), "model": "typo", "quallity": {}}))
    (models / "torn.yaml").write_text("model: [torn")
    return root


@pytest.fixture(scope="module")
def bag(root: Path) -> dict[str, Any]:
    return read(root)


def test_every_sound_spec_has_its_family(bag: dict[str, Any]) -> None:
    from retrain.pipeline import NAMES

    assert set(bag["dags"]) == {"churn_retrain", "churn_rollback", "weekly_retrain", "weekly_rollback"}
    assert bag["dags"]["churn_retrain"] == list(NAMES)


def test_a_broken_spec_is_shown_and_takes_nothing_with_it(bag: dict[str, Any]) -> None:
    (file,) = bag["errors"]
    assert file.endswith("broken_specs.py"), "a file without DAGs: Airflow deactivates the DAGs of a failing file"
    assert "typo.yaml" in bag["errors"][file]
    assert "did you mean 'quality'?" in bag["errors"][file]
    assert "torn.yaml:1" in bag["errors"][file]


def test_reading_imports_nothing_heavy(bag: dict[str, Any]) -> None:
    assert bag["heavy"] == []


def test_a_run_is_an_interval_in_order(bag: dict[str, Any]) -> None:
    start, end, catchup, active = bag["about"]["churn_retrain"]
    assert start.startswith("2024-01-01")
    assert end.startswith("2024-06-30")
    assert (catchup, active) == (True, 1)


def test_a_manual_start_has_its_form(bag: dict[str, Any]) -> None:
    assert set(bag["params"]["churn_retrain"]) == {"interval", "force", "dry_run", "revise", "reason", "alert"}
    assert set(bag["params"]["churn_rollback"]) == {"reason"}


def test_a_task_builds_only_its_own_dag(root: Path) -> None:
    only = read(root, _AIRFLOW_PARSING_CONTEXT_DAG_ID="weekly_retrain", _AIRFLOW_PARSING_CONTEXT_TASK_ID="train")
    assert set(only["dags"]) == {"weekly_retrain"}
