"""Pages hold everything in one file, and nothing of what they show can become markup."""

from __future__ import annotations

import base64
from html.parser import HTMLParser

import pandas as pd

from retrain.rendering.html import page
from retrain.results import Decision

EVIL = '<script>alert("x")</script>'
DECISION = Decision(verdict="scored", reasons=("12 rows scored by version 3", "2 rows set aside"))


class ParsedPage(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data.strip())


def test_a_page_shows_verdict_tables_and_figures() -> None:
    table = pd.DataFrame({"key": ["a"], "difference": [0.123456]})
    parsed = ParsedPage(page("churn · 2024-01-01", DECISION, {"Rows": table}, {"Scores": b"\x89PNG..."}))
    assert {"churn · 2024-01-01", "scored", *DECISION.reasons, "Rows", "Scores", "difference", "a", "0.1235"} <= set(
        parsed.text
    )
    image = next(attributes for tag, attributes in parsed.tags if tag == "img")
    assert base64.b64decode((image["src"] or "").removeprefix("data:image/png;base64,")) == b"\x89PNG..."


def test_nothing_shown_becomes_markup() -> None:
    decision = Decision(verdict=EVIL, reasons=(EVIL,))
    html = page(EVIL, decision, {EVIL: pd.DataFrame({EVIL: [EVIL]})}, {f'{EVIL}" onload="x': b"png"})
    parsed = ParsedPage(html)
    assert "script" not in {tag for tag, _ in parsed.tags}
    assert all("onload" not in attributes for _, attributes in parsed.tags)
    assert parsed.text.count(EVIL) == 7, "title, heading, verdict, reason, table's heading, column, cell"


def test_nothing_is_fetched() -> None:
    html = page("t", DECISION, {"x": pd.DataFrame({"a": [1]})}, {"f": b"png"})
    assert b"default-src 'none'" in html
    assert b"http://" not in html
    assert b"https://" not in html


def test_long_texts_and_missing_values() -> None:
    html = page("t", DECISION, {"x": pd.DataFrame({"a": ["w" * 300, None]}), "empty": pd.DataFrame({"a": []})}).decode()
    assert "w" * 300 in html
    assert "None" not in html
    assert "empty" not in html


def test_the_same_input_gives_the_same_bytes() -> None:
    table = pd.DataFrame({"a": [1.5, 2.5]})
    assert page("t", DECISION, {"x": table}, {"f": b"p"}) == page("t", DECISION, {"x": table}, {"f": b"p"})
