"""The team's cluster as it is written down: docker-compose.yaml, Dockerfile and the secrets they ask for.

No engine is needed here; `test_cluster.py` starts the same processes with the same settings.
"""

from __future__ import annotations

import doctest
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from bin import cluster

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
GOOD = dict(line.split("=", 1) for line in cluster.new().splitlines())


def environment(service: str) -> dict[str, str]:
    return {name: str(value) for name, value in SERVICES[service].get("environment", {}).items() if value is not None}


def waits_for(service: str, known: frozenset[str] = frozenset()) -> set[str]:
    """Whoever must be done or healthy before this service starts."""
    direct = set(SERVICES[service].get("depends_on", {})) - known
    return direct.union(*(waits_for(name, known | direct) for name in direct))


# --- docker-compose.yaml


def test_ports_are_published_on_loopback_only() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(ports) == {"api-server", "mlflow"}
    assert all(re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-\d+\}:\d+", port) for each in ports.values() for port in each)
    assert not [name for name, service in SERVICES.items() if service.get("network_mode") == "host"]


def test_no_secret_has_a_value_or_a_default() -> None:
    used = re.findall(rf"(?<!\$)\$\{{?({'|'.join(cluster.SECRETS)})([^}}\n]*)", TEXT)
    assert {name for name, _ in used} == set(cluster.SECRETS)
    assert {rest for _, rest in used} == {":?see docs/production.md"}
    for service in SERVICES:
        for name, value in environment(service).items():
            if re.search(r"PASSWORD|SECRET|_KEY$", name):
                assert re.fullmatch(r"\$\{\w+:\?[^}]*\}", value), f"{service}: {name}"
            for password in re.findall(r"://\w*:([^@]*)@", value):
                assert re.fullmatch(r"\$\{\w+:\?[^}]*\}", password), f"{service}: {name}"


def test_only_s3_keys_are_passed_on_as_they_are() -> None:
    every = [pair for service in SERVICES.values() for pair in service.get("environment", {}).items()]
    passed = {name for name, value in every if value is None}
    assert passed == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"}


def test_secrets_are_checked_before_anything_starts() -> None:
    assert waits_for("check") == set()
    assert [name for name in SERVICES if name != "check" and "check" not in waits_for(name)] == []
    for service in SERVICES.values():
        for name, wait in service.get("depends_on", {}).items():
            done = "service_completed_successfully" if name in ("check", "init") else "service_healthy"
            assert wait["condition"] == done
    assert set(environment("check")) == set(cluster.SECRETS)
    assert SERVICES["check"]["command"] == ["python", "bin/cluster.py", "check"]


def test_databases_are_ready_before_who_needs_them() -> None:
    assert {name for name in OURS if "init" in waits_for(name)} == set(OURS) - {"check", "init"}
    assert set(cluster.DATABASES) <= set(environment("init"))
    assert set(cluster.SECRETS) <= set(environment("init"))


def test_one_image_and_pinned_ones() -> None:
    assert len({service["image"] for service in OURS.values()}) == 1
    others = {service["image"] for name, service in SERVICES.items() if name not in OURS}
    assert all(re.fullmatch(r"\w+:\d+(\.\d+)*", image) for image in others)


def test_long_running_services_come_back_and_show_their_health() -> None:
    for name, service in SERVICES.items():
        once = name in ("check", "init")
        assert service["restart"] == ("no" if once else "unless-stopped"), name
        assert ("healthcheck" in service) is not once, name


def test_workers_can_be_many() -> None:
    assert "container_name" not in TEXT
    assert "ports" not in SERVICES["worker"]
    assert SERVICES["worker"]["deploy"]["replicas"] == "${WORKERS:-2}"


def test_airflow_is_the_same_everywhere() -> None:
    common = COMPOSE["x-common"]["environment"].items()
    parts = {name for name in OURS if OURS[name]["command"][0] == "airflow"}
    assert parts == {"api-server", "scheduler", "dag-processor", "triggerer", "worker"}
    assert all(SERVICES[name]["environment"].items() == common for name in parts)


def test_retrain_knows_its_variables() -> None:
    import retrain.state.settings

    known = set(re.findall(r"^\| `(\w+)` \|", str(retrain.state.settings.__doc__), re.MULTILINE))
    assert known
    given = {name for name in environment("worker") if name.startswith("RETRAIN_") or name == "MLFLOW_TRACKING_URI"}
    assert given == known - {"RETRAIN_MODELS"}


def test_telemetry_is_off() -> None:
    for name in set(OURS) - {"check"}:
        variables = environment(name)
        assert variables["MLFLOW_DISABLE_TELEMETRY"] == "true"
        assert variables["GX_ANALYTICS_ENABLED"] == "false"
        assert variables["DVC_NO_ANALYTICS"] == variables["DO_NOT_TRACK"] == "1"


