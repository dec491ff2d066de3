"""The borders hold, and the tool that watches them sees a violation."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINT = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache"],
        cwd=folder,
        env={"PYTHONPATH": str(folder / "include"), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "include" / "retrain", tmp_path / "include" / "retrain")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("stages/gate.py", "from retrain.stages import train"),
        ("monitoring/drift/__init__.py", "import mlflow"),
        ("spec/__init__.py", "import retrain.state.ledger"),
        ("state/ledger.py", "import retrain.pipeline"),
        ("pipeline.py", "import airflow"),
        ("stages/decide.py", "from retrain.reporting import notices"),
    ],
)
def test_a_planted_violation_is_caught(copy: Path, file: str, line: str) -> None:
    assert lint(copy).returncode == 0, "the tree as it is keeps its borders"
    path = copy / "include" / "retrain" / file
    path.write_text(path.read_text() + f"\n{line}\n")
    assert "BROKEN" in lint(copy).stdout
