"""`python -m retrain STAGE MODEL …`: the door for dvc.yaml and for people."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer
from rich.console import Console, RenderableType

from retrain import pipeline
from retrain.errors import BatchMissing, MissingInput, Quarantined, RetrainError
from retrain.results import HELD, GateReport, StageReport, Trigger
from retrain.state.ledger import Ledger
from retrain.state.run import Run, run_key
from retrain.state.settings import Home

# Before a library starts its threads: those that wait must not take the core from those that work.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Model = Annotated[str, typer.Argument(help="name of the spec in include/models")]
When = Annotated[
    str, typer.Option("--interval", help="start of the interval in UTC, like 2013-04-01; by default the newest")
]
Key = Annotated[str, typer.Option("--run", help="the run's folder; by default made of the interval")]
History = Annotated[bool, typer.Option("--history", help="first do the same for every earlier interval")]
Force = Annotated[bool, typer.Option("--force", help="retrain whatever the policy says")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="stop before a version is registered")]
Version = Annotated[int, typer.Argument(help="number of the version")]
Reason = Annotated[str, typer.Option("--reason", help="why, for the record")]
Revise = Annotated[bool, typer.Option("--revise", help="take other bytes for an accepted interval")]


def _by_hand(**asked: Any) -> Trigger:
    return Trigger(kind="laptop", by=getpass.getuser(), **asked)


def make_run(model: str, interval: str, key: str, trigger: Trigger) -> Run:
    home = Home.from_environment()
    spec = home.spec(model)
    if interval:
        span = spec.at(interval)
    else:
        spans = list(spec.intervals_until(datetime.now(UTC)))
        if not spans:
            raise typer.BadParameter(f"no interval of {model} has ended yet")
        span = spans[-1]
    return Run(home=home, spec=spec, interval=span, key=run_key(key or f"laptop-{span.name}"), trigger=trigger)


def _stage(name: str, does: str) -> Callable[..., None]:
    def command(
        model: Model,
        interval: When = "",
        run: Key = "",
        history: History = False,
        force: Force = False,
        dry_run: DryRun = False,
        revise: Revise = False,
    ) -> None:
        trigger = _by_hand(force=force, dry_run=dry_run, revise=revise)
        this = make_run(model, interval, run, trigger)
        if history and name in pipeline.DATA_STAGES:
            for span in pipeline.history(this):
                if span != this.interval:
                    _earlier(name, replace(this, interval=span, key=run_key(f"laptop-{span.name}")))
        why = pipeline.idle(name, this)
        _say(pipeline.skip(name, this, why) if why else pipeline.run_stage(name, this), name)

    command.__doc__ = does[0].upper() + does[1:] + "."
    return command


def _earlier(name: str, run: Run) -> None:
    """A bad or missing month does not block the later ones, and a later stage finds nothing of it."""
    try:
        _say(pipeline.run_stage(name, run), name)
    except (BatchMissing, Quarantined, MissingInput) as error:
        typer.echo(str(error.at(run.model, name)), err=True)


def _say(report: StageReport, stage: str) -> None:
    typer.echo(pipeline.last_line(report, stage))
    if isinstance(report, GateReport) and report.checks:
        from retrain.gate import table

        _show(table.terminal(report))


for _one in pipeline.STAGES:
    app.command(_one.name)(_stage(_one.name, _one.does))


@app.command()
def run(
    model: Model,
    interval: When = "",
    history: History = False,
    force: Force = False,
    dry_run: DryRun = False,
    revise: Revise = False,
) -> None:
    """Run the whole loop in this process: every stage that has something to do."""
    this = make_run(model, interval, "", _by_hand(force=force, dry_run=dry_run, revise=revise))
    spans = list(pipeline.history(this)) if history else [this.interval]
    for span in spans:
        one = replace(this, interval=span, key=run_key(f"laptop-{span.name}"))
        try:
            for name, report in pipeline.run_all(one):
                _say(report, name)
        except (BatchMissing, Quarantined) as error:
            if span == this.interval:
                raise
            typer.echo(str(error), err=True)


@app.command()
def monitor(model: Model, interval: When = "", history: History = False) -> None:
    """Score the interval with the champion of its time and look how that champion does; nothing is started."""
    this = make_run(model, interval, "", _by_hand())
    for span in pipeline.history(this) if history else [this.interval]:
        for loop in ("score", "monitor"):
            one = replace(this, interval=span, key=run_key(f"{loop}-laptop-{span.name}"), loop=loop)
            try:
                for name, report in pipeline.run_all(one):
                    _say(report, name)
            except (BatchMissing, Quarantined) as error:
                if span == this.interval:
                    raise
                typer.echo(str(error), err=True)


@app.command()
def replay(
    model: Model,
    policy: Annotated[
        list[str] | None,
        typer.Option("--policy", help="a name of the table, or YAML like '{schedule: 2, drift: true}'; repeatable"),
    ] = None,
    out: Annotated[str, typer.Option("--out", help="folder of the plot and the table")] = "",
) -> None:
    """Show what other policies would have done with this model's history."""
    from retrain.rendering import plots
    from retrain.rerun.replay import choose, table
    from retrain.rerun.replay import replay as walk

    home = Home.from_environment()
    spec = home.spec(model)
    console = Console(stderr=True)
    with console.status("") as shown:
        outcomes = walk(home, spec, choose(spec, policy or []), lambda text: shown.update(text))
    typer.echo(table(outcomes).to_string(index=False, float_format="{:.4f}".format))
    folder = Path(out or home.state / "replay" / model)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "replay.png").write_bytes(plots.replayed(outcomes))
    (folder / "replay.json").write_text("[" + ",".join(one.to_json() for one in outcomes) + "]")
    typer.echo(f"{folder / 'replay.png'}, and every decision with its reason in {folder / 'replay.json'}")


