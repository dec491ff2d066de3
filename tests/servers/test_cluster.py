"""The team's cluster for real: the commands and settings of docker-compose.yaml, as processes of this machine.

Every service has a home of its own and they share nothing but the databases, the queue and one folder, as containers
do. What differs from the compose file is written in `Cluster.settings` and `Cluster.start`: hosts, ports and paths.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import yaml

from bin import cluster as secrets
from bin import processes
from retrain.state.ledger import Ledger
from retrain.state.run import run_key

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
LOOPBACK = "127.0.0.1"
ADMINISTRATION = f"postgresql+psycopg2://postgres@{LOOPBACK}:5432/postgres"
DAG = "diabetes_retrain"
DEADLINE = 600.0
T = TypeVar("T")

pytestmark = [pytest.mark.airflow, pytest.mark.services]


def until(what: str, ask: Callable[[], T | None], seconds: float = DEADLINE) -> T:
    """The first answer that is not None; a server that does not answer yet is asked again."""
    end, last = time.monotonic() + seconds, "no answer"
    while time.monotonic() < end:
        try:
            if (answer := ask()) is not None:
                return answer
        except httpx.HTTPError as error:
            last = repr(error)
        time.sleep(0.3)
    raise AssertionError(f"{what}: not within {seconds:.0f} s ({last})")


def free_ports(count: int) -> list[str]:
    sockets = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    numbers = [str(listener.getsockname()[1]) for listener in sockets]
    for listener in sockets:
        listener.close()
    return numbers


def interpolated(text: str, variables: dict[str, str]) -> str:
    """`${NAME}`, `${NAME:-default}` and `${NAME:?message}` as Docker Compose reads them."""

    def value(match: re.Match[str]) -> str:
        name, operator, rest = match.groups()
        assert variables.get(name) or operator == "-", f"{name} {rest}"
        return variables.get(name) or rest

    return re.sub(r"(?<!\$)\$\{(\w+)(?::([-?])([^}]*))?\}", value, text).replace("$$", "$")


@dataclass
class Cluster:
    """The services, as processes below one folder."""

    folder: Path
    role: str
    redis: str
    variables: dict[str, str]
    running: dict[str, processes.Running] = field(default_factory=dict)

    @property
    def shared(self) -> Path:
        return self.folder / "shared"

    @property
    def root(self) -> Path:
        return self.folder / "root"

    def settings(self, service: str, name: str = "") -> dict[str, str]:
        """The compose file's environment of a service with this machine's hosts and paths."""
        given = COMPOSE["services"][service]["environment"].items()
        environment = {key: interpolated(str(value), self.variables) for key, value in given if value is not None}
        password = self.variables["REDIS_PASSWORD"]
        here = {
            "//retrain:": f"//{self.role}:",
            "@postgres:5432/": f"@{LOOPBACK}:5432/{self.role}_",
            f"redis://:{password}@redis:6379/0": self.redis,
            "http://api-server:8080": f"http://{LOOPBACK}:{self.variables['AIRFLOW_PORT']}",
            "http://mlflow:5000": f"http://{LOOPBACK}:{self.variables['MLFLOW_PORT']}",
        }
        for old, new in here.items():
            environment = {key: value.replace(old, new) for key, value in environment.items()}
        for key, value in environment.items():
            if value.startswith("/opt/retrain/"):
                environment[key] = value.replace("/opt/retrain", str(ROOT), 1)
            elif value == "/opt/retrain":
                environment[key] = str(self.root)
            elif value.startswith("/retrain"):
                environment[key] = value.replace("/retrain", str(self.shared), 1)
        elsewhere = {
            key
            for key, value in environment.items()
            if re.search(r"//([^/@]*@)?(postgres|redis|mlflow|api-server):", value)
        }
        assert not elsewhere
        home = self.folder / "homes" / (name or service)
        (home / "lib").mkdir(parents=True, exist_ok=True)
        # Containers have names of their own; here a module gives each process one.
        (home / "lib" / "whoami.py").write_text(f"def name() -> str:\n    return {name or service!r}\n")
        return {
            **environment,
            "AIRFLOW_HOME": str(home),
            "PYTHONPATH": os.pathsep.join([str(ROOT / "include"), str(ROOT / "config"), str(home / "lib")]),
            "PYTHONUNBUFFERED": "1",
            "HOSTNAME": name or service,
            "AIRFLOW__CORE__HOSTNAME_CALLABLE": "whoami.name",
            "AIRFLOW__API__HOST": LOOPBACK,
            "AIRFLOW__API__PORT": self.variables["AIRFLOW_PORT"],
            "AIRFLOW__OPERATORS__DEFAULT_QUEUE": self.role,
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        }

    def start(self, service: str, name: str = "") -> None:
        """The compose file's command of a service, on loopback and its port."""
        here = {"0.0.0.0": LOOPBACK, "5000": self.variables["MLFLOW_PORT"]}
        command = [here.get(word, word) for word in COMPOSE["services"][service]["command"]]
        if name:
            command += ["--celery-hostname", name]
        log = self.folder / f"{name or service}.log"
        self.running[name or service] = processes.spawn(command, log, self.folder, self.settings(service, name))

    def once(self, service: str) -> None:
        """Run a service that does its work and ends."""
        _, script, verb = COMPOSE["services"][service]["command"]
        self._call([sys.executable, str(ROOT / script), verb], self.settings(service))

    def is_healthy(self, service: str, name: str = "") -> None:
        """Run the compose file's own health check of a service."""
        (line,) = COMPOSE["services"][service]["healthcheck"]["test"][1:]
        line = line.replace("$$", "$")
        assert shlex.split(line)[0] in ("airflow", "celery")
        settings = self.settings(service, name)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._call(["/bin/sh", "-c", line], {**settings, "PATH": path})

    def _call(self, command: list[str], settings: dict[str, str]) -> None:
        done = subprocess.run(command, cwd=self.folder, env={**os.environ, **settings}, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"

    def all_run(self) -> None:
        for name, record in self.running.items():
            ended = processes.leader(record) is None
            assert not ended, f"{name} ended:\n{(self.folder / f'{name}.log').read_text(errors='replace')[-3000:]}"

    def stop(self) -> None:
        first = [
            record for name, record in self.running.items() if name.startswith(("worker", "scheduler", "triggerer"))
        ]
        outlived = processes.end(first, grace=20)
        outlived += processes.end([record for record in self.running.values() if record not in first], grace=10)
        assert not outlived


@pytest.fixture
def role() -> Iterator[str]:
    """A role that may make databases, and that is gone afterwards with all that it made."""
    import sqlalchemy as sa

    name = f"retrain_test_{uuid.uuid4().hex[:12]}"
    engine = sa.create_engine(ADMINISTRATION, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 3})
    try:
        connection = engine.connect()
    except sa.exc.OperationalError as error:
        pytest.skip(f"needs PostgreSQL on {LOOPBACK}:5432 with the role postgres: {str(error.orig).strip()[:200]}")
    with connection:
        connection.execute(sa.text(f"CREATE ROLE {name} LOGIN CREATEDB PASSWORD '{secrets.new()[18:40]}'"))
        try:
            yield name
        finally:
            for database in ("airflow", "mlflow", "ledger"):
                connection.execute(sa.text(f"DROP DATABASE IF EXISTS {name}_{database} WITH (FORCE)"))
            connection.execute(sa.text(f"DROP ROLE {name}"))


