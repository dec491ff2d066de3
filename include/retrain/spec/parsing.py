"""From a YAML file to a `Spec`, or to a refusal that names file, line and every problem."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from retrain.errors import InvalidSpec, near
from retrain.spec import edge_cases, strict_yaml
from retrain.spec.spec import COMPUTED, Spec
from retrain.spec.strict_yaml import line_of

MAX_BYTES = 256 * 1024
MAX_PROBLEMS = 12
CASES = ".cases.yaml"
"""How the name of a file of edge cases ends."""

FORMER = {"evaluation.sealed": "evaluation.holdout"}
"""What an earlier version of this project called a key → what it is called now."""

EXAMPLE = """
model: churn
objective: Rank subscribers by their risk to leave next month.
owner: {name: Ada Example, contact: ada@example.org}
task: binary
interval: {every: month, start: 2024-01-01}
source: {path: "data/churn-{start:%Y-%m}.csv", time: signup, key: [id]}
target: {column: churned}
columns:
  id: {type: string}
  signup: {type: datetime}
  plan: {type: category}
  visits: {type: number, min: 0}
  churned: {type: boolean}
quality: {min_rows: 100}
training: {candidates: [{estimator: linear}]}
"""
"""The smallest spec."""


def parse(text: str, name: str, *, code: str = "", cases: str = "", where: str = "", former: bool = False) -> Spec:
    """The spec in `text`.

    Args:
        text: YAML.
        name: the file's name without its suffix; the spec must be called so.
        code: the text of the feature function's file, where the spec names one.
        cases: the text of the file of edge cases, where the spec names one.
        where: how errors name the file; by default `name` with its suffix.
        former: read former keys as today's, in a spec that a run has kept; elsewhere they are refused.

    Raises:
        InvalidSpec: with the file, the line and every problem, bounded.

    >>> parse(EXAMPLE.replace("target: {column: churned}", "target: {colum: churned}"), "churn")
    Traceback (most recent call last):
        ...
    retrain.errors.InvalidSpec: churn · spec · InvalidSpec: 2 problem(s)
      churn.yaml:8: target.column: Field required
      churn.yaml:8: target.colum: unknown key; did you mean 'column'?
      → correct churn.yaml; every key: docs/spec.md
    """
    where = where or f"{name}.yaml"
    try:
        return _parse(text, name, code, cases, where, former)
    except InvalidSpec:
        raise
    except Exception as error:  # whatever stands in one file, it costs only that file's model
        raise _refusal(name, where, [f"{where}: cannot be read: {type(error).__name__}: {error}"]) from error


def _parse(text: str, name: str, code: str, cases: str, where: str, former: bool) -> Spec:
    if len(text.encode()) > MAX_BYTES:
        raise _refusal(name, where, [f"{where}: larger than {MAX_BYTES // 1024} KiB"])
    try:
        data = strict_yaml.read_yaml(text, former=former)
    except strict_yaml.BROKEN as error:
        raise _refusal(name, where, [strict_yaml.problem(where, error)]) from None
    if not isinstance(data, dict):
        raise _refusal(name, where, [f"{where}: not a mapping of keys"])
    if computed := set(COMPUTED) & set(data):
        raise _refusal(name, where, [f"{where}: {', '.join(sorted(computed))} is computed, not written"])
    canonical = "\0".join([yaml.safe_dump(data, sort_keys=True), code, *filter(None, [cases])])
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    if former:
        data = _with_todays_keys(data)
    try:
        spec = Spec.model_validate({**data, "digest": digest, "text": text, "code": code, "cases": cases})
    except ValidationError as error:
        raise _refusal(name, where, _schema_problems(error, text, where)) from None
    if spec.model != name:
        line = line_of(text, ("model",))
        raise _refusal(name, where, [f"{where}:{line}: model is {spec.model!r}, the file is called {name!r}"])
    if cases and (problems := _case_problems(spec, former)):
        raise _refusal(name, where, problems)
    return spec


def load(file: Path) -> Spec:
    """The spec in `file`, with the files beside it that it names.

    Raises:
        InvalidSpec: unreadable, not valid, or a file that it names is missing or lies elsewhere.
    """
    try:
        text = _read(file)
        spec = parse(text, file.stem, where=file.name)
        code = _companion(file, spec.training.features.file, ".py") if spec.training.features else ""
        cases = _companion(file, spec.gate.cases, CASES) if spec.gate.cases else ""
        return parse(text, file.stem, where=file.name, code=code, cases=cases) if code or cases else spec
    except (OSError, UnicodeDecodeError) as error:
        refusal = InvalidSpec(f"{file.name}: {error}", do=f"make {file.name} readable, UTF-8 text")
        raise refusal.at(file.stem, "spec") from None


def _companion(file: Path, name: str, suffix: str) -> str:
    """The text of a file that the spec names and that lies beside it."""
    path = (file.parent / name).resolve()
    if path.parent != file.parent.resolve() or not path.name.endswith(suffix):
        raise OSError(f"{name} must be a {suffix} file beside the spec")
    if not (text := _read(path, f"{name} ")):
        raise OSError(f"{name} is empty")
    return text


def _read(file: Path, name: str = "") -> str:
    """The text of a file; a pipe would never end, and what is too large is not read to its end."""
    if not file.is_file():
        raise OSError(f"{name}is no file")
    if file.stat().st_size > MAX_BYTES:
        raise OSError(f"{name}is larger than {MAX_BYTES // 1024} KiB")
    return file.read_text(encoding="utf-8")


def _with_todays_keys(data: dict[Any, Any]) -> dict[Any, Any]:
    """The data of a spec, its former keys under the names of today."""
    for before, now in FORMER.items():
        (section, old), new = before.split("."), now.rpartition(".")[2]
        if isinstance(part := data.get(section), dict) and old in part:
            data = {**data, section: {new if key == old else key: value for key, value in part.items()}}
    if isinstance(columns := data.get("columns"), dict):
        for name, column in columns.items():
            if isinstance(column, dict) and isinstance(values := column.get("values"), list):
                # `[DE, NO]` and `[true, 2.0]` were taken for whole numbers where they are none.
                whole = [int(value) if isinstance(value, bool | float) else value for value in values]
                columns = {**columns, name: {**column, "values": whole}}
        data = {**data, "columns": columns}
    return data


# --- what is wrong


def _refusal(name: str, where: str, problems: list[str]) -> InvalidSpec:
    """The error that lists the problems, the first of many."""
    rest = len(problems) - MAX_PROBLEMS
    more = f"\n  … and {rest} more" if rest > 0 else ""
    return InvalidSpec(
        "\n  ".join([f"{len(problems)} problem(s)", *problems[:MAX_PROBLEMS]]) + more,
        do=f"correct {where}; every key: docs/spec.md",
    ).at(name, "spec")


def _schema_problems(error: ValidationError, text: str, where: str) -> list[str]:
    """What the schema refuses, each with its line and key."""
    problems = []
    for detail in error.errors():
        path = detail["loc"]
        key = ".".join(str(step) for step in path)
        message = _message(detail)
        # What is said of the whole begins with the key that it is about.
        line = line_of(text, path or message.split()[0].split("."))
        if detail["type"] == "extra_forbidden":
            now = FORMER.get(key)
            message = f"is now called {now}" if now else f"unknown key{near(str(path[-1]), _known_keys(path[:-1]))}"
        problems.append(f"{where}:{line}: {key + ': ' if key else ''}{message}")
    return problems


def _case_problems(spec: Spec, former: bool) -> list[str]:
    """What is wrong with the file of `gate.cases`, each with its line."""
    file = str(spec.gate.cases)
    try:
        strict_yaml.read_yaml(spec.cases, former=former)
        problems = list(edge_cases.problems(spec.edge_cases, spec.columns, spec.inputs, spec.classes))
    except ValidationError as error:
        problems = [(detail["loc"], _message(detail)) for detail in error.errors()]
    except strict_yaml.BROKEN as error:
        return [strict_yaml.problem(file, error)]
    return [
        f"{file}:{line_of(spec.cases, path)}: {'.'.join(map(str, path[1:]))}{': ' if len(path) > 1 else ''}{message}"
        for path, message in problems
    ]


def _message(detail: Any) -> str:
    """What pydantic says of one problem, without its prefix for our own messages."""
    message: str = detail["msg"]
    return message.removeprefix("Value error, ")


def _known_keys(path: tuple[Any, ...]) -> list[str]:
    """The keys that the section at `path` takes."""
    section: Any = Spec
    for step in path:
        if isinstance(section, type) and issubclass(section, BaseModel) and step in section.model_fields:
            section = section.model_fields[step].annotation
        inner = [kind for kind in get_args(section) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not isinstance(section, type) and inner:
            section = inner[0]
    return [name for name in getattr(section, "model_fields", {}) if section is not Spec or name not in COMPUTED]
