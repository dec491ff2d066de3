"""`python -m retrain new`: data nobody here has seen, a spec that loads, and a model that serves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from retrain.authoring.check.promotable import never_promoted
from retrain.authoring.scaffold import profile
from retrain.cli import app
from retrain.errors import (
    DegenerateTraining,
    DtypeChanged,
    EmptyBatch,
    InvalidName,
    InvalidSpec,
    RetrainError,
    SchemaChanged,
    SourceRefused,
)
from retrain.spec import Spec
from retrain.state.ledger import Ledger
from retrain.state.settings import Home


def loans(rows: int = 3000, months: int = 6) -> pd.DataFrame:
    """Loans with an answer that can be learnt, and columns of every kind around it."""
    random = np.random.default_rng(7)
    begin = pd.Timestamp("2023-03-01", tz="UTC")
    span = (begin + pd.offsets.MonthBegin(months) - begin).total_seconds()
    grade, income = random.choice(list("ABC"), rows), random.gamma(4, 900, rows).round(2)
    bad = random.random(rows) < 1 / (1 + np.exp(0.0012 * (income - 2500) - 1.2 * (grade == "C") + 0.4))
    frame = pd.DataFrame(
        {
            "loan": [f"L-{i:05d}" for i in range(rows)],
            "granted": begin + pd.to_timedelta(np.sort(random.random(rows) * span), unit="s").floor("s"),
            "grade": grade,
            "income": income,
            "dependants": random.integers(0, 5, rows),
            "online": random.random(rows) < 0.5,
            "postcode": [f"0{i:04d}" for i in random.integers(0, 9999, rows)],
            "remark": [f"the customer wrote a letter about matter {i}" for i in range(rows)],
            "currency": "EUR",
            "bad": bad,
        }
    )
    frame.loc[random.random(rows) < 0.1, "income"] = np.nan
    return frame


def new(home: Home, frame: pd.DataFrame, *arguments: str, name: str = "loans.csv", model: str = "loans") -> Result:
    file = home.root / "data" / name
    file.parent.mkdir(exist_ok=True)
    if name.endswith(".csv"):
        frame.to_csv(file, index=False, date_format="%Y-%m-%dT%H:%M:%SZ")
    elif name.endswith(".jsonl"):
        frame.to_json(file, orient="records", lines=True, date_format="iso")
    else:
        frame.to_parquet(file)
    return CliRunner().invoke(app, ["new", model, f"data/{name}", *arguments])


def spec_of(home: Home, frame: pd.DataFrame, *arguments: str, **names: str) -> Spec:
    answer = new(home, frame, *arguments, **names)
    assert answer.exit_code == 0, answer.exception
    return home.spec(names.get("model", "loans"))


def refusal(answer: Result, kind: type[RetrainError]) -> str:
    assert isinstance(answer.exception, kind), answer.exception
    return str(answer.exception)


def text_of(home: Home, model: str = "loans") -> str:
    return (home.models / f"{model}.yaml").read_text()


# --- promise 1: one file adds a model


def test_never_seen_data_becomes_a_champion(home: Home) -> None:
    answer = new(home, loans(1500, months=3), "--target", "bad", "--time", "granted")
    assert answer.exit_code == 0, answer.exception
    assert "python -m retrain check loans" in answer.output
    assert "python -m retrain run loans --history" in answer.output

    checked = CliRunner().invoke(app, ["check", "loans"])
    assert checked.exit_code == 0, checked.output
    assert "wrong:" not in checked.output

    # As written, but for a search that is short on a shared machine.
    text = text_of(home).replace("training:\n", "training:\n  threads: 1\n  search: {trials: 2}\n")
    (home.models / "loans.yaml").write_text(text)
    done = CliRunner().invoke(app, ["run", "loans", "--history"])
    assert done.exit_code == 0, f"{done.output}\n{done.exception}"
    promotions = Ledger(home.ledger).records("loans", "promotion")
    assert promotions
    assert promotions[0].body["version"] == 1
    status = CliRunner().invoke(app, ["status", "loans"], env={"COLUMNS": "200"})
    assert status.exit_code == 0
    assert "promote" in status.output
    assert status.output.count("ok") >= 3


# --- what is proposed


def test_types_and_contracts_are_what_was_seen(home: Home) -> None:
    spec = spec_of(home, loans(), "--target", "bad")
    assert {name: column.type for name, column in spec.columns.items()} == {
        "loan": "string",
        "granted": "datetime",
        "grade": "category",
        "income": "number",
        "dependants": "integer",
        "online": "boolean",
        "postcode": "string",
        "remark": "string",
        "currency": "category",
        "bad": "boolean",
    }
    assert (spec.source.path, spec.source.time, spec.source.key) == ("data/loans.csv", "granted", ("loan",))
    assert spec.features == ("grade", "income", "dependants", "online")
    assert spec.columns["grade"].values == ("A", "B", "C")
    assert (spec.columns["dependants"].min, spec.columns["dependants"].max) == (0, 6)
    assert 0.1 < spec.columns["income"].max_missing < 0.3
    assert (spec.task, spec.target.column, spec.gate.metric) == ("binary", "bad", "log_loss")
    assert spec.interval.every == "month"
    assert f"{spec.interval.start:%Y-%m-%d} {spec.interval.end:%Y-%m-%d}" == "2023-03-01 2023-09-01"
    assert 200 < spec.quality.min_rows < 260
    assert "constant" in text_of(home)
    assert "free text" in text_of(home)


@pytest.mark.parametrize(
    ("make", "task", "target"),
    [
        (lambda f: f.assign(y=f["bad"].map({True: "yes", False: "no"})), "binary", {"column": "y"}),
        (lambda f: f.assign(y=f["bad"].astype(int)), "binary", {"column": "y"}),
        (lambda f: f.assign(y=f["bad"].astype(int) + 1), "binary", {"column": "y", "classes": (1, 2)}),
        (lambda f: f.assign(y=f["bad"].astype(float)), "binary", {"column": "y", "classes": (0, 1)}),
        (lambda f: f.assign(y=np.where(f["bad"], "a", "z")), "binary", {"column": "y", "classes": ("z", "a")}),
        (lambda f: f.assign(y=f["grade"]), "multiclass", {"column": "y", "classes": ("A", "B", "C")}),
        (lambda f: f.assign(y=f["dependants"]), "multiclass", {"column": "y", "classes": (0, 1, 2, 3, 4)}),
        (lambda f: f.assign(y=f["income"] * 1.7 + f["dependants"]), "regression", {"column": "y"}),
    ],
    ids=["yes/no", "0/1", "1/2", "0.0/1.0", "two words", "letters", "small whole numbers", "number"],
)  # fmt: skip
def test_the_task_follows_from_the_target(
    make: Callable[[pd.DataFrame], pd.DataFrame], task: str, target: dict[str, Any], home: Home
) -> None:
    spec = spec_of(
        home, make(loans(600).drop(columns=["income"]) if task != "regression" else loans(600)), "--target", "y"
    )
    assert spec.task == task
    assert spec.target.model_dump(exclude_none=True) == target


@pytest.mark.parametrize("name", ["loans.jsonl", "loans.parquet"])
def test_the_other_formats_keep_their_own_types(name: str, home: Home) -> None:
    frame = loans(600).assign(number=range(600)).drop(columns="loan")
    spec = spec_of(home, frame.assign(y=frame["bad"].astype(int)), "--target", "y", name=name)
    assert spec.source.key == ("number",)
    assert spec.columns["number"].type == "integer"
    assert (spec.columns["y"].type, spec.target.classes) == ("integer", (0, 1))
    assert spec.columns["granted"].type == "datetime"
    assert spec.columns["online"].type == "boolean"
    first = CliRunner().invoke(app, ["ingest", "loans", "--interval", f"{spec.interval.start:%Y-%m-%d}"])
    assert first.exit_code == 0, first.exception


def test_a_template_is_seen_whole_and_written_as_given(home: Home) -> None:
    frame = loans(1800)
    (home.root / "data").mkdir()
    for month, part in frame.groupby(frame["granted"].dt.strftime("%Y-%m")):
        part.to_csv(home.root / "data" / f"loans-{month}.csv", index=False)
    template = "data/loans-{start:%Y-%m}.csv"
    answer = CliRunner().invoke(app, ["new", "loans", template, "--target", "bad"])
    assert answer.exit_code == 0, answer.exception
    assert "1,800 rows" in answer.output
    spec = home.spec("loans")
    assert (spec.source.path, spec.interval.every) == (template, "month")


def test_files_of_a_month_make_months_of_intervals_where_weeks_would_have_rows_enough(home: Home) -> None:
    frame = loans(3900, months=3)
    (home.root / "data").mkdir()
    for month, part in frame.groupby(frame["granted"].dt.strftime("%Y-%m")):
        part.to_csv(home.root / "data" / f"loans-{month}.csv", index=False)
    for model, path, every in (
        ("by_month", "data/loans-{start:%Y-%m}.csv", "month"),
        ("by_year", "data/loans-{start:%Y}-*.csv", "week"),
    ):
        answer = CliRunner().invoke(app, ["new", model, path, "--target", "bad"])
        assert answer.exit_code == 0, answer.exception
        assert home.spec(model).interval.every == every


def test_a_template_is_found_in_a_folder_whose_name_looks_like_a_pattern(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "a [b] c"
    (root / "data").mkdir(parents=True)
    loans(600).to_csv(root / "data" / "loans-2024-01.csv", index=False)
    monkeypatch.chdir(root)
    answer = CliRunner().invoke(app, ["new", "loans", "data/loans-{start:%Y-%m}.csv", "--target", "bad"])
    assert answer.exit_code == 0, answer.exception


def test_a_file_with_signs_of_globs_and_templates_is_still_found(home: Home) -> None:
    spec = spec_of(home, loans(600), "--target", "bad", name="lo[a]ns{x}.csv")
    done = CliRunner().invoke(app, ["ingest", "loans", "--interval", f"{spec.interval.start:%Y-%m-%d}"])
    assert done.exit_code == 0, done.exception


@pytest.mark.parametrize(
    ("rows", "days", "every", "block"),
    [(3000, 180, "month", "day"), (3000, 60, "week", "day"), (3000, 9, "day", "hour"), (3000, 0.4, "hour", "row")],
)
def test_intervals_have_a_sensible_number_of_rows(rows: int, days: float, every: str, block: str, home: Home) -> None:
    frame = loans(rows)
    frame["granted"] = pd.Timestamp("2023-03-01", tz="UTC") + pd.to_timedelta(
        np.linspace(0, days, rows), unit="D"
    ).floor("s")
    spec = spec_of(home, frame, "--target", "bad")
    assert spec.interval.every == every
    assert spec.evaluation.block == block
    assert spec.evaluation.holdout == (2 if every == "week" else 1)
    assert list(never_promoted(spec)) == []
    assert spec.interval.end is not None


@pytest.mark.parametrize(
    ("weekdays", "weeks", "block", "holdout"), [(5, 16, "day", 3), (5, 8, "hour", 1), (1, 16, "row", 1)]
)
def test_days_without_rows_are_made_up_for(weekdays: int, weeks: int, block: str, holdout: int, home: Home) -> None:
    """Offices close at the weekend: five days a week, and a day that is missing must not keep a model waiting."""
    frame = loans(300 * weeks)
    day = np.arange(len(frame)) % (weekdays * weeks)
    hours = 0 if weekdays == 1 else np.arange(len(frame)) // (weekdays * weeks) % 9 + 8
    when = pd.to_timedelta(day // weekdays * 7 + day % weekdays, unit="D") + pd.to_timedelta(hours, unit="h")
    frame["granted"] = pd.Timestamp("2023-01-02", tz="UTC") + when
    # Months would do as well; files by the week say what is meant.
    (home.root / "data").mkdir()
    for monday, part in frame.groupby(frame["granted"].dt.tz_localize(None).dt.to_period("W-SUN").dt.start_time):
        part.to_csv(home.root / "data" / f"loans-{monday:%Y-%m-%d}.csv", index=False)
    answer = CliRunner().invoke(app, ["new", "loans", "data/loans-{start:%Y-%m-%d}.csv", "--target", "bad"])
    assert answer.exit_code == 0, answer.exception
    spec = home.spec("loans")
    assert spec.interval.every == "week"
    assert (spec.evaluation.block, spec.evaluation.holdout) == (block, holdout)
    assert spec.gate.min_rows == min(500, int(300 * holdout * 0.8))
    checked = CliRunner().invoke(app, ["check", "loans"])
    assert "gate.min_rows" not in checked.output, "what was proposed fits the files"


def test_cut_off_first_and_last_intervals_are_left_out(home: Home) -> None:
    frame = loans(3000)
    frame = frame[(frame["granted"] > "2023-03-29") & (frame["granted"] < "2023-08-03")]
    spec = spec_of(home, frame, "--target", "bad")
    assert f"{spec.interval.start:%Y-%m-%d} {spec.interval.end:%Y-%m-%d}" == "2023-04-01 2023-08-01"


def test_columns_that_know_the_answer_are_left_out(home: Home) -> None:
    frame = loans(1000)
    frame["written_off"] = frame["income"].fillna(1).where(frame["bad"])
    frame["closed"] = np.where(frame["bad"], "2023-12-01", None)
    frame["copy"] = np.where(frame["bad"], "L", "P")
    frame["loss"] = np.where(frame["bad"], 500.0, 0.0) + np.random.default_rng(0).random(len(frame))
    answer = new(home, frame, "--target", "bad", "--time", "granted")
    spec = home.spec("loans")
    for name in ("written_off", "closed", "copy", "loss"):
        assert not spec.columns[name].feature, name
        assert f"{name}: LEAK?" in answer.output
    assert spec.features == ("grade", "income", "dependants", "online")


def test_a_column_filled_only_with_the_label_and_a_twin_of_a_number_are_suspected(home: Home) -> None:
    frame = loans(1000)
    frame["price"] = frame["dependants"] * 3 + frame["income"].fillna(0)
    frame["price_eur"] = frame["price"] * 1.07
    frame.loc[frame.index[:100], "price"] = np.nan
    frame["settled"] = np.random.default_rng(0).random(len(frame))
    frame.loc[frame["price"].isna(), "settled"] = np.nan
    spec = spec_of(home, frame, "--target", "price")
    assert spec.task == "regression"
    assert not spec.columns["price_eur"].feature
    assert not spec.columns["settled"].feature
    assert spec.columns["dependants"].feature


def test_words_for_missing_are_pointed_out(home: Home) -> None:
    frame = loans(600)
    frame["age"] = np.where(np.arange(600) % 7 == 0, "NA", "41")
    frame["age"] = frame["age"].mask(np.arange(600) % 5 == 0, "30")
    answer = new(home, frame, "--target", "bad")
    assert "age: NA is not an empty field" in answer.output
    assert "would be integer" in answer.output


def test_a_key_may_be_named_or_made_of_two(home: Home) -> None:
    frame = loans(600).rename(columns={"loan": "branch"})
    frame["branch"] = "B" + frame["grade"]
    frame["remark"] = frame["currency"]
    assert spec_of(home, frame, "--target", "bad").source.key == ("branch", "granted")
    named = spec_of(home, frame, "--target", "bad", "--key", "postcode", "--key", "granted", model="other")
    assert named.source.key == ("postcode", "granted")
    assert "do not identify a row" in refusal(
        new(home, frame, "--target", "bad", "--key", "grade", model="x"), InvalidSpec
    )


def test_many_rows_are_thinned_evenly(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "KEPT_ROWS", 100)
    for kind in ("csv", "jsonl", "parquet"):
        assert new(home, loans(1000), "--target", "bad", name=f"loans.{kind}", model=kind).exit_code == 0
        profiled = profile.profile_files(f"data/loans.{kind}", home.root)
        assert (profiled.rows, profiled.kept) == (1000, 63)
        assert profiled.columns["loan"].values.tolist() == [f"L-{i:05d}" for i in range(0, 1000, 16)]
    monkeypatch.setattr(profile, "MAX_ROWS", 700)
    assert profile.profile_files("data/loans.csv", home.root).rows == 700


# --- hostile input

HOSTILE = [
    "a: b", "#x", "- y", "{z}", "[w]", "it's", 'say "hi"', "yes", "null", "1.5", " lead", "trail ", "😀", "line\nbreak",
    "&anchor", "*alias", "!!python/object:x", "%pct", "a,b", "tab\tstop", "\u2028", "\x85", "2013-01-01", "n" * 128,
    "<<", "=", "a #b", "?", "\\n", "model", "'", "`", "|", ">",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_hostile_names_and_values_stay_names_and_values(kind: str, home: Home) -> None:
    frame = loans(600)
    for name in HOSTILE:
        frame[name] = np.where(frame["online"], f"{name[:20]}: x # y\nmodel: evil", "\u2028]}")
    spec = spec_of(home, frame, "--target", "bad", name=f"loans.{kind}")
    assert list(spec.columns)[-len(HOSTILE) :] == HOSTILE
    assert spec.model == "loans"
    for name in HOSTILE:
        assert set(spec.columns[name].values or ()) == {f"{name[:20]}: x # y\nmodel: evil", "\u2028]}"}
    target = spec_of(home, frame, "--target", "a: b", name=f"loans.{kind}", model="other")
    assert target.target.column == "a: b"


@pytest.mark.parametrize(
    ("content", "kind", "says"),
    [
        ("", SchemaChanged, "no header"),
        ("id,when,y\n", EmptyBatch, "no rows"),
        ("id,when,when\n1,2024-01-01,1\n", SchemaChanged, "'when' stands twice"),
        (",when,y\n1,2024-01-01,1\n", SchemaChanged, "column 1 has no name"),
        (f"{'x' * 129},y\n1,1\n", SchemaChanged, "longer than 128"),
        ("id,when,y\n1,2024-01-01,1,9\n", SourceRefused, "cannot be read"),
        ("id,when,y\n1,2024-01-01,1\n2,2024-01-02,1\n", DegenerateTraining, "has 1 value"),
        ("id,when,y\n1,monday,1\n2,tuesday,0\n", InvalidSpec, "no column holds times"),
        ("id,a,b,y\n1,2024-01-01,2024-01-01,1\n2,2024-01-02,2024-01-02,0\n", InvalidSpec, "2 columns hold times: a, b"),
        ("grade,when,y\na,2024-01-01,1\na,2024-01-01,0\n", InvalidSpec, "identifies a row"),
        ("id,when,yy\n1,2024-01-01,1\n", InvalidSpec, "no column 'y'; did you mean 'yy'?"),
    ],
)
def test_bad_files_are_refused_by_name(content: str, kind: type[RetrainError], says: str, home: Home) -> None:
    (home.root / "bad.csv").write_text(content)
    answer = CliRunner().invoke(app, ["new", "odd", "bad.csv", "--target", "y"])
    assert says in refusal(answer, kind)
    assert not list(home.models.iterdir())


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        (['{"id": 1, "x": [1, 2]}'], DtypeChanged),
        (['{"id": 1, "x": {"a": 1}}'], DtypeChanged),
        (['{"id": 1, "x": 2}', '{"id": 2, "x": "two"}'], DtypeChanged),
        (["[1, 2]"], SourceRefused),
        (["{"], SourceRefused),
    ],
)
def test_bad_json_is_refused_by_name(lines: list[str], kind: type[RetrainError], home: Home) -> None:
    (home.root / "bad.jsonl").write_text("\n".join(lines))
    refusal(CliRunner().invoke(app, ["new", "odd", "bad.jsonl", "--target", "x"]), kind)


@pytest.mark.parametrize("data", ["nowhere.csv", "s3://bucket/x.csv", "."])
def test_data_that_is_not_there_is_refused(data: str, home: Home) -> None:
    refusal(CliRunner().invoke(app, ["new", "odd", data, "--target", "x"]), SourceRefused)


@pytest.mark.parametrize("model", ["../evil", "a/b", "a b", "1a", "x" * 64, ""])
def test_a_model_cannot_be_named_out_of_its_folder(model: str, home: Home) -> None:
    refusal(new(home, loans(300), "--target", "bad", model=model), InvalidName)
    assert not list(home.models.iterdir())


def test_an_existing_spec_is_never_touched(home: Home) -> None:
    file = home.models / "loans.yaml"
    file.write_text("mine")
    assert "is there already" in refusal(new(home, loans(300), "--target", "bad"), InvalidSpec)
    assert file.read_text() == "mine"


def test_two_at_once_write_one_spec(home: Home) -> None:
    assert new(home, loans(300), "--target", "bad", model="first").exit_code == 0
    call = [sys.executable, "-m", "retrain", "new", "loans", "data/loans.csv", "--target", "bad"]
    both = [subprocess.Popen(call, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate()[1].decode() for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], errors
    assert sorted(file.name for file in home.models.iterdir()) == ["first.yaml", "loans.yaml"]
    home.spec("loans")


def test_the_owner_comes_from_git(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "gitconfig"
    config.write_text('[user]\n\tname = "Ada: #1"\n\temail = ada@example.org\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    owner = spec_of(home, loans(300), "--target", "bad").owner
    assert (owner.name, owner.contact) == ("Ada: #1", "ada@example.org")


def test_what_is_left_to_say_is_warned_about(home: Home) -> None:
    assert new(home, loans(300), "--target", "bad").exit_code == 0
    checked = CliRunner().invoke(app, ["check", "loans"])
    assert checked.exit_code == 0
    for key in ("objective", "owner.name", "owner.contact"):
        assert f"{key}: still says 'change me'" in checked.output
    assert json.dumps(home.spec("loans").model_dump(mode="json"))


@pytest.mark.parametrize(
    ("name", "writing", "encoding", "expected"),
    [
        ("loans.CSV", {}, "utf-8", {}),
        ("loans.tsv", {"sep": "\t"}, "utf-8", {"sep": "\t"}),
        ("loans.csv", {"sep": ";", "decimal": ","}, "cp1252", {"sep": ";", "decimal": ",", "encoding": "cp1252"}),
        ("loans.txt", {"sep": "|"}, "utf-16", {"sep": "|", "encoding": "utf-16"}),
    ],
)
def test_how_files_are_written_is_seen_and_declared(
    home: Home, name: str, writing: dict[str, Any], encoding: str, expected: dict[str, Any]
) -> None:
    """What `new` declares, `ingest` reads: the same types and rows as of a file that needs no declaration."""
    frame = loans(600).assign(remark="schön")
    file = home.root / "data" / name
    file.parent.mkdir()
    frame.to_csv(file, index=False, date_format="%Y-%m-%dT%H:%M:%SZ", encoding=encoding, **writing)
    answer = CliRunner().invoke(app, ["new", "loans", f"data/{name}", "--target", "bad"])
    assert answer.exit_code == 0, answer.exception
    spec = home.spec("loans")
    assert spec.source.csv.model_dump(exclude_defaults=True) == expected
    plain = spec_of(home, frame, "--target", "bad", name="plain.csv", model="plain")
    assert spec.columns == plain.columns
    for model in ("loans", "plain"):
        done = CliRunner().invoke(app, ["ingest", model, "--interval", f"{spec.interval.start:%Y-%m-%d}"])
        assert done.exit_code == 0, done.exception
    batches = [path.read_bytes() for path in sorted(Path(home.store).rglob("batches/**/*.parquet"))]
    assert len(batches) == 2
    assert batches[0] == batches[1]
