"""What a task hands to the library, and what it makes of a failure: hostile passwords, disks, databases."""

from __future__ import annotations

import importlib
import json
import os
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from retrain.data.sources import sql
from retrain.errors import AccessDenied, DatabaseCorrupt, DiskFull
from retrain.masking import masked
from tests.conftest import Model, churn_spec

DAGS = Path(__file__).parents[2] / "dags"
PASSWORD = "zebra/quagga@okapi:tapir%41?gnu#kudu"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ModuleType, ModuleType]]:
    """The files with the tasks and with their refusals, read in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))
        patch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
        patch.syspath_prepend(str(DAGS))
        for name in ("owner_notifier", "refusals", "stage_tasks"):
            patch.delitem(sys.modules, name, raising=False)
        yield importlib.import_module("stage_tasks"), importlib.import_module("refusals")
        for name in ("owner_notifier", "refusals", "stage_tasks"):
            sys.modules.pop(name, None)


def test_a_connection_arrives_whole_and_stays_hidden(
    tasks: tuple[ModuleType, ModuleType], churn: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = churn_spec()
    query = "SELECT * FROM rows WHERE signup >= :start AND signup < :end"
    spec["source"] = {"sql": query, "connection": "shop", "time": "signup", "key": ["id"]}
    churn.write_spec(spec)
    login = {
        "conn_type": "postgres",
        "login": "ada",
        "password": PASSWORD,
        "host": "db",
        "port": 5433,
        "schema": "shop",
    }
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps(login))
    tasks[0].export_connections(churn.run().spec)
    assert os.environ["AIRFLOW_CONN_SHOP"].startswith("postgres://ada:")
    url = sql.address(churn.run().spec.source, churn.home.root)
    assert (url.username, url.password, url.host, url.port, url.database) == ("ada", PASSWORD, "db", 5433, "shop")
    assert (
        masked(f"{os.environ['AIRFLOW_CONN_SHOP']}, that is {PASSWORD}") == "postgres://***@db:5433/shop, that is ***"
    )


def test_disks_and_databases_are_named_and_tried_again(tasks: tuple[ModuleType, ModuleType]) -> None:
    refusals = tasks[1]
    with pytest.raises(DiskFull), refusals.final_refusals():
        raise OSError(28, "No space left on device", "batch.parquet")
    with pytest.raises(DatabaseCorrupt, match="file is not a database"), refusals.final_refusals():
        raise sqlite3.DatabaseError("file is not a database")
    with pytest.raises(AccessDenied), refusals.final_refusals():
        raise PermissionError(13, "Permission denied", "ledger.db")


def test_airflow_masks_a_crash_too(tasks: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.log import redact

    monkeypatch.setenv("WAREHOUSE_PASSWORD", PASSWORD)
    with pytest.raises(ZeroDivisionError), tasks[1].final_refusals():
        raise ZeroDivisionError(PASSWORD)
    assert redact(f"ZeroDivisionError: {PASSWORD}") == "ZeroDivisionError: ***"
