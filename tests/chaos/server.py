"""Histories with a real MLflow server that dies or stalls between intent and alias."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.measure import free_ports
from tests.chaos.histories import CHANGES, THIRD, Change, Findings, History, between, promoting, raced, settle
from tests.chaos.prepared import Worlds
from tests.chaos.world import World

IMPATIENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
}
"""Shorter than the product's own, in the processes that meet the fault."""


class Server:
    """A real MLflow server on the database and the artifacts of a world."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (self.port,) = free_ports(1)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        state = self.folder / "state" / "mlflow"
        where = ("--host", "127.0.0.1", "--port", str(self.port), "--workers", "1")
        data = ("--backend-store-uri", f"sqlite:///{state / 'mlflow.db'}")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *where, *data],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=5):
                return
            time.sleep(0.05)
        raise RuntimeError("the MLflow server did not start")

    def signal(self, number: signal.Signals) -> None:
        """To the server and every worker of it."""
        if self.process:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def stop(self) -> None:
        self.signal(signal.SIGKILL)
        if self.process:
            self.process.wait()
            self.process = None


@contextmanager
def served(worlds: Worlds, home: tuple[Any, ...]) -> Iterator[tuple[World, Server]]:
    """A fresh world whose MLflow is reached over HTTP."""
    with worlds.fresh(*home) as world:
        server = Server(world.folder)
        server.start()
        try:
            yield replace(world, mlflow=server.url), server
        finally:
            server.stop()


def servers() -> Iterator[History]:
    """The server killed, and stalled, before the alias follows; and racers that share one server."""
    for change in (CHANGES[1], CHANGES[4]):
        for fault in ("dies", "stalls"):
            yield History(
                "server", f"MLflow {fault} between intent and alias of a {change.name}", failing(change, fault)
            )
    yield History("server", "4 racers and one server", raced(_alone, [promoting(month) for month in range(4, 8)]))


@contextmanager
def _alone(worlds: Worlds) -> Iterator[World]:
    with served(worlds, THIRD) as (world, _):
        yield world


def failing(change: Change, fault: str) -> Callable[[Worlds], Findings]:
    def run(worlds: Worlds) -> Findings:
        findings = Findings()
        number = signal.SIGKILL if fault == "dies" else signal.SIGSTOP
        with served(worlds, change.home) as (world, server):

            def act(world: World) -> Any:
                os.environ.update(IMPATIENT)
                return change.act(world)

            outcome = world.apart(act, between(lambda: server.signal(number)))
            findings.expect(outcome, "RegistryDown")
            findings.kills += fault == "dies"
            if fault == "dies":
                world = replace(world, mlflow="")
            else:
                server.signal(signal.SIGCONT)
            settle(world, change, "retry", findings)
        return findings

    return run
