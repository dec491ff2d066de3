"""The first steps of a pipeline: names, kinds, the model's own code, codes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from retrain.errors import DtypeChanged, FeatureCodeRefused, SchemaChanged
from retrain.modeling.features import PARTS, Codes, DateParts, FeatureFunction, Typed, code_digest

KINDS = {"plan": "category", "visits": "integer", "member": "boolean", "signup": "datetime", "id": "string"}


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "plan": pd.Categorical(["a", "b", None, "a"]),
            "visits": [1.0, np.nan, 3.0, 4.0],
            "member": [1.0, 0.0, np.nan, 1.0],
            "signup": pd.to_datetime(["2024-01-01T10:00Z", "2024-01-02T23:59Z", None, "2024-02-29T00:00Z"]),
            "id": ["x", "y", "z", "w"],
        }
    )


def own(code: str, adds: dict[str, str] | None = None, function: str = "build") -> FeatureFunction:
    return FeatureFunction(code, function, adds or {"double": "number"}, code_digest(code))


def test_columns_are_found_by_name(frame: pd.DataFrame) -> None:
    swapped = frame[list(frame.columns[::-1])].assign(later=1)
    pd.testing.assert_frame_equal(Typed(KINDS).transform(swapped), Typed(KINDS).transform(frame))


def test_a_request_is_read_like_a_stored_row(frame: pd.DataFrame) -> None:
    request = pd.DataFrame(
        {
            "id": ["x", "y"],
            "signup": ["2024-01-01T10:00:00Z", "2024-01-03T00:59:00+01:00"],
            "member": [True, False],
            "visits": [1, None],
            "plan": ["a", "b"],
        }
    )
    pd.testing.assert_frame_equal(
        Typed(KINDS).transform(request),
        Typed(KINDS).transform(frame.head(2)),
        check_categorical=False,
        check_dtype=False,
    )


@pytest.mark.parametrize("missing", ["plan", "signup"])
def test_a_missing_column_is_named(frame: pd.DataFrame, missing: str) -> None:
    with pytest.raises(SchemaChanged, match=missing):
        Typed(KINDS).transform(frame.drop(columns=missing))


def test_a_column_that_stands_twice_is_named(frame: pd.DataFrame) -> None:
    with pytest.raises(SchemaChanged, match="stands twice: plan"):
        Typed(KINDS).transform(pd.concat([frame, frame[["plan"]]], axis=1))


def test_an_array_has_no_names(frame: pd.DataFrame) -> None:
    with pytest.raises(SchemaChanged, match="without column names"):
        Typed(KINDS).transform(frame.to_numpy())


@pytest.mark.parametrize(("column", "value"), [("visits", "many"), ("visits", np.inf), ("signup", "soon")])
def test_a_value_of_another_kind_is_refused(frame: pd.DataFrame, column: str, value: object) -> None:
    with pytest.raises(DtypeChanged, match=column):
        Typed(KINDS).transform(frame.astype({column: object}).assign(**{column: [value, *[None] * 3]}))


def test_date_parts_are_utc(frame: pd.DataFrame) -> None:
    parts = DateParts({"signup": tuple(PARTS)}).fit_transform(frame[["signup"]])
    assert "signup" not in parts
    assert parts.iloc[1].to_dict() == {
        "signup_year": 2024,
        "signup_month": 1,
        "signup_day": 2,
        "signup_weekday": 1,
        "signup_hour": 23,
        "signup_minute": 59,
        "signup_dayofyear": 2,
        "signup_minuteofday": 1439,
    }
    assert parts.iloc[2].isna().all()


def test_what_is_rare_in_training_is_unknown_like_what_is_new() -> None:
    training = pd.DataFrame({"plan": pd.Categorical(["b"] * 50 + ["a"] * 40 + ["rare"] * 1)})
    step = Codes().fit(training)
    new = pd.DataFrame({"plan": pd.Categorical(["a", "b", "rare", "new", None])})
    assert step.transform(new).ravel().tolist() == [2, 1, 0, 0, -1]


def test_codes_do_not_follow_the_order_of_arrival() -> None:
    plans = ["b", "a"] * 10
    first = Codes().fit(pd.DataFrame({"plan": pd.Categorical(plans)}))
    second = Codes().fit(pd.DataFrame({"plan": pd.Categorical(plans[::-1], categories=["c", "b", "a"])}))
    assert first.known_["plan"].tolist() == second.known_["plan"].tolist() == ["a", "b"]


def test_own_features_are_added_and_nothing_else(frame: pd.DataFrame) -> None:
    code = (
        "def build(frame):\n"
        "    frame['visits'] = -1.0\n"
        "    frame['both'] = frame['id'] + '!'\n"
        "    frame['double'] = 2.0\n"
        "    return frame\n"
    )
    added = own(code, {"double": "number", "both": "category"}).fit_transform(frame)
    assert added["visits"].tolist()[:1] == [1.0]
    assert added["both"].astype(str).tolist() == ["x!", "y!", "z!", "w!"]
    assert list(added.columns) == [*frame.columns, "double", "both"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "def build(frame):\n    return frame.assign(double=frame['visits'].mean())",
            "'double' of .* is another in another batch of",
        ),
        (
            "def build(frame):\n    return frame.assign(double=frame['visits'].shift().fillna(0))",
            "'double' of .* is another in another batch of",
        ),
        (
            "def build(frame):\n    return frame.assign(double=0.0 if len(frame) > 1 else 1.0)",
            "alone",
        ),
        (
            "def build(frame):\n    return frame.assign(double=frame.index)",
            "'double' of .* is another in another batch of",
        ),
        ("def build(frame):\n    return frame.assign(double=len(frame) > 3)", r"of 2 row\(s\), such as row 3 of 4"),
        ("SEEN = []\ndef build(frame):\n    SEEN.append(1)\n    return frame.assign(double=len(SEEN))", "is another"),
        (
            "A = []\ndef build(frame):\n    A.append(frame['id'][0] == 'x')\n    return frame.assign(double=A[0])",
            "is another",
        ),
        ("import numpy\ndef build(frame):\n    return frame.assign(double=numpy.random.random())", "is another"),
        ("import sys\ndef build(frame):\n    sys.exit(3)", "failed: SystemExit: 3"),
        ("raise SystemExit('on import')", "failed: SystemExit: on import"),
        (
            "import re\nif hasattr(re, 'ran'): exit()\nre.ran = 1\ndef build(frame): return frame.assign(double=1.0)",
            "failed: SystemExit",
        ),
        ("def build(frame):\n    return frame.assign(double=1.0).head(1)", "returned 1"),
        ("def build(frame):\n    return frame.assign(double=1.0).sample(frac=1, random_state=3)", "reordered"),
        ("def build(frame):\n    return frame", "did not add double"),
        ("def build(frame):\n    return 1", "returned int"),
        ("def build(frame):\n    return frame.assign(double='much')", "broke its promise"),
        ("def build(frame):\n    return frame.assign(double=frame['visits'] / 0)", "broke its promise"),
        ("def build(frame):\n    return frame.assign(double=frame['churned'])", "KeyError"),
        ("def other(frame):\n    return frame", "no function"),
        ("def build(frame) return frame", "SyntaxError"),
        ("raise OSError('no disk')", "OSError"),
    ],
)
def test_own_features_that_break_their_promise(frame: pd.DataFrame, code: str, message: str) -> None:
    with pytest.raises(FeatureCodeRefused, match=message):
        own(code).fit(Typed(KINDS).transform(frame))


def test_a_category_and_a_blank_that_depend_on_the_batch(frame: pd.DataFrame) -> None:
    for value in ("frame['id'].iloc[0]", "frame['id'].where(frame['id'] != frame['id'].max())"):
        code = f"def build(frame):\n    return frame.assign(both={value})"
        with pytest.raises(FeatureCodeRefused, match=r"'both' of .* is another"):
            own(code, {"both": "category"}).fit(Typed(KINDS).transform(frame))


def test_rows_keep_the_index_that_they_came_with(frame: pd.DataFrame) -> None:
    rows = Typed(KINDS).transform(frame).set_axis([7, 7, 3, 1])
    added = own("def build(frame):\n    return frame.assign(double=frame['visits'])").fit_transform(rows)
    assert added.index.tolist() == [7, 7, 3, 1]
    assert added["double"].equals(rows["visits"].rename("double"))


def test_last_digits_and_shared_blanks_are_no_difference(frame: pd.DataFrame) -> None:
    code = "def build(frame):\n    return frame.assign(double=frame['visits'] / 3 + len(frame) * 1e-13)"
    added = own(code).fit_transform(Typed(KINDS).transform(frame))
    assert added["double"].isna().tolist() == [False, True, False, False]


def test_changed_code_is_not_run(frame: pd.DataFrame) -> None:
    step = own("def build(frame):\n    return frame.assign(double=1.0)")
    step.code += "\nraise SystemExit('it ran')"
    with pytest.raises(FeatureCodeRefused, match="digest"):
        step.transform(frame)
