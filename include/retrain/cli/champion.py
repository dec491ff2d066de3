"""Commands by which a person changes what serves, or lets data through."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal, cast

import typer

from retrain import actions
from retrain.cli.options import IntervalStart, Model, Reason, Version, laptop_trigger, machine_user, make_run
from retrain.cli.output import show_report
from retrain.errors import MissingInput
from retrain.results import HELD
from retrain.state.settings import Home


def rollback(
    model: Model,
    reason: Reason,
    to: Annotated[int | None, typer.Option("--to", help="version to put back; by default the predecessor")] = None,
) -> None:
    """Put the champion's predecessor back, and block the champion from coming again."""
    home = Home.from_environment()
    report = actions.roll_back(home, home.spec(model), _new_key(), reason, to=to, by=machine_user())
    show_report("rollback", report)


def approve(
    model: Model,
    version: Version,
    reason: Reason,
    reject: Annotated[bool, typer.Option("--reject", help="say no")] = False,
) -> None:
    """Answer a version that waits for a person's word; approved, it serves."""
    home = Home.from_environment()
    verdict: Literal["approve", "reject"] = "reject" if reject else "approve"
    show_report("promote", actions.answer(home, home.spec(model), version, verdict, machine_user(), reason))


def reconcile(
    model: Model,
    take: Annotated[str, typer.Option("--take", help="where an alias was moved by hand: ledger or alias")] = "",
    reason: Reason = "reconciled",
) -> None:
    """Make the ledger and MLflow's alias agree again."""
    if take not in ("", "ledger", "alias"):
        raise typer.BadParameter("--take is ledger or alias")
    home = Home.from_environment()
    outcome = actions.reconcile(
        home,
        home.spec(model),
        _new_key(),
        cast(Literal["", "ledger", "alias"], take),
        reason,
        by=machine_user(),
    )
    typer.echo(f"{model} · reconcile: {outcome}")


def release(model: Model, reason: Reason, interval: IntervalStart = "") -> None:
    """Let a batch through that was quarantined, or is held as broken or suspect: these very bytes."""
    run = make_run(model, interval, "", laptop_trigger(reason=reason))
    name = run.interval.name
    batches = [record for record in run.ledger.records(model, "batch") if record.body["interval"] == name]
    diagnoses = [signal.body for signal in run.ledger.records(model, "signal") if signal.body["question"] == "kind"]
    held = any(diagnosis["interval"] == name and diagnosis["verdict"] in HELD for diagnosis in diagnoses)
    if not batches or (batches[-1].body["verdict"] != "quarantine" and not held):
        raise MissingInput(
            f"no quarantined or held batch of {run.interval} is on record",
            do=f"see what is: python -m retrain status {model}",
        ).at(model, "release")
    sha256 = batches[-1].body["sha256"]
    body = {"interval": name, "sha256": sha256, "reason": reason, "user": machine_user()}
    run.ledger.append(model, "release", f"{name}/{sha256}", body, effective_at=run.as_of, run=run.key)
    effect = "the next run may learn from it" if held else "passes the next validate"
    typer.echo(f"{model} · {name} · release: {sha256[:12]} {effect}")


def _new_key() -> str:
    """A key that no other call of the command has: each is an act of its own."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S.%f}"
