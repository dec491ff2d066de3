"""A suite of expectations evaluated on a batch, one group of columns at a time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import pandas as pd
from great_expectations.core.expectation_validation_result import ExpectationValidationResult
from great_expectations.data_context.data_context.ephemeral_data_context import EphemeralDataContext
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine
from great_expectations.expectations.expectation import Expectation as GxExpectation
from great_expectations.validator.validator import Validator

from retrain.data.expectations.catalogue import Expectation, build, check_names
from retrain.data.expectations.reading import BatchReader, Reading, reader_of
from retrain.data.expectations.report import EXAMPLES, arguments, bounded, observed, page
from retrain.errors import EmptyBatch, EmptySuite, InvalidSpec, SchemaChanged
from retrain.results import Check

_PLACE = "place"


_DOMAIN = ("column", "column_A", "column_B", "column_list")


_ABOUT_TYPES = {
    "expect_column_type_to_be",
    "expect_column_values_to_be_in_type_list",
    "expect_column_values_to_be_of_type",
}

# Those that give the same answer on dictionary-encoded strings; GX crashes on them in the others.
_ENCODED = {
    "expect_column_distinct_values_to_be_in_set",
    "expect_column_distinct_values_to_contain_set",
    "expect_column_distinct_values_to_equal_set",
    "expect_column_proportion_of_non_null_values_to_be_between",
    "expect_column_proportion_of_unique_values_to_be_between",
    "expect_column_unique_value_count_to_be_between",
    "expect_column_values_to_be_in_set",
    "expect_column_values_to_be_null",
    "expect_column_values_to_be_unique",
    "expect_column_values_to_not_be_in_set",
    "expect_column_values_to_not_be_null",
    "expect_compound_columns_to_be_unique",
}


@dataclass(frozen=True)
class SuiteResult:
    """What came of a suite on a batch.

    Attributes:
        checks: in the suite's order.
        html: a page for people.
        failing: at most `failing_rows` of the rows that failed, with the batch's columns after `failed_expectation` and
            `row` (its position in the batch, from 0); a row that failed twice stands there twice. A batch column of
            those names gets ` (batch)` appended.
    """

    checks: tuple[Check, ...]
    html: bytes
    failing: pd.DataFrame


def run(
    batch: pd.DataFrame | Path, expectations: Sequence[Expectation], *, name: str, title: str, failing_rows: int = 200
) -> SuiteResult:
    """Evaluate a suite on a frame or a Parquet file.

    Integers of other widths, nullable numbers and other time units reach GX as float64, int64 and
    datetime64[ns], save where the type itself is expected. A bound without a zone is UTC where the column has
    one. An expectation that crashed has not passed.

    Args:
        batch: a frame, or the path of a Parquet file.
        expectations: the suite.
        name: of the suite.
        title: of the page.
        failing_rows: how many of the rows that failed are kept.

    Raises:
        EmptySuite: nothing to evaluate.
        EmptyBatch: no rows, on which GX calls everything a success.
        InvalidSpec: `check_names` has something to say.
        SchemaChanged: two columns of one name.
    """
    if not expectations:
        raise EmptySuite(f"the suite {name!r} has no expectation", do="declare what a sound batch looks like")
    if problems := check_names(expectations):
        raise InvalidSpec(bounded("; ".join(problems), 2000), do="mend the expectations in the model's spec")
    source = reader_of(batch)
    if not source.rows:
        raise EmptyBatch(f"no rows to judge by the suite {name!r}", do="deliver the batch again")
    if len(set(source.columns)) < len(source.columns):
        raise SchemaChanged("two columns have the same name", do="deliver the batch with distinct column names")

    built = [build(each) for each in expectations]
    groups: dict[tuple[tuple[str, ...] | None, Reading], list[int]] = {}
    for i, expectation in enumerate(built):
        groups.setdefault(_needs(expectation, source.columns), []).append(i)
    checks: dict[int, Check] = {}
    failed: dict[int, list[int]] = {}
    for (columns, reading), members in groups.items():
        frame = source.names() if columns is None else source.part(columns, reading)
        for i, result in zip(members, _validate(frame, [built[i] for i in members], failing_rows), strict=True):
            checks[i] = _check(expectations[i], built[i], result, source.rows)
            if not checks[i].passed and isinstance(rows := result.result.get("unexpected_rows"), pd.DataFrame):
                failed[i] = [int(row) for row in rows.index[:failing_rows]]
        del frame

    ordered = tuple(checks[i] for i in range(len(built)))
    words = [arguments(each.configuration.kwargs) for each in built]
    failing = _failing(source, ordered, failed, failing_rows)
    return SuiteResult(
        ordered, page(name, title, source.rows, list(zip(ordered, words, strict=True)), failing), failing
    )


# --- columns ---------------------------------------------------------------------------------------


def _needs(expectation: GxExpectation, columns: Sequence[str]) -> tuple[tuple[str, ...] | None, Reading]:
    """The columns that an expectation reads, and how; None where names and the row count are enough."""
    kind = expectation.expectation_type
    condition = getattr(expectation, "row_condition", None)
    domain = _domain(expectation)
    if not domain:
        own = type(expectation).__module__.startswith("great_expectations.")
        return (None, "typed") if own and not condition else (tuple(columns), "plain")
    if condition:
        # A condition names its columns somewhere in its text; one too many costs a copy, one too few a crash.
        text = str(condition)
        domain += [each for each in columns if each in text or repr(each)[1:-1] in text]
    reading: Reading = "typed" if kind in _ABOUT_TYPES else "encoded" if kind in _ENCODED and not condition else "plain"
    return tuple(each for each in dict.fromkeys(domain) if each in columns), reading


def _domain(expectation: GxExpectation) -> list[str]:
    keys = ("column",) if expectation.expectation_type == "expect_column_type_to_be" else expectation.domain_keys
    domain = [getattr(expectation, key) for key in _DOMAIN if key in keys and hasattr(expectation, key)]
    return [name for each in domain for name in ([each] if isinstance(each, str) else each)]


# --- evaluating ------------------------------------------------------------------------------------


def _validate(
    frame: pd.DataFrame, expectations: Sequence[GxExpectation], failing_rows: int
) -> list[ExpectationValidationResult]:
    # `gx.get_context` would add a docs site with a temporary folder, and progress bars on stderr.
    quiet = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(),
        progress_bars=ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )
    context = EphemeralDataContext(project_config=quiet)
    validator = Validator(PandasExecutionEngine(batch_data_dict={"batch": frame}), data_context=context)
    # BASIC stops at the partial count, where COMPLETE would list every failing row.
    partial = max(failing_rows, EXAMPLES)
    basic = {"result_format": "BASIC", "include_unexpected_rows": True, "partial_unexpected_count": partial}
    configurations = [each.configuration for each in expectations]
    for i, configuration in enumerate(configurations):
        configuration.meta = {_PLACE: i}
        if (column := configuration.kwargs.get("column")) in frame:
            _clocked(configuration.kwargs, frame[column])
    results = validator.graph_validate(
        configurations=configurations, runtime_configuration={"result_format": basic, "catch_exceptions": True}
    )
    # GX gives those that crashed first, whatever the order they were given in.
    placed: dict[int, ExpectationValidationResult] = {}
    for result in results:
        assert result.expectation_config is not None
        placed.setdefault(result.expectation_config.meta[_PLACE], result)
    return [placed[i] for i in range(len(expectations))]


def _clocked(kwargs: dict[str, Any], column: pd.Series[Any]) -> None:
    """Bounds as times of the column's kind: a date is its midnight, and what has no zone is UTC."""
    if not pd.api.types.is_datetime64_any_dtype(column):
        return
    for key in ("min_value", "max_value"):
        if isinstance(kwargs.get(key), dt.date):
            bound = pd.Timestamp(kwargs[key])
            zoneless = bound.tzinfo is None and isinstance(column.dtype, pd.DatetimeTZDtype)
            kwargs[key] = (bound.tz_localize("UTC") if zoneless else bound).to_pydatetime()


