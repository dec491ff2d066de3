"""Tables as CSV files that people open in a spreadsheet."""

from __future__ import annotations

import pandas as pd

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet would run as a formula."""


def csv_bytes(table: pd.DataFrame) -> bytes:
    r"""A table as CSV; texts and names of columns that a spreadsheet would run stand behind an apostrophe.

    Numbers stay as they are. The way of escaping is OWASP's (CSV Injection).

    >>> csv_bytes(pd.DataFrame({"=name": ["=1+1", "plain"], "gain": [-1.5, 2.0]}))
    b"'=name,gain\n'=1+1,-1.5\nplain,2.0\n"
    """

    def escaped(cell: object) -> object:
        return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell

    texts = table.select_dtypes(exclude=["number", "bool", "datetime", "datetimetz"]).columns
    safe = table.assign(**{name: table[name].astype(object).map(escaped) for name in texts})
    return safe.rename(columns=escaped).to_csv(index=False, lineterminator="\n").encode()
