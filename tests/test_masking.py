"""A password with every sign that means something in a URL, through every source and refusal: it stands nowhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from retrain import masking, pipeline
from retrain.data.sources import sql
from retrain.data.versions import DataRegistry
from retrain.errors import InvalidSpec, LedgerBusy, RegistryDown, RetrainError, SourceRefused, SourceUnavailable
from retrain.registry.mlflow import Registry
from retrain.reporting import notices
from retrain.state.ledger import Ledger
from tests.conftest import Model, churn_spec

PASSWORD = "zebra/quagga@okapi:tapir%41?gnu#kudu"
ENCODED = quote(PASSWORD, safe="")
WORDS = ("zebra", "quagga", "okapi", "tapir", "kudu")
NOBODY = "127.0.0.1:1"
"""An address where nobody listens."""


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that an earlier test gave to `hide` is known."""
    monkeypatch.setattr(masking, "_hidden", set())


def leaked(text: str) -> list[str]:
    return [word for word in WORDS if word in text]


def sql_spec(**source: str) -> dict[str, Any]:
    spec = churn_spec()
    spec["source"] = {"sql": "SELECT * FROM rows WHERE at >= :start", "time": "signup", "key": ["id"], **source}
    return spec


def everything_kept(model: Model) -> str:
    """All that the installation has written: the ledger, the store, the data registry."""
    files = [path for path in model.home.state.rglob("*") if path.is_file()]
    assert files
    return "".join(path.read_bytes().decode(errors="replace") for path in files)


