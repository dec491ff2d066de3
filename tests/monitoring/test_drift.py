"""One test of distance per column, tests of all its rows, and a reason for whatever is undetermined."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from retrain.errors import DtypeChanged, InvalidSpec
from retrain.monitoring.drift import Kind, Limits, Role, compare
from retrain.results import ColumnDrift, Decision
from tests.drift_rows import KINDS, ROLES, flights


def judged(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    kinds: dict[str, Kind] = KINDS,
    roles: dict[str, Role] = ROLES,
    limits: Limits | None = None,
) -> tuple[Decision, dict[str, dict[str, ColumnDrift]]]:
    decision, columns, _, page = compare(reference, current, kinds, roles, limits or Limits(), seed=3, html=False)
    assert page is None
    rows_of: dict[str, dict[str, ColumnDrift]] = {}
    for row in columns:
        assert row.test not in rows_of.setdefault(row.column, {}), "one judge per column and test"
        rows_of[row.column][row.test] = row
    return decision, rows_of


def judge_column(before: object, now: object, kind: Kind, **limits: float) -> dict[str, ColumnDrift]:
    tables = (pd.DataFrame({"x": values}) for values in (before, now))
    return judged(*tables, {"x": kind}, {}, replace(Limits(), **limits))[1]["x"]


@pytest.mark.parametrize("seed", range(6))
def test_the_same_distribution_is_stable(seed: int) -> None:
    decision, verdicts = judged(flights(seed), flights(100 + seed))
    assert decision.verdict == "stable"
    assert {row.verdict for rows in verdicts.values() for row in rows.values()} == {"stable"}


def test_a_shift_of_most_features_is_drift_and_names_the_strongest_first() -> None:
    now = flights(1).assign(delay=lambda t: t["delay"] + 0.5, price=lambda t: t["price"] * 50)
    decision, verdicts = judged(flights(0), now)
    assert decision.verdict == "drift"
    assert verdicts["price"]["ks_distance"].verdict == verdicts["delay"]["ks_distance"].verdict == "drift"
    assert decision.reasons[0].startswith("2 of 3 features drifted (67% of importance, limit 10%): price (ks_distance")


def test_a_changed_mix_of_categories_is_drift() -> None:
    row = judge_column(["a", "b", "c", "d"] * 100, ["a", "a", "a", "b", "c", "d"] * 100, "category")["jensenshannon"]
    assert row.verdict == "drift"
    assert row.statistic is not None
    assert row.threshold is not None
    assert row.statistic > row.threshold >= 0.1


def test_one_important_feature_is_drift_of_the_batch_and_unimportant_ones_are_not() -> None:
    names: dict[str, Kind] = {f"x{i}": "number" for i in range(12)}
    rng = np.random.default_rng(0)
    before, now = (pd.DataFrame(rng.normal(size=(400, 12)), columns=list(names)) for _ in range(2))
    now[["x0", "x1"]] += 3
    for weights, expected, part in (
        (None, "drift", 2 / 12),
        (dict.fromkeys(names, 2.0), "drift", 2 / 12),
        ({name: 1.0 - (name in ("x0", "x1")) * 0.9 for name in names}, "stable", 0.2 / 10.2),
        ({"x0": 0.3, "x2": 1.0}, "drift", 0.3 / 1.3),
        ({"x2": 1.0, "x0": -1.0}, "stable", 0.0),
    ):
        decision, columns, share, _ = compare(before, now, names, {}, Limits(), seed=0, html=False, weights=weights)
        assert (decision.verdict, share) == (expected, pytest.approx(part))
        assert decision.reasons[0].startswith("2 of 12 features drifted")
        assert "x0 (ks_distance" in decision.reasons[0]
        if weights:
            worth = {row.column: row.weight for row in columns}
            assert worth["x0"] == pytest.approx(
                max(weights["x0"], 0) / sum(max(weight, 0) for weight in weights.values()), abs=1e-6
            )
        else:
            assert {row.weight for row in columns} == {None}


def test_a_batch_whose_important_feature_is_unknown_is_undetermined() -> None:
    now = flights(1).assign(delay=np.nan)
    weights = {"delay": 3.0, "price": 1.0}
    decision, columns, _, _ = compare(
        flights(0).assign(delay=np.nan), now, KINDS, ROLES, Limits(), seed=0, html=False, weights=weights
    )
    assert decision.verdict == "undetermined"
    assert columns[0].weight == 0.75


@pytest.mark.parametrize("role", ["prediction", "target"])
def test_a_drifted_prediction_or_target_is_drift_by_itself(role: Role) -> None:
    decision, _ = judged(flights(0), flights(1).assign(score=lambda t: t["score"] ** 4), roles={"score": role})
    assert decision.verdict == "drift"
    assert decision.reasons[0].startswith(f"the {role} drifted: score")


def test_the_reasons_are_bounded() -> None:
    names: dict[str, Kind] = {f"x{i}": "number" for i in range(17)}
    before, now = (pd.DataFrame(dict.fromkeys(names, np.arange(300) + shift)) for shift in (0, 200))
    decision, _ = judged(before, now, names, {})
    assert decision.reasons[0].endswith(", … and 12 more")


# --- the whole table


def test_values_that_went_missing_are_drift() -> None:
    before, now = flights(0), flights(1)
    before.loc[before.index % 50 == 0, "delay"] = np.nan
    now.loc[now.index % 10 < 6, "delay"] = np.nan
    row = judged(before, now)[1]["delay"]
    assert row["missing"].verdict == "drift"
    assert row["missing"].reason.endswith("; 2.0% of the reference and 60.0% of the batch are missing or infinite")
    assert row["ks_distance"].verdict == "stable"


def test_the_target_has_no_missing_test() -> None:
    now = flights(1).assign(score=lambda t: t["score"].where(t.index % 2 == 0))
    decision, verdicts = judged(flights(0), now, roles={"score": "target"})
    assert decision.verdict == "stable"
    assert list(verdicts["score"]) == ["ks_distance"]


def test_a_new_category_at_one_percent_is_found_though_the_distance_is_small() -> None:
    before, now = (np.tile(["AA", "B6", "DL", "UA"], 1_250).astype(object) for _ in range(2))
    now[::100] = "ZZ"
    rows = judge_column(before, now, "category")
    assert rows["jensenshannon"].verdict == "stable"
    assert rows["new categories"].verdict == "drift"
    assert rows["new categories"].statistic == 0.01
    assert "'ZZ'" in rows["new categories"].reason


def test_a_long_tail_of_rare_categories_is_no_news() -> None:
    rng = np.random.default_rng(5)
    before, now = (rng.zipf(1.7, 2_000).astype(str) for _ in range(2))
    assert judge_column(before, now, "category")["new categories"].verdict == "stable"


def test_a_category_that_training_knew_is_not_new() -> None:
    before, now = (pd.DataFrame({"x": ["a", "b"] * 500}) for _ in range(2))
    now.iloc[:100] = "c"
    for known, expected in (({"a", "b"}, True), ({"a", "b", "c"}, False)):
        columns = compare(before, now, {"x": "category"}, {}, Limits(), seed=0, html=False, known={"x": known})[1]
        assert any(row.test == "new categories" and row.verdict == "drift" for row in columns) is expected


def test_news_in_a_long_tail_is_found_where_all_of_training_is_known() -> None:
    rng = np.random.default_rng(5)
    tail = [str(number) for number in range(5_000)]
    before, now = (pd.DataFrame({"x": rng.choice(tail, 1_000)}) for _ in range(2))
    now.iloc[:50] = "ZZ"
    for known, expected in ({"x": set(tail)}, "drift"), ({}, "stable"):
        columns = compare(before, now, {"x": "category"}, {}, Limits(), seed=0, html=False, known=known)[1]  # type: ignore[arg-type]
        assert next(row for row in columns if row.test == "new categories").verdict == expected


def test_many_levels_are_compared_by_the_frequent_ones() -> None:
    rng = np.random.default_rng(0)
    before, now = (rng.integers(0, 3_000, 2_000).astype(str) for _ in range(2))
    assert judge_column(before, now, "category")["jensenshannon"].verdict == "stable"
    now[:600] = "7"
    assert judge_column(before, now, "category")["jensenshannon"].verdict == "drift"


def test_too_many_levels_for_so_few_rows_is_undetermined() -> None:
    rng = np.random.default_rng(0)
    before, now = (rng.permutation(np.arange(200) % 100).astype(str) for _ in range(2))
    row = judge_column(before, now, "category", min_rows=60, sample=60)["jensenshannon"]
    assert row.verdict == "undetermined"
    assert "too few values for so many levels" in row.reason


# --- undetermined


def test_a_column_constant_on_both_sides_is_undetermined() -> None:
    decision, verdicts = judged(flights(0).assign(delay=1.5), flights(1).assign(delay=1.5))
    assert verdicts["delay"]["constant"].verdict == "undetermined"
    assert verdicts["delay"]["constant"].reason == "always 1.5 on both sides"
    assert decision.verdict == "stable"
    assert decision.reasons[-1] == "undetermined: delay (always 1.5 on both sides)"


@pytest.mark.parametrize(("column", "value"), [("delay", 0.0), ("carrier", "AA")])
def test_a_column_that_became_constant_is_drift(column: str, value: object) -> None:
    before = flights(0)
    before.loc[before.index % 5 > 0, column] = value
    row = judged(before, flights(1).assign(**{column: value}))[1][column]["constant"]
    assert row.verdict == "drift"
    assert (f"always {value!r} in the batch" if column == "carrier" else "always 0 in the batch") in row.reason


def test_a_constant_batch_of_an_almost_constant_reference_is_chance() -> None:
    before = np.zeros(1_000)
    before[:10] = 1
    assert judge_column(before, np.zeros(200), "number")["constant"].verdict == "stable"


def test_two_different_constants_are_drift() -> None:
    assert judge_column([1e17] * 300, [2.0] * 300, "number")["ks_distance"].statistic == 1
    assert judge_column(["a"] * 300, ["b"] * 300, "category")["jensenshannon"].verdict == "drift"


@pytest.mark.parametrize("rows", [0, 3, 199])
@pytest.mark.parametrize("side", ["reference", "batch"])
def test_too_few_rows_are_undetermined(rows: int, side: str) -> None:
    tables = [flights(0), flights(1)]
    tables[side == "batch"] = tables[side == "batch"].head(rows)
    decision, columns, share, page = compare(*tables, KINDS, ROLES, Limits(), seed=0)
    assert decision == Decision(
        verdict="undetermined", reasons=(f"{rows} rows in the {side}, at least 200 are needed",)
    )
    assert share is None
    assert [row.column for row in columns] == list(KINDS)
    assert {row.verdict for row in columns} == {"undetermined"}
    assert page is not None
    assert f"{rows} rows in the {side}" in page.decode()


@pytest.mark.parametrize("column", ["delay", "carrier"])
def test_a_column_without_values_is_undetermined_and_its_loss_is_drift(column: str) -> None:
    empty = flights(1).assign(**{column: np.nan})
    lost = judged(flights(0), empty)[1][column]
    assert [row.verdict for row in lost.values()] == ["undetermined", "drift"]
    assert lost["missing"].statistic == 1
    both = judged(empty, empty)[1][column]
    assert next(iter(both.values())).verdict == "undetermined"
    assert both["missing"].verdict == "stable"


def test_few_values_in_a_large_table_are_undetermined() -> None:
    values = np.full(1_000, np.nan)
    values[:150] = np.arange(150)
    row = judge_column(values, values, "number")["ks_distance"]
    assert (row.verdict, row.reason) == ("undetermined", "only 150 values of at least 200 in a side")


def test_the_sample_is_drawn_from_the_values_that_are_there() -> None:
    values = np.full(20_000, np.nan)
    values[::50] = np.arange(400)
    row = judge_column(values, values, "number", sample=300)["ks_distance"]
    assert row.verdict == "stable"
    assert row.reason.endswith("300 against 300 values")


def test_an_absent_column_is_undetermined_and_an_extra_one_not_read() -> None:
    decision, verdicts = judged(flights(0).assign(extra=np.nan), flights(1).drop(columns=["delay"]))
    assert verdicts["delay"]["ks_distance"].reason == "not in the batch"
    assert list(verdicts) == list(KINDS)
    assert decision.verdict == "stable"


def test_nothing_determined_is_undetermined() -> None:
    constant = pd.DataFrame({"a": [1] * 300, "b": ["x"] * 300})
    decision, _ = judged(constant, constant, {"a": "number", "b": "category"}, {})
    assert decision.verdict == "undetermined"
    assert judged(constant, constant, {}, {})[0].reasons == ("no column to compare",)


# --- values and types that trip the library


def test_an_infinite_value_counts_as_missing_and_flips_nothing() -> None:
    now = flights(1)
    now.loc[0, "delay"] = np.inf
    now.loc[1, "delay"] = -np.inf
    rows = judged(flights(0), now)[1]["delay"]
    assert rows["ks_distance"].verdict == rows["missing"].verdict == "stable"
    assert rows["missing"].statistic == pytest.approx(2 / 600, abs=1e-6)


@pytest.mark.parametrize(
    ("base", "step"), [(1e16, 2.0), (0.0, 1e305), (0.0, 1e-320), (1.0, 1e-14), (1.6e18, 3.6e12), (-1e300, 1e297)]
)
def test_hostile_magnitudes_are_compared(base: float, step: float) -> None:
    values = base + step * np.arange(400)
    assert judge_column(values, values, "number")["ks_distance"].statistic == 0
    assert judge_column(values[:300], values[100:], "number")["ks_distance"].statistic == pytest.approx(1 / 3, abs=1e-6)


def test_one_outlier_is_no_drift() -> None:
    now = flights(1)
    now.loc[0, "price"] = 1e12
    assert judged(flights(0), now)[1]["price"]["ks_distance"].verdict == "stable"


@pytest.mark.parametrize("dtype", ["int8", "float32", "Int64", "Float64", "int64[pyarrow]", "double[pyarrow]"])
def test_every_number_type_is_judged(dtype: str) -> None:
    before, now = (pd.Series(np.arange(400) % 100).astype(dtype) for _ in range(2))
    assert judge_column(before, now, "number")["ks_distance"].statistic == 0
    assert judge_column(before, now // 2, "number")["ks_distance"].statistic == 0.5


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "double[pyarrow]"])
def test_nulls_of_extension_types_are_missing(dtype: str) -> None:
    values = pd.Series([None, 1, 2, 3] * 100, dtype=dtype)
    rows = judge_column(values, values, "number")
    assert "25.0% of the reference" in rows["missing"].reason
    assert rows["ks_distance"].statistic == 0


@pytest.mark.parametrize("dtype", ["bool", "boolean", "bool[pyarrow]"])
@pytest.mark.parametrize("kind", ["number", "category"])
def test_booleans_are_either(dtype: str, kind: Kind) -> None:
    before, now = (pd.Series(np.arange(400) % period == 0).astype(dtype) for period in (2, 8))
    first = next(iter(judge_column(before, before, kind).values()))
    assert (first.statistic, first.verdict) == (0, "stable")
    assert next(iter(judge_column(before, now, kind).values())).verdict == "drift"


@pytest.mark.parametrize("dtype", [object, "string", "string[pyarrow]", "category"])
def test_every_text_type_is_judged(dtype: str) -> None:
    before, now = (pd.Series(["a", "b", None, "c"] * 100).astype(dtype) for _ in range(2))  # type: ignore[call-overload]
    rows = judge_column(before, now, "category")
    assert rows["jensenshannon"].statistic == 0
    assert "25.0%" in rows["missing"].reason
    assert judge_column(before, now.iloc[[0, 0, 0, 1] * 100], "category")["jensenshannon"].verdict == "drift"


def test_categories_meet_by_value_whatever_holds_them() -> None:
    whole, filled = pd.Series([1, 2, 3] * 100), pd.Series([1.0, 2.0, 3.0, np.nan] * 100)
    coded = pd.Series(pd.Categorical(["3", "1", "2"] * 100, categories=["0", "2", "1", "unused", "3"]))
    for other in (filled, coded, whole.astype("Int64"), whole.astype(str)):
        rows = judge_column(whole, other, "category")
        assert rows["jensenshannon"].statistic == 0
        assert "new categories" not in rows


def test_text_where_a_number_was_declared_is_refused() -> None:
    with pytest.raises(DtypeChanged, match="x is compared as a number and is object"):
        judge_column(["1"] * 300, [1.0] * 300, "number")


# --- limits


def test_a_limit_of_ones_own_and_the_floor_of_chance() -> None:
    before, now = flights(0), flights(1).assign(delay=lambda t: t["delay"] + 0.5)
    limits = Limits(per_column={"delay": 0.9, "price": 0.0001})
    verdicts = judged(before, now, limits=limits)[1]
    assert verdicts["delay"]["ks_distance"].threshold == 0.9
    assert verdicts["delay"]["ks_distance"].verdict == verdicts["price"]["ks_distance"].verdict == "stable"
    row = verdicts["price"]["ks_distance"]
    assert row.statistic is not None
    assert row.threshold is not None
    assert row.p_value is not None
    assert 0.0001 < row.statistic < row.threshold
    assert row.p_value > 0.01
    assert f"chance gives up to {row.threshold:.3f}" in row.reason


def test_a_sure_change_below_the_floor_is_no_drift() -> None:
    rng = np.random.default_rng(0)
    before, now = rng.normal(size=60_000), rng.normal(0.15, 1, size=60_000)
    row = judge_column(before, now, "number", sample=60_000)["ks_distance"]
    assert (row.verdict, row.threshold) == ("stable", 0.1)
    assert row.p_value is not None
    assert row.p_value < 1e-20
    assert judge_column(before, now, "number", sample=60_000, effect=0.05)["ks_distance"].verdict == "drift"


def test_all_tests_of_all_columns_share_the_level() -> None:
    """Holm: the same column is drift among few others and chance among many."""
    rng = np.random.default_rng(2)
    names: dict[str, Kind] = {f"x{i}": "number" for i in range(60)}
    before, now = (pd.DataFrame(rng.normal(size=(300, 60)), columns=list(names)) for _ in range(2))
    now["x0"] += 0.4
    few = judged(before, now, {"x0": "number"}, {})[1]["x0"]["ks_distance"]
    many = judged(before, now, names, {})[1]["x0"]["ks_distance"]
    assert few.p_value == many.p_value
    assert (few.verdict, many.verdict) == ("drift", "stable")
    assert few.threshold is not None
    assert many.threshold is not None
    assert few.threshold < many.threshold


@pytest.mark.parametrize("limits", [Limits(per_column={"nobody": 0.1}), Limits(min_rows=500, sample=300)])
def test_limits_that_make_no_sense_are_refused(limits: Limits) -> None:
    with pytest.raises(InvalidSpec):
        judged(flights(0), flights(1), limits=limits)


# --- the page and the bytes


def test_the_page_agrees_with_the_verdicts() -> None:
    now = flights(1).assign(delay=lambda t: t["delay"] + 0.5, carrier="AA")
    decision, columns, _, page = compare(flights(0), now, KINDS, ROLES, Limits(), seed=0)
    assert page is not None
    text = page.decode()
    assert f"<h1>Data drift: {decision.verdict}</h1>" in text
    judges = [row for row in columns if row.test in ("ks_distance", "jensenshannon")]
    assert {row.verdict for row in judges} == {"drift", "stable"}
    by_evidently = dict(
        re.findall(r"Drift in column '(\w+)'\", \"label\": \"Data drift (detected|not detected)\.", text)
    )
    assert by_evidently == {row.column: "detected" if row.verdict == "drift" else "not detected" for row in judges}
    for row in columns:
        assert row.reason.replace("'", "&#x27;") in text


def test_labels_and_names_do_not_run_in_the_page() -> None:
    evil = "</script><script>alert(1)</script>"
    tables = [pd.DataFrame({evil: ["a", evil, "b<i>"] * 100, "b": range(300)}) for _ in range(2)]
    tables[1].iloc[:50, 0] = evil + "2"
    _, columns, _, page = compare(*tables, {evil: "category", "b": "number"}, {}, Limits(), seed=0)
    assert columns[0].column == evil
    assert page is not None
    places = [page[hit.start() - 18 : hit.start()] for hit in re.finditer(rb"alert\(1\)", page)]
    assert places
    assert all(place.endswith((rb"\u2039script\u203a", b"&lt;script&gt;")) for place in places)


def test_same_inputs_same_bytes() -> None:
    rng = np.random.default_rng(0)
    before, now = (flights(seed, 3_000).assign(tail=rng.integers(0, 500, 3_000).astype(str)) for seed in (0, 1))
    kinds: dict[str, Kind] = {**KINDS, "tail": "category"}

    def bytes_of(seed: int) -> list[str]:
        decision, columns, share, _ = compare(before, now, kinds, ROLES, Limits(sample=1_000), seed=seed, html=False)
        return [decision.to_json(), *(row.to_json() for row in columns), repr(share)]

    assert bytes_of(0) == bytes_of(0) != bytes_of(1)
