"""The names of this house say what they hold, and the tool that watches them sees a violation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bin import names

ROOT = Path(__file__).parents[1]


def test_the_house_keeps_its_names() -> None:
    assert names.problems(names.sources()) == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("said = 1", "said does not say what it holds"),
        ("def run(one): ...", "one does not say what it holds"),
        ("rows = [found for found in ()]", "found does not say what it holds"),
        ("sealed = ()", "sealed is called holdout"),
        ("class Spec: ...", "another class is called Spec"),
    ],
)
def test_a_planted_name_is_found(line: str, problem: str) -> None:
    files = {"include/retrain/spec/spec.py": "class Spec: ...", "include/retrain/planted.py": line}
    (told,) = names.problems(files)
    assert problem in told


def test_make_check_asks() -> None:
    assert "bin/names.py" in (ROOT / "Makefile").read_text()
    done = subprocess.run([sys.executable, str(ROOT / "bin" / "names.py")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "")
