"""Validate: the contract of the spec, its verdict, its evidence, and the way past it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from retrain import pipeline
from retrain.errors import InvalidSpec, MissingInput, Quarantined
from retrain.results import Check, ValidateReport
from retrain.stages import validate as stage

if TYPE_CHECKING:
    from tests.conftest import Model

Rows = Callable[..., pd.DataFrame]
SpecOf = Callable[[], dict[str, Any]]


def judge(model: Model, frame: pd.DataFrame | None = None, *, key: str = "") -> ValidateReport:
    model.deliver("2024-01-01", frame)
    run = model.run(key=key)
    pipeline.run_stage("ingest", run)
    report = pipeline.run_stage("validate", run)
    assert isinstance(report, ValidateReport)
    return report


def failed(report: ValidateReport) -> list[Check]:
    return [check for check in report.checks if not check.passed]


def test_a_sound_batch_is_accepted_with_its_page(churn: Model) -> None:
    report = judge(churn)
    run = churn.run()
    assert report.decision.verdict == "accept"
    assert report.decision.reasons == (f"{len(report.checks)} checks passed on 200 rows",)
    assert not report.released
    assert report.failing_rows is None
    assert b"<html" in run.store.read(report.html or "")
    checked = {(check.expectation, check.column) for check in report.checks}
    assert {
        ("expect_table_columns_to_match_set", None),
        ("expect_table_row_count_to_be_between", None),
        ("expect_column_values_to_be_in_type_list", "visits"),
        ("expect_column_values_to_not_be_null", "signup"),
        ("expect_column_values_to_be_between", "visits"),
        ("expect_column_values_to_be_in_set", "plan"),
        ("expect_column_values_to_be_unique", "id"),
    } <= checked
    assert len(checked) + 1 == len(report.checks), "spend is checked twice: for its range, and to be finite"


BREAKS: dict[str, tuple[Callable[[pd.DataFrame], Any], str]] = {
    "a wholly empty column": (
        lambda f: f.assign(visits=pd.NA),
        "visits: column_values_to_not_be_null: 200 of 200 values missing",
    ),
    "an empty column that has a range": (lambda f: f.assign(spend=np.nan), "spend: column_values_to_not_be_null"),
    "an infinite value": (lambda f: f.assign(spend=[np.inf, *f["spend"][1:]]), "such as inf"),
    "another unit": (lambda f: f.assign(visits=f["visits"] * 100), "visits: column_values_to_be_between"),
    "a new category": (lambda f: f.assign(plan=["gold", *f["plan"][1:]]), "plan: column_values_to_be_in_set"),
    "a key twice": (lambda f: f.assign(id=[f["id"][1], *f["id"][1:]]), "id: column_values_to_be_unique: 2 of 200"),
    "too few rows": (lambda f: f.head(20), "table_row_count_to_be_between: observed 20; expected min_value 50"),
    "too much missing": (lambda f: f.assign(visits=f["visits"].where(f.index > 60)), "20 % allowed"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_breach_is_quarantined(churn: Model, rows_of: Rows, name: str) -> None:
    breaks, says = BREAKS[name]
    with pytest.raises(Quarantined) as raised:
        judge(churn, breaks(rows_of("2024-01-01")))
    assert says in raised.value.found
    assert "python -m retrain release churn --interval 2024-01-01" in raised.value.do
    run = churn.run()
    report = run.read(ValidateReport, "validate")
    assert report.decision.verdict == "quarantine"
    assert run.store.exists(report.html or "")
    (record,) = run.ledger.records("churn", "batch")
    assert record.body["verdict"] == "quarantine"
    with pytest.raises(MissingInput, match="was quarantined"):
        pipeline.run_stage("snapshot", run)


@pytest.mark.parametrize(
    ("kind", "classes", "words"), [("category", ["no", "yes"], ["no", "yes"]), ("integer", [0, 1], [0, 1])]
)
def test_an_outcome_in_no_class_is_a_breach(
    churn: Model, rows_of: Rows, spec_of: SpecOf, kind: str, classes: list[Any], words: list[Any]
) -> None:
    spec = spec_of()
    spec["target"]["classes"], spec["columns"]["churned"] = classes, {"type": kind, "max_missing": 0.5}
    churn.write_spec(spec)
    frame = rows_of("2024-01-01")
    frame["churned"] = frame["churned"].map({False: words[0], True: words[1]}).astype(object)
    frame.loc[0, "churned"] = None
    assert judge(churn, frame, key="sound").decision.verdict == "accept", "empty is missing, and no breach"
    frame.loc[1:3, "churned"] = " yes" if kind == "category" else 7
    with pytest.raises(Quarantined, match=f"churned: column_values_to_be_in_set: 3 of 199.*{frame['churned'][1]}"):
        judge(churn, frame, key="other")


def test_one_message_groups_the_failures_and_evidence_is_bounded(churn: Model, rows_of: Rows, spec_of: SpecOf) -> None:
    spec = spec_of()
    spec["quality"]["failing_rows"] = 5
    churn.write_spec(spec)
    frame = rows_of("2024-01-01").assign(plan="=1+1", visits=-1, spend=-1.0)
    frame["id"] = "same"
    with pytest.raises(Quarantined) as raised:
        judge(churn, frame)
    assert len(raised.value.found.splitlines()) == 5
    run = churn.run()
    report = run.read(ValidateReport, "validate")
    evidence = run.store.read(report.failing_rows or "").decode().splitlines()
    assert len(evidence) == 1 + 5
    assert evidence[0].startswith("failed_expectation,row,id,")
    assert "'=1+1" in evidence[1], "a spreadsheet runs no text of a delivery"
    assert ",-1" in evidence[1], "a number stays one"


def test_a_warning_lets_the_batch_pass_and_is_listed(churn: Model, rows_of: Rows, spec_of: SpecOf) -> None:
    spec = spec_of()
    spec["columns"]["plan"]["severity"] = "warn"
    churn.write_spec(spec)
    report = judge(churn, rows_of("2024-01-01").assign(plan="gold"))
    assert report.decision.verdict == "accept"
    assert report.decision.reasons[0].startswith("warning: plan: column_values_to_be_in_set")


def test_infinity_stops_even_where_the_range_only_warns(churn: Model, rows_of: Rows, spec_of: SpecOf) -> None:
    spec = spec_of()
    spec["columns"]["spend"] |= {"severity": "warn", "max": 1e9}
    churn.write_spec(spec)
    frame = rows_of("2024-01-01")
    frame.loc[3, "spend"] = -np.inf
    with pytest.raises(Quarantined, match="-inf"):
        judge(churn, frame)


def test_freshness_is_measured_on_the_datas_clock(churn: Model, rows_of: Rows, spec_of: SpecOf) -> None:
    spec = spec_of()
    spec["quality"]["freshness"] = "2d"
    churn.write_spec(spec)
    assert judge(churn, rows_of("2024-01-01")).decision.verdict == "accept"
    with pytest.raises(Quarantined, match=r"signup: column_max_to_be_between: observed 2024-01-1\d"):
        judge(churn, rows_of("2024-01-01").head(100))


def test_a_compound_key(churn: Model, rows_of: Rows, spec_of: SpecOf) -> None:
    spec = spec_of()
    spec["source"]["key"] = ["id", "plan"]
    spec["columns"]["id"]["unique"] = False
    churn.write_spec(spec)
    frame = rows_of("2024-01-01").assign(id="same")
    with pytest.raises(Quarantined, match="compound_columns_to_be_unique: 200 of 200 rows"):
        judge(churn, frame)


def test_any_expectation_by_its_own_name(churn: Model, spec_of: SpecOf) -> None:
    spec = spec_of()
    rule = {"expect": "expect_column_mean_to_be_between", "args": {"column": "visits", "min_value": 50}}
    spec["quality"]["expectations"] = [rule]
    churn.write_spec(spec)
    with pytest.raises(Quarantined, match="visits: column_mean_to_be_between"):
        judge(churn)


@pytest.mark.parametrize(
    ("column", "rule", "says"),
    [
        ("plan", {"min": 1}, "min and max cannot be asked of a category"),
        ("spend", {"values": [1]}, "values cannot be asked of a number"),
        ("visits", {"pattern": "x"}, "pattern cannot be asked of a integer"),
        ("visits", {"values": ["1"]}, "values of an integer column are integers"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(
    churn: Model, spec_of: SpecOf, column: str, rule: dict[str, Any], says: str
) -> None:
    spec = spec_of()
    spec["columns"][column] |= rule
    churn.write_spec(spec)
    with pytest.raises(InvalidSpec, match=says):
        judge(churn)


def test_an_unknown_expectation_is_refused(churn: Model, spec_of: SpecOf) -> None:
    spec = spec_of()
    spec["quality"]["expectations"] = [{"expect": "expect_column_meen_to_be_between", "args": {"column": "visits"}}]
    churn.write_spec(spec)
    with pytest.raises(InvalidSpec, match="expect_column_mean_to_be_between"):
        judge(churn)


def test_unchanged_bytes_and_contract_are_judged_once(
    churn: Model, spec_of: SpecOf, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = judge(churn, key="first")
    with caplog.at_level("INFO"):
        second = judge(churn, key="second")
    assert "held against this contract before" in caplog.text
    assert second.checks == first.checks
    assert second.html == "churn/runs/second/validate/quality.html"
    caplog.clear()
    spec = spec_of()
    spec["quality"]["min_rows"] = 500
    churn.write_spec(spec)
    with pytest.raises(Quarantined, match="expected min_value 500"):
        judge(churn, key="third")


def test_a_release_lets_exactly_these_bytes_through(churn: Model, rows_of: Rows) -> None:
    bad = rows_of("2024-01-01").assign(plan="gold")
    with pytest.raises(Quarantined):
        judge(churn, bad)
    release = churn.command("release", "churn", "--interval", "2024-01-01", "--reason", "gold is sold since January")
    assert release.wait() == 0, release.communicate()
    report = judge(churn, bad)
    assert report.released
    assert report.decision.verdict == "accept"
    assert report.decision.reasons[0].endswith(": gold is sold since January")
    assert "plan: column_values_to_be_in_set" in report.decision.reasons[1]
    assert churn.run().store.exists(report.html or "")
    (record,) = churn.run().ledger.records("churn", "release")
    assert record.body["sha256"] == report.sha256
    pipeline.run_stage("snapshot", churn.run())
    other = churn.run("2024-02-01")
    churn.deliver("2024-02-01", rows_of("2024-02-01").assign(plan="gold"))
    pipeline.run_stage("ingest", other)
    with pytest.raises(Quarantined):
        pipeline.run_stage("validate", other)


def test_there_must_be_something_to_release(churn: Model) -> None:
    judge(churn)
    command = churn.command("release", "churn", "--interval", "2024-01-01", "--reason", "none")
    _, errors = command.communicate()
    assert command.returncode == 1
    assert b"no quarantined or held batch" in errors


def test_it_needs_an_ingested_batch(churn: Model) -> None:
    with pytest.raises(MissingInput, match="ingest has not run"):
        stage.validate(churn.run())


def test_half_a_month_of_rows_is_told(churn: Model, rows_of: Rows) -> None:
    """Held against the median of the months before it; a few months are needed, and the contract decides as before."""
    reports = {}
    for month, rows in {"01": 200, "02": 190, "03": 210, "04": 105, "05": 200, "06": 450}.items():
        start = f"2024-{month}-01"
        churn.deliver(start, rows_of(start, rows))
        run = churn.run(start)
        for name in ("ingest", "validate", "snapshot"):
            report = pipeline.run_stage(name, run)
            if isinstance(report, ValidateReport):
                reports[month] = report
    assert [month for month, report in reports.items() if report.unusual_row_count] == ["04", "06"]
    few = reports["04"]
    assert few.decision.verdict == "accept"
    assert few.unusual_row_count.startswith("105 rows, 4 a day; 7 a day is the median of the 3 intervals before")
    assert f"warning: {few.unusual_row_count}" in few.decision.reasons
