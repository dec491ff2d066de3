"""Finds names that tell a reader nothing, or that mean two things: part of `make check`.

    python bin/names.py

A local called `said` or `one` does not say what it holds. A word that the glossary has replaced must not come back. Two
classes of one name make two readers think of different things.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("include/retrain", "dags", "plugins", "bin", "benchmarks")

EMPTY = {"said", "told", "found", "made", "asked", "mine", "theirs", "one", "tmp", "foo"}
"""Names of variables and parameters that do not say what they hold."""

REPLACED = {
    "sealed": "holdout",
    "pinned": "reference_champion",
    "promised": "expected_score",
    "barred": "blocklist",
    "probe": "smoke_test",
    "beside": "shadow",
    "standing": "projections",
    "origin_of": "lineage_of",
}
"""Words of ours from before the field's → the field's."""

ALLOWED = {
    # What stands in a model's requirements file is pinned, in the field's own word.
    "include/retrain/registry/smoke_test/child.py": {"pinned"},
    "include/retrain/registry/smoke_test/__init__.py": {"pinned"},
    # These two are data: what earlier versions wrote.
    "include/retrain/state/former.py": set(REPLACED),
    # Every refusal says what was found and what to do: `RetrainError(found, do)`.
    "include/retrain/errors.py": {"found"},
    "bin/names.py": set(REPLACED) | EMPTY,
}


def problems(files: dict[str, str]) -> list[str]:
    """What is wrong with the names in these sources.

    Args:
        files: path → text.
    """
    classes: dict[str, list[str]] = defaultdict(list)
    wrong = []
    for path, text in files.items():
        tree = ast.parse(text)
        for name, line in _bound(tree):
            if name in ALLOWED.get(path, ()):
                continue
            if name in EMPTY:
                wrong.append(f"{path}:{line}: {name} does not say what it holds")
            if name in REPLACED:
                wrong.append(f"{path}:{line}: {name} is called {REPLACED[name]}")
        if path.startswith("include/"):
            for node in tree.body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    classes[node.name].append(f"{path}:{node.lineno}")
    twice = {name: places for name, places in classes.items() if len(places) > 1}
    return wrong + [f"{places[0]}: another class is called {name}: {places[1]}" for name, places in twice.items()]


def _bound(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that the code gives to a variable, parameter, function or class, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node.lineno


def sources() -> dict[str, str]:
    """Path → text of every source file that is held to this."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}


def main() -> None:
    """Print what is wrong; exit code 1 where something is."""
    wrong = problems(sources())
    for problem in wrong[:50]:
        print(problem)
    if len(wrong) > 50:
        print(f"… and {len(wrong) - 50} more")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
