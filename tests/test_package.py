"""The package: a wheel in an environment that holds nothing else, run from an empty folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UV = (sys.executable, "-m", "uv")


def call(*command: str, cwd: Path) -> str:
    """What a command printed, run with nothing of this process's environment but a home and the system's folders."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR", "UV_CACHE_DIR") if name in os.environ}
    environment = {**kept, "PATH": "/usr/local/bin:/usr/bin:/bin", "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an environment's commands, with the wheel of this checkout and what the wheel asks for."""
    place = tmp_path_factory.mktemp("package")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "include" / "retrain", place / "include" / "retrain", ignore=ignored)
    build = ("build", "--wheel", "--quiet", "--no-build-isolation", "--python", sys.executable)
    call(*UV, *build, "--out-dir", str(place), str(place), cwd=place)
    (wheel,) = place.glob("*.whl")
    call(*UV, "venv", "--quiet", "--python", sys.executable, str(place / "environment"), cwd=place)
    python = place / "environment" / "bin" / "python"
    # Offline: what `make` has just installed lies in uv's cache.
    install = ("pip", "install", "--quiet", "--offline", "--python", str(python))
    call(*UV, *install, "--constraint", str(ROOT / "requirements.txt"), str(wheel), cwd=place)
    return python.parent


def test_the_wheel_holds_the_whole_library_and_nothing_of_the_checkout(installed: Path) -> None:
    code = "import retrain, importlib.util as u; print(retrain.__file__, u.find_spec('airflow'), u.find_spec('pytest'))"
    file, *absent = call(str(installed / "python"), "-c", code, cwd=installed).split()
    package = Path(file).parent
    assert package.is_relative_to(installed.parent)
    assert absent == ["None", "None"]
    source = ROOT / "include" / "retrain"
    assert {path.relative_to(source) for path in source.rglob("*") if path.suffix in (".py", ".typed")} == {
        path.relative_to(package) for path in package.rglob("*") if path.suffix in (".py", ".typed")
    }


def test_the_tutorial_leads_from_an_empty_folder_to_a_champion_and_back(installed: Path, tmp_path: Path) -> None:
    """Each block of docs/tutorial.md, as it stands there: `new`, `check`, `run --history` and the questions."""
    page = (ROOT / "docs" / "tutorial.md").read_text()
    data, spec, loops, later, questions = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    activated = f"export PATH={installed}:$PATH"
    printed = [
        call("bash", "-euc", f"{activated}\n{block}", cwd=tmp_path) for block in (data, spec, loops, later, questions)
    ]
    assert "every month from 2024-01-01" in printed[1]
    assert "promoted: version 1 serves" in printed[2]
    assert "monitor decide: " in printed[3]
    assert "on record already, and skipped: 2024-01-01 to 2024-02-01\n" in printed[3]
    assert "version 1 serves again: to see how it is done" in printed[4]
    assert "churn · " in call(str(installed / "retrain"), "check", cwd=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".retrain", "data", "include"]
