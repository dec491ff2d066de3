"""The command line, `retrain …`: what each command is called, and in which group the help shows it.

Nothing heavy is imported here. A command imports what it needs when it runs, so that the help, a table of the ledger or
a refusal does not wait for pandas or MLflow.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import typer
from typer.core import TyperGroup

from retrain import pipeline
from retrain.cli import authoring, champion, questions, stages
from retrain.state.failures import refusal_of
from retrain.state.former import STAGES

GROUPS = {
    "Write a model": (authoring.new, authoring.check, authoring.replay),
    "Run its loops": (stages.run, stages.monitor),
    "Decide who serves": (champion.rollback, champion.approve, champion.reconcile, champion.release),
    "Ask what happened": (
        *(questions.status, questions.history, questions.served, questions.explain, questions.changelog),
        *(questions.inventory, questions.verify, questions.reproduce),
    ),
    "Run one stage": tuple(stages.stage_command(stage) for stage in pipeline.STAGES),
}
"""Group in the help → its commands; a function's name is the command's."""


class Commands(TyperGroup):
    """The commands; one that was renamed is told, in place of whichever sounds alike."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that was typed."""
        if args and args[0] in STAGES:
            ctx.fail(f"'{args[0]}' is now called '{STAGES[args[0]]}'")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Retrain models when it pays, and promote them when they are shown to be better.",
)


def _naming_failures(command: Callable[..., None]) -> Callable[..., None]:
    """The command with its refusals named: the model that was asked for, and the command as the stage."""

    @wraps(command)
    def named(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except Exception as error:
            if refusal := refusal_of(error):
                raise refusal.at(str(options.get("model") or ""), command.__name__) from None
            raise

    return named


for group, commands in GROUPS.items():
    for command in commands:
        app.command(command.__name__, rich_help_panel=group)(_naming_failures(command))


def main() -> None:
    """Run the command that was typed; a refusal, a full disk, a corrupt database is one message and exit code 1."""
    # Before a library starts its threads: those that wait must not take the core from those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        app()
    except Exception as error:
        if (refusal := refusal_of(error)) is None:
            raise
        typer.echo(str(refusal), err=True)
        sys.exit(1)
