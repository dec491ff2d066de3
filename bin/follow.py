"""Unpause a model's DAGs and watch its table fill, until every interval that has ended has been through them."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import httpx
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from bin.settings import Refused
from retrain.reporting.status import IntervalStatus, rows, table
from retrain.state.ledger import Ledger
from retrain.state.settings import Home

ENDED = {"success", "failed"}
EVERY = 1.0
PATIENCE = 20
LOOPS = ("retrain", "score", "monitor")


class Airflow:
    """The few calls of Airflow's REST API that following needs."""

    def __init__(self, url: str, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        self.client = httpx.Client(base_url=f"{url}/api/v2", headers=headers, timeout=30, trust_env=False)

    def unpause(self, dag: str) -> bool:
        """Let a DAG run; False where it is not there yet, or nobody answers."""
        try:
            answer = self.client.patch(f"/dags/{dag}", json={"is_paused": False})
        except httpx.TransportError:
            return False
        if answer.status_code == 404:
            return False
        answer.raise_for_status()
        return True

    def states(self, dag: str) -> list[str]:
        """The states of the scheduled runs, oldest first; a server too busy to answer is asked again."""
        wanted = {"limit": 1000, "order_by": "logical_date", "run_type": "scheduled"}
        patience = PATIENCE
        while True:
            try:
                answer = self.client.get(f"/dags/{dag}/dagRuns", params=wanted).raise_for_status()
                return [str(run["state"]) for run in answer.json()["dag_runs"]]
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                patience -= 1
                if not patience:
                    raise Refused(f"Airflow stopped answering ({error}); see `make status`, then `make up`") from error
            time.sleep(EVERY)

    def import_errors(self) -> str:
        """Why Airflow could not read DAG files, a line each."""
        errors: Any = self.client.get("/importErrors").raise_for_status().json()["import_errors"]
        return "\n".join(str(error["stack_trace"]).strip().splitlines()[-1] for error in errors)


def follow(model: str, url: str, token: str, console: Console) -> bool:
    """Watch until every interval that has ended is through; True if every run ended well.

    Interrupting it stops nothing: the servers and the runs go on.

    Args:
        model: its name.
        url: of Airflow.
        token: for its REST API.
        console: where the table is shown.

    Raises:
        Refused: Airflow stopped answering.
    """
    home = Home.from_environment()
    spec, ledger, airflow = home.spec(model), Ledger(home.ledger), Airflow(url, token)
    dags = [f"{model}_{loop}" for loop in LOOPS]
    wanted = len(list(spec.intervals_until(datetime.now(UTC))))
    for dag in dags:
        while not airflow.unpause(dag):
            if errors := airflow.import_errors():
                console.print(errors)
            time.sleep(EVERY)
    if spec.monitor_cron != spec.cron:
        dags.pop()  # it has its own number of runs, and may have them in its own time
    printed: set[str] = set()
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        while True:
            states = {dag: airflow.states(dag) for dag in dags}
            ended = {dag: sum(state in ENDED for state in of_dag) for dag, of_dag in states.items()}
            if console.is_terminal:
                counts = ", ".join(f"{dag} {count}" for dag, count in ended.items())
                live.update(Group(table(ledger, model), Text(f"of {wanted} intervals ended: {counts}", style="dim")))
            else:
                _print_new(rows(ledger, model)[: ended[dags[0]]], printed, console)
            if min(ended.values()) >= wanted:
                break
            time.sleep(EVERY)
    console.print(table(ledger, model))
    return all(set(of_dag) == {"success"} for of_dag in states.values())


def _print_new(ended: list[IntervalStatus], printed: set[str], console: Console) -> None:
    """Where nobody looks at a terminal: one line when an interval has ended."""
    for row in ended:
        if row.interval not in printed:
            printed.add(row.interval)
            verdict = row.outcome or row.verdict("decide")
            console.print(
                f"{row.interval}: {verdict}, v{row.champion or '-'} serves, {row.seconds:.0f} s; {row.reason}"
            )
