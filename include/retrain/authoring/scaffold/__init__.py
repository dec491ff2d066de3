"""`python -m retrain new`: profile data, and write a spec to correct by hand.

Nothing is guessed in silence: every line of the spec says what it comes from, and `ingest` holds each batch
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
from pathlib import Path

from retrain.authoring.scaffold.profile import profile_files
from retrain.authoring.scaffold.proposal import Proposal, propose_spec
from retrain.authoring.scaffold.spec_text import on_one_line, spec_text
from retrain.errors import InvalidName, InvalidSpec
from retrain.spec import parse
from retrain.state.settings import Home


@dataclass(frozen=True)
class NewSpec:
    """A spec that was written.

    Attributes:
        file: where it lies.
        summary: lines for the person who asked for it.
    """

    file: Path
    summary: tuple[str, ...]


def write_spec(home: Home, model: str, data: str, *, target: str, time: str = "", key: Sequence[str] = ()) -> NewSpec:
    """Write the spec of `model` from a profile of `data`; an existing spec is never touched.

    Args:
        home: where the spec goes.
        model: its name.
        data: a file, a glob or a template like `data/churn-{start:%Y-%m}.csv`.
        target: the column to predict.
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
    proposal = propose_spec(profile_files(data, home.root), target=target, time=time, key=key)
    text = spec_text(model, proposal, _owner(home.root))
    parse(text, model)
    _publish(file, text)
    return NewSpec(file, _summary(file, proposal))


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
    """Who git says commits here."""

    def git(name: str) -> str:
        try:
            answer = subprocess.run(
                ["git", "config", name], cwd=root, capture_output=True, text=True, timeout=10, check=False
            )
        except OSError:
            return ""
        return answer.stdout.strip()

    return {"name": git("user.name") or "change me", "contact": git("user.email") or "change me"}


def _summary(file: Path, proposal: Proposal) -> tuple[str, ...]:
    columns, intervals = proposal.columns, proposal.intervals
    counts = Counter(column.keys["type"] for column in columns.values())
    apart = [name for name, column in columns.items() if column.keys.get("feature") is False]
    suspicious = [
        f"{name}: {note}"
        for name, column in columns.items()
        for note in column.notes
        if "LEAK?" in note or "not an empty field" in note
    ]
    types = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    first = f"from {intervals.start:%Y-%m-%d}: {len(intervals.rows)} seen, the smallest with {intervals.fewest:,} rows"
    return (
        f"wrote {file}",
        f"  {proposal.profile.rows:,} rows, {len(columns)} columns: {types}",
        f"  task: {proposal.task.why}",
        f"  one interval a {intervals.every} {first}",
        *([f"  not features: {_some(apart)}"] if apart else []),
        *(f"  {on_one_line(line)}" for line in suspicious[:10]),
    )


def _some(names: Sequence[str]) -> str:
    return on_one_line(", ".join(names[:12])) + (f" … and {len(names) - 12} more" if len(names) > 12 else "")
