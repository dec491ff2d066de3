"""Commands that answer from the record and change nothing."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from retrain.cli.options import AnyModel, Model, Version
from retrain.cli.output import show
from retrain.state.ledger import Ledger
from retrain.state.settings import Home


def status(model: AnyModel = "") -> None:
    """Show what happened, interval by interval."""
    from retrain.reporting.status import table

    home = Home.from_environment()
    for name in [model] if model else [file.stem for file in home.specs]:
        home.spec(name)
        show(table(Ledger(home.ledger), name))


def history(model: Model) -> None:
    """Show every change of the champion, and what was refused: when, why, who."""
    from retrain.reporting.history import table

    home = Home.from_environment()
    show(table(Ledger(home.ledger), home.spec(model).model))


def served(
    model: Model,
    at: Annotated[str, typer.Option("--at", help="a moment in UTC, like 2013-07-04T12:00Z")],
    recorded: Annotated[bool, typer.Option("--recorded", help="ask the wall's clock, not the data's")] = False,
) -> None:
    """Say which version served at a moment, why, and on which data it was trained."""
    from retrain.reporting import history

    home = Home.from_environment()
    typer.echo("\n".join(history.served(home, home.spec(model), history.moment(at), recorded=recorded)))


def explain(model: Model, version: Version) -> None:
    """Show the whole chain of a version, from delivered bytes to the alias."""
    from retrain.reporting import explain

    home = Home.from_environment()
    show(explain.explain(home, home.spec(model), version))


def changelog(model: Model) -> None:
    """Print what changed from version to version, as Markdown."""
    from retrain.reporting import changelog

    home = Home.from_environment()
    typer.echo(changelog.changelog(model, Ledger(home.ledger).records(home.spec(model).model)))


def inventory() -> None:
    """Show all models: owner, champion, age, health."""
    from retrain.reporting import inventory

    show(inventory.table(inventory.entries(Home.from_environment())))


def verify(model: Annotated[str, typer.Argument(help="one model; by default all on record")] = "") -> None:
    """Look whether record, aliases, model files and data are all there and unaltered."""
    from retrain.reporting import verify

    home, sound, console = Home.from_environment(), True, Console(stderr=True)
    for name in [home.spec(model).model] if model else verify.known_models(home):
        with console.status(name) as progress:
            outcomes = verify.verify(home, name, progress.update)
        show(verify.table(name, outcomes))
        sound = sound and all(outcome.ok for outcome in outcomes)
    if not sound:
        raise typer.Exit(1)


def reproduce(model: Model, version: Version) -> None:
    """Bring a version's data back by hash, train it again, and say whether it is the same."""
    from retrain.rerun import reproduce

    home = Home.from_environment()
    with Console(stderr=True).status("") as progress:
        report = reproduce.reproduce(home, home.spec(model), version, progress.update)
    typer.echo("\n".join(report.lines()))
    if not report.same:
        raise typer.Exit(1)
