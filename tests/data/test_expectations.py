from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrain.data.expectations import Expectation, SuiteResult, check_names, run
from retrain.errors import EmptyBatch, EmptySuite, InvalidSpec, SchemaChanged
from retrain.results import Check


def suite(*rules: tuple[str, dict[str, Any]], severity: Literal["stop", "warn"] = "stop") -> list[Expectation]:
    return [Expectation(name, kwargs, severity) for name, kwargs in rules]


def judge(batch: pd.DataFrame | Path, *rules: tuple[str, dict[str, Any]], failing_rows: int = 200) -> SuiteResult:
    return run(batch, suite(*rules), name="people", title="People", failing_rows=failing_rows)


def only(batch: pd.DataFrame | Path, name: str, **kwargs: Any) -> Check:
    (check,) = judge(batch, (name, kwargs)).checks
    return check


def people() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": range(6),
            "age": [31.0, 47.0, -2.0, 130.0, np.nan, 8.0],
            "plan": ["a", "b", None, "a", "z", "b"],
            "family": [1, 1, 2, 2, 3, 3],
            "place": [1, 2, 1, 1, 1, 2],
        }
    )


@pytest.fixture(params=["frame", "parquet"])
def batch(request: pytest.FixtureRequest, tmp_path: Path) -> pd.DataFrame | Path:
    if request.param == "frame":
        return people()
    people().to_parquet(tmp_path / "people.parquet", index=False, row_group_size=4)
    return tmp_path / "people.parquet"


