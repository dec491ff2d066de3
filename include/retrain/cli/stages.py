"""Commands that run the loop: one per stage, `run` for all of them, `monitor` for the watch over the champion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import typer

from retrain import pipeline
from retrain.cli import walk
from retrain.cli.options import (
    DryRun,
    Force,
    IntervalStart,
    LiveHistory,
    Model,
    Revise,
    RunFolder,
    WithHistory,
    laptop_trigger,
    make_run,
)
from retrain.cli.output import show_report
from retrain.errors import RetrainError
from retrain.live import ends_one_interval, run_to_go_on_with
from retrain.results import DecideReport
from retrain.state.readiness import loop_run_key
from retrain.state.run import Run

LOOKING: tuple[Literal["score", "monitor"], ...] = ("score", "monitor")
"""The loops that change nothing of who serves."""


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
        newest = newest if run else _go_on(newest)
        if history and stage.name in pipeline.DATA_STAGES:
            for span in newest.spec.intervals_until(newest.interval.end):
                if span != newest.interval:
                    key = loop_run_key("retrain", f"laptop-{span.name}")
                    _run_earlier(stage.name, run_to_go_on_with(replace(newest, interval=span, key=key)))
        why = pipeline.idle(stage.name, newest)
        report = pipeline.skip(stage.name, newest, why) if why else pipeline.run_stage(stage.name, newest)
        show_report(stage.name, report)

    command.__name__, command.__doc__ = stage.name, stage.does[0].upper() + stage.does[1:] + "."
    return command


def _go_on(run: Run) -> Run:
    """The run to go on with, and a word where it is another than the first of its interval."""
    this = run_to_go_on_with(run)
    if this.key != run.key:
        typer.echo(f"{run.key} has made a version, and stays as it is: this run is {this.key}", err=True)
    return this


def _run_earlier(stage: str, run: Run) -> None:
    """A bad or missing month does not block the later ones, and a later stage finds nothing of it."""
    try:
        show_report(stage, pipeline.run_stage(stage, run))
    except RetrainError as error:
        if not ends_one_interval(error):
            raise
        typer.echo(str(error.at(run.model, stage)), err=True)


def run(
    model: Model,
    interval: IntervalStart = "",
    history: LiveHistory = False,
    force: Force = False,
    dry_run: DryRun = False,
    revise: Revise = False,
) -> None:
    """Retrain as of an interval, where the policy says so; with `--history` live through every interval until then."""
    newest = make_run(model, interval, "", laptop_trigger(force=force, dry_run=dry_run, revise=revise))
    if not history:
        for stage, report in pipeline.run_all(_go_on(newest)):
            show_report(stage, report)
        return
    if dry_run:
        raise typer.BadParameter(
            f"a dry run is of one interval; to try a policy on the whole history: python -m retrain replay {model}"
        )
    walk.show(newest, anew=force or revise)


def monitor(model: Model, interval: IntervalStart = "", history: WithHistory = False) -> None:
    """Score the interval with the champion of its time and look how that champion does; nothing is started."""
    newest = make_run(model, interval, "", laptop_trigger())
    late = 0
    for span in newest.spec.intervals_until(newest.interval.end) if history else [newest.interval]:
        for loop in LOOKING:
            this = replace(newest, interval=span, key=loop_run_key(loop, f"laptop-{span.name}"), loop=loop)
            try:
                for stage, report in pipeline.run_all(this):
                    show_report(stage, report)
                    late += isinstance(report, DecideReport) and report.policy == "stale"
            except RetrainError as error:
                if span == newest.interval or not ends_one_interval(error):
                    raise
                typer.echo(str(error), err=True)
    if late:
        typer.echo(
            f"{late} of these decisions came too late to be acted on: python -m retrain run {model} --history scores,"
            " retrains and monitors interval by interval, in the order of their time",
            err=True,
        )
