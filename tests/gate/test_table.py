"""The gate's table in the terminal, in Markdown and in HTML."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from retrain.gate import table
from retrain.results import (
    Decision,
    GateCheck,
    GateReport,
)
from tests.gate.candidate import (
    about,
    spec_of,
)


def report_of(*checks: GateCheck) -> GateReport:
    spec = spec_of()
    return GateReport(
        **about(spec), decision=Decision(verdict="keep", reasons=("new fails <b>",)), chosen="new", checks=checks
    )


def test_the_table_is_the_same_in_the_terminal_in_markdown_and_in_html() -> None:
    hostile = GateCheck(
        name="case a|b", model="new", passed=False, value=0.0, bound=1.0, reason="<script>[red]*x*\n| y"
    )
    reported = GateCheck(name="overfit", model="new", passed=None, value=0.25, binding=False, reason="scores 0.1")
    report = report_of(hostile, reported)
    frame = table.table(report)
    assert frame["verdict"].tolist() == ["failed", "reported"]
    assert list(frame.columns) == ["check", "model", "verdict", "value", "bound", "why"]
    text = io.StringIO()
    Console(file=text, width=120).print(table.terminal(report))
    assert "[red]*x*" in text.getvalue()
    assert "keep new" in text.getvalue()
    markdown = table.markdown(report)
    assert "| case a\\|b | new | failed | 0 | 1 | &lt;script&gt;\\[red\\]\\*x\\* \\| y |" in markdown
    assert markdown.count("\n| ") == 3
    page = table.page(report).decode()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    ("passed", "binding", "word"),
    [
        (True, True, "passed"),
        (False, True, "failed"),
        (None, True, "open"),
        (False, False, "warned"),
        (None, False, "reported"),
        (True, False, "passed"),
    ],
)
def test_verdicts_in_a_word(passed: bool | None, binding: bool, word: str) -> None:
    assert table.verdict(GateCheck(name="n", model="m", passed=passed, binding=binding, reason="r")) == word


def test_a_check_under_its_former_name_is_read() -> None:
    check = GateCheck.from_json('{"name": "n", "model": "m", "passed": null, "blocks": false, "reason": "r"}')
    assert check.binding is False
