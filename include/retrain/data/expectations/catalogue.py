"""The expectations that Great Expectations knows, and what is wrong with one that a spec names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from great_expectations.compatibility import pydantic
from great_expectations.expectations.expectation import Expectation as GxExpectation
from great_expectations.expectations.registry import (
    get_expectation_impl,
    list_registered_expectation_implementations,
)

# GX's own fields: what is evaluated and how it is reported is not the suite's to change.
_RESERVED = {"batch_id", "catch_exceptions", "id", "library_metadata", "meta", "rendered_content", "result_format"}
_RESERVED |= {"severity", "windows"}

_NEEDS_SQL = {
    "expect_column_values_to_match_like_pattern",
    "expect_column_values_to_match_like_pattern_list",
    "expect_column_values_to_not_match_like_pattern",
    "expect_column_values_to_not_match_like_pattern_list",
    "expect_query_results_to_match_comparison",
    "expect_table_row_count_to_equal_other_table",
    "unexpected_rows_expectation",
}


@dataclass(frozen=True)
class Expectation:
    """One GX expectation by its own name, in snake_case or CamelCase, with its own arguments.

    `stop` or `warn` is carried through to the `Check`; what it means is the caller's.
    """

    name: str
    kwargs: Mapping[str, Any]
    severity: Literal["stop", "warn"] = "stop"


def check_names(expectations: Sequence[Expectation]) -> list[str]:
    """List what is wrong with a suite, without data: names and arguments.

    >>> check_names([Expectation("expect_column_values_to_be_betwen", {"column": "age"})])
    ["expect_column_values_to_be_betwen: no such expectation; did you mean 'expect_column_values_to_be_between'?"]
    """
    return [f"{expectation.name}: {problem}" for expectation in expectations for problem in _problems(expectation)]


def _known() -> dict[str, type[GxExpectation]]:
    kinds = {name: get_expectation_impl(name) for name in list_registered_expectation_implementations()}
    return kinds | {kind.__name__: kind for kind in kinds.values()}


def build(expectation: Expectation) -> GxExpectation:
    """The library's own object of an expectation that `check_names` has nothing against."""
    return _known()[expectation.name](**expectation.kwargs)


def _problems(expectation: Expectation) -> list[str]:
    kind = _known().get(expectation.name)
    if kind is None:
        near = get_close_matches(expectation.name, _known(), n=1)
        return ["no such expectation" + (f"; did you mean {near[0]!r}?" if near else "")]
    if kind.expectation_type in _NEEDS_SQL:
        return ["needs an SQL database, the batch is a frame"]
    fields = [field for field in kind.__fields__ if field not in _RESERVED]
    problems = []
    for unknown in sorted(set(expectation.kwargs) - set(fields)):
        near = get_close_matches(unknown, fields, n=1) or [", ".join(sorted(fields))]
        problems.append(f"no argument {unknown!r}; did you mean {near[0]!r}?")
    try:
        kind(**{key: value for key, value in expectation.kwargs.items() if key in fields})
    except pydantic.ValidationError as error:
        # An argument fails once for every member of a union, and then the whole once more: the first says it.
        first = {str(each["loc"][0]): each["msg"] for each in reversed(error.errors())}
        whole = first.pop("__root__", None)
        problems += [f"{where}: {msg}" for where, msg in reversed(first.items())] or [str(whole)]
    return problems
