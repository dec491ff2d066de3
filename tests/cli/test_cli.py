"""The door: which commands there are, that it opens at once, and how a refusal leaves through it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer.main

from retrain import cli, pipeline
from tests.conftest import Model

HEAVY = {"pandas", "numpy", "sklearn", "xgboost", "mlflow", "great_expectations", "evidently", "dvc", "pyarrow"}


def test_every_command_stands_in_one_group_and_says_what_it_does() -> None:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    grouped = [command.__name__ for group in cli.GROUPS.values() for command in group]
    assert sorted(grouped) == sorted(commands)
    assert set(pipeline.NAMES) < set(commands)
    assert all(command.help for command in commands.values())


def test_the_door_opens_without_anything_heavy() -> None:
    read = f"import sys; from retrain.cli import main; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_refusal_is_one_message_and_an_exit_code(
    churn: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setattr(sys, "argv", ["retrain", "release", "churn", "--interval", "2024-02-01", "--reason", "seen"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "churn · release · MissingInput: no quarantined or held batch of [2024-02-01" in capsys.readouterr().err
