"""The results of a suite in words and as one page; imports no GX, so that the page needs none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

from retrain.results import Check

_PHRASES = {
    "expect_column_values_to_be_in_set": "values not in the set",
    "expect_column_values_to_be_null": "values present",
    "expect_column_values_to_be_unique": "values repeated",
    "expect_column_values_to_match_regex": "values not matching",
    "expect_column_values_to_not_be_in_set": "values in the forbidden set",
    "expect_column_values_to_not_be_null": "values missing",
    "expect_column_values_to_not_match_regex": "values matching",
    "expect_compound_columns_to_be_unique": "rows repeated in their key",
}

EXAMPLES = 5

_COLUMNS = ("column", "column_A", "column_B")


def observed(kind: str, kwargs: Mapping[str, Any], result: Mapping[str, Any], *, success: bool) -> str:
    """Write GX's result of one expectation, in its BASIC format, as a phrase."""
    if "element_count" in result:
        return _counted(kind, kwargs, result)
    expected = arguments(kwargs)
    if count := result.get("unexpected_count"):
        return f"{count:,} distinct values amiss{_examples(result)}; expected {expected}"
    if mismatched := (result.get("details") or {}).get("mismatched"):
        return f"mismatched: {value(mismatched)}; expected {expected}"
    if result.get("observed_value") is not None:
        return f"observed {value(result['observed_value'])}" + (f"; expected {expected}" if expected else "")
    return "as expected" if success else "not as expected" + (f": {expected}" if expected else "")


def _counted(kind: str, kwargs: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    judged = result["element_count"] - (result.get("missing_count") or 0)
    if not judged:
        return f"no value to judge, all {result['element_count']:,} are missing"
    phrase = (
        _outside(kwargs) if kind == "expect_column_values_to_be_between" else _PHRASES.get(kind, "values unexpected")
    )
    if "regex" in kwargs:
        phrase += f" {value(kwargs['regex'])}"
    count = result["unexpected_count"]
    text = f"{format(count, ',') if count else 'none'} of {judged:,} {phrase}"
    if kind != "expect_column_values_to_not_be_null":
        text += _examples(result)
    if count and (mostly := kwargs.get("mostly", 1)) < 1:
        text += f"; {100 * (1 - mostly):.6g} % allowed"
    if result.get("missing_count"):
        text += f"; {result['missing_count']:,} missing not judged"
    return text


def _examples(result: Mapping[str, Any]) -> str:
    distinct = list(dict.fromkeys(map(value, result.get("partial_unexpected_list") or ())))
    return f", such as {', '.join(distinct[:EXAMPLES])}" if distinct else ""


def _outside(kwargs: Mapping[str, Any]) -> str:
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    opening = "(-∞" if low is None else f"{'(' if kwargs.get('strict_min') else '['}{value(low)}"
    closing = "∞)" if high is None else f"{value(high)}{')' if kwargs.get('strict_max') else ']'}"
    return f"values outside {opening}, {closing}"


def arguments(kwargs: Mapping[str, Any]) -> str:
    """Write the arguments of an expectation, all but the columns, which have a place of their own."""
    return bounded(", ".join(f"{key} {value(each)}" for key, each in kwargs.items() if key not in _COLUMNS))


def value(item: object) -> str:
    """Write one value for people, short.

    >>> value([3.0, "a"]), value({"low": float("nan")})
    ("[3, 'a']", '{low: nan}')
    """
    if isinstance(item, np.generic):
        item = item.item()
    if isinstance(item, float):
        return str(int(item)) if item.is_integer() and abs(item) < 2**53 else repr(item)
    if isinstance(item, Mapping):
        return "{" + ", ".join(f"{bounded(str(each), 60)}: {value(item[each])}" for each in islice(item, 10)) + "}"
    if isinstance(item, list | tuple | set | frozenset):
        more = f", … and {len(item) - 10:,} more" if len(item) > 10 else ""
        return bounded("[" + ", ".join(value(each) for each in islice(item, 10)) + more + "]")
    return bounded(repr(item) if isinstance(item, str) else str(item), 60)


def bounded(text: str, limit: int = 400) -> str:
    """Cut a text to so many characters.

    >>> bounded("abcdef", 4)
    'abc…'
    """
    return text if len(text) <= limit else text[: limit - 1] + "…"


# GX's own page loads seven scripts and five style sheets from other hosts; the policy here allows none.
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1b1f24 }}
table {{ border-collapse: collapse; width: 100% }} .wide {{ overflow-x: auto }}
th, td {{ text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid #d8dee4 }}
td {{ overflow-wrap: anywhere }} .wide td {{ white-space: nowrap }}
.verdict {{ padding: .6rem 1rem; border-left: .4rem solid; background: #f6f8fa }}
.stop {{ border-color: #b42318 }} .warn {{ border-color: #b54708 }} .passed {{ border-color: #067647 }}
</style></head><body>
<h1>{title}</h1>
<p class="verdict {tone}"><strong>{verdict}</strong><br>{summary}</p>
{body}
</body></html>
"""


def page(name: str, title: str, rows: int, checks: Sequence[tuple[Check, str]], failing: pd.DataFrame) -> bytes:
    """Write one page that loads nothing: the verdict, what failed, what passed, the first failing rows.

    Args:
        name: of the suite.
        title: of the page.
        rows: how many the batch has.
        checks: each with its arguments in words.
        failing: rows that failed, after the columns `failed_expectation` and `row`.
    """
    stops = [each for each in checks if not each[0].passed and each[0].severity == "stop"]
    warns = [each for each in checks if not each[0].passed and each[0].severity == "warn"]
    passed = [each for each in checks if each[0].passed]
    body = "".join(
        f"<h2>{heading}</h2>\n{_table(('expectation', 'column', 'observed', 'arguments'), map(_cells, members))}"
        for heading, members in (("Failed: stop", stops), ("Failed: warn", warns), ("Passed", passed))
        if members
    )
    if len(failing):
        first = failing.head(50)
        cells = ([value(each) for each in row] for row in first.itertuples(index=False, name=None))
        body += f"<h2>Failing rows: {len(first):,} of the {len(failing):,} kept</h2>\n"
        body += f'<div class="wide">{_table(map(str, first.columns), cells)}</div>'
    counts = f"{len(stops):,} failed to stop, {len(warns):,} failed to warn, {len(passed):,} passed"
    return _PAGE.format(
        title=escape(title),
        tone="stop" if stops else "warn" if warns else "passed",
        verdict="stop" if stops else "passed, with warnings" if warns else "passed",
        summary=escape(f"{name}: {rows:,} rows, {len(checks):,} expectations, {counts}"),
        body=body,
    ).encode("utf-8", "backslashreplace")


def _cells(part: tuple[Check, str]) -> tuple[str, str, str, str]:
    check, words = part
    return check.expectation, check.column or "", check.observed, words


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    def line(tag: str, cells: Iterable[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>\n"

    return f"<table>\n{line('th', head)}{''.join(line('td', row) for row in rows)}</table>\n"
