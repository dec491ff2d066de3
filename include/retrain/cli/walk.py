"""What a walk through the history prints: progress on a terminal, a line where something was decided, a summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from retrain import pipeline
from retrain.cli.output import show as show_table
from retrain.errors import RetrainError
from retrain.live import live_through
from retrain.results import PromoteReport
from retrain.state.run import Run

TELLING = ("score", "diagnose", "rollout", "decide", "gate", "promote")
CALM = ("sound", "idle")
"""Stages whose verdict is a line, unless it is a calm one; of the others a refusal alone."""


def show(newest: Run, *, anew: bool = False) -> None:
    """Live through the intervals until the run's, and print what comes of it.

    Args:
        newest: a retraining as of the last interval.
        anew: whether that retraining runs again where it is on record.

    Raises:
        RetrainError: the refusal of the last interval, after the summary; or an outage at once.
    """
    from retrain.reporting.status import table

    spans = list(newest.spec.intervals_until(newest.interval.end))
    refusals: dict[str, dict[str, RetrainError]] = {}
    on_record, waiting = [], None
    with _progress() as progress:
        bar = progress.add_task("", total=len(spans))

        def begin(run: Run, stage: str) -> None:
            at = f"{run.interval.name} {_name(run, stage)}"
            progress.update(bar, completed=spans.index(run.interval), description=at)

        for step in live_through(newest, anew=anew, begin=begin):
            name = step.run.interval.name
            if not step.stage:
                on_record.append(name)
            elif step.refusal:
                # The loops may stumble over the same thing, and the last interval's is the message of the command.
                before = refusals.setdefault(name, {})
                if step.refusal.found not in before and (before or name != newest.interval.name):
                    typer.echo(f"{name} · {step.refusal}", err=True)
                before.setdefault(step.refusal.found, step.refusal)
            elif step.report and step.stage in TELLING and step.verdict not in CALM:
                typer.echo(pipeline.last_line(step.report, _name(step.run, step.stage)))
                if isinstance(step.report, PromoteReport) and step.verdict == "waiting":
                    waiting = step.report.version
    show_table(table(newest.ledger, newest.model))
    if on_record:
        typer.echo(f"on record already, and skipped: {_listed([span.name for span in spans], on_record)}")
    if refusals:
        typer.echo(f"refused: {len(refusals)} of {len(spans)} intervals: {'; '.join(_where(refusals))}")
    if waiting:
        command = f"python -m retrain approve {newest.model} {waiting} --reason …"
        typer.echo(f"version {waiting} waits for a person's word, and the champion serves on: {command}")
    if newest.interval.name in refusals:
        raise next(iter(refusals[newest.interval.name].values()))


def _progress() -> Progress:
    """A bar of the intervals; nothing where the output is no terminal."""
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _name(run: Run, stage: str) -> str:
    """A stage's name for people, who meet some of them in more than one run of an interval."""
    run_of = "monitor" if run.loop == "monitor" else "alert" if run.trigger.kind == "alert" else ""
    return f"{run_of} {stage}".strip()


def _listed(names: Sequence[str], some: Sequence[str]) -> str:
    """Some of the names, those that follow each other as a span."""
    groups: list[list[str]] = []
    for before, name in zip(["", *names], names, strict=False):
        if name in some and before in some:
            groups[-1].append(name)
        elif name in some:
            groups.append([name])
    return ", ".join(group[0] if len(group) == 1 else f"{group[0]} to {group[-1]}" for group in groups)


def _where(refusals: Mapping[str, Mapping[str, RetrainError]]) -> Iterator[str]:
    for name, by_text in refusals.items():
        error = next(iter(by_text.values()))
        yield f"{name} ({error.stage}: {type(error).__name__})"