@pytest.fixture
def redis_url() -> Iterator[str]:
    """An empty Redis database, emptied again afterwards."""
    import redis

    for number in range(15, 0, -1):
        url = f"redis://{LOOPBACK}:6379/{number}"
        client = redis.Redis.from_url(url, socket_connect_timeout=3)
        try:
            free = client.dbsize() == 0
        except redis.RedisError as error:
            pytest.skip(f"needs Redis on {LOOPBACK}:6379 without a password: {str(error)[:200]}")
        if free:
            yield url
            client.flushdb()
            return
    pytest.skip("needs an empty Redis database: 1 to 15 are all in use")


@pytest.fixture
def cluster(tmp_path: Path, role: str, redis_url: str) -> Iterator[Cluster]:
    """Every service of the compose file, two workers among them, with the regression example to work on."""
    airflow, mlflow = free_ports(2)
    variables = dict(line.split("=", 1) for line in secrets.new().splitlines())
    variables |= {"AIRFLOW_PORT": airflow, "MLFLOW_PORT": mlflow, "WORKER_CONCURRENCY": "1"}
    cluster = Cluster(tmp_path, role, redis_url, variables)
    (cluster.root / "include" / "models").mkdir(parents=True)
    shutil.copy(ROOT / "include" / "models" / "diabetes.yaml", cluster.root / "include" / "models")
    shutil.copy(ROOT / "requirements.txt", cluster.root)
    data = cluster.root / "data" / "diabetes"
    subprocess.run([sys.executable, str(ROOT / "examples" / "diabetes.py"), str(data)], check=True, capture_output=True)
    cluster.once("check")
    cluster.once("init")
    try:
        for service in ("mlflow", "api-server", "scheduler", "dag-processor", "triggerer"):
            cluster.start(service)
        cluster.start("worker", "worker-1")
        cluster.start("worker", "worker-2")
        yield cluster
    finally:
        cluster.stop()