@app.command()
def status(model: Annotated[str, typer.Argument(help="one model; by default all")] = "") -> None:
    """Show what happened, interval by interval."""
    from retrain.reporting.status import table

    home = Home.from_environment()
    for name in [model] if model else [file.stem for file in home.specs]:
        home.spec(name)
        _show(table(Ledger(home.ledger), name))


@app.command()
def rollback(
    model: Model,
    reason: Reason,
    to: Annotated[int | None, typer.Option("--to", help="version to put back; by default the predecessor")] = None,
) -> None:
    """Put the champion's predecessor back, and block the champion from coming again."""
    home = Home.from_environment()
    report = pipeline.roll_back(home, home.spec(model), _key("rollback"), reason, to=to, by=getpass.getuser())
    _say(report, "rollback")


@app.command()
def approve(
    model: Model,
    version: Version,
    reason: Reason,
    reject: Annotated[bool, typer.Option("--reject", help="say no")] = False,
) -> None:
    """Answer a version that waits for a person's word; approved, it serves."""
    home = Home.from_environment()
    verdict: Literal["approve", "reject"] = "reject" if reject else "approve"
    _say(pipeline.answer(home, home.spec(model), version, verdict, getpass.getuser(), reason), "promote")


@app.command()
def reconcile(
    model: Model,
    take: Annotated[str, typer.Option("--take", help="where an alias was moved by hand: ledger or alias")] = "",
    reason: Annotated[str, typer.Option("--reason", help="why, for the record")] = "",
) -> None:
    """Make the ledger and MLflow's alias agree again."""
    if take not in ("", "ledger", "alias"):
        raise typer.BadParameter("--take is ledger or alias")
    home = Home.from_environment()
    said = pipeline.reconcile(
        home,
        home.spec(model),
        _key("reconcile"),
        cast(Literal["", "ledger", "alias"], take),
        reason or "reconciled",
        by=getpass.getuser(),
    )
    typer.echo(f"{model} · reconcile: {said}")


@app.command()
def history(model: Model) -> None:
    """Show every change of the champion, and what was refused: when, why, who."""
    from retrain.reporting import history as told

    home = Home.from_environment()
    _show(told.table(Ledger(home.ledger), home.spec(model).model))


@app.command()
def served(
    model: Model,
    at: Annotated[str, typer.Option("--at", help="a moment in UTC, like 2013-07-04T12:00Z")],
    recorded: Annotated[bool, typer.Option("--recorded", help="ask the wall's clock, not the data's")] = False,
) -> None:
    """Say which version served at a moment, why, and on which data it was trained."""
    from retrain.reporting import history as told

    home = Home.from_environment()
    typer.echo("\n".join(told.served(home, home.spec(model), told.moment(at), recorded=recorded)))


