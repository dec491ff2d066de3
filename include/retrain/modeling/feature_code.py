"""What can be told of a feature function's text without running it.

A guard against mistakes, not against who wants to get round it: what the function does when it runs is looked at where
it is tried (`retrain.registry.smoke_test.check_features`) and wherever it is fitted (`retrain.modeling.features`).
The clock is looked for here alone, since two calls in the same second read the same time.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

DO = "make it a function of the row alone (training.features, docs/extend.md)"
CLOCK = frozenset({"now", "today", "utcnow", "time_ns", "localtime", "gmtime", "monotonic", "perf_counter"})
"""Methods and functions, of whatever they are called on."""
OF_MODULES = {"time": {"time"}, "os": {"_exit", "abort", "getenv", "environ"}, "sys": {"exit"}}
"""Names that mean it of their module only."""
READS = frozenset({"open", "loadtxt", "genfromtxt", "fromfile", "memmap"})
EXITS = frozenset({"exit", "quit"})
CHANCE = frozenset({"random", "secrets", "uuid"})


def problems(code: str) -> Iterator[tuple[int, str]]:
    r"""What in a feature function's text makes its answers depend on more than the row, each with its line.

    >>> text = "import pandas as pd\n\ndef build(frame):\n    age = pd.Timestamp.now() - frame['born']"
    >>> list(problems(text))
    [(4, 'now() reads the clock: the same row would have other features tomorrow')]
    """
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError, RecursionError) as error:
        yield getattr(error, "lineno", None) or 1, f"is no Python: {getattr(error, 'msg', error)}"
        return
    for node in nodes:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for module in sorted(CHANCE & {name.partition(".")[0] for name in names}):
                yield node.lineno, f"{module} draws at random: the same row would have other features each time"
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.attr in OF_MODULES.get(node.value.id, ())
        ):
            yield node.lineno, _problem(f"{node.value.id}.{node.attr}", node.attr)
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            bare = isinstance(node.func, ast.Name)
            if name in CLOCK or name in READS or name.startswith("read_") or (bare and name in EXITS):
                yield node.lineno, _problem(f"{name}()", name)


def _problem(what: str, name: str) -> str:
    if name in EXITS or name in OF_MODULES["os"] - {"getenv", "environ"}:
        return f"{what} ends the process that calls it"
    if name in CLOCK or name == "time":
        return f"{what} reads the clock: the same row would have other features tomorrow"
    return f"{what} reads what does not travel with the model: write it into this file"
