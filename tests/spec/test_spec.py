"""Good and bad specs as files, fed to `python -m retrain check`.

A bad one says in its first line what must be answered; that line is part of the file, so lines count from it.
"""

from __future__ import annotations

import copy
import os
import random
import shutil
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from retrain.authoring import check
from retrain.cli import app
from retrain.errors import InvalidSpec
from retrain.reporting import inventory
from retrain.spec import EXAMPLE, MAX_BYTES, Spec, load, parse
from retrain.state.settings import Home

SPECS = Path(__file__).parents[1] / "specs"
VALID = sorted((SPECS / "valid").glob("*.yaml"))
INVALID = sorted((SPECS / "invalid").glob("*.yaml"))
SENTINEL = "# refused: "


def place(file: Path, home: Home) -> None:
    shutil.copy(file, home.models)
    # Feature code that is broken on purpose is kept from linters by its suffix.
    for shadow in [*file.parent.glob("*.py"), *file.parent.glob("*.py.txt")]:
        shutil.copy(shadow, home.models / shadow.name.removesuffix(".txt"))


@pytest.mark.parametrize("file", VALID, ids=lambda file: file.stem)
def test_a_good_spec_is_explained(file: Path, home: Home) -> None:
    place(file, home)
    answer = CliRunner().invoke(app, ["check", file.stem])
    assert answer.exit_code == 0, answer.output
    assert answer.output.startswith(f"{file.stem} · ")
    assert "wrong:" not in answer.output


@pytest.mark.parametrize("file", INVALID, ids=lambda file: file.stem)
def test_a_bad_spec_is_refused_with_its_line(file: Path, home: Home) -> None:
    expected = file.read_text().splitlines()[0].removeprefix(SENTINEL)
    place(file, home)
    answer = CliRunner().invoke(app, ["check", file.stem])
    assert answer.exit_code == 1, answer.output
    assert expected in answer.output
    assert len(answer.output) < 5000


def test_every_bad_spec_says_what_is_expected() -> None:
    assert len(INVALID) > 30
    assert [file.name for file in INVALID if not file.read_text().startswith(SENTINEL)] == []


def test_an_oversized_spec_is_refused(home: Home) -> None:
    text = (SPECS / "valid" / "binary.yaml").read_text()
    (home.models / "binary.yaml").write_text(text + "#" * MAX_BYTES)
    answer = CliRunner().invoke(app, ["check", "binary"])
    assert answer.exit_code == 1
    assert f"larger than {MAX_BYTES // 1024} KiB" in answer.output


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"model: a\x00b\n", b"a: " + b"[" * 5000])
def test_bytes_that_are_no_text_are_refused(content: bytes, home: Home) -> None:
    (home.models / "odd.yaml").write_bytes(content)
    answer = CliRunner().invoke(app, ["check"])
    assert answer.exit_code == 1
    assert answer.output.startswith("odd · not a valid spec")


HOSTILE: tuple[Any, ...] = (
    None, True, -1, 10**30, 1e308, float("nan"), "", "x" * 5000, "%", "{start:%Q}", "../../x", "9999999w", b"\xff",
    date(1, 1, 1), datetime(9999, 12, 31, 23, 59), "9999-12-31T23:59:59-14:00", [], {}, ["binary"], {"a": 1}, [[[]]],
)  # fmt: skip


