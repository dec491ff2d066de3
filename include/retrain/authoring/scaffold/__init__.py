"""`python -m retrain new`: look at data, and write a spec to correct by hand.

Nothing is guessed in silence: every line of the spec says what was seen, and `ingest` holds each batch
against what a person left standing.
"""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from retrain.authoring.scaffold.looking import Profile, profile
from retrain.authoring.scaffold.propose import (
    Column,
    Question,
    Spans,
    column,
    column_of,
    key_columns,
    question,
    spans,
    time_of,
)
from retrain.errors import InvalidName, InvalidSpec
from retrain.spec import METRICS, parse
from retrain.state.settings import Home


@dataclass(frozen=True)
class Written:
    """The new spec, and what to tell the person who asked for it."""

    file: Path
    said: tuple[str, ...]


def new(home: Home, model: str, data: str, *, target: str, time: str = "", key: Sequence[str] = ()) -> Written:
    """Write the spec of `model` from a look at `data`; an existing spec is never touched.

    Args:
        data: a file, a glob or a template like `data/churn-{start:%Y-%m}.csv`.
        time: the column that places a row in its interval; by default the only one with times.
        key: the columns that identify a row; by default one without doubles.

    Raises:
        InvalidName: not a name for a model.
        InvalidSpec: there is a spec already, or a column is not there or cannot do what it is named for.
        SourceRefused, SchemaChanged, DtypeChanged, EmptyBatch, DegenerateTraining: what is wrong with the data.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,62}", model):
        raise InvalidName(f"{model!r} cannot name a model", do="use letters, digits and underscores, a letter first")
    file = home.models / f"{model}.yaml"
    if file.exists():
        raise InvalidSpec(f"{file.name} is there already", do="edit it, or take another name").at(model, "new")
    seen = profile(data, home.root)
    moment = time_of(seen, time)
    asked = question(column_of(seen, target, "--target"))
    identity = key_columns(seen, list(key), moment, target)
    cut = spans(seen, moment, target)
    columns = {
        name: column(one, profile=seen, asked=asked, key=identity, time=moment, of=cut.of)
        for name, one in seen.columns.items()
    }
    text = render(model, seen, asked, cut, moment, identity, columns, _owner(home.root))
    parse(text, model)
    _publish(file, text)
    return Written(file, _said(file, seen, asked, cut, columns))


def _publish(file: Path, text: str) -> None:
    """Whole or not at all, and never over another file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.link(temporary, file)
    except FileExistsError:
        raise InvalidSpec(f"{file.name} was written in between", do="edit it, or take another name") from None
    finally:
        temporary.unlink(missing_ok=True)


def _owner(root: Path) -> dict[str, str]:
    def git(name: str) -> str:
        try:
            asked = subprocess.run(
                ["git", "config", name], cwd=root, capture_output=True, text=True, timeout=10, check=False
            )
        except OSError:
            return ""
        return asked.stdout.strip()

    return {"name": git("user.name") or "change me", "contact": git("user.email") or "change me"}


def _said(file: Path, seen: Profile, asked: Question, cut: Spans, columns: dict[str, Column]) -> tuple[str, ...]:
    kinds = Counter(one.keys["type"] for one in columns.values())
    apart = [name for name, one in columns.items() if one.keys.get("feature") is False]
    telling = [
        f"{name}: {note}"
        for name, one in columns.items()
        for note in one.notes
        if "LEAK?" in note or "not an empty field" in note
    ]
    types = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    first = f"from {cut.start:%Y-%m-%d}: {len(cut.rows)} seen, the smallest with {cut.fewest:,} rows"
    return (
        f"wrote {file}",
        f"  {seen.rows:,} rows, {len(columns)} columns: {types}",
        f"  task: {asked.why}",
        f"  one interval a {cut.every} {first}",
        *([f"  not features: {_some(apart)}"] if apart else []),
        *(f"  {_line(one)}" for one in telling[:10]),
    )


def _some(names: Sequence[str]) -> str:
    return _line(", ".join(names[:12])) + (f" … and {len(names) - 12} more" if len(names) > 12 else "")


# --- the text --------------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    """One line a value, whatever is in it."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if value.isprintable() else '"')


_Dumper.add_representer(str, _text)


def flow(value: Any) -> str:
    """A value as YAML on one line; names from foreign headers are quoted where YAML needs it.

    >>> flow({"a: b": ["yes", 1, None]}), flow("line\\nbreak")
    ("{'a: b': ['yes', 1, null]}", '"line\\\\nbreak"')
    """
    dumped = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=10**9, allow_unicode=True, sort_keys=False)
    return dumped.removesuffix("\n").removesuffix("\n...")


