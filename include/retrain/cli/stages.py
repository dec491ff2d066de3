"""Commands that run the loop: one per stage, `run` for all of them, `monitor` for the watch over the champion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import typer

from retrain import pipeline
from retrain.cli.options import (
    DryRun,
    Force,
    IntervalStart,
    Model,
    Revise,
    RunFolder,
    WithHistory,
    laptop_trigger,
    make_run,
)
from retrain.cli.output import show_report
from retrain.errors import BatchMissing, MissingInput, Quarantined
from retrain.state.readiness import loop_run_key
from retrain.state.run import Run


def stage_command(stage: pipeline.Stage) -> Callable[..., None]:
    """The command that runs a stage, under its name."""

    def command(
        model: Model,
        interval: IntervalStart = "",
        run: RunFolder = "",
        history: WithHistory = False,
        force: Force = False,
        dry_run: DryRun = False,
        revise: Revise = False,
    ) -> None:
        newest = make_run(model, interval, run, laptop_trigger(force=force, dry_run=dry_run, revise=revise))
        if history and stage.name in pipeline.DATA_STAGES:
            for span in newest.spec.intervals_until(newest.interval.end):
                if span != newest.interval:
                    key = loop_run_key("retrain", f"laptop-{span.name}")
                    _run_earlier(stage.name, replace(newest, interval=span, key=key))
        why = pipeline.idle(stage.name, newest)
        report = pipeline.skip(stage.name, newest, why) if why else pipeline.run_stage(stage.name, newest)
        show_report(stage.name, report)

    command.__name__, command.__doc__ = stage.name, stage.does[0].upper() + stage.does[1:] + "."
    return command


def _run_earlier(stage: str, run: Run) -> None:
    """A bad or missing month does not block the later ones, and a later stage finds nothing of it."""
    try:
        show_report(stage, pipeline.run_stage(stage, run))
    except (BatchMissing, Quarantined, MissingInput) as error:
        typer.echo(str(error.at(run.model, stage)), err=True)


def run(
    model: Model,
    interval: IntervalStart = "",
    history: WithHistory = False,
    force: Force = False,
    dry_run: DryRun = False,
    revise: Revise = False,
) -> None:
    """Run the whole loop in this process: every stage that has something to do."""
    newest = make_run(model, interval, "", laptop_trigger(force=force, dry_run=dry_run, revise=revise))
    _run_loops(("retrain",), newest, history)


def monitor(model: Model, interval: IntervalStart = "", history: WithHistory = False) -> None:
    """Score the interval with the champion of its time and look how that champion does; nothing is started."""
    _run_loops(("score", "monitor"), make_run(model, interval, "", laptop_trigger()), history)


def _run_loops(loops: tuple[Literal["retrain", "score", "monitor"], ...], newest: Run, history: bool) -> None:
    """Run the loops for the run's interval, with `history` for every earlier one before it.

    A bad or missing batch ends the run of its own interval; an earlier one does not block the later ones.
    """
    for span in newest.spec.intervals_until(newest.interval.end) if history else [newest.interval]:
        for loop in loops:
            this = replace(newest, interval=span, key=loop_run_key(loop, f"laptop-{span.name}"), loop=loop)
            try:
                for stage, report in pipeline.run_all(this):
                    show_report(stage, report)
            except (BatchMissing, Quarantined) as error:
                if span == newest.interval:
                    raise
                typer.echo(str(error), err=True)
