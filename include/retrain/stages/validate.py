"""Hold the batch against its contract: a Great Expectations suite made of the spec.

A breach with severity `stop` quarantines the batch: the evidence is kept, the run fails with one message, and
nothing downstream runs until the batch is delivered again or a person releases these very bytes.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from statistics import median
from typing import Any, Literal

from retrain.data import expectations
from retrain.data.expectations import Expectation
from retrain.errors import InvalidSpec, Quarantined
from retrain.rendering.csv import csv_bytes
from retrain.results import AcceptedBatch, Batch, Check, Decision, IngestReport, ValidateReport
from retrain.spec import Column, Spec
from retrain.state.run import Run
from retrain.state.store import json_digest

log = logging.getLogger(__name__)

SHOWN = 8
"""How many failures a message names."""
HISTORY, LEAST_HISTORY = 6, 3
"""Batches that a row count is held against, and how many there have to be."""
FEWER, MORE = 0.6, 2.0
"""Shares of the usual rows a day outside which it is told."""
PAGE, ROWS = "quality.html", "failing_rows.csv"

# Where the library has a name for the column's own type; ingest has refused the rest already.
_TYPES = {"integer": ["int64", "Int64Dtype"], "number": ["float64"], "boolean": ["bool", "BooleanDtype"]}


def validate(run: Run) -> ValidateReport:
    """Judge the batch that this run ingested: accept or quarantine.

    Raises:
        Quarantined: a check with severity `stop` failed, or could not be evaluated; the report lies in the run's
            folder all the same.
        InvalidSpec: an expectation that the library does not know, or that does not fit its column.
        SnapshotCorrupt: the file is not the one that was ingested.
    """
    batch = run.read(IngestReport, "ingest").batch
    suite = list(contract(run.spec, batch))
    kept_rows = run.spec.quality.failing_rows
    digest = json_digest([(rule.name, rule.kwargs, rule.severity, kept_rows) for rule in suite])[:12]
    kept = f"{run.model}/quality/{run.interval.name}/{batch.sha256}-{digest}"
    if run.store.exists(f"{kept}.json"):
        log.info("found done: these bytes were held against this contract before")
    else:
        _judge(run, batch, suite, kept)
    report = _bring(run, kept, released=_released(run, batch))
    if unusual := unusual_row_count(batch, _earlier_batches(run)):
        warned = Decision(verdict=report.decision.verdict, reasons=(*report.decision.reasons, f"warning: {unusual}"))
        report = report.model_copy(update={"decision": warned, "unusual_row_count": unusual})
    run.ledger.append(
        run.model,
        "batch",
        f"{run.interval.name}/{batch.sha256}/{digest}" + ("/released" if report.released else ""),
        {
            "verdict": report.decision.verdict,
            "interval": run.interval.name,
            "sha256": batch.sha256,
            "rows": batch.rows,
            "released": report.released,
            "failed": [_described(check) for check in report.checks if not check.passed][:SHOWN],
        },
        effective_at=run.as_of,
        run=run.key,
    )
    if report.decision.verdict == "quarantine":
        # A stage that raises hands nothing on, and the evidence belongs to this run.
        run.write(report, "validate")
        raise _quarantined(run, report)
    return report


def _judge(run: Run, batch: Batch, suite: list[Expectation], kept: str) -> None:
    """Evaluate the suite and keep what came of it; the report last, so that it speaks of files that are there."""
    with run.store.verified(batch.key, batch.sha256) as file:
        result = expectations.run(
            file,
            suite,
            name=run.model,
            title=f"{run.model} · {run.interval.name}",
            failing_rows=run.spec.quality.failing_rows,
        )
    run.store.write(f"{kept}.html", result.html)
    if len(result.failing):
        run.store.write(f"{kept}.csv", csv_bytes(result.failing))
    stops = [check for check in result.checks if not check.passed and check.severity == "stop"]
    warns = [check for check in result.checks if not check.passed and check.severity == "warn"]
    reasons = _bounded([_described(check) for check in stops])
    reasons += _bounded([f"warning: {_described(check)}" for check in warns])
    report = ValidateReport(
        model=run.model,
        interval=run.interval,
        effective_at=run.as_of,
        decision=Decision(
            verdict="quarantine" if stops else "accept",
            reasons=tuple(reasons) or (f"{len(suite)} checks passed on {batch.rows:,} rows",),
        ),
        sha256=batch.sha256,
        checks=result.checks,
    )
    run.store.write(f"{kept}.json", report.to_json().encode())


def _bring(run: Run, kept: str, *, released: dict[str, Any] | None) -> ValidateReport:
    """The kept report as this run's own, its evidence in the run's folder."""
    report = run.store.read_report(ValidateReport, f"{kept}.json")
    run.store.write(run.path("validate", PAGE), run.store.read(f"{kept}.html"))
    changes: dict[str, Any] = {"html": run.path("validate", PAGE)}
    if run.store.exists(f"{kept}.csv"):
        run.store.write(run.path("validate", ROWS), run.store.read(f"{kept}.csv"))
        changes["failing_rows"] = run.path("validate", ROWS)
    if released and report.decision.verdict == "quarantine":
        reasons = (f"released by {released['user']}: {released['reason']}", *report.decision.reasons)
        changes |= {"released": True, "decision": Decision(verdict="accept", reasons=reasons)}
    return report.model_copy(update=changes)


def _earlier_batches(run: Run) -> list[Batch]:
    """The accepted batches of the intervals before, oldest first; of a revised one the newest revision."""
    batches = {}
    for record in run.ledger.records(run.model, "snapshot"):
        batch = AcceptedBatch.model_validate(record.body["accepted"]).batch
        if batch.interval.end <= run.interval.start:
            batches[batch.interval.start] = batch
    return [batches[start] for start in sorted(batches)]


def unusual_row_count(batch: Batch, earlier: Sequence[Batch]) -> str:
    """Say that a batch has far fewer or more rows a day than the batches before it; empty where it has not.

    A part of a delivery keeps every rule for its rows. Held against the median of the newest few batches, half a month
    is seen, and a season or growth is not.

    Args:
        batch: that was delivered.
        earlier: the accepted batches before it, oldest first.
    """
    if len(earlier) < LEAST_HISTORY:
        return ""
    usual = median(_rows_per_day(before) for before in earlier[-HISTORY:])
    now = _rows_per_day(batch)
    if FEWER * usual <= now <= MORE * usual:
        return ""
    return (
        f"{batch.rows:,} rows, {now:,.0f} a day; {usual:,.0f} a day is the median of the {len(earlier[-HISTORY:])}"
        f" intervals before: see whether the delivery is {'whole' if now < usual else 'one delivery'}"
    )


def _rows_per_day(batch: Batch) -> float:
    return batch.rows / ((batch.interval.end - batch.interval.start) / timedelta(days=1))


def _released(run: Run, batch: Batch) -> dict[str, Any] | None:
    record = run.ledger.find(run.model, "release", f"{run.interval.name}/{batch.sha256}")
    return record.body if record else None


def _quarantined(run: Run, report: ValidateReport) -> Quarantined:
    call = f"python -m retrain release {run.model} --interval {run.interval.name} --reason …"
    return Quarantined(
        "\n  ".join([f"the batch of {run.interval} broke its contract", *report.decision.reasons]),
        do=f"see {report.html}; deliver the batch again, or let these very bytes through: {call}",
    )


def _described(check: Check) -> str:
    where = f"{check.column}: " if check.column else ""
    return f"{where}{check.expectation.removeprefix('expect_')}: {check.observed}"


def _bounded(reasons: list[str]) -> list[str]:
    return reasons[:SHOWN] + ([f"… and {len(reasons) - SHOWN} more"] if len(reasons) > SHOWN else [])


# --- the contract ----------------------------------------------------------------------------------


def contract(spec: Spec, batch: Batch) -> Iterator[Expectation]:
    """List the expectations that follow from the spec, then those that it names itself.

    Only freshness depends on the batch: on the end of its interval.

    Raises:
        InvalidSpec: a rule that its column's type cannot have.
    """
    quality, source = spec.quality, spec.source
    yield Expectation("expect_table_columns_to_match_set", {"column_set": list(spec.delivered), "exact_match": True})
    rows = {"min_value": quality.min_rows} | ({"max_value": quality.max_rows} if quality.max_rows is not None else {})
    yield Expectation("expect_table_row_count_to_be_between", rows)
    if quality.freshness is not None:
        oldest = (batch.interval.end - quality.freshness).isoformat()
        yield Expectation("expect_column_max_to_be_between", {"column": source.time, "min_value": oldest})
    if len(source.key) > 1:
        yield Expectation("expect_compound_columns_to_be_unique", {"column_list": list(source.key)})
    for name, column in spec.delivered.items():
        key = name in source.key
        if name == spec.target.column and column.values is None and column.type != "boolean" and spec.target.classes:
            # An outcome in no class would be no label, in silence.
            column = column.model_copy(update={"values": spec.target.classes})
        yield from _of_column(
            name, column, needed=key or name == source.time, unique=column.unique or source.key == (name,), key=key
        )
    for expectation in quality.expectations:
        yield Expectation(expectation.expect, expectation.args, expectation.severity)


def _of_column(name: str, column: Column, *, needed: bool, unique: bool, key: bool) -> Iterator[Expectation]:
    severity: Literal["stop", "warn"] = column.severity
    _fits(name, column)
    if column.type in _TYPES:
        yield Expectation("expect_column_values_to_be_in_type_list", {"column": name, "type_list": _TYPES[column.type]})
    if needed:
        yield Expectation("expect_column_values_to_not_be_null", {"column": name})
    elif column.max_missing < 1:
        mostly = {} if column.max_missing == 0 else {"mostly": 1 - column.max_missing}
        yield Expectation("expect_column_values_to_not_be_null", {"column": name, **mostly}, severity)
    bounds = {
        place: bound for place, bound in (("min_value", column.min), ("max_value", column.max)) if bound is not None
    }
    if column.type == "number" and (len(bounds) < 2 or severity == "warn"):
        # An infinite value passes a range that is open on its side, and every model would score it.
        largest = sys.float_info.max
        finite = {"column": name, "min_value": -largest, "max_value": largest}
        yield Expectation("expect_column_values_to_be_between", finite)
    if bounds:
        yield Expectation("expect_column_values_to_be_between", {"column": name, **bounds}, severity)
    if column.values is not None:
        values = [value if column.type == "integer" else str(value) for value in column.values]
        yield Expectation("expect_column_values_to_be_in_set", {"column": name, "value_set": values}, severity)
    if column.pattern is not None:
        yield Expectation("expect_column_values_to_match_regex", {"column": name, "regex": column.pattern}, severity)
    if unique:
        yield Expectation("expect_column_values_to_be_unique", {"column": name}, "stop" if key else severity)


def _fits(name: str, column: Column) -> None:
    rules = {
        "min and max": (column.min is not None or column.max is not None, ("integer", "number")),
        "values": (column.values is not None, ("integer", "category", "string")),
        "pattern": (column.pattern is not None, ("category", "string")),
    }
    for rule, (given, types) in rules.items():
        if given and column.type not in types:
            raise InvalidSpec(
                f"columns.{name}: {rule} cannot be asked of a {column.type}",
                do=f"use it on {' or '.join(types)}, or drop it",
            )
    if column.type == "integer" and any(not isinstance(value, int) for value in column.values or ()):
        raise InvalidSpec(f"columns.{name}: values of an integer column are integers", do="write them without quotes")