def _line(text: str) -> str:
    """A comment stays one line, whatever values it quotes."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def _moment(value: datetime) -> str:
    return f"{value:%Y-%m-%d}" if value.hour == 0 else f"{value:%Y-%m-%dT%H:%M:%SZ}"


def render(
    model: str,
    seen: Profile,
    asked: Question,
    cut: Spans,
    time: str,
    key: tuple[str, ...],
    columns: dict[str, Column],
    owner: dict[str, str],
) -> str:
    """The spec as commented YAML."""
    span = f"every: {cut.every}, start: {_moment(cut.start)}" + (f", end: {_moment(cut.end)}" if cut.end else "")
    until = "the data seen ends here; take end away when new batches come" if cut.end else "no end: new batches come"
    part = "" if seen.rows == seen.kept else f", {seen.kept:,} of them evenly kept for this"
    target = asked.target["column"]
    lines = [
        f"# Written by `python -m retrain new` after a look at {seen.path}: {seen.rows:,} rows{part}.",
        f"# Every line is a proposal. Read and correct it, then: python -m retrain check {model}",
        "# Every key and its default: docs/spec.md",
        f"model: {model}",
        f"objective: {flow(f'change me: say in one sentence what {target[:60]} is predicted for')}",
        f"owner: {flow(owner)}",
        f"task: {asked.task}  # {asked.why}",
        "",
        f"# {len(cut.rows)} intervals with {int(cut.rows.min()):,} to {int(cut.rows.max()):,} rows were seen; {until}",
        f"interval: {{{span}}}",
        "source:",
        f"  path: {flow(seen.path)}",
        f"  time: {flow(time)}",
        f"  key: {flow(list(key))}",
        "  wait: 1d  # how long after the interval's end the batch may come",
        "",
        f"target: {flow(asked.target)}",
        "labels: {mature_after: 0d}  # after the interval's end: when all of its labels are there",
        "",
        "# A value outside its type, bounds, values or max_missing stops the batch; severity: warn lets it through.",
        "# Bounds have half the seen range as slack. feature: false keeps a column out of the model.",
        "columns:",
        *(
            f"  {flow(name)}: {flow(one.keys)}  # {'; '.join(one.notes)}".removesuffix("  # ")
            for name, one in columns.items()
        ),
        "",
        f"quality: {{min_rows: {max(1, cut.fewest // 2)}}}  # half of the smallest whole {cut.every} seen",
        *_drift(cut),
        "policy:  # any rule that says yes is enough",
        f"  schedule: 1  # every {cut.every}",
        "  drift: true  # when a batch differs from what the champion was trained on",
        "",
        *_training(seen, cut, time),
        "",
        *_judging(asked, cut, columns),
    ]
    return "\n".join(_line(line) for line in lines) + "\n"


def _drift(cut: Spans) -> list[str]:
    least = max(20, cut.fewest // 2)
    return [f"drift: {{min_rows: {least}}}  # with fewer rows drift is undetermined"] if least < 200 else []


def _training(seen: Profile, cut: Spans, time: str) -> list[str]:
    parts = "weekday, hour" if (seen.columns[time].values.dt.hour.nunique() > 1) else "month, weekday"
    return [
        "training:",
        f"  min_rows: {min(1000, max(20, int(cut.labelled * 0.8)))}  # labelled rows, fewer train no model",
        "  candidates:",
        "    - {estimator: linear}",
        "    - estimator: xgboost",
        "      parameters: {n_estimators: 300, learning_rate: 0.1}",
        "      search: {max_depth: [3, 5, 7], min_child_weight: [1, 10], subsample: [0.7, 1.0]}",
        f"  windows: {'[all, 3]' if len(cut.rows) >= 8 else '[all]'}  # all earlier intervals, or the newest so many",
        f"  # date_parts: {{{flow(time)}: [{parts}]}}  # lets the model read the time",
    ]


def _judging(asked: Question, cut: Spans, columns: dict[str, Column]) -> list[str]:
    metric, *others = METRICS[asked.task]
    least = max(20, int(cut.labelled * 0.8))
    slices = [
        name
        for name, one in columns.items()
        if one.keys["type"] == "category"
        and 2 <= len(one.keys.get("values", ())) <= 8
        and one.keys.get("feature", True)
        if name != asked.target["column"]
    ][:2]
    return [
        f"evaluation: {{block: {cut.block}, slices: {flow(slices)}}}  # holdout rows are resampled by {cut.block}",
        "gate:",
        f"  metric: {metric}  # or {', '.join(others)}",
        "  margin: 0.01  # how much worse a refresh may be, as a share of the champion's score",
        *([f"  min_rows: {least}  # labelled holdout rows"] if least < 500 else []),
    ]