def test_one_cycle_of_the_regression_goes_through_two_workers(cluster: Cluster, tmp_path: Path) -> None:
    settings = cluster.settings("worker")
    airflow = httpx.Client(
        base_url=f"http://{LOOPBACK}:{cluster.variables['AIRFLOW_PORT']}", timeout=30, trust_env=False
    )

    def get(path: str, **params: Any) -> Any:
        return airflow.get(f"/api/v2{path}", params=params).raise_for_status().json()

    def healthy() -> bool | None:
        cluster.all_run()
        parts = get("/monitor/health").values()
        return True if all(part["status"] == "healthy" for part in parts) else None

    def answers() -> bool | None:
        cluster.all_run()
        return httpx.get(f"{settings['MLFLOW_TRACKING_URI']}/health", trust_env=False).is_success or None

    until("MLflow is healthy", answers)
    until("Airflow is healthy", healthy)
    assert airflow.get(f"/api/v2/dags/{DAG}").status_code == 401
    login = {"username": "admin", "password": cluster.variables["ADMIN_PASSWORD"]}
    assert airflow.post("/auth/token", json={**login, "password": "admin"}).status_code == 401
    token = airflow.post("/auth/token", json=login).raise_for_status().json()["access_token"]
    airflow.headers["Authorization"] = f"Bearer {token}"

    def unpaused() -> bool | None:
        assert get("/importErrors")["import_errors"] == []
        return airflow.patch(f"/api/v2/dags/{DAG}", json={"is_paused": False}).is_success or None

    until("the DAG is there", unpaused)
    ledger = Ledger(settings["RETRAIN_LEDGER"])

    def promoted() -> str | None:
        cluster.all_run()
        ended = {run["dag_run_id"]: run["state"] for run in get(f"/dags/{DAG}/dagRuns")["dag_runs"]}
        assert "failed" not in ended.values(), failures(get)
        runs = {record.run for record in ledger.records("diabetes", "promotion")}
        done = [name for name, state in ended.items() if state == "success" and run_key(name) in runs]
        return done[0] if done else None

    run = until("a promotion", promoted)
    airflow.patch(f"/api/v2/dags/{DAG}", json={"is_paused": True}).raise_for_status()

    from retrain.registry.mlflow import Registry

    head = ledger.records("diabetes", "promotion")[-1]
    registry = Registry(settings["MLFLOW_TRACKING_URI"])
    champion = registry.alias("diabetes", "champion")
    assert champion is not None
    assert champion == head.body["version"]
    digest = registry.describe("diabetes", champion)["digest"]
    assert (registry.fetch("diabetes", champion, digest, tmp_path / "fetched") / "MLmodel").is_file()
    assert any((cluster.shared / "mlartifacts").rglob("MLmodel")), (
        "artifacts go through the server to the shared folder"
    )

    tasks = get(f"/dags/{DAG}/dagRuns/{run}/taskInstances", order_by="start_date")["task_instances"]
    assert {task["state"] for task in tasks} == {"success"}
    assert {task["hostname"] for task in tasks} == {"worker-1", "worker-2"}
    assert {record.body["stage"] for record in ledger.records("diabetes", "stage", run=run_key(run))} == {
        task["task_id"] for task in tasks
    }
    log = airflow.get(f"/api/v2/dags/{DAG}/dagRuns/{run}/taskInstances/promote/logs/1").raise_for_status().text
    assert "· promote: promoted" in log, "task logs are read from the shared folder"

    for service in ("scheduler", "dag-processor", "triggerer"):
        cluster.is_healthy(service)
    cluster.is_healthy("worker", "worker-1")
    cluster.is_healthy("worker", "worker-2")


def failures(get: Callable[..., Any]) -> str:
    """What failed tasks said last."""
    logs = []
    for task in get(f"/dags/{DAG}/dagRuns/~/taskInstances", state="failed")["task_instances"]:
        where = f"/dags/{DAG}/dagRuns/{task['dag_run_id']}/taskInstances/{task['task_id']}/logs/{task['try_number']}"
        logs.append(f"{task['task_id']} on {task['hostname']}: {str(get(where))[-3000:]}")
    return "\n".join(logs)
