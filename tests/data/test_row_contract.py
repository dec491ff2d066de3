"""What the columns' contract says of single rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml

from retrain.data import row_contract
from retrain.spec import Spec, parse
from tests.conftest import churn_spec

LEAD = {"id": ["a", "b", "c", "d"], "signup": [pd.Timestamp("2024-01-05", tz="UTC")] * 4}


def spec_of(column: dict[str, Any]) -> Spec:
    data = churn_spec()
    data["columns"]["x"] = column
    return parse(yaml.safe_dump(data), "churn")


def broken(column: dict[str, Any], values: Any, **lead: Any) -> dict[str, list[int]]:
    """Rule → the places of the rows that break it."""
    broken = row_contract.breaches(spec_of(column), pa.table({**LEAD, **lead}), pd.DataFrame({"x": values}))
    return {rule: np.flatnonzero(mask).tolist() for rule, mask in broken.items()}


NUMBER, TEXT = {"type": "number"}, {"type": "category"}
NUMBERS, TEXTS = [1.0, np.nan, -2.0, 3.0], pd.Categorical(["red", None, "blue", "red7"])


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        pytest.param(NUMBER, NUMBERS, {"x: missing": [1]}, id="missing"),
        pytest.param({**NUMBER, "max_missing": 0.1}, NUMBERS, {}, id="some may be missing"),
        pytest.param({**NUMBER, "max_missing": 1, "min": 1}, NUMBERS, {"x: below 1": [2]}, id="below"),
        pytest.param({**NUMBER, "max_missing": 1, "max": 1}, NUMBERS, {"x: above 1": [3]}, id="above"),
        pytest.param(
            {**NUMBER, "min": 0, "max": 9},
            [np.inf, 1, -np.inf, 9],
            {"x: not finite": [0, 2]},
            id="infinite is neither below nor above",
        ),
        pytest.param(
            {**NUMBER, "min": 0, "severity": "warn"}, [-1, np.nan, np.inf, 1], {"x: not finite": [2]}, id="a warning"
        ),
        pytest.param(
            {"type": "integer", "values": [1, 3], "max_missing": 1},
            NUMBERS,
            {"x: not one of its values": [2]},
            id="whole numbers",
        ),
        pytest.param(
            {**TEXT, "values": ["red", "blue"], "max_missing": 1},
            TEXTS,
            {"x: not one of its values": [3]},
            id="texts",
        ),
        pytest.param(
            {**TEXT, "pattern": "^[a-z]+$"},
            TEXTS,
            {"x: missing": [1], "x: does not match its pattern": [3]},
            id="pattern",
        ),
        pytest.param(
            {"type": "string", "pattern": "d", "max_missing": 1},
            ["red", None, "blue", "red7"],
            {"x: does not match its pattern": [2]},
            id="a pattern may match anywhere",
        ),
        pytest.param(TEXT, pd.Categorical(["a", "b", "new", "c"]), {}, id="any category"),
        pytest.param({"type": "boolean"}, [0.0, np.nan, 1.0, 1.0], {"x: missing": [1]}, id="boolean"),
    ],
)
def test_rules_of_a_column(column: dict[str, Any], values: Any, expected: dict[str, list[int]]) -> None:
    assert broken(column, values) == expected


def test_key_and_time_are_there_and_the_key_is_one_rows_own() -> None:
    fine, moment = [1.0] * 4, LEAD["signup"][0]
    assert broken(NUMBER, fine) == {}
    assert broken(NUMBER, fine, id=["a", None, "a", None]) == {"id: missing": [1, 3], "id: repeated": [0, 2]}
    assert broken(NUMBER, fine, signup=[moment, None, moment, moment]) == {"signup: missing": [1]}


def test_the_same_rules_as_the_batch_is_held_against() -> None:
    """`validate` and scoring agree on each row, Great Expectations as the oracle."""
    from retrain.data import expectations
    from retrain.stages.validate import _of_column

    columns: dict[str, tuple[dict[str, Any], Any]] = {
        "range": ({**NUMBER, "min": 0, "max": 2, "max_missing": 1}, NUMBERS),
        "pattern": ({**TEXT, "pattern": "e$", "max_missing": 1}, ["red", None, "blue", "red7"]),
        "values": ({**TEXT, "values": ["red"], "max_missing": 1}, ["red", None, "blue", "red7"]),
    }
    for column, values in columns.values():
        spec = spec_of(column)
        suite = [
            rule
            for rule in _of_column("x", spec.columns["x"], needed=False, unique=False, key=False)
            if "type_list" not in rule.name
        ]
        judged = expectations.run(pd.DataFrame({"x": values}), suite, name="x", title="x")
        assert set(judged.failing["row"]) == {place for places in broken(column, values).values() for place in places}
