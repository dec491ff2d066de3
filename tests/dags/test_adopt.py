"""`docs/adopt.md`, done as it stands there: our files in an Airflow that knows nothing of this checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import churn_rows, churn_spec

ROOT = Path(__file__).parents[2]
MONTHS = ("2024-01-01", "2024-02-01")


class Installation:
    """An Airflow home that was made by the commands of the page, and a shell with the page's settings."""

    def __init__(self, folder: Path) -> None:
        checkout, self.home = folder / "our checkout [of retrain]", folder / "their airflow [prod]"
        for name in ("dags", "plugins", "config", "include"):
            shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        (block,) = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "adopt.md").read_text(), re.DOTALL)
        # The package is the copy's own: the path stands for the installation.
        self.steps = "\n".join(line for line in block.splitlines() if not line.startswith("pip install"))
        assert self.steps.count("\n") == block.count("\n") - 2, "one line installs the package"
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "PYTHONPATH": str(checkout / "include"),
            "RETRAIN": str(checkout),
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "1",
            "DVC_NO_ANALYTICS": "1",
            "GX_ANALYTICS_ENABLED": "false",
        }
        self.shell("airflow db migrate")

    def shell(self, command: str) -> str:
        """What a command printed, after the page's steps."""
        done = subprocess.run(
            ["bash", "-euc", f"{self.steps}\n{command}"],
            env=self.environment,
            cwd=self.environment["HOME"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def listed(self, what: str) -> list[dict[str, str]]:
        """What `airflow dags` says of the files in the DAGs folder; its warnings come first."""
        printed = self.shell(f"airflow dags {what} --local --bundle-name dags-folder --output json")
        return list(json.loads(printed[printed.index("\n[") :] if "\n[" in printed else printed))


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    place = Installation(tmp_path_factory.mktemp("adopt"))
    data = place.home / "data"
    data.mkdir()
    for month in MONTHS:
        churn_rows(month, 600).to_csv(data / f"churn-{month[:7]}.csv", index=False)
    spec = churn_spec() | {"interval": {"every": "month", "start": MONTHS[0], "end": "2024-03-01"}}
    (place.home / "include" / "models" / "churn.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    return place


@pytest.mark.airflow
def test_the_dags_import(installation: Installation) -> None:
    assert installation.listed("list-import-errors") == []
    names = {entry["dag_id"] for entry in installation.listed("list")}
    assert {"churn_retrain", "churn_score", "churn_monitor", "churn_rollback"} <= names


@pytest.mark.airflow
def test_one_run_goes_through(installation: Installation) -> None:
    installation.shell("python -m retrain run churn --interval 2024-01-01")
    installation.shell('airflow dags test churn_retrain 2024-02-01 --conf \'{"interval": "2024-02-01"}\'')
    assert "version 1" in installation.shell("python -m retrain served churn --at 2024-03-01")
