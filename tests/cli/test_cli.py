"""The door: which commands there are, that it opens at once, and how a refusal leaves through it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer.main
from typer.testing import CliRunner

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


@pytest.mark.parametrize("reason", ["", "  ", "no", " ab "])
@pytest.mark.parametrize(
    "command", [["rollback", "churn"], ["approve", "churn", "1"], ["reconcile", "churn"], ["release", "churn"]]
)
def test_a_reason_that_says_nothing_is_refused_as_in_airflow(churn: Model, command: list[str], reason: str) -> None:
    answer = CliRunner().invoke(cli.app, [*command, "--reason", reason])
    assert answer.exit_code == 2
    assert "say why, in 3 characters or more" in " ".join(answer.output.replace("│", " ").split())


def test_a_reconciliation_without_a_reason_needs_none(mlflow: object, churn: Model) -> None:
    answer = CliRunner().invoke(cli.app, ["reconcile", "churn"])
    assert (answer.exit_code, answer.output.strip()) == (0, "churn · reconcile: no champion yet")


def test_a_command_that_was_renamed_is_told() -> None:
    answer = CliRunner().invoke(cli.app, ["probe", "churn"])
    assert answer.exit_code == 2
    assert "'probe' is now called 'smoke_test'" in answer.output
    assert "promote" not in answer.output
