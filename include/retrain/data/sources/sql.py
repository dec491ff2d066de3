"""Rows from a database: a query with bound interval values, streamed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, NoSuchModuleError, OperationalError, SQLAlchemyError

from retrain.data.sources.address import masked
from retrain.data.sources.declared import BATCH_ROWS, check_columns, dtype_changed
from retrain.data.sources.typed import Mismatch, of_values
from retrain.errors import SourceRefused, SourceUnavailable
from retrain.masking import hide
from retrain.results import Interval
from retrain.spec import Source
from retrain.state.settings import database_url

_DIALECTS = {"postgres": "postgresql+psycopg2", "postgresql": "postgresql+psycopg2"}


def address(source: Source, root: Path) -> sa.URL:
    """Find the database's URL, from the spec with `${NAME}` filled in, or from Airflow's connection.

    Raises:
        SourceRefused: a variable is not set, a password stands in the spec, or the URL cannot be understood.
    """
    text = (
        _filled(source.url)
        if source.url is not None
        else _environment(f"AIRFLOW_CONN_{(source.connection or '').upper()}")
    )
    try:
        url = _of_json(json.loads(text)) if text.lstrip().startswith("{") else database_url(text)
    except (ValueError, TypeError, RecursionError):
        raise SourceRefused(
            f"the URL of {_named(source)} cannot be understood",
            do="write it as SQLAlchemy does; in a login @ is %40, / %2F, : %3A, % %25, but not in the value of ${NAME}",
        ) from None
    query = {key: value for key, value in url.query.items() if key != "__extra__"}
    url = url.set(drivername=_DIALECTS.get(url.drivername, url.drivername), query=query)
    if url.get_backend_name() == "sqlite" and url.database:
        # Airflow percent-encodes the path; SQLite itself would make a missing file.
        file = root / unquote(url.database)
        if not file.is_file():
            raise SourceRefused(f"{file.name} is not a SQLite file", do="correct its url in the spec")
        return url.set(database=str(file))
    return url


def _named(source: Source) -> str:
    return f"the connection {source.connection!r}" if source.connection else "source.url"


def _filled(text: str) -> str:
    """The URL with its variables; a value in the login or in the options is taken as it is, whatever stands in it."""
    login, at, rest = text.rpartition("@")
    password = login.partition("://")[2].partition(":")[2]
    if _VARIABLE.sub("", password) and not text.startswith("sqlite"):
        raise SourceRefused("source.url carries a password", do="write ${NAME}, and set NAME where the stages run")
    place, mark, options = rest.partition("?")
    parts = (_with_variables(login, encoded=True), at, _with_variables(place), mark)
    return "".join(parts) + _with_variables(options, encoded=True)


_VARIABLE = re.compile(r"\$\{(\w+)\}")


def _with_variables(text: str, *, encoded: bool = False) -> str:
    return _VARIABLE.sub(lambda name: quote(_environment(name[1]), safe="") if encoded else _environment(name[1]), text)


def _environment(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise SourceRefused(f"the environment variable {name} is not set", do=f"set {name} where the stages run")
    return value


def _of_json(connection: dict[str, Any]) -> sa.URL:
    if not (kind := connection.get("conn_type")) or not isinstance(kind, str):
        raise SourceRefused("the connection names no conn_type", do='write it as {"conn_type": "postgres", …}')
    hide(connection.get("password"))
    return sa.URL.create(
        kind,
        username=connection.get("login"),
        password=connection.get("password"),
        host=None if kind == "sqlite" else connection.get("host"),
        port=int(connection["port"]) if connection.get("port") else None,
        database=connection.get("host") if kind == "sqlite" else connection.get("schema"),
    )


def redacted_url(url: sa.URL) -> str:
    """Strip login and options off a database's URL."""
    sqlite = url.get_backend_name() == "sqlite"
    database = Path(url.database).name if sqlite and url.database else url.database
    return sa.URL.create(url.drivername, host=url.host, port=url.port, database=database).render_as_string()


def read(
    source: Source, url: sa.URL, interval: Interval, schema: pa.Schema, *, exact: bool = True
) -> Iterator[pa.Table]:
    """Run the query and give its rows in pieces, typed.

    Args:
        source: the query.
        url: of the database.
        interval: its start and end are bound to `:start` and `:end`.
        schema: the declared columns.
        exact: whether another column is refused; else it is ignored.

    Raises:
        SchemaChanged, DtypeChanged: with the row.
        SourceRefused: the query or the driver is wrong.
        SourceUnavailable: the database did not answer.
    """
    assert source.sql is not None
    try:
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        kind = engine.dialect.name
        readonly = {"postgresql_readonly": True} if kind == "postgresql" else {}
        with engine.connect().execution_options(**readonly) as connection:
            if kind == "postgresql":
                # Else a timestamp without a zone is compared in the zone of whoever runs the server.
                connection.execute(sa.text("SET TIME ZONE 'UTC'"))
            elif kind == "sqlite":
                connection.execute(sa.text("PRAGMA query_only = ON"))
            bound = {"start": _bound(interval.start, kind), "end": _bound(interval.end, kind)}
            # The query is the spec's own text; the interval reaches it only as bound values.
            wanted = {name: bound[name] for name in bound if re.search(rf":{name}\b", source.sql)}
            options = {"stream_results": True, "yield_per": BATCH_ROWS}
            result = connection.execute(sa.text(source.sql), wanted, execution_options=options)
            names = list(result.keys())
            check_columns(names, schema, redacted_url(url), exact=exact)
            done = 0
            for rows in result.partitions():
                yield _table(names, [tuple(row) for row in rows], schema, done, redacted_url(url))
                done += len(rows)
    except OperationalError as error:
        if not error.connection_invalidated and re.search(r"no such|syntax|incomplete|near ", str(error.orig)):
            raise _refused(url, error) from None
        raise SourceUnavailable(
            f"{redacted_url(url)}: {_masked(url, error)}", do="see that the database is up; the next try may find it"
        ) from None
    except (SQLAlchemyError, NoSuchModuleError, ImportError) as error:
        raise _refused(url, error) from None


def _refused(url: sa.URL, error: Exception) -> SourceRefused:
    return SourceRefused(f"{redacted_url(url)}: {_masked(url, error)}", do="correct the query or the address")


def _masked(url: sa.URL, error: Exception) -> str:
    # Without SQLAlchemy's own words, which repeat the query and its values.
    message = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    secrets = [url.password, *(str(value) for value in url.query.values())]
    return masked(message, *(str(secret) for secret in secrets if secret))


def _bound(moment: datetime, dialect: str) -> datetime | str:
    """A moment as the database compares it."""
    if dialect == "postgresql":
        return moment
    naive = moment.replace(tzinfo=None)
    if dialect != "sqlite":
        return naive
    # SQLite compares text: the shortest form is a prefix of every longer spelling of the same moment. For hours
    # the spellings must agree too, or the query says datetime(column).
    text = naive.isoformat(sep=" ")
    return text.removesuffix(":00").removesuffix(":00").removesuffix(" 00")


def _table(names: list[str], rows: list[tuple[Any, ...]], schema: pa.Schema, done: int, where: str) -> pa.Table:
    columns = dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(names, ())
    arrays = []
    for field in schema:
        try:
            arrays.append(of_values(columns[field.name], field.type))
        except Mismatch as wrong:
            place = f"{where} row {done + wrong.index + 1}"
            raise dtype_changed(place, field.name, wrong.value, field.type) from None
    return pa.table(arrays, names=schema.names)
