"""The local servers: what is refused before anything starts, and one real start and stop."""

from __future__ import annotations

import doctest
import importlib.util
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from bin import local, processes, settings

NAMES = {"mlflow", "api-server", "scheduler", "dag-processor", "triggerer"}


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server((settings.LOOPBACK, 0)) for _ in range(count)]
    numbers = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return numbers


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    airflow, mlflow = free_ports(2)
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AIRFLOW_PORT", str(airflow))
    monkeypatch.setenv("MLFLOW_PORT", str(mlflow))
    return tmp_path / "home"


# --- before anything starts


@pytest.mark.parametrize("variable", ["AIRFLOW_PORT", "MLFLOW_PORT"])
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_taken_port_is_named_and_nothing_starts(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, address: str
) -> None:
    with socket.create_server((address, 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv(variable, str(port))
        assert local.main("up") == 1
    message = capsys.readouterr().err
    assert f"port {port} " in message
    assert f"make up {variable}={port + 1}" in message
    assert not (home / "services.json").exists()
    assert not (home / "logs").exists()


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "80 80"])
def test_what_is_no_port_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("MLFLOW_PORT", port)
    with pytest.raises(local.Refused, match=r"MLFLOW_PORT=.* is not a port"):
        local.environment()


def test_the_two_servers_cannot_share_a_port(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_PORT", os.environ["AIRFLOW_PORT"])
    with pytest.raises(local.Refused, match="cannot share"):
        local.start()


def test_keys_are_long_made_once_and_private(home: Path) -> None:
    first, second = local.environment(), local.environment()
    assert first == second
    assert len(first["AIRFLOW__API_AUTH__JWT_SECRET"]) >= 64
    assert first["AIRFLOW__API_AUTH__JWT_SECRET"] != first["AIRFLOW__API__SECRET_KEY"]
    assert stat.S_IMODE((home / "secrets.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def modes(folder: Path) -> dict[str, int]:
    """The rights of others on everything below a folder."""
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) & 0o077 for path in folder.rglob("*")}


def test_what_another_command_left_open_is_tightened(home: Path) -> None:
    (home / "mlflow").mkdir(parents=True)
    for name in ("ledger.db", "mlflow/mlflow.db"):
        (home / name).touch()
        (home / name).chmod(0o644)
    home.chmod(0o755)
    settings.tighten_all()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert set(modes(home).values()) == {0}


def test_a_folder_with_other_things_in_it_keeps_its_rights(home: Path) -> None:
    home.mkdir()
    for name in ("secrets.json", "thesis.tex"):
        (home / name).touch()
        (home / name).chmod(0o644)
    home.chmod(0o755)
    settings.tighten_all()
    assert stat.S_IMODE(home.stat().st_mode) == 0o755
    assert modes(home)["secrets.json"] == 0
    assert modes(home)["thesis.tex"] == 0o044


def test_a_state_folder_that_no_database_can_lie_in(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RETRAIN_HOME", "/tmp/a%20b")
    assert local.main("up") == 1
    assert "has a % or a ?" in capsys.readouterr().err


def test_a_disk_that_is_full_is_one_message(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:  # no disk of this machine is to be filled
        raise OSError(28, "No space left on device", str(home / "local.lock"))

    monkeypatch.setattr(local, "_check_ports", full)
    assert local.main("up") == 1
    assert "DiskFull: " in capsys.readouterr().err


def test_one_command_at_a_time(home: Path) -> None:
    with local._alone(), pytest.raises(local.Refused, match="another command"):
        local.stop()


def test_nothing_to_stop(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert local.main("down") == 0
    assert local.main("status") == 0
    output = capsys.readouterr().out
    assert output.startswith("nothing runs")
    assert output.count(" down") == len(NAMES)


# --- processes


def spawn(folder: Path, source: str) -> tuple[processes.Running, str]:
    """A process of this source, and what it said through the pipe `told`."""
    (folder / "played.py").write_text(source)
    os.mkfifo(folder / "pid")
    record = processes.spawn(["played"], folder / "played.log", folder, {"PYTHONPATH": str(folder)})
    return record, (folder / "pid").read_text()


def test_a_pid_that_belongs_to_somebody_else_is_left_alone(tmp_path: Path) -> None:
    record, _ = spawn(tmp_path, "import signal\nopen('pid', 'w').write('here')\nsignal.pause()\n")
    recycled = processes.Running(record.pid, record.started - 60)
    assert processes.session(recycled) == set()
    assert processes.end([recycled], grace=0) == []
    assert processes.leader(record)
    processes.end([record], grace=5)
    assert not processes.leader(record)
    assert processes.exit_code(record) is not None


def test_what_a_dead_leader_left_behind_is_ended(tmp_path: Path) -> None:
    record, pid = spawn(
        tmp_path,
        "import os, signal\n"
        "if os.fork() == 0:\n"
        "    with open('pid', 'w') as pipe:\n"
        "        pipe.write(str(os.getpid()))\n"
        "    signal.pause()\n",
    )
    assert processes.exit_code(record, wait=True) == 0
    orphan = psutil.Process(int(pid))
    assert processes.session(record) == {orphan}
    processes.end([record], grace=0)
    assert processes.session(record) == set()


def test_only_parents_of_tasks_import_the_heavy_libraries() -> None:
    path = settings.ROOT / "config" / "airflow_local_settings.py"
    spec = importlib.util.spec_from_file_location("airflow_local_settings", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert doctest.testmod(module) == (0, 4)
    assert module.__all__ == [], "Airflow takes every public name for a setting"


# --- a real start


class Up(NamedTuple):
    home: Path
    dags: Path
    interrupted: int
    records: dict[str, processes.Running]
    services: local.Services


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Servers whose first `up` was interrupted, and finished by a second one."""
    folder = tmp_path_factory.mktemp("local")
    airflow, mlflow = free_ports(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETRAIN_HOME", str(folder / "home"))
        patch.setenv("AIRFLOW_PORT", str(airflow))
        patch.setenv("MLFLOW_PORT", str(mlflow))
        command = subprocess.Popen(
            [sys.executable, str(settings.ROOT / "bin" / "local.py"), "up"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            # A runner without a terminal may have SIGINT ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        try:
            assert command.stdout
            any(line.startswith("started") for line in command.stdout)
            command.send_signal(signal.SIGINT)
            code = command.wait()
            yield Up(folder / "home", folder / "dags", code, local._recorded(), local.start())
        finally:
            local.stop()


def everything(up: Up) -> dict[str, set[psutil.Process]]:
    return {name: processes.session(record) for name, record in up.records.items()}


@pytest.mark.airflow
def test_interrupting_up_stops_nothing(up: Up) -> None:
    assert up.interrupted == 130
    assert up.records.keys() == NAMES
    assert local._recorded() == up.records, "the second start found them all"


@pytest.mark.airflow
def test_both_servers_answer(up: Up) -> None:
    token = up.services.token()
    call = urllib.request.Request(
        f"{up.services.airflow_url}/api/v2/dags", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(call) as answer:
        assert "dags" in json.loads(answer.read())
    with urllib.request.urlopen(f"{up.services.mlflow_url}/version") as answer:
        assert answer.read()
    assert "healthy" in local.status().splitlines()


@pytest.mark.airflow
def test_nobody_else_reads_the_state(up: Up) -> None:
    assert stat.S_IMODE(up.home.stat().st_mode) == 0o700
    open_to_others = {name for name, mode in modes(up.home).items() if mode}
    assert open_to_others == set()
    assert (up.home / "airflow" / "airflow.db").stat().st_size
    assert not list((up.home / "airflow").glob("new.db*")), "made beside, and moved into place whole"
    assert (up.home / "mlflow" / "mlflow.db.lock").exists(), "MLflow's tables were made by our own hand"


@pytest.mark.airflow
def test_they_listen_on_loopback_only(up: Up) -> None:
    listening = {
        socket.laddr
        for members in everything(up).values()
        for process in members
        for socket in process.net_connections("inet")
        if socket.status == psutil.CONN_LISTEN
    }
    ports = {int(os.environ[variable]) for variable in ("AIRFLOW_PORT", "MLFLOW_PORT")}
    assert {address.ip for address in listening} == {settings.LOOPBACK}
    assert {address.port for address in listening} == ports


@pytest.mark.airflow
@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
def test_workers_are_forked_with_the_heavy_libraries(up: Up) -> None:
    def holds_xgboost(process: psutil.Process) -> bool:
        return any("libxgboost" in region.path for region in process.memory_maps())

    members = everything(up)
    workers = [process for process in members["scheduler"] if process.pid != up.records["scheduler"].pid]
    assert len(workers) == 4
    assert all(map(holds_xgboost, workers))
    assert not any(map(holds_xgboost, members["api-server"] | members["dag-processor"] | members["triggerer"]))


@pytest.mark.airflow
def test_another_port_wants_a_stop_first(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_PORT", str(free_ports(1)[0]))
    with pytest.raises(local.Refused, match="make down"):
        local.start()


@pytest.mark.airflow
def test_only_what_died_is_started_again(up: Up) -> None:
    (triggerer,) = [processes.leader(up.records["triggerer"])]
    assert triggerer
    left = processes.session(up.records["triggerer"]) - {triggerer}
    triggerer.kill()
    psutil.wait_procs([triggerer])
    assert "triggerer      down" in local.status()
    local.start()
    now = local._recorded()
    assert {name for name in NAMES if now[name] != up.records[name]} == {"triggerer"}
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in left)
    assert len(processes.session(now["triggerer"])) > 1, "healthy by its own heartbeat, not by that of the dead one"


@pytest.mark.airflow
def test_stop_leaves_no_process(up: Up) -> None:
    members = set().union(*map(processes.session, local._recorded().values()))
    assert len(members) > len(NAMES)
    local.stop()
    assert not [process for process in members if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert local._recorded() == {}
    for variable in ("AIRFLOW_PORT", "MLFLOW_PORT"):
        socket.create_server((settings.LOOPBACK, int(os.environ[variable]))).close()
