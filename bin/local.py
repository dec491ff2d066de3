"""Airflow and MLflow on this machine: `python bin/local.py up | down | status`.

Five processes on 127.0.0.1: Airflow's scheduler, dag-processor, triggerer and api-server, and MLflow's server. `up`
starts what does not run and waits until everything answers; interrupting it stops nothing. All state lies in
`.retrain/` (see `settings`).
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import psutil
from rich.console import Console

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "include")]

from bin import processes
from bin.processes import Running
from bin.settings import (
    DAGS,
    LOOPBACK,
    PORTS,
    ROOT,
    USER,
    Refused,
    commands,
    environment,
    home,
    ports,
    read,
    tighten_all,
    write,
)
from retrain.state.private import private_folder

__all__ = ["Refused", "Services", "environment", "start", "status", "stop"]

Say = Callable[[str], None]
LISTENERS = {"airflow": "api-server", "mlflow": "mlflow"}
FIRST_DOWN = {"scheduler", "triggerer"}
"""Stopped before the others: while its tasks end, they still need the api-server and MLflow."""


class Services(NamedTuple):
    """Where the two servers answer, and how to log in to Airflow."""

    airflow_url: str
    mlflow_url: str
    user: str
    password: str

    def token(self) -> str:
        """A bearer token for Airflow's REST API."""
        body = json.dumps({"username": self.user, "password": self.password})
        return str(json.loads(_http(f"{self.airflow_url}/auth/token", body))["access_token"])


def start(dags: Path = DAGS, *, say: Say = lambda _: None, timeout: float = 300) -> Services:
    """Start what does not run, wait until everything is healthy, and say where it is.

    Args:
        dags: Airflow's DAG folder.
        say: is given each step, for people.
        timeout: seconds until everything must be healthy.

    Raises:
        Refused: a port is taken (before anything starts), a process ended, or the time is up.
    """
    with _alone():
        recorded = _recorded()
        running = {name: record for name, record in recorded.items() if processes.leader(record)}
        _check_ports(running)
        tighten_all()
        env = environment(dags)
        # What a dead process left behind, a worker without its scheduler for instance, must not meet the new one.
        processes.end([record for name, record in recorded.items() if name not in running], grace=0)
        missing = {name: command for name, command in commands().items() if name not in running}
        for name, command in missing.items():
            if name != "mlflow":
                _migrate(env, say)
            running[name] = processes.spawn(command, _log(name), ROOT, env)
            _record(running)
        say(f"started {', '.join(missing)}" if missing else "the servers run already")
    return _healthy(running, env, say, timeout)


def stop(*, say: Say = lambda _: None, grace: float = 30) -> None:
    """End everything that was started; running tasks get `grace` seconds.

    Raises:
        Refused: a process outlived even SIGKILL.
    """
    with _alone():
        running = {name: record for name, record in _recorded().items() if processes.session(record)}
        say(f"stopping {', '.join(running)}" if running else "nothing runs")
        outlived = processes.end([running[name] for name in running if name in FIRST_DOWN], grace)
        outlived += processes.end([running[name] for name in running if name not in FIRST_DOWN], grace / 2)
        if outlived:
            raise Refused(f"still there after SIGKILL: {', '.join(map(str, outlived))}")
        _record({})
        if running:
            say("everything is stopped")


def status() -> str:
    """One line per process, and whether the servers are healthy."""
    running = {name: record for name, record in _recorded().items() if processes.leader(record)}
    lines = []
    for name in commands():
        record = running.get(name)
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.started)) if record else ""
        lines.append(f"{name:14} " + (f"pid {record.pid}, since {since}" if record else "down"))
    if running:
        env = environment()
        waiting = _unhealthy(env, running)
        lines.append(f"not healthy: {', '.join(waiting)}" if waiting else "healthy")
        lines += [f"Airflow  {env['AIRFLOW__API__BASE_URL']}", f"MLflow   {env['MLFLOW_TRACKING_URI']}"]
    return "\n".join(lines)


# --- what start and stop are made of