CASES: list[tuple[str, dict[str, Any], bool, str]] = [
    ("expect_column_values_to_be_between", {"column": "age", "min_value": 0, "max_value": 120}, False,
     "2 of 5 values outside [0, 120], such as -2, 130; 1 missing not judged"),
    ("ExpectColumnValuesToBeBetween", {"column": "age", "min_value": -5, "strict_min": True}, True,
     "none of 5 values outside (-5, ∞); 1 missing not judged"),
    ("expect_column_values_to_not_be_null", {"column": "plan"}, False, "1 of 6 values missing"),
    ("expect_column_values_to_be_in_set", {"column": "plan", "value_set": ["a", "b"]}, False,
     "1 of 5 values not in the set, such as 'z'; 1 missing not judged"),
    ("expect_column_values_to_be_unique", {"column": "id"}, True, "none of 6 values repeated"),
    ("expect_compound_columns_to_be_unique", {"column_list": ["family", "place"]}, False,
     "2 of 6 rows repeated in their key, such as {family: 2, place: 1}"),
    ("expect_table_row_count_to_be_between", {"min_value": 1, "max_value": 5}, False,
     "observed 6; expected min_value 1, max_value 5"),
    ("expect_table_columns_to_match_set", {"column_set": ["id", "age", "plan", "family", "sex"]}, False,
     "mismatched: {unexpected: ['place'], missing: ['sex']}; "
     "expected column_set ['id', 'age', 'plan', 'family', 'sex']"),
    ("expect_table_columns_to_match_ordered_list", {"column_list": ["id", "age", "plan", "family", "place"]}, True,
     "observed ['id', 'age', 'plan', 'family', 'place']; "
     "expected column_list ['id', 'age', 'plan', 'family', 'place']"),
    ("expect_column_to_exist", {"column": "sex"}, False, "not as expected"),
    ("expect_column_values_to_match_regex", {"column": "plan", "regex": "^[ab]{1}$"}, False,
     "1 of 5 values not matching '^[ab]{1}$', such as 'z'; 1 missing not judged"),
    ("expect_column_mean_to_be_between", {"column": "family", "min_value": 3}, False,
     "observed 2; expected min_value 3"),
    ("expect_column_kl_divergence_to_be_less_than",
     {"column": "family", "partition_object": {"values": [1, 2, 3], "weights": [0.2, 0.4, 0.4]}, "threshold": 0.01},
     False, "observed 0.0"),
    ("expect_column_distinct_values_to_equal_set", {"column": "plan", "value_set": ["a", "b"]}, False,
     "1 distinct values amiss, such as 'z'; expected value_set ['a', 'b']"),
    ("expect_column_pair_values_a_to_be_greater_than_b",
     {"column_A": "family", "column_B": "place", "or_equal": True}, False, "1 of 6 values unexpected"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kwargs", "passed", "observed"), CASES, ids=[case[0] for case in CASES])
def test_an_expectation_by_its_own_name(
    batch: pd.DataFrame | Path, name: str, kwargs: dict[str, Any], passed: bool, observed: str
) -> None:
    check = only(batch, name, **kwargs)
    assert check.passed is passed
    assert not check.crashed
    assert check.observed.startswith(observed)


def test_all_at_once_is_each_by_itself_in_the_order_asked(batch: pd.DataFrame | Path) -> None:
    rules = [(name, kwargs) for name, kwargs, _, _ in CASES]
    together = judge(batch, *rules).checks
    assert together == tuple(only(batch, name, **kwargs) for name, kwargs in rules)


def test_counts_rows_and_severity_are_carried_through(batch: pd.DataFrame | Path) -> None:
    rule = ("expect_column_values_to_be_between", {"column": "age", "min_value": 0})
    checks = run(batch, suite(rule) + suite(rule, severity="warn"), name="people", title="People").checks
    assert [(each.severity, each.passed, each.unexpected, each.rows, each.column) for each in checks] == [
        ("stop", False, 1, 6, "age"),
        ("warn", False, 1, 6, "age"),
    ]


def test_mostly_allows_a_share_and_says_so() -> None:
    frame = pd.DataFrame({"x": [1] * 9 + [99]})
    assert only(frame, "expect_column_values_to_be_between", column="x", max_value=5, mostly=0.9).passed
    check = only(frame, "expect_column_values_to_be_between", column="x", max_value=5, mostly=0.95)
    assert not check.passed
    assert check.observed == "1 of 10 values outside (-∞, 5], such as 99; 5 % allowed"


def test_nothing_to_judge_is_said(batch: pd.DataFrame | Path) -> None:
    frame = pd.DataFrame({"x": [np.nan, np.nan]})
    assert only(frame, "expect_column_values_to_be_between", column="x", max_value=5).observed == (
        "no value to judge, all 2 are missing"
    )


def test_types_are_those_of_the_batch(tmp_path: Path) -> None:
    path = tmp_path / "types.parquet"
    columns: dict[str, Any] = {
        "small": pa.array([1, None, 3], pa.int16()),
        "text": pa.array(["a", "b", None]),
        "flag": pa.array([True, None, False]),
        "time": pa.array([dt.datetime(2020, 1, 1, tzinfo=dt.UTC)] * 3, pa.timestamp("us", "UTC")),
    }
    pq.write_table(pa.table(columns), path)
    types = {"small": "int16", "flag": "bool_", "time": "Timestamp", "text": "str"}
    checks = judge(
        path, *(("expect_column_values_to_be_of_type", {"column": k, "type_": v}) for k, v in types.items())
    ).checks
    assert [each.observed for each in checks if not each.passed] == []
    assert not only(path, "expect_column_values_to_be_of_type", column="small", type_="float64").passed
    assert only(path, "expect_column_type_to_be", column="small", type_="Int16").passed


@pytest.mark.parametrize("dtype", ["Int8", "Int64", "Float32", "Float64", "float32", "UInt16"])
def test_nullable_and_narrow_numbers_are_judged_as_numbers(dtype: str) -> None:
    values: list[Any] = [1, 2, 100] if dtype == "float32" else [1, None, 2, 100]
    frame = pd.DataFrame({"x": pd.Series(values, dtype=dtype)})
    check = only(frame, "expect_column_values_to_be_between", column="x", max_value=50)
    assert (check.unexpected, check.crashed) == (1, False)
    assert "such as 100" in check.observed
    assert only(frame, "expect_column_mean_to_be_between", column="x", max_value=50).passed
    assert only(frame, "expect_column_values_to_be_in_set", column="x", value_set=[1, 2, 100]).passed


def test_an_integer_too_wide_for_a_float_keeps_its_last_digit() -> None:
    frame = pd.DataFrame({"x": pd.Series([2**53 + 1, None, -(2**63)], dtype="Int64")})
    check = only(frame, "expect_column_values_to_be_in_set", column="x", value_set=[2**53, -(2**63)])
    assert check.unexpected == 1
    assert str(2**53 + 1) in check.observed


STRINGS: list[tuple[str, dict[str, Any]]] = [
    ("expect_column_values_to_be_in_set", {"value_set": ["2020", "2021"]}),
    ("expect_column_values_to_not_be_in_set", {"value_set": ["2020"]}),
    ("expect_column_values_to_be_unique", {}),
    ("expect_column_values_to_be_null", {}),
    ("expect_column_values_to_not_be_null", {}),
    ("expect_column_distinct_values_to_be_in_set", {"value_set": ["2020"]}),
    ("expect_column_distinct_values_to_contain_set", {"value_set": ["2020", "2021"]}),
    ("expect_column_distinct_values_to_equal_set", {"value_set": ["2020", "2021"]}),
    ("expect_column_unique_value_count_to_be_between", {"max_value": 2}),
    ("expect_column_proportion_of_unique_values_to_be_between", {"max_value": 0.5}),
    ("expect_column_proportion_of_non_null_values_to_be_between", {"min_value": 0.5}),
    ("expect_column_most_common_value_to_be_in_set", {"value_set": ["2020"]}),
    ("expect_column_values_to_match_regex", {"regex": "^2"}),
    ("expect_column_value_lengths_to_equal", {"value": 4}),
    ("expect_column_values_to_match_strftime_format", {"strftime_format": "%Y"}),
    ("expect_compound_columns_to_be_unique", {}),
]


@pytest.mark.parametrize("values", [["2020", "2021", None, "x", "2020"], ["2020", "x"]], ids=["repeats", "distinct"])
def test_encoded_strings_are_judged_as_strings(values: list[str | None], tmp_path: Path) -> None:
    plain = pd.DataFrame({"s": pd.Series(values, dtype=object), "n": range(len(values))})
    coded = plain.assign(s=pd.Categorical(plain["s"], categories=["2020", "2021", "x", "unused"]))
    plain.to_parquet(tmp_path / "plain.parquet", index=False)
    coded.to_parquet(tmp_path / "coded.parquet", index=False)
    rules = [(k, v | ({"column_list": ["s", "n"]} if "compound" in k else {"column": "s"})) for k, v in STRINGS]
    expected = judge(plain, *rules).checks
    assert not any(each.crashed for each in expected)
    for batch in (coded, tmp_path / "plain.parquet", tmp_path / "coded.parquet"):
        assert judge(batch, *rules).checks == expected


@pytest.mark.parametrize("bound", ["2020-06-01T00:00:00Z", "2020-06-01", dt.date(2020, 6, 1), dt.datetime(2020, 6, 1)])
@pytest.mark.parametrize("unit", ["s", "us", "ns"])
def test_times_with_a_zone(bound: object, unit: str, tmp_path: Path) -> None:
    times = pd.Series(pd.to_datetime(["2020-05-31T23:59:59Z", "2020-06-01T00:00:00Z", None])).dt.as_unit(unit)  # type: ignore[arg-type]
    pd.DataFrame({"t": times}).to_parquet(tmp_path / "t.parquet", index=False)
    check = only(tmp_path / "t.parquet", "expect_column_values_to_be_between", column="t", min_value=bound)
    assert (check.unexpected, check.crashed) == (1, False)
    assert "2020-05-31 23:59:59" in check.observed


@pytest.mark.parametrize("unit", ["s", "us", "ns"])
def test_times_without_a_zone(unit: str) -> None:
    frame = pd.DataFrame({"t": pd.Series(pd.to_datetime(["2020-05-31", "2020-06-01"])).dt.as_unit(unit)})  # type: ignore[arg-type]
    check = only(frame, "expect_column_values_to_be_between", column="t", min_value="2020-06-01")
    assert (check.unexpected, check.crashed) == (1, False)


def test_a_time_beyond_what_nanoseconds_hold_is_judged() -> None:
    frame = pd.DataFrame({"t": np.array(["2020-06-01", "9999-12-31"], dtype="datetime64[us]")})
    check = only(frame, "expect_column_values_to_be_between", column="t", max_value=dt.date(2030, 1, 1))
    assert (check.unexpected, check.crashed) == (1, False)
    assert "9999-12-31" in check.observed


def test_a_metric_that_crashed_has_not_passed(batch: pd.DataFrame | Path) -> None:
    rule = ("expect_column_values_to_match_regex", {"column": "plan", "regex": "("})
    checks = judge(
        batch,
        ("expect_column_values_to_match_regex", {"column": "plan", "regex": "a|b|z"}),
        rule,
        rule,
        ("expect_column_mean_to_be_between", {"column": "nowhere", "min_value": 0}),
        ("expect_column_mean_to_be_between", {"column": "plan", "min_value": 0}),
    ).checks
    assert [(each.passed, each.crashed) for each in checks] == [(True, False)] + [(False, True)] * 4
    assert "unterminated subpattern" in checks[1].observed
    assert "nowhere" in checks[3].observed


def test_a_row_condition_reads_the_columns_it_names(batch: pd.DataFrame | Path) -> None:
    column = {"name": "family"}
    condition = {"row_condition": {"type": "comparison", "column": column, "operator": "==", "parameter": 2}}
    check = only(batch, "expect_column_values_to_be_between", column="age", min_value=0, max_value=120, **condition)
    assert (check.unexpected, check.crashed) == (2, False)
    count = only(batch, "expect_table_row_count_to_equal", value=2, **condition)
    assert (count.passed, count.crashed) == (True, False)


# --- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kwargs", "problem"),
    [
        ("expect_column_values_to_be_betwen", {}, "did you mean 'expect_column_values_to_be_between'?"),
        ("ExpectColumnValueToBeUnique", {}, "did you mean 'ExpectColumnValuesToBeUnique'?"),
        ("nonsense", {}, "no such expectation"),
        ("expect_column_values_to_be_unique", {"colunm": "x"}, "no argument 'colunm'; did you mean 'column'?"),
        ("expect_column_values_to_be_unique", {}, "column: field required"),
        ("expect_column_values_to_be_unique", {"column": "x", "mostly": 2}, "mostly: ensure this value is less"),
        ("expect_column_values_to_be_unique", {"column": "x", "result_format": "COMPLETE"}, "no argument"),
        ("expect_column_values_to_be_between", {"column": "x"}, "min_value and max_value cannot both be None"),
        ("expect_column_values_to_be_between", {"column": "x", "min_value": [1]}, "min_value: value is not a valid"),
        ("expect_column_values_to_match_like_pattern", {"column": "x", "like_pattern": "a"}, "needs an SQL database"),
    ],
)
def test_a_wrong_suite_is_found_without_data(name: str, kwargs: dict[str, Any], problem: str) -> None:
    problems = check_names(suite((name, kwargs)))
    assert problems
    assert problems[0].startswith(f"{name}: ")
    assert problem in " ".join(problems)
    with pytest.raises(InvalidSpec, match=re.escape(problem)):
        judge(people(), (name, kwargs))


def test_a_right_suite_has_no_problem() -> None:
    assert check_names(suite(*((name, kwargs) for name, kwargs, _, _ in CASES))) == []


def test_empty_suite_and_empty_batch_are_no_success(tmp_path: Path) -> None:
    with pytest.raises(EmptySuite):
        judge(people())
    nothing = people().head(0)
    nothing.to_parquet(tmp_path / "nothing.parquet")
    for batch in (nothing, tmp_path / "nothing.parquet"):
        with pytest.raises(EmptyBatch):
            judge(batch, ("expect_table_row_count_to_be_between", {"min_value": 0}))


def test_two_columns_of_one_name_are_refused() -> None:
    frame = pd.DataFrame([[1, 2]], columns=["x", "x"])
    with pytest.raises(SchemaChanged):
        judge(frame, ("expect_column_values_to_be_unique", {"column": "x"}))


# --- evidence --------------------------------------------------------------------------------------


def test_failing_rows_are_whole_and_bounded(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": range(1000), "y": [None, "b"] * 500, "z": 1.5}, index=range(5000, 6000))
    frame.to_parquet(tmp_path / "f.parquet", index=False, row_group_size=100)
    rules: list[tuple[str, dict[str, Any]]] = [
        ("expect_column_values_to_be_between", {"column": "x", "min_value": 990}),
        ("expect_column_values_to_not_be_null", {"column": "y"}),
        ("expect_column_values_to_be_between", {"column": "x", "max_value": 998}),
    ]
    for batch in (frame, tmp_path / "f.parquet"):
        outcome = judge(batch, *rules, failing_rows=20)
        assert [each.unexpected for each in outcome.checks] == [990, 500, 1]
        failing = outcome.failing
        assert list(failing.columns) == ["failed_expectation", "row", "x", "y", "z"]
        assert len(failing) == 20
        assert failing["failed_expectation"].value_counts().to_dict() == {
            "expect_column_values_to_be_between(x)": 11,
            "expect_column_values_to_not_be_null(y)": 9,
        }
        assert list(failing["x"]) == list(failing["row"]) == [*range(10), *range(0, 18, 2), 999]
        assert failing["z"].eq(1.5).all()
        failing.to_parquet(tmp_path / "failing.parquet")


def test_rows_of_what_passed_are_not_kept() -> None:
    frame = pd.DataFrame({"x": [1] * 9 + [99]})
    rule = ("expect_column_values_to_be_between", {"column": "x", "max_value": 5, "mostly": 0.5})
    failing = judge(frame, rule).failing
    assert list(failing.columns) == ["failed_expectation", "row", "x"]
    assert len(failing) == 0
    assert len(judge(frame, (rule[0], rule[1] | {"mostly": 1})).failing) == 1
    assert len(judge(frame, (rule[0], rule[1] | {"mostly": 1}), failing_rows=0).failing) == 0


def test_batch_columns_named_like_ours_are_kept() -> None:
    frame = pd.DataFrame({"row": [7], "failed_expectation": ["mine"]})
    failing = judge(frame, ("expect_column_values_to_be_between", {"column": "row", "max_value": 5})).failing
    assert list(failing.columns) == ["failed_expectation", "row", "row (batch)", "failed_expectation (batch)"]
    assert failing["row (batch)"].to_list() == [7]


HOSTILE = "<script src=//evil.example>{0}</script>'\"&"


def test_hostile_names_and_values_stay_text(tmp_path: Path) -> None:
    frame = pd.DataFrame({HOSTILE: [HOSTILE, "fine"], "a.b": [1, 2], "a": [3, 4]})
    frame.to_parquet(tmp_path / "h.parquet", index=False)
    for batch in (frame, tmp_path / "h.parquet"):
        outcome = run(
            batch,
            suite(
                ("expect_column_values_to_be_in_set", {"column": HOSTILE, "value_set": ["fine"]}),
                ("expect_column_values_to_be_in_set", {"column": "a", "value_set": [3, 4]}),
                ("expect_column_values_to_be_in_set", {"column": "a.b", "value_set": [1]}),
            ),
            name=HOSTILE,
            title=HOSTILE,
        )
        assert [each.passed for each in outcome.checks] == [False, True, False]
        html = outcome.html.decode()
        assert "&lt;script src=//evil.example&gt;{0}&lt;/script&gt;" in html
        assert "<script" not in html


def test_the_page_loads_nothing_and_says_the_verdict(batch: pd.DataFrame | Path) -> None:
    html = judge(batch, *((name, kwargs) for name, kwargs, _, _ in CASES)).html.decode()
    assert not re.search(r"https?:|src=|href=|url\(|@import|<script|<link", html)
    assert "default-src 'none'" in html
    assert "<strong>stop</strong>" in html
    assert html.index("Failed: stop") < html.index("Passed") < html.index("Failing rows")
    warned = suite(("expect_column_values_to_not_be_null", {"column": "age"}), severity="warn")
    assert "<strong>passed, with warnings</strong>" in run(batch, warned, name="p", title="P").html.decode()


def test_observed_is_bounded() -> None:
    frame = pd.DataFrame({"s": ["long" * 1000, "x" * 5000], **{f"column {i}": 0 for i in range(300)}})
    checks = judge(
        frame,
        ("expect_column_values_to_be_in_set", {"column": "s", "value_set": ["y" * 5000] * 500}),
        ("expect_table_columns_to_match_set", {"column_set": [f"other {i}" for i in range(300)]}),
        ("expect_column_distinct_values_to_be_in_set", {"column": "s", "value_set": ["y" * 5000]}),
    ).checks
    assert not any(each.passed or each.crashed for each in checks)
    assert all(len(each.observed) <= 400 for each in checks)


def test_nothing_is_written_or_printed(
    batch: pd.DataFrame | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(work))
    monkeypatch.setattr("tempfile.tempdir", str(work))
    judge(batch, *((name, kwargs) for name, kwargs, _, _ in CASES))
    assert list(work.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_the_frame_is_left_alone() -> None:
    frame = people().set_index("id")
    before = frame.copy()
    judge(frame, ("expect_column_mean_to_be_between", {"column": "age", "min_value": 0}))
    pd.testing.assert_frame_equal(frame, before)
