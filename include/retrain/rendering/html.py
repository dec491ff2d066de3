"""Small HTML pages for people: one file with its tables and figures in it, nothing fetched, everything escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape

import pandas as pd

from retrain.results import Decision

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}th,td{padding:.2rem .7rem;border-bottom:1px solid #ddd}
th{text-align:left;font-weight:600}td{font-variant-numeric:tabular-nums}img{max-width:100%}"""


def page(
    title: str, decision: Decision, tables: Mapping[str, pd.DataFrame], figures: Mapping[str, bytes] | None = None
) -> bytes:
    """An HTML page: the verdict with its reasons, then figures, then tables, each under its heading.

    The same input gives the same bytes.

    Args:
        title: of the page, and its first heading.
        decision: the verdict and its reasons.
        tables: heading → table; the index is not shown, an empty table is left out.
        figures: heading → PNG.

    >>> html = page("a<b", Decision(verdict="scored", reasons=("5 < 6",)), {"x": pd.DataFrame({"n": ["<i>"]})})
    >>> b"<h1>a&lt;b</h1>" in html, b"5 &lt; 6" in html, b"&lt;i&gt;" in html
    (True, True, True)
    """
    parts = [f"<h1>{escape(title)}</h1>", f"<p><b>{escape(decision.verdict)}</b></p>"]
    parts.append("<ul>" + "".join(f"<li>{escape(reason)}</li>" for reason in decision.reasons) + "</ul>")
    for name, png in (figures or {}).items():
        data = base64.b64encode(png).decode("ascii")
        parts.append(f'<h2>{escape(name)}</h2><img alt="{escape(name)}" src="data:image/png;base64,{data}">')
    parts += [f"<h2>{escape(name)}</h2>{_table(table)}" for name, table in tables.items() if len(table)]
    head = (
        '<meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:;'
        " style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
    )
    return f"<!doctype html><html><head>{head}</head><body>{''.join(parts)}</body></html>\n".encode()


def _table(table: pd.DataFrame) -> str:
    with pd.option_context("display.max_colwidth", None):
        filled = table.astype(object).where(table.notna(), "")
        text: str = filled.to_html(index=False, border=0, float_format="{:.4g}".format)
    return text
