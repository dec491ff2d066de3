"""Arguments and options that commands share, and the run that they stand for."""

from __future__ import annotations

import os
import pwd
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from retrain.results import SHORTEST_REASON, Trigger
from retrain.state.readiness import loop_run_key
from retrain.state.run import PLAIN, Run
from retrain.state.settings import Home

Model = Annotated[str, typer.Argument(help="name of the spec in include/models")]
AnyModel = Annotated[str, typer.Argument(help="one model; by default all")]
Version = Annotated[int, typer.Argument(help="number of the version")]
IntervalStart = Annotated[
    str, typer.Option("--interval", help="start of the interval in UTC, like 2013-04-01; by default the newest")
]
RunFolder = Annotated[str, typer.Option("--run", help="the run's folder; by default made of the interval")]
WithHistory = Annotated[bool, typer.Option("--history", help="first do the same for every earlier interval")]
LiveHistory = Annotated[
    bool,
    typer.Option(
        "--history",
        help="score, retrain and monitor every interval until then, in the order of live operation; skips what is on"
        " record",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="retrain whatever the policy says")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="stop before a version is registered")]
Revise = Annotated[bool, typer.Option("--revise", help="take other bytes for an accepted interval")]


def _with_words(reason: str) -> str:
    """The reason, if it says something: the form in Airflow refuses the same."""
    if len(reason.strip()) < SHORTEST_REASON:
        raise typer.BadParameter(f"say why, in {SHORTEST_REASON} characters or more: it stays on record")
    return reason


Reason = Annotated[str, typer.Option("--reason", help="why, for the record", callback=_with_words)]


def machine_user() -> str:
    """The user of this machine, by the process's own id: the environment may claim another name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # in a container the id may have no name
        return f"uid {os.geteuid()}"


def laptop_trigger(**parameters: Any) -> Trigger:
    """Why a run of the command line runs: the user of this machine asked for it, with these parameters."""
    return Trigger(kind="laptop", by=machine_user(), **parameters)


def make_run(model: str, interval: str, folder: str, trigger: Trigger) -> Run:
    """The run of the retraining loop that the options stand for.

    Args:
        model: name of its spec.
        interval: its start in UTC; empty: the newest interval that has ended.
        folder: the run's folder; empty: made of the interval.
        trigger: why it runs.

    Raises:
        InvalidSpec: there is no such spec, or it cannot be read.
        InvalidInterval: no interval of the spec starts there.
        InvalidName: the folder would be one of another kind of run.
        typer.BadParameter: no interval has ended yet.
    """
    home = Home.from_environment()
    spec = home.spec(model)
    if interval:
        span = spec.at(interval)
    else:
        ended = list(spec.intervals_until(datetime.now(UTC)))
        if not ended:
            raise typer.BadParameter(f"no interval of {model} has ended yet")
        span = ended[-1]
    key = loop_run_key("retrain", folder or f"laptop-{span.name}")
    if PLAIN.fullmatch(folder):  # the folder itself, also that of a run of Airflow
        key = folder
    return Run(home=home, spec=spec, interval=span, key=key, trigger=trigger)