@app.command()
def explain(model: Model, version: Version) -> None:
    """Show the whole chain of a version, from delivered bytes to the alias."""
    from retrain.reporting import explain as told

    home = Home.from_environment()
    _show(told.explain(home, home.spec(model), version))


@app.command()
def reproduce(model: Model, version: Version) -> None:
    """Bring a version's data back by hash, train it again, and say whether it is the same."""
    from retrain.rerun import reproduce as again

    home = Home.from_environment()
    with Console(stderr=True).status("") as shown:
        report = again.reproduce(home, home.spec(model), version, shown.update)
    typer.echo("\n".join(report.lines()))
    if not report.same:
        raise typer.Exit(1)


@app.command()
def changelog(model: Model) -> None:
    """Print what changed from version to version, as Markdown."""
    from retrain.reporting import changelog as told

    home = Home.from_environment()
    typer.echo(told.changelog(model, Ledger(home.ledger).records(home.spec(model).model)))


@app.command()
def inventory() -> None:
    """Show all models: owner, champion, age, health."""
    from retrain.reporting import inventory as told

    _show(told.table(told.entries(Home.from_environment())))


@app.command()
def verify(model: Annotated[str, typer.Argument(help="one model; by default all on record")] = "") -> None:
    """Look whether record, aliases, model files and data are all there and unaltered."""
    from retrain.reporting import verify

    home, sound, console = Home.from_environment(), True, Console(stderr=True)
    for name in [home.spec(model).model] if model else verify.models(home):
        with console.status(name) as shown:
            answers = verify.verify(home, name, shown.update)
        _show(verify.table(name, answers))
        sound = sound and all(one.ok for one in answers)
    if not sound:
        raise typer.Exit(1)


def _show(made: RenderableType) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = 140
    console.print(made)


def _key(what: str) -> str:
    return run_key(f"{what}-{datetime.now(UTC).isoformat()}")


@app.command()
def release(model: Model, reason: Reason, interval: When = "") -> None:
    """Let a batch through that was quarantined, or is held as broken or suspect: these very bytes."""
    this = make_run(model, interval, "", _by_hand(reason=reason))
    batches = [one for one in this.ledger.records(model, "batch") if one.body["interval"] == this.interval.name]
    kinds = [one.body for one in this.ledger.records(model, "signal") if one.body["question"] == "kind"]
    held = any(one["interval"] == this.interval.name and one["verdict"] in HELD for one in kinds)
    if not batches or (batches[-1].body["verdict"] != "quarantine" and not held):
        raise MissingInput(
            f"no quarantined or held batch of {this.interval} is on record",
            do=f"see what is: python -m retrain status {model}",
        ).at(model, "release")
    sha256 = batches[-1].body["sha256"]
    body = {"interval": this.interval.name, "sha256": sha256, "reason": reason, "user": getpass.getuser()}
    this.ledger.append(model, "release", f"{this.interval.name}/{sha256}", body, effective_at=this.as_of, run=this.key)
    then = "the next run may learn from it" if held else "passes the next validate"
    typer.echo(f"{model} · {this.interval.name} · release: {sha256[:12]} {then}")


@app.command()
def new(
    model: Annotated[str, typer.Argument(help="name of the new model, and of its spec")],
    data: Annotated[str, typer.Argument(help="file, glob or template like data/churn-{start:%Y-%m}.csv")],
    target: Annotated[str, typer.Option("--target", help="the column to predict")],
    time: Annotated[str, typer.Option("--time", help="the column that places a row in its interval")] = "",
    key: Annotated[list[str] | None, typer.Option("--key", help="a column that identifies a row; repeatable")] = None,
) -> None:
    """Look at data and write a spec to correct by hand."""
    from retrain.authoring.scaffold import new as write

    for line in write(Home.from_environment(), model, data, target=target, time=time, key=key or []).said:
        typer.echo(line)
    typer.echo(f"next: python -m retrain check {model}\n      python -m retrain run {model} --history")


@app.command()
def check(model: Annotated[str, typer.Argument(help="one model; by default all")] = "") -> None:
    """Explain every spec, or say what is wrong with it."""
    from retrain.authoring.check import check as look

    checked = look(Home.from_environment(), model)
    typer.echo("\n\n".join(map(str, checked)))
    if any(one.wrong for one in checked):
        raise typer.Exit(1)


def main() -> None:
    try:
        app()
    except RetrainError as error:
        typer.echo(str(error), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
