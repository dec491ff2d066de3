"""Commands for whoever writes a model's spec."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from retrain.cli.options import AnyModel, Model
from retrain.state.settings import Home


def new(
    model: Annotated[str, typer.Argument(help="name of the new model, and of its spec")],
    data: Annotated[str, typer.Argument(help="file, glob or template like data/churn-{start:%Y-%m}.csv")],
    target: Annotated[str, typer.Option("--target", help="the column to predict")],
    time: Annotated[str, typer.Option("--time", help="the column that places a row in its interval")] = "",
    key: Annotated[list[str] | None, typer.Option("--key", help="a column that identifies a row; repeatable")] = None,
) -> None:
    """Look at data and write a spec to correct by hand."""
    from retrain.authoring import scaffold

    new_spec = scaffold.write_spec(Home.from_environment(), model, data, target=target, time=time, key=key or [])
    for line in new_spec.summary:
        typer.echo(line)
    typer.echo(f"next: python -m retrain check {model}\n      python -m retrain run {model} --history")


def check(model: AnyModel = "") -> None:
    """Explain every spec, or say what is wrong with it."""
    from retrain.authoring import check

    specs = check.check_specs(Home.from_environment(), model)
    typer.echo("\n\n".join(map(str, specs)))
    if any(spec.problems for spec in specs):
        raise typer.Exit(1)


def replay(
    model: Model,
    policy: Annotated[
        list[str] | None,
        typer.Option("--policy", help="a name of the table, or YAML like '{schedule: 2, drift: true}'; repeatable"),
    ] = None,
    out: Annotated[str, typer.Option("--out", help="folder of the plot and the table")] = "",
) -> None:
    """Show what other policies would have done with this model's history."""
    from retrain.policy.presets import policies_of
    from retrain.rendering import monitoring_plots
    from retrain.rerun import replay

    home = Home.from_environment()
    spec = home.spec(model)
    with Console(stderr=True).status("") as progress:
        outcomes = replay.replay(home, spec, policies_of(spec, policy or []), progress.update)
    typer.echo(replay.table(outcomes).to_string(index=False, float_format="{:.4f}".format))
    folder = Path(out or home.state / "replay" / model)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "replay.png").write_bytes(monitoring_plots.replay_scores(outcomes))
    (folder / "replay.json").write_text("[" + ",".join(outcome.to_json() for outcome in outcomes) + "]")
    typer.echo(f"{folder / 'replay.png'}, and every decision with its reason in {folder / 'replay.json'}")
