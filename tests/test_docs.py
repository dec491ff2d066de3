"""The manual is read: what it leaves out, or says otherwise than the code, fails here."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

import pytest
import typer.main

from retrain.authoring.check.manual import keys
from retrain.cli import app
from retrain.state.ledger import Kind

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


# --- the glossary and the pages that are made from the code

GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
SOURCES = [path for folder in ("include/retrain", "dags") for path in sorted((ROOT / folder).rglob("*.py"))]


def verdicts() -> set[str]:
    """Every word that the code gives as the verdict of a decision: the literals in `verdict=…`."""
    words = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Decision":
                given = next((keyword.value for keyword in node.keywords if keyword.arg == "verdict"), None)
                words |= set(_words(given)) if given else set()
    return words


def _words(node: ast.expr) -> Iterator[str]:
    """The texts that an expression may become, as far as they stand in it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from (*_words(node.body), *_words(node.orelse))
    elif isinstance(node, ast.Dict):
        for value in node.values:
            yield from _words(value)
    elif isinstance(node, ast.Subscript):
        yield from _words(node.value)


def test_every_verdict_is_in_the_glossary() -> None:
    assert {"promote", "keep", "inconclusive", "retrain", "skip", "undetermined", "rolled back"} <= verdicts()
    assert left_out(GLOSSARY, sorted(verdicts())) == []


def test_every_ledger_kind_is_in_the_glossary() -> None:
    assert left_out(GLOSSARY, get_args(Kind)) == []


def test_every_place_that_the_glossary_names_is_there() -> None:
    places = re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.py)?|[a-z_]+\.py)`", GLOSSARY)
    assert len(places) > 40
    assert [place for place in places if not (ROOT / "include" / "retrain" / place).exists()] == []


def test_a_term_has_two_lines_at_most() -> None:
    """A definition that needs more is a page of its own."""
    terms = re.findall(r"^\*\*.+$", GLOSSARY, re.MULTILINE)
    assert len(terms) > 40
    assert [term for term in terms if len(term) > 320] == []


def reference() -> object:
    """`bin/reference.py`, which writes the pages."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "bin" / "reference.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["spec.md", "commands.md", "reports.md", "data.md"])
def test_a_page_that_is_made_from_the_code_says_what_the_code_says(name: str) -> None:
    page = reference().PAGES[name]()  # type: ignore[attr-defined]
    assert (ROOT / "docs" / name).read_text() == page, "make docs"


def test_every_setting_is_documented() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    read = {name for path in SOURCES for name in re.findall(r'"(RETRAIN_[A-Z_]*[A-Z])"', path.read_text())}
    assert {"RETRAIN_ROOT", "RETRAIN_STORE", "RETRAIN_LEDGER"} <= read
    assert left_out(page, sorted(read)) == []


def test_every_link_between_pages_leads_somewhere() -> None:
    dead = []
    for file in [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\(([^)#\s]+)", file.read_text()):
            if "://" not in target and not (file.parent / target).exists():
                dead.append(f"{file.relative_to(ROOT)} → {target}")
    assert dead == []
