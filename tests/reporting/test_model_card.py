"""The model card: a run's facts, whole and escaped, whatever the names that come from data and people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from markdown_it import MarkdownIt

from retrain import results
from retrain.reporting import model_card
from retrain.results import MetricEstimate
from retrain.state.run import Run
from retrain.state.settings import Home
from tests.conftest import churn_spec
from tests.trained import spec_from

NASTY = (
    "<script>alert(1)</script>",
    "a | b",
    "`tick`",
    "two\nlines",
    "<img src=x onerror=y>",
    "*b* _i_ [l](m)",
    "\\| x",
)


class ShownPage(HTMLParser):
    """The tags of a page, and the text of its cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[str] = []
        self._inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self._inside = self._inside or tag in ("td", "th")
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.cells[-1] += data


def written(home: Home, **owner: str) -> Run:
    """A run whose reports speak of hostile slices, categories and reasons."""
    data = {**churn_spec(), "evaluation": {"slices": ["plan"]}, "gate": {"slice_min_rows": 20, "level": 0.05}}
    data["owner"] = {**data["owner"], **owner}
    spec = spec_from(data)
    run = Run(home, spec, spec.at("2024-03-01"), "run")
    january = spec.at("2024-01-01")
    head: dict[str, Any] = {"model": "churn", "interval": run.interval, "effective_at": run.as_of}
    batches = tuple(
        results.AcceptedBatch(
            batch=results.Batch(interval=span, sha256=letter * 64, rows=400, bytes=1, key="k"),
            md5=letter * 32,
            commit=letter * 40,
            mature_at=span.end,
        )
        for letter, span in (("a", january), ("b", run.interval))
    )
    configuration = results.Configuration(estimator="linear", parameters={"C": 0.5}, pipeline="p")
    fitted = results.FittedModel(
        name="new", kind="new", configuration=configuration, training="t" * 64, intervals=(january,), rows=390,
        key="k", digest="d" * 64, inner_score=0.51,
    )  # fmt: skip
    slices = tuple(
        results.Slice(column="plan", value=value, rows=50 + n, scores={"new": 0.9 if n == 1 else 0.5, "naive": None})
        for n, value in enumerate(NASTY)
    )
    finding = results.Finding(check="fairness", model="new", about=NASTY[0], value=0.2, low=0.1, high=0.3, rows=90)
    check = results.GateCheck(name=f"slice plan={NASTY[1]}", model="new", passed=None, reason=NASTY[2])
    run.write(results.Context(**head, spec_digest=spec.digest, trigger=results.Trigger(), accepted=batches), "context")
    run.write(results.TrainReport(**head, fitted=(fitted,), holdout=(run.interval,), unlabelled=10, seed=1), "train")
    run.write(
        results.EvaluateReport(
            **head,
            decision=results.Decision(verdict="measured", reasons=("r",)),
            holdout=(run.interval,), rows=400, blocks=31,
            metrics={
                "new": {"log_loss": MetricEstimate(value=0.5, low=0.4, high=0.6)},
                "naive": {"log_loss": MetricEstimate(value=0.7)},
            },
            slices=slices, findings=(finding,), unknown_categories={"plan": 3},
        ),
        "evaluate",
    )  # fmt: skip
    reasons = (NASTY[3], NASTY[4])
    run.write(
        results.GateReport(
            **head,
            decision=results.Decision(verdict="promote", reasons=reasons), chosen="new", kind="first",
            metric="log_loss", challenger_score=0.5, checks=(check,),
        ),
        "gate",
    )  # fmt: skip
    run.write(
        results.RefitReport(
            **head, decision=results.Decision(verdict="refit", reasons=("fine",)), fitted=fitted, golden="g",
            mean_prediction=(0.4,),
        ),
        "refit",
    )  # fmt: skip
    return run


def rendered(text: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(text)


@pytest.mark.parametrize("format", ["markdown", "html"])
def test_hostile_names_stay_names(home: Home, format: str) -> None:
    card = model_card.card(written(home, name=NASTY[0] + " | x", contact="`a`"), 7, {"reasons": NASTY[5]})
    page = ShownPage(rendered(card.markdown) if format == "markdown" else card.html.decode())
    assert not page.tags & {"script", "img", "a", "em", "code"}
    for name in NASTY:
        assert " ".join(name.split()) in page.cells, name
    assert f"{NASTY[0]} | x" in page.cells
    assert f"slice plan={NASTY[1]}" in page.cells


def test_every_row_of_a_table_has_as_many_cells_as_its_head(home: Home) -> None:
    text = model_card.card(written(home), 7, {}).markdown
    tables = rendered(text).split("<table>")[1:]
    assert len(tables) >= 8
    for table in tables:
        rows = table.split("<tr>")[1:]
        assert len({row.count("</td>") + row.count("</th>") for row in rows}) == 1
    # A cell that a pipe had cut in two would be dropped by the renderer, and its row would still be whole.
    assert "a | b" in ShownPage(rendered(text)).cells


def facts(run: Run) -> Iterator[tuple[str, str]]:
    page = ShownPage(model_card.card(run, 7, {"seed": "1"}).html.decode())
    yield from zip(page.cells, page.cells[1:], strict=False)


def test_what_the_run_found_is_in_the_card(home: Home) -> None:
    shown = set(facts(written(home)))
    assert {
        ("owner", "Ada Example"),
        ("contact", "ada@example.org"),
        ("unlabelled", "10 rows without a label were left out, 2.5% of all"),
        ("weaker where plan is a | b", "log_loss 0.9 on 51 rows, 0.5 on all"),
        ("unknown categories of plan", "3 holdout rows have one that no model has seen"),
        ("log_loss", "0.5 (0.4 to 0.6)"),
        ("parameter C", "0.5"),
        ("make it again", "python -m retrain reproduce churn 7"),
        ("fairness", "<script>alert(1)</script>"),
        ("seed", "1"),
    } <= shown
    assert ("2024-01-01", "400") in shown
    assert ("400", "judged") in shown


@pytest.mark.parametrize(
    ("task", "target", "answers"),
    [
        ("regression", {"column": "spend"}, "the number spend"),
        ("binary", {"column": "spend", "at_least": 0}, "the probability of spend at least 0"),
        ("binary", {"column": "churned"}, "the probability of churned = True"),
    ],
)
def test_a_card_says_what_the_model_answers(home: Home, task: str, target: dict[str, Any], answers: str) -> None:
    run = written(home)
    data = {**churn_spec(), "task": task, "target": target}
    run = replace(run, spec=spec_from(data))
    assert dict(facts(run))["answers"] == answers


def test_the_same_facts_make_the_same_card(home: Home) -> None:
    run = written(home)
    assert model_card.card(run, 7, {}) == model_card.card(run, 7, {})
