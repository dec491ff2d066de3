"""Where the local servers keep their state, on which ports they listen and how they are set up.

.retrain/            or where RETRAIN_HOME points; readable by you alone
  airflow/           AIRFLOW_HOME: SQLite database, password, task logs
  mlflow/            SQLite database and artifacts
  logs/              one file per process, and the one before it
  services.json      who runs, and on which ports
  secrets.json       keys made here, once
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

from retrain.state.private import private_folder, tighten

ROOT = Path(__file__).resolve().parents[1]
DAGS = ROOT / "dags"
LOOPBACK = "127.0.0.1"
PORTS = {"airflow": ("AIRFLOW_PORT", 8080), "mlflow": ("MLFLOW_PORT", 5000)}
USER = "admin"
OURS = frozenset(
    {"airflow", "mlflow", "logs", "services.json", "secrets.json", "local.lock"}
    | {"ledger.db", "ledger.db-journal", "store", "registry.git", "remote", "replay"}
)
"""What lies in the state folder, of the servers and of the command line."""


class Refused(RuntimeError):
    """The servers cannot start or stop; the message says why and what to do."""


def home() -> Path:
    """Where the servers keep their state."""
    folder = Path(os.environ.get("RETRAIN_HOME") or ROOT / ".retrain").expanduser().resolve()
    if {"%", "?"} & set(str(folder)):  # see `retrain.state.settings.Home`
        raise Refused(f"{folder} has a % or a ? in its path, which databases cannot have: set RETRAIN_HOME to another")
    return folder


def read(name: str) -> dict[str, Any]:
    """A JSON file of the state; empty where there is none."""
    path = home() / name
    return dict(json.loads(path.read_text())) if path.exists() else {}


def write(name: str, value: dict[str, Any]) -> None:
    """Write a JSON file of the state, whole or not at all, readable by its owner alone."""
    new = private_folder(home()) / f".{name}.{os.getpid()}"
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(json.dumps(value, indent=2) + "\n")
    new.replace(home() / name)


def tighten_all() -> None:
    """Make the folders of the servers, and close what another command or an earlier version has left open to others."""
    for folder in ("airflow", "mlflow", "logs"):
        tighten(private_folder(home() / folder))
    tighten(home(), OURS)


def ports() -> dict[str, int]:
    """The port of each server: as asked for, else as it was last time, else the usual one."""
    last = read("services.json").get("ports", {})
    chosen = {}
    for server, (variable, usual) in PORTS.items():
        port = os.environ.get(variable) or str(last.get(server, usual))
        if not port.isdecimal() or not 0 < int(port) < 65536:
            raise Refused(f"{variable}={port} is not a port: give a number from 1 to 65535")
        chosen[server] = int(port)
    if len(set(chosen.values())) < len(chosen):
        raise Refused(f"Airflow and MLflow cannot share port {chosen['airflow']}: give one of them another")
    return chosen


def environment(dags: Path = DAGS) -> dict[str, str]:
    """The settings of both servers, of their tasks, and of anybody who wants to talk to them."""
    keys = read("secrets.json")
    if not keys:
        keys = {"jwt": secrets.token_urlsafe(64), "api": secrets.token_urlsafe(64)}
        write("secrets.json", keys)
    port = ports()
    airflow = f"http://{LOOPBACK}:{port['airflow']}"
    path = [str(ROOT / "include"), str(ROOT / "config"), os.environ.get("PYTHONPATH", "")]
    settings = {
        "CORE__DAGS_FOLDER": dags,
        "CORE__PLUGINS_FOLDER": ROOT / "plugins",
        "CORE__LOAD_EXAMPLES": False,
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": 4,
        "CORE__EXECUTION_API_SERVER_URL": f"{airflow}/execution/",
        "CORE__AUTH_MANAGER": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
        "CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": False,
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home() / 'airflow' / 'airflow.db'}",
        "API__HOST": LOOPBACK,
        "API__PORT": port["airflow"],
        "API__BASE_URL": airflow,
        "API__WORKERS": 1,
        "API__SECRET_KEY": keys["api"],
        "API_AUTH__JWT_SECRET": keys["jwt"],
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.1,
        "SCHEDULER__ENABLE_HEALTH_CHECK": False,
        "DAG_PROCESSOR__REFRESH_INTERVAL": 10,
        "DAG_PROCESSOR__PRINT_STATS_INTERVAL": 0,
    }
    return {
        "RETRAIN_HOME": str(home()),
        "AIRFLOW_HOME": str(home() / "airflow"),
        **{f"AIRFLOW__{name}": str(value) for name, value in settings.items()},
        "MLFLOW_TRACKING_URI": f"http://{LOOPBACK}:{port['mlflow']}",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DVC_NO_ANALYTICS": "1",
        "GX_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # A proxy for the outside must not be asked for the servers next door.
        "NO_PROXY": ",".join(dict.fromkeys(filter(None, (os.environ.get("NO_PROXY"), LOOPBACK, "localhost")))),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(filter(None, path))),
        "PYTHONUNBUFFERED": "1",
        # Threads that wait must not take the core from those that work.
        "OMP_WAIT_POLICY": "passive",
    }


def commands() -> dict[str, list[str]]:
    """What each process runs, as arguments of `python -m`.

    They are the parts of `airflow standalone` without their parent, which orphans them when it is terminated, and
    without its two log servers, which listen on every interface; the api-server reads the task logs from disk.
    """
    port, store = ports()["mlflow"], home() / "mlflow"
    where = ["--host", LOOPBACK, "--port", str(port), "--allowed-hosts", f"{LOOPBACK}:{port},localhost:{port}"]
    data = [
        *("--backend-store-uri", f"sqlite:///{store / 'mlflow.db'}"),
        # On one machine everybody reaches the folder, also the command line while the server is down.
        *("--no-serve-artifacts", "--default-artifact-root", (store / "mlartifacts").as_uri()),
    ]
    return {
        "mlflow": ["bin.mlflow_server", "--workers", "1", "--uvicorn-opts=--no-access-log", *where, *data],
        "api-server": ["airflow", "api-server"],
        "scheduler": ["airflow", "scheduler", "--skip-serve-logs"],
        "dag-processor": ["airflow", "dag-processor"],
        "triggerer": ["airflow", "triggerer", "--skip-serve-logs"],
    }
