"""The manual is read: a command, spec key or DAG parameter that it leaves out fails here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import typer.main

from retrain.authoring.check.manual import keys
from retrain.cli import app

ROOT = Path(__file__).parents[1]
MANUAL = "\n".join(
    file.read_text() for file in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if file.exists()
)


def commands() -> list[str]:
    return sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def parameters() -> list[str]:
    """The DAG parameters, read from the source: importing it would start Airflow."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / "dags" / "retrain_models.py").read_text())):
        named = (
            isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "PARAMS"
        )
        if (named or (isinstance(node, ast.keyword) and node.arg == "params")) and isinstance(node.value, ast.Dict):
            found |= {key.value for key in node.value.keys if isinstance(key, ast.Constant)}
    return sorted(map(str, found))


def left_out(manual: str, names: Iterable[str]) -> list[str]:
    """Those that stand nowhere as code, alone or as a command."""
    return [name for name in names if not re.search(rf"`{re.escape(name)}`|retrain {re.escape(name)}\b", manual)]


def test_what_is_left_out_is_found() -> None:
    assert left_out("`ingest`, python -m retrain status", ["ingest", "status", "rollback"]) == ["rollback"]


def test_every_command_is_documented() -> None:
    assert {"ingest", "promote", "run", "new", "check", "release"} < set(commands())
    assert left_out(MANUAL, commands()) == []


def test_every_spec_key_is_documented() -> None:
    assert left_out(MANUAL, [key.path for key in keys() if "." in key.path or key.type != "mapping"]) == []


def test_every_dag_parameter_is_documented() -> None:
    assert {"interval", "force", "reason"} <= set(parameters())
    assert left_out(MANUAL, parameters()) == []