SOURCES: dict[str, tuple[dict[str, str], dict[str, str], type[RetrainError]]] = {
    "a variable in the URL": (
        {"url": f"postgresql://ada:${{DB_WORD}}@{NOBODY}/shop"},
        {"DB_WORD": PASSWORD},
        SourceUnavailable,
    ),
    "a variable in an option": (
        {"url": f"postgresql://ada@{NOBODY}/shop?password=${{DB_WORD}}"},
        {"DB_WORD": PASSWORD},
        SourceUnavailable,
    ),
    "a variable that is the URL": (
        {"url": "${DB_URL}"},
        {"DB_URL": f"postgresql://ada:{ENCODED}@{NOBODY}/shop"},
        SourceUnavailable,
    ),
    "a variable that is a URL with its password as it is": (
        {"url": "${DB_URL}"},
        {"DB_URL": f"postgresql://ada:{PASSWORD}@{NOBODY}/shop"},
        SourceRefused,
    ),
    "an Airflow connection as a URI": (
        {"connection": "shop"},
        {"AIRFLOW_CONN_SHOP": f"postgres://ada:{ENCODED}@{NOBODY}/shop"},
        SourceUnavailable,
    ),
    "an Airflow connection with its password as it is": (
        {"connection": "shop"},
        {"AIRFLOW_CONN_SHOP": f"postgres://ada:{PASSWORD}@{NOBODY}/shop"},
        SourceRefused,
    ),
    "an Airflow connection as JSON": (
        {"connection": "shop"},
        {
            "AIRFLOW_CONN_SHOP": json.dumps(
                {"conn_type": "postgres", "login": "ada", "password": PASSWORD, "host": "127.0.0.1", "port": 1}
            )
        },
        SourceUnavailable,
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_no_source_tells_it(churn: Model, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    source, environment, refusal = SOURCES[name]
    churn.write_spec(sql_spec(**source))
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(refusal) as caught:
        pipeline.run_stage("ingest", churn.run())
    assert leaked(str(caught.value)) == []
    assert caught.value.__cause__ is None
    notice = notices.notice_of_error(churn.run().spec, "2024-01", "ingest", caught.value, link="")
    assert leaked(notice.text) == []
    assert leaked(everything_kept(churn)) == []


@pytest.mark.parametrize("scheme", ["https", "http", "s3", "gs"])
@pytest.mark.parametrize("word", [PASSWORD, ENCODED, "zebra", "zebra/quagga"])
def test_no_address_of_a_file_tells_it(churn: Model, scheme: str, word: str) -> None:
    spec = churn_spec()
    spec["source"]["path"] = f"{scheme}://ada:{word}@example.org/churn-{{start:%Y-%m}}.csv"
    churn.write_spec(spec)
    with pytest.raises(SourceRefused, match="carries a login") as caught:
        pipeline.run_stage("ingest", churn.run())
    assert leaked(str(caught.value)) == []
    assert leaked("".join(map(str, Ledger(churn.home.ledger).records("churn")))) == []


def test_a_password_in_the_spec_is_refused(churn: Model) -> None:
    churn.write_spec(sql_spec(url=f"postgresql://ada:{ENCODED}@{NOBODY}/shop"))
    with pytest.raises(SourceRefused, match=r"carries a password\n  → write \$\{NAME\}"):
        pipeline.run_stage("ingest", churn.run())


def test_a_variable_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch, churn: Model) -> None:
    monkeypatch.setenv("DB_WORD", PASSWORD)
    monkeypatch.setenv("DB_PLACE", "db:5433/shop")
    churn.write_spec(sql_spec(url="postgresql://ada:${DB_WORD}@${DB_PLACE}?application_name=${DB_WORD}"))
    url = sql.address(churn.run().spec.source, churn.home.root)
    assert (url.password, url.host, url.port, url.database) == (PASSWORD, "db", 5433, "shop")
    assert url.query["application_name"] == PASSWORD


def test_the_ledgers_address_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LedgerBusy) as busy:
        Ledger(f"postgresql+psycopg2://ada:{ENCODED}@{NOBODY}/ledger")
    for address in (f"postgresql+psycopg2://ada:{PASSWORD}@{NOBODY}/ledger", f"zebra:{PASSWORD}", "quagga"):
        with pytest.raises(InvalidSpec) as refused:
            Ledger(address)
        assert leaked(str(refused.value)) == []
    assert leaked(str(busy.value)) == []


@pytest.mark.parametrize("scheme", ["http", "postgresql+psycopg2"])
def test_mlflows_address_tells_nothing(scheme: str) -> None:
    with pytest.raises(RegistryDown) as down:
        Registry(f"{scheme}://ada:{ENCODED}@{NOBODY}/mlflow").alias("churn", "champion")
    assert leaked(str(down.value)) == []
    with pytest.raises(InvalidSpec) as refused:
        Registry(f"{scheme}://ada:{PASSWORD}@{NOBODY}/mlflow").alias("churn", "champion")
    assert leaked(str(refused.value)) == []


@pytest.mark.parametrize("word", [PASSWORD, ENCODED])
def test_the_data_registrys_address_tells_nothing(tmp_path: Path, word: str) -> None:
    for scheme in ("https", "ssh"):
        with pytest.raises(InvalidSpec) as refused:
            DataRegistry(f"{scheme}://ada:{word}@example.org/registry.git", str(tmp_path))
        assert leaked(str(refused.value)) == []


@pytest.mark.parametrize("form", [PASSWORD, ENCODED, quote_plus(PASSWORD), repr(PASSWORD), json.dumps(PASSWORD)])
def test_a_crash_is_on_record_without_it(churn: Model, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """Whatever a library says, a secret of the environment is masked by its value."""

    def crash(_: object, **__: object) -> None:  # the one thing of ours that every stage begins with
        raise RuntimeError(f"could not log in as ada with {form} to wherever, {'x' * 400}{form}")

    monkeypatch.setenv("WAREHOUSE_PASSWORD", PASSWORD)
    monkeypatch.setattr(pipeline, "_check_spec", crash)
    with pytest.raises(RuntimeError) as caught:
        pipeline.run_stage("ingest", churn.run())
    (record,) = Ledger(churn.home.ledger).records("churn")
    assert leaked(str(record.body)) == []
    assert "with ***" in record.body["reasons"][0].replace("'", "").replace('"', "")
    notice = notices.notice_of_error(churn.run().spec, "2024-01", "ingest", caught.value, link="")
    assert leaked(notice.text) == []


def test_what_is_no_secret_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_LIMIT", "1000")
    monkeypatch.setenv("SECRET_SANTA", "true")
    monkeypatch.setenv("DB_PASSWORD", "abc")
    text = "1000 rows, true of abc: see https://example.org/a.csv"
    assert masking.masked(text) == text