def places(node: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a spec."""
    yield at
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        yield from places(value, (*at, key))


def with_value(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = copy.copy(data)
    changed[path[0]] = with_value(data[path[0]], path[1:], value)
    return changed


@pytest.mark.parametrize("file", VALID, ids=lambda file: file.stem)
def test_whatever_stands_in_a_spec_is_read_or_refused_for_a_known_reason(file: Path) -> None:
    """Values that nobody means, each where some other stood; and pieces of the text cut out, doubled or exchanged."""
    draw, text = random.Random(file.stem), file.read_text()
    data = yaml.safe_load(text)
    paths = list(places(data))
    texts = [
        yaml.safe_dump(with_value(data, draw.choice(paths), draw.choice(HOSTILE)), sort_keys=False) for _ in range(60)
    ]
    for _ in range(60):
        first, second = sorted(draw.sample(range(len(text)), 2))
        second = min(second, first + 12)
        piece = draw.choice(["", text[first:second] * 2, draw.choice("?:-[]{}!&*|>%@`\"'#,\t\0\x85é0")])
        texts.append(text[:first] + piece + text[second:])

    def refusal(changed: str) -> str:
        try:
            parse(changed, file.stem)
        except InvalidSpec as error:
            return error.found
        return ""

    refusals = [refusal(changed) for changed in texts]
    assert [reason for reason in refusals if "cannot be read" in reason] == []
    assert sum(map(bool, refusals)) > 40


def test_an_unforeseen_failure_is_that_spec_s_alone(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("binary", "regression"):
        place(SPECS / "valid" / f"{name}.yaml", home)
    validate = Spec.model_validate

    def fail(data: Any) -> Spec:
        if data["model"] == "binary":
            raise KeyError("no such thing")
        return validate(data)

    monkeypatch.setattr(Spec, "model_validate", fail)
    answer = CliRunner().invoke(app, ["check"])
    assert "binary.yaml: cannot be read: KeyError: 'no such thing'" in answer.output
    assert "regression · " in answer.output
    assert [bool(entry.problem) for entry in inventory.entries(home)] == [True, False]


def test_an_unforeseen_failure_behind_a_spec_is_that_model_s_alone(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("binary", "regression"):
        place(SPECS / "valid" / f"{name}.yaml", home)

    def fail(of: Any) -> Callable[..., Any]:
        def called(spec: Spec, *more: Any) -> Any:
            if spec.model == "binary":
                raise KeyError("no such thing")
            return of(spec, *more)

        return called

    monkeypatch.setattr(check, "_candidate_problems", fail(check._candidate_problems))
    monkeypatch.setattr(inventory, "_entry", fail(inventory._entry))
    answer = CliRunner().invoke(app, ["check"])
    assert "binary.yaml: cannot be checked: KeyError: 'no such thing'" in answer.output
    assert "regression · " in answer.output
    assert [bool(entry.problem) for entry in inventory.entries(home)] == [True, False]


def test_a_folder_or_a_pipe_is_no_spec(home: Home) -> None:
    os.mkfifo(home.models / "pipe.yaml")
    (home.models / "folder.yaml").mkdir()
    answer = CliRunner().invoke(app, ["check"])
    assert answer.exit_code == 1
    assert all(f"{name}.yaml: is no file" in answer.output for name in ("pipe", "folder"))


def test_the_digest_follows_spec_and_feature_code(tmp_path: Path) -> None:
    file = tmp_path / "regression.yaml"
    code = tmp_path / "regression_features.py"
    for each in (file, code):
        shutil.copy(SPECS / "valid" / each.name, each)
    first = load(file)
    assert load(file).digest == first.digest
    file.write_text(file.read_text() + "\n# a comment changes nothing\n")
    assert load(file).digest == first.digest
    code.write_text(code.read_text() + "\n")
    second = load(file)
    file.write_text(file.read_text() + "policy: {schedule: 2}\n")
    assert len({first.digest, second.digest, load(file).digest}) == 3


def test_a_spec_cannot_be_changed() -> None:
    spec = load(SPECS / "valid" / "binary.yaml")
    with pytest.raises(ValueError, match="frozen"):
        spec.task = "regression"  # type: ignore[misc]


def test_an_unknown_model_is_named_with_its_neighbour(home: Home) -> None:
    place(SPECS / "valid" / "binary.yaml", home)
    answer = CliRunner().invoke(app, ["check", "binray"])
    assert isinstance(answer.exception, InvalidSpec)
    assert "did you mean 'binary'?" in str(answer.exception)


@pytest.mark.parametrize("start", ["2024-01-01T01:00:00+01:00", "2024-01-01", "2024-01-01T00:00:00Z"])
def test_a_start_is_read_in_utc(start: str) -> None:
    text = (SPECS / "valid" / "binary.yaml").read_text().replace("start: 2024-01-01}", f"start: {start}}}")
    assert parse(text, "binary").interval.start.isoformat() == "2024-01-01T00:00:00+00:00"


def test_a_change_of_the_clocks_moves_no_interval() -> None:
    """Intervals are UTC and half-open: a day has 24 hours, and the hour that a local clock shows twice is two."""
    days = parse(EXAMPLE.replace("every: month", "every: day"), "churn")
    hours = parse(EXAMPLE.replace("every: month", "every: hour"), "churn")
    for day in ("2024-03-31", "2024-10-27"):
        span = days.at(day)
        assert span.end - span.start == timedelta(hours=24)
        assert days.at(span.end).start == span.end, "the next one begins where it ends"
    twice = [hours.at(f"2024-10-27T02:00:00{zone}").name for zone in ("+02:00", "+01:00")]
    assert twice == ["2024-10-27", "2024-10-27T01"]


def test_a_spec_on_record_keeps_its_ambiguous_words() -> None:
    """YAML 1.1 took them for booleans and numbers, and its digest is of those."""
    text = EXAMPLE.replace("plan: {type: category}", "plan: {type: category, feature: yes, values: [1_0, NO]}")
    with pytest.raises(InvalidSpec, match="the word yes reads as true in YAML"):
        parse(text, "churn")
    kept = parse(text, "churn", former=True)
    assert (kept.columns["plan"].feature, kept.columns["plan"].values) == (True, (10, 0))


@pytest.mark.parametrize("word", ["NO", "y", "on", "01067", "1_000", "12:30", "0x1F", "null", "~", "1e5", ".5", "=1"])
def test_a_word_in_quotes_is_the_word(word: str) -> None:
    text = EXAMPLE.replace("plan: {type: category}", f"plan: {{type: category, values: ['{word}', x]}}")
    assert parse(text, "churn").columns["plan"].values == (word, "x")
