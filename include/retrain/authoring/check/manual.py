"""Every key of a spec, from the models that read it: `docs/spec.md` is this text.

After a change of a key: `python -m retrain.authoring.check.manual > docs/spec.md`; a test holds the two together.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from retrain.authoring.check.description import duration
from retrain.spec import COMPUTED, EXAMPLE, Spec

HEAD = f"""# The model spec

One YAML file per model in `include/models`, named after it. `python -m retrain new` writes one from data,
`python -m retrain check` explains it or says what is wrong with it. Unknown keys, duplicate keys, aliases and tags
are refused. This page is made from the code by `python -m retrain.authoring.check.manual`.

The smallest one:

```yaml{EXAMPLE}```

Only true and false are truth values: a word that some readers of YAML take for something else than it looks like
(`NO` for false, `01067` for 567, `12:30` for 750) is refused until it stands in quotes.

A duration is a number with m, h, d or w, like `12h`; a date is `2024-01-31`, or a time in UTC. In the tables
`[]` stands for each entry of a list, and `NAME` for a name of your own.
"""

BY_ANOTHER = {"gate.metric": "by task", "evaluation.block": "by interval", "evaluation.holdout": "by interval"}
"""Keys whose default follows from another key."""


@dataclass(frozen=True)
class SpecKey:
    """A key of the spec.

    Attributes:
        path: from the top, like `policy.budget.per`; `[]` for each entry of a list, `NAME` for a name of one's own.
        type: in words, with its limits.
        default: as YAML would have it; `required` where there is none.
        description: what it says.
    """

    path: str
    type: str
    default: str
    description: str


def keys(kind: type[BaseModel] = Spec, prefix: str = "") -> Iterator[SpecKey]:
    """Every key that can be written, in the order of the models.

    Args:
        kind: the model whose keys are wanted.
        prefix: the path to it, with its last separator.

    >>> [key.path for key in keys()][:3]
    ['model', 'objective', 'owner']
    """
    for name, field in kind.model_fields.items():
        if kind is Spec and name in COMPUTED:
            continue
        inner, step = _nested(field.annotation)
        about = field.description or " ".join((inner.__doc__ or "").split()) if inner else field.description or ""
        kind_of = "mapping" if step == ".NAME." else _type(field.annotation, _limits(field))
        yield SpecKey(prefix + name, kind_of, _default(prefix + name, field), about)
        if inner:
            yield from keys(inner, prefix + name + step)


def reference() -> str:
    """The text of `docs/spec.md`: a table for each section of the spec."""
    parts: dict[str, list[SpecKey]] = {}
    for key in keys():
        parts.setdefault(key.path.split(".")[0].partition("[")[0], []).append(key)
    lines = [HEAD, *_table("Of the whole", [section[0] for section in parts.values() if len(section) == 1])]
    for name, section in parts.items():
        if len(section) > 1:
            lines += [
                f"\n## {name}\n",
                section[0].description[:1].upper() + section[0].description[1:],
                "",
                *_rows(section[1:]),
            ]
    return "\n".join(lines) + "\n"


def _table(title: str, keys: list[SpecKey]) -> list[str]:
    return [f"## {title}", "", *_rows(keys)]


def _rows(keys: list[SpecKey]) -> list[str]:
    rows = [f"| `{key.path}` | {_cell(key.type)} | {_cell(key.default)} | {_cell(key.description)} |" for key in keys]
    return ["| key | value | default | what it says |", "|---|---|---|---|", *rows]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _nested(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """The model that is nested in a field, and how its keys are reached."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, "."
    for part in get_args(annotation):
        model, _ = _nested(part)
        if model:
            return model, {tuple: "[].", dict: ".NAME."}.get(get_origin(annotation), ".")
    return None, ""


def _type(annotation: Any, limits: str = "") -> str:
    """A type in words.

    >>> _type(tuple[int, ...]), _type(Literal["a", "b"] | None)
    ('list of whole number', 'a | b')
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inner[0], limits or _bounds(inner[1:]))
    if origin is Literal:
        return " | ".join(str(value) for value in inner)
    if origin in (Union, types.UnionType):
        return " | ".join(_type(part, limits) for part in inner if part is not type(None))
    if origin in (tuple, list):
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return f"mapping of {_type(inner[0])} → {_type(inner[1])}"
    plain = {
        str: "text",
        int: "whole number",
        float: "number",
        bool: "true | false",
        timedelta: "duration",
        datetime: "date",
        Any: "any value",
    }
    words = plain.get(annotation, "mapping")
    return f"{words} {limits}" if limits and annotation in (int, float) else words


def _limits(field: FieldInfo) -> str:
    return _bounds(tuple(field.metadata))


def _bounds(metadata: tuple[Any, ...]) -> str:
    bounds = []
    for constraint in metadata:
        for part in [constraint, *getattr(constraint, "metadata", ())]:
            for attribute, sign in {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}.items():
                bound = getattr(part, attribute, None)
                bounds += [] if bound is None else [f"{sign} {bound}"]
    return ", ".join(bounds)


def _default(path: str, field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if path in BY_ANOTHER:
        return BY_ANOTHER[path]
    if field.is_required():
        return "required"
    if isinstance(value, BaseModel):
        return "as below"
    if isinstance(value, timedelta):
        return f"`{duration(value)}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if value is None or value in ("", (), {}):
        return "none"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`"


if __name__ == "__main__":
    print(reference(), end="")