def _check(expectation: Expectation, built: GxExpectation, result: ExpectationValidationResult, rows: int) -> Check:
    crash, facts, success = _crash(result.exception_info or {}), result.result, bool(result.success)
    if crash is None:
        text = observed(built.expectation_type, built.configuration.kwargs, facts, success=success)
    else:
        text = f"could not be evaluated: {crash}"
    return Check(
        expectation=built.expectation_type,
        column=", ".join(_domain(built)) or getattr(built, "column", None),
        severity=expectation.severity,
        passed=crash is None and success,
        observed=bounded(text),
        unexpected=int(facts.get("unexpected_count") or 0),
        rows=int(facts.get("element_count") or rows),
        crashed=crash is not None,
    )


def _crash(info: Mapping[str, Any]) -> str | None:
    """The reason, from either shape: one entry, or one per metric that the expectation rests on."""
    for entry in [info] if "raised_exception" in info else info.values():
        if entry["raised_exception"]:
            return str(entry["exception_message"]).removeprefix("Error: ") or "no reason given"
    return None


def _failing(
    source: BatchReader, checks: Sequence[Check], failed: Mapping[int, Sequence[int]], limit: int
) -> pd.DataFrame:
    """The first rows of each failed check in turn, so that one bad column does not crowd out the others."""
    turns = zip_longest(*([(i, row) for row in rows] for i, rows in failed.items()))
    picked = sorted(islice((pair for turn in turns for pair in turn if pair is not None), limit))
    rows = source.take([row for _, row in picked]).reset_index(drop=True)
    rows = rows.rename(columns={taken: f"{taken} (batch)" for taken in ("failed_expectation", "row")})
    rows.insert(0, "failed_expectation", [f"{checks[i].expectation}({checks[i].column or ''})" for i, _ in picked])
    rows.insert(1, "row", [row for _, row in picked])
    return rows