ASK_AIRFLOW = """
import json, sys
from airflow.cli.cli_parser import get_parser
from airflow.configuration import conf
from airflow.providers_manager import ProvidersManager
ProvidersManager().initialize_providers_configuration()
commands, options = json.load(sys.stdin)
known = {f"AIRFLOW__{s}__{o}".upper() for s, body in conf.configuration_description.items() for o in body["options"]}
for command in commands:
    get_parser().parse_args(command)
import airflow.providers.celery.executors.celery_executor  # only a worker imports it, and a lock can break it
print(json.dumps(sorted(set(options) - known)))
"""


def test_airflow_knows_its_commands_and_options(tmp_path: Path) -> None:
    commands = [service["command"][1:] for service in OURS.values() if service["command"][0] == "airflow"]
    checks = [service["healthcheck"]["test"][-1].split() for service in OURS.values() if "healthcheck" in service]
    commands += [check[1:] for check in checks if check[0] == "airflow"]
    assert len(commands) == 8
    options = [name for name in environment("worker") if name.startswith("AIRFLOW__")]
    answer = subprocess.run(
        [sys.executable, "-c", ASK_AIRFLOW],
        input=json.dumps([commands, options]),
        env={**os.environ, "AIRFLOW_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout.splitlines()[-1]) == []


def test_docs_tell_every_variable() -> None:
    manual = (ROOT / "docs" / "production.md").read_text()
    assert [name for name in sorted(set(re.findall(r"(?<!\$)\$\{(\w+)", TEXT))) if f"`{name}`" not in manual] == []


# --- Dockerfile


def test_the_image_is_made_of_what_is_here() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    copied = [source for line in re.findall(r"^COPY (.*)$", dockerfile, re.MULTILINE) for source in line.split()[:-1]]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert sorted(f"!{source}" for source in copied) == sorted(line for line in ignored if line.startswith("!"))
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert dockerfile.rstrip().splitlines()[-1].startswith("USER ")
    assert dockerfile.count("--require-hashes") == 2


# --- secrets


def run(verb: str, **secrets: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(ROOT / "bin" / "cluster.py"), verb]
    return subprocess.run(command, env=secrets, capture_output=True, text=True)


def test_new_secrets_pass_and_differ() -> None:
    first, second = run("new").stdout, run("new").stdout
    secrets = dict(line.split("=", 1) for line in first.splitlines())
    assert set(secrets) == set(cluster.SECRETS)
    assert not set(first.splitlines()) & set(second.splitlines())
    assert run("check", **secrets).returncode == 0


@pytest.mark.parametrize("verb", ["check", "init"])
def test_a_missing_secret_stops_the_start(verb: str) -> None:
    answer = run(verb, **{**GOOD, "REDIS_PASSWORD": ""})
    assert answer.returncode == 1
    assert "nothing was started" in answer.stderr
    assert "REDIS_PASSWORD is missing\n" in answer.stderr
    assert "POSTGRES_PASSWORD" not in answer.stderr


@pytest.mark.parametrize("name", sorted(cluster.SECRETS))
@pytest.mark.parametrize(
    "value",
    [
        *("postgres", "airflow", "admin", "changeme", "Password123!", "p4ssw0rd-airflow", "airflow_jwt_secret"),
        *("0123456789" * 7, "a" * 70, "change-me-please-this-is-the-default-secret-key-of-your-own-app-2026"),
        "46BKJoQYlPPOexq0OhDZnIlNepKFf87WFwLbfzqDDho=",
    ],
)
def test_a_known_secret_stops_the_start(name: str, value: str) -> None:
    assert f"{name} is a known password" in cluster.problems({**GOOD, name: value})


def test_the_message_tells_all_at_once_and_shows_nothing() -> None:
    bad = {
        "POSTGRES_PASSWORD": "with/slash@and:colon-x9",
        "JWT_SECRET": "kurz-und-zufällig-7x",
        "ADMIN_PASSWORD": "7gR-k2",
    }
    answer = run("check", **GOOD | bad)
    assert "POSTGRES_PASSWORD becomes a part of URLs" in answer.stderr
    assert "JWT_SECRET has 20 characters, at least 64" in answer.stderr
    assert "ADMIN_PASSWORD has 6 characters" in answer.stderr
    assert "bin/cluster.py new > .env" in answer.stderr
    assert not any(value in answer.stderr for value in bad.values())


@pytest.mark.parametrize(
    "key", ["x7" * 22, GOOD["FERNET_KEY"][:-5], "ä" + GOOD["FERNET_KEY"][1:]], ids=["pattern", "short", "not ascii"]
)
def test_a_fernet_key_is_one(key: str) -> None:
    (why,) = cluster.problems({**GOOD, "FERNET_KEY": key})
    assert why.startswith("FERNET_KEY")


def test_no_secret_serves_twice() -> None:
    twice = {**GOOD, "REDIS_PASSWORD": GOOD["POSTGRES_PASSWORD"]}
    assert cluster.problems(twice) == ["POSTGRES_PASSWORD, REDIS_PASSWORD are the same"]


def test_secrets_stay_out_of_git() -> None:
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()


def test_examples_in_the_script_hold() -> None:
    assert doctest.testmod(cluster) == (0, 2)