@contextmanager
def _alone() -> Iterator[None]:
    """One starts or stops at a time."""
    private_folder(home())
    with (home() / "local.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused("the servers are being started or stopped by another command: wait for it to end") from None
        yield


def _recorded() -> dict[str, Running]:
    state = read("services.json")
    # Pids begin anew with the machine. Corrections of the clock move the boot time by a little.
    if abs(state.get("boot", 0.0) - psutil.boot_time()) > 5:
        return {}
    return {name: Running(*record) for name, record in state["processes"].items()}


def _record(running: dict[str, Running]) -> None:
    write("services.json", {"boot": psutil.boot_time(), "ports": ports(), "processes": running})


def _log(name: str) -> Path:
    return home() / "logs" / f"{name}.log"


def _check_ports(running: dict[str, Running]) -> None:
    last = read("services.json").get("ports", {})
    for server, port in ports().items():
        if LISTENERS[server] not in running:
            _refuse_taken(server, port)
        elif last[server] != port:
            raise Refused(f"{server} runs on port {last[server]}: `make down` first to move it to {port}")


def _refuse_taken(server: str, port: int) -> None:
    with socket.socket() as listener, socket.socket() as caller:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        caller.settimeout(1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError as error:
            reason = error.strerror
        else:
            # Elsewhere than on Linux the bind also succeeds beside somebody who listens on every interface.
            listener.close()
            if caller.connect_ex((LOOPBACK, port)):
                return
            reason = "Address already in use"
    raise Refused(
        f"port {port} for {server} cannot be had ({reason}); nothing was started\n"
        f"  → give another one: make up {PORTS[server][0]}={port + 1}"
    )


def _migrate(env: dict[str, str], say: Say) -> None:
    """Bring Airflow's database to the installed version, once; a new one appears whole or not at all."""
    marker, installed = home() / "airflow" / "migrated", version("apache-airflow")
    if marker.exists() and marker.read_text() == installed:
        return
    say("preparing Airflow's database")
    database, new = home() / "airflow" / "airflow.db", home() / "airflow" / "new.db"
    if not database.exists():
        for left in new.parent.glob("new.db*"):
            left.unlink()
        env = {**env, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{new}"}
    record = processes.spawn(["airflow", "db", "migrate"], _log("migrate"), ROOT, env)
    try:
        code = processes.exit_code(record, wait=True)
    except KeyboardInterrupt:
        processes.exit_code(record, wait=True)  # a database left half way could not be used again
        raise
    if code:
        raise _ended("migrate", record)
    if not database.exists():
        new.rename(database)
    marker.write_text(installed)


def _healthy(running: dict[str, Running], env: dict[str, str], say: Say, timeout: float) -> Services:
    begin, reported = time.monotonic(), [""]
    while True:
        waiting = _unhealthy(env, running)
        for name, record in running.items():
            if not processes.leader(record):  # else whoever answers may be somebody else
                raise _ended(name, record)
        if not waiting:
            break
        if time.monotonic() - begin > timeout:
            raise Refused(f"not healthy after {timeout:.0f} s: {', '.join(waiting)}; see {home() / 'logs'}")
        if waiting != reported:
            say(f"waiting for {', '.join(waiting)}")
            reported = waiting
        time.sleep(0.3)
    say(f"healthy after {time.monotonic() - begin:.0f} s")
    password = read("airflow/simple_auth_manager_passwords.json.generated")[USER]
    return Services(env["AIRFLOW__API__BASE_URL"], env["MLFLOW_TRACKING_URI"], USER, password)


def _unhealthy(env: dict[str, str], running: dict[str, Running]) -> list[str]:
    """What does not answer yet, by name."""
    waiting = []
    try:
        _http(f"{env['MLFLOW_TRACKING_URI']}/health")
    except OSError:
        waiting.append("mlflow")
    try:
        health = json.loads(_http(f"{env['AIRFLOW__API__BASE_URL']}/api/v2/monitor/health"))
    except OSError:
        return [*waiting, "api-server"]
    if health["metadatabase"]["status"] != "healthy":
        waiting.append("Airflow's database")
    for name in ("scheduler", "dag-processor", "triggerer"):
        part = name.replace("-", "_")
        beat = health[part][f"latest_{part}_heartbeat"]
        # Airflow believes in a heartbeat for half a minute, also in that of a process that was killed since.
        if health[part]["status"] != "healthy" or name not in running or _seconds(beat) < running[name].started:
            waiting.append(name)
    return waiting


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def _http(url: str, body: str | None = None) -> bytes:
    request = urllib.request.Request(url, body.encode() if body else None, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as answer:
        return bytes(answer.read())


def _ended(name: str, record: Running) -> Refused:
    code = processes.exit_code(record)
    tail = "\n".join(f"  | {line[:200]}" for line in _log(name).read_text(errors="replace").splitlines()[-15:])
    return Refused(f"{name} ended{'' if code is None else f' with code {code}'}; {_log(name)} ends with\n{tail}")


# --- the command


def main(verb: str) -> int:
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 140
    try:
        if verb == "status":
            console.print(status())
            _tables(console)
            return 0
        if console.is_terminal:
            with console.status("…") as spinner:
                services = _run(verb, lambda line: spinner.update(line), console)
        else:
            services = _run(verb, console.print, console)
        if services:
            from bin.follow import follow

            model = os.environ.get("MODEL") or "flights"
            return 0 if follow(model, services.airflow_url, services.token(), console) else 1
    except Refused as refused:
        print(refused, file=sys.stderr)
        return 1
    except Exception as error:
        from retrain.state.failures import refusal_of

        if (refusal := refusal_of(error)) is None:
            raise
        print(refusal, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: what was started goes on; `make status` shows it, `make down` ends it", file=sys.stderr)
        return 130
    return 0


def _run(verb: str, say: Say, console: Console) -> Services | None:
    if verb == "down":
        stop(say=say)
        return None
    services = start(say=say)
    console.print(f"Airflow  {services.airflow_url}   user {services.user}, password {services.password}")
    console.print(f"MLflow   {services.mlflow_url}")
    console.print(f"Logs     {home() / 'logs'}")
    return services


def _tables(console: Console) -> None:
    """What happened, of every model that has begun."""
    from retrain.reporting.status import rows, table
    from retrain.state.ledger import Ledger
    from retrain.state.settings import Home

    place = Home.from_environment()
    ledger = Ledger(place.ledger)
    for file in place.specs:
        if rows(ledger, file.stem):
            console.print(table(ledger, file.stem))


if __name__ == "__main__":
    if sys.argv[1:] not in (["up"], ["down"], ["status"]):
        raise SystemExit("usage: python bin/local.py up | down | status")
    raise SystemExit(main(sys.argv[1]))
