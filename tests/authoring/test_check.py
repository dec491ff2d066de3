"""`python -m retrain check`: all specs in words, and the page that lists every key."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from retrain.authoring.check.manual import keys, reference
from retrain.authoring.check.promotable import never_promoted
from retrain.cli import app
from retrain.errors import InvalidSpec
from retrain.spec import EXAMPLE, parse
from retrain.state.settings import Home
from tests.conftest import churn_rows

ROOT = Path(__file__).parents[2]


def write(home: Home, spec: dict[str, Any]) -> None:
    (home.models / f"{spec['model']}.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))


def test_the_specs_of_this_repository_are_right(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    monkeypatch.setenv("RETRAIN_MODELS", str(ROOT / "include" / "models"))
    answer = CliRunner().invoke(app, ["check"])
    assert answer.exit_code == 0, answer.output
    for file in (ROOT / "include" / "models").glob("*.yaml"):
        assert f"{file.stem} · " in answer.output


def test_a_spec_is_explained(home: Home, spec_of: Callable[[], dict[str, Any]]) -> None:
    spec = spec_of()
    spec["labels"] = {"mature_after": "14d"}
    spec["policy"] = {"schedule": 3, "max_age": "90d", "cooldown": "2d"}
    spec["training"]["windows"] = ["all", 2]
    spec["evaluation"] = {"slices": ["plan"], "holdout": 2}
    write(home, spec)
    description = " ".join(CliRunner().invoke(app, ["check", "churn"]).output.split())
    for part in (
        "churn · Rank subscribers",
        "owner Ada Example <ada@example.org>",
        "binary: churned, where True is the positive class",
        "every month from 2024-01-01",
        "data/churn-{start:%Y-%m}.csv; placed in time by signup, identified by id",
        "4 features (",
        "at least 50 rows",
        "mature 2w after the interval's end",
        "all or newest 2 intervals",
        "after 3 intervals with mature labels",
        "every 3 months or on drift or when the newest training row is 90d old",
        "given 1 new mature row(s) and 2d since the last training",
        "log_loss, smaller is better, on the newest 2 interval(s); blocks of day; wrong in at most 5% of the runs",
        "a refresh may be worse by 1%",
        "no slice of plan worse by 10%",
        "at once; then watched beside its predecessor for 3 interval(s)",
    ):
        assert part in description, part


def test_one_wrong_spec_does_not_hide_the_others(home: Home, spec_of: Callable[[], dict[str, Any]]) -> None:
    write(home, spec_of())
    write(home, {**spec_of(), "model": "other", "task": "guess"})
    answer = CliRunner().invoke(app, ["check"])
    assert answer.exit_code == 1
    assert "churn · Rank" in answer.output
    assert "wrong: other.yaml:6: task: Input should be" in answer.output


def test_a_missing_first_batch_is_a_warning(home: Home, spec_of: Callable[[], dict[str, Any]]) -> None:
    write(home, spec_of())
    answer = CliRunner().invoke(app, ["check"])
    assert answer.exit_code == 0
    assert "source.path: nothing lies at data/churn-2024-01.csv yet" in answer.output
    (home.root / "data").mkdir()
    (home.root / "data" / "churn-2024-01.csv").write_text("")
    assert "warning" not in CliRunner().invoke(app, ["check"]).output


EVERY = ("hour", "day", "week", "month", "quarter", "year")


@pytest.mark.parametrize("every", EVERY)
def test_the_defaults_of_every_interval_can_promote(every: str) -> None:
    spec = parse(EXAMPLE.replace("every: month", f"every: {every}"), "churn")
    assert list(never_promoted(spec)) == []


@pytest.mark.parametrize(
    ("every", "more", "key", "mend"),
    [
        ("week", "evaluation: {holdout: 1}", "evaluation.holdout", "{holdout: 2} or {block: hour}"),
        ("day", "evaluation: {block: day}", "evaluation.holdout", "{holdout: 10} or {block: hour}"),
        ("hour", "evaluation: {block: hour}", "evaluation.holdout", "{holdout: 10}"),
        ("hour", "evaluation: {block: day}", "evaluation.holdout", "{block: row}"),
        ("month", "evaluation: {block: week}", "evaluation.holdout", "{holdout: 3} or {block: day}"),
        ("month", "gate: {min_blocks: 32}", "evaluation.holdout", "{holdout: 2} or {block: hour}"),
    ],
)
def test_blocks_that_can_never_be_enough_are_refused_with_what_to_write(
    every: str, more: str, key: str, mend: str
) -> None:
    text = EXAMPLE.replace("every: month", f"every: {every}") + more
    ((where, message),) = never_promoted(parse(text, "churn"))
    assert ".".join(where) == key
    assert message.endswith(f"write evaluation: {mend}")
    name, _, value = mend.partition(" or ")[0][1:-1].partition(": ")
    written = yaml.safe_load(text)
    written["evaluation"] = {**written.get("evaluation", {}), name: yaml.safe_load(value)}
    assert list(never_promoted(parse(yaml.safe_dump(written), "churn"))) == [], "and that is enough"


def test_blocks_that_nobody_can_count_are_not_refused() -> None:
    daily = EXAMPLE.replace("every: month", "every: day")
    for more in ("evaluation: {block: row}", "evaluation: {block: day}"):
        text = daily + more
        text = text if "row" in more else text.replace("candidates:", "group: plan, candidates:")
        assert list(never_promoted(parse(text, "churn"))) == []


def test_too_few_rows_and_intervals_are_refused(home: Home, spec_of: Callable[[], dict[str, Any]]) -> None:
    spec = spec_of()
    spec["quality"]["max_rows"] = 200
    spec["interval"] = {"every": "month", "start": "2024-01-01", "end": "2024-02-01"}
    write(home, spec)
    output = CliRunner().invoke(app, ["check", "churn"]).output
    assert "gate.min_rows: nothing can be promoted: quality.max_rows lets 200 in an interval" in output
    assert "write evaluation: {holdout: 3} or gate: {min_rows: 160}" in output
    assert "interval.end: there will be 1 interval(s), the first model needs 2 with mature labels" in output


@pytest.mark.parametrize(("rows", "warned"), [(400, True), (500, False)])
def test_a_first_batch_with_too_few_rows_is_a_warning(
    rows: int, warned: bool, home: Home, spec_of: Callable[[], dict[str, Any]]
) -> None:
    write(home, spec_of())
    (home.root / "data").mkdir()
    churn_rows("2024-01-01", rows).to_csv(home.root / "data" / "churn-2024-01.csv", index=False)
    answer = CliRunner().invoke(app, ["check"])
    assert answer.exit_code == 0, "the next one may be larger"
    assert ("nothing can be promoted: the first batch has" in answer.output) is warned


def test_no_spec_at_all_names_the_next_step(home: Home) -> None:
    answer = CliRunner().invoke(app, ["check"])
    assert isinstance(answer.exception, InvalidSpec)
    assert "python -m retrain new" in str(answer.exception)


def test_feature_code_is_not_run(home: Home, tmp_path: Path, spec_of: Callable[[], dict[str, Any]]) -> None:
    spec = spec_of()
    spec["training"]["features"] = {"file": "own.py", "adds": {"twice": "number"}}
    write(home, spec)
    touch = f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
    (home.models / "own.py").write_text(f"{touch}def build(frame):\n    return frame\n")
    assert CliRunner().invoke(app, ["check"]).exit_code == 0
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("frame['at'] = pd.Timestamp.now()", "own.py:6: now() reads the clock"),
        ("frame['at'] = time.time()", "own.py:6: time.time reads the clock"),
        ("more = pd.read_csv('rates.csv')", "own.py:6: read_csv() reads what does not travel with the model"),
        ("more = open('rates.csv')", "own.py:6: open() reads what does not travel with the model"),
        ("rate = os.environ['RATE']", "own.py:6: os.environ reads what does not travel with the model"),
        ("os._exit(1)", "own.py:6: os._exit ends the process that calls it"),
        ("exit()", "own.py:6: exit() ends the process that calls it"),
        ("import random", "own.py:6: random draws at random"),
        ("return frame,", ""),
        ("frame['time'] = frame['signup'].dt.time.map(lambda when: when.time()) if 0 else 1", ""),
        ("return frame frame", "own.py:6: is no Python: invalid syntax"),
    ],
)
def test_a_feature_function_of_more_than_the_row_is_refused(
    line: str, problem: str, home: Home, spec_of: Callable[[], dict[str, Any]]
) -> None:
    spec = spec_of()
    spec["training"]["features"] = {"file": "own.py", "adds": {"twice": "number"}}
    write(home, spec)
    (home.models / "own.py").write_text(
        f"import os\nimport time\nimport pandas as pd\n\ndef build(frame):\n    {line}\n    return frame\n"
    )
    answer = CliRunner().invoke(app, ["check"])
    assert answer.exit_code == (1 if problem else 0), answer.output
    assert problem in answer.output


def test_every_key_is_on_the_page_with_its_default_and_a_word() -> None:
    page = (ROOT / "docs" / "spec.md").read_text()
    assert page == reference(), "retrain/spec changed: python -m retrain.authoring.check.manual > docs/spec.md"
    listed = [key for key in keys() if key.type != "mapping"]
    assert len(listed) > 80
    for key in listed:
        assert f"| `{key.path}` |" in page
    assert [key.path for key in keys() if not key.description] == []


def test_a_schema_error_costs_no_heavy_import(home: Home, spec_of: Callable[[], dict[str, Any]]) -> None:
    write(home, {**spec_of(), "task": "guess"})
    code = (
        "import sys; from retrain.authoring.check import check_specs; from retrain.state.settings import Home;"
        "assert check_specs(Home.from_environment())[0].problems;"
        "print({'pandas', 'sklearn', 'great_expectations'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
