"""YAML without aliases, tags, duplicate keys and ambiguous words, and the line on which a key stands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

BROKEN = (yaml.YAMLError, RecursionError, ValueError, OverflowError)
"""What `read_yaml` raises for a text that is not such YAML."""


class StrictLoader(yaml.SafeLoader):
    """A loader that refuses aliases and duplicate keys; a safe one knows no tags."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse an alias: a few lines of them could unfold to gigabytes."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not read", problem_mark=self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Refuse a key that is no plain value, or stands twice: YAML would keep the last in silence."""
        keys = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a plain word", problem_mark=key.start_mark)
            if key.value in keys:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark)
            keys.add(key.value)
        mapping = super().construct_mapping(node, deep)
        try:
            sorted(list[Any](mapping))
        except TypeError:
            listed = ", ".join(map(repr, mapping))
            problem = f"keys of several kinds stand together, put quotes around them: {listed}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None
        return mapping


CANONICAL = {
    "tag:yaml.org,2002:bool": re.compile("true|false", re.IGNORECASE),
    "tag:yaml.org,2002:int": re.compile("[-+]?(0|[1-9][0-9]*)"),
    "tag:yaml.org,2002:float": re.compile(r"[-+]?((0|[1-9][0-9]*)?\.[0-9]*(e[-+]?[0-9]+)?|\.inf)|\.nan", re.IGNORECASE),
}
"""How a word without quotes is written that every reader of YAML takes for the same."""


class PlainLoader(StrictLoader):
    """A loader that also refuses words that YAML 1.1 takes for something else than they look like."""

    def compose_scalar_node(self, anchor: Any) -> Any:
        """Refuse `No` (false in YAML 1.1), `01067` (octal), `12:30` (minutes), `1_000`, unless in quotes."""
        node = super().compose_scalar_node(anchor)
        canonical = CANONICAL.get(node.tag)
        if node.style is None and canonical and not canonical.fullmatch(node.value):
            read = yaml.safe_load(node.value)
            meant = str(read).lower() if isinstance(read, bool) else read
            word = f"the word {node.value} reads as {meant} in YAML: write '{node.value}' in quotes"
            raise yaml.MarkedYAMLError(problem=f"{word}, or {meant}", problem_mark=node.start_mark)
        return node


def read_yaml(text: str, *, former: bool = False) -> Any:
    """The data in `text`.

    Args:
        text: YAML.
        former: take ambiguous words as YAML 1.1 does, in what a run has kept.

    Raises:
        yaml.YAMLError, RecursionError, ValueError, OverflowError: not such YAML (`BROKEN`).
    """
    return yaml.load(text, Loader=StrictLoader if former else PlainLoader)


def problem(file: str, error: Exception) -> str:
    """One of `BROKEN` in one line, with the file and the line where that is known."""
    mark = getattr(error, "problem_mark", None)
    return f"{file}{f':{mark.line + 1}' if mark else ''}: {getattr(error, 'problem', None) or error}"


def line_of(text: str, path: Sequence[Any]) -> int:
    r"""The line, from 1, of the deepest node of `path` that the text has.

    >>> line_of("a:\n  b: [x, y]\n  c: z", ("a", "c")), line_of("a:\n  b: 1", ("a", "no such key"))
    (3, 1)
    """
    node = yaml.compose(text, Loader=StrictLoader)
    line = 1
    for step in path:
        if isinstance(node, yaml.MappingNode):
            entry = next(((key, value) for key, value in node.value if key.value == str(step)), None)
            if entry is None:
                continue
            line, node = entry[0].start_mark.line + 1, entry[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
    return line
