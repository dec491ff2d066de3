"""Texts without secrets: what a password's value is, wherever it stands, and every form that it takes in a URL.

Two rules. By value: what the environment holds as a secret (passwords of addresses and connections, variables that are
called so), and what a source gave to `hide`, is replaced wherever it occurs. By form: whatever stands between `://` and
the last `@` of a word is a login, and what follows a `?` may be a token.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, unquote_plus

MASK = "***"
SHORTEST = 4
"""Characters of a secret: shorter ones would blot out every other word, and hide nothing."""

_NAMED_SECRET = re.compile(r"(?i)passw|secret|token|credential|(access|private|api|fernet|account)_?key|signature")
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://")
_hidden: set[str] = set()


def hide(*values: str | None) -> None:
    """Have these values masked in every text from now on, in this process."""
    _hidden.update(value for value in values if value)


def masked(text: str) -> str:
    """The text without any secret that is known here, and without logins and options of addresses.

    >>> masked("cannot open https://ada:pa/s@s@example.org/a.csv?token=abc for ada")
    'cannot open https://***@example.org/a.csv for ada'
    >>> hide("p@ss w%rd")
    >>> masked("cannot log in with p%40ss%20w%25rd, 'p@ss w%rd'")
    "cannot log in with ***, '***'"
    """
    for form in sorted({form for value in secrets() for form in _forms(value)}, key=len, reverse=True):
        text = text.replace(form, MASK)
    text = re.sub(r"://\S*@", f"://{MASK}@", text)
    return re.sub(r"(://[^\s?]+)\?[^\s;,'\")\]]+", r"\1", text)


def passwords_of(address: str) -> Iterator[str]:
    """The password and the options of an address, read in every way that a client may read it.

    >>> sorted(passwords_of("postgresql://ada:pa%2Fss@db/shop?sslpassword=x%20y"))
    ['pa%2Fss', 'pa/ss', 'x y']
    >>> sorted(passwords_of("postgresql://ada:pa@ss@db/shop"))
    ['pa', 'pa@ss', 'ss']
    """
    _, separator, rest = address.partition("://")
    if not separator:
        return
    for login in {rest.partition("@")[0], rest.rpartition("@")[0]} if "@" in rest else ():
        password = login.partition(":")[2] if ":" in login else ""
        yield from {password, unquote(password)}
        # A client that cuts at the first sign that is not encoded shows what is left as a host or a path.
        yield from filter(None, re.split(r"[@/:?#]", password)[1:])
    for name, value in parse_qsl(rest.partition("?")[2]):
        if name == "__extra__":
            yield from _inside(value)
        elif _NAMED_SECRET.search(name):
            yield value


def secrets() -> Iterator[str]:
    """Every secret that is known here: what was given to `hide`, and what the environment holds."""
    yield from _hidden
    for name, value in os.environ.items():
        if _NAMED_SECRET.search(name) and not re.fullmatch(r"(?i)true|false|none|\d{1,7}", value):
            yield value
        if name.startswith("AIRFLOW_CONN_") and value.lstrip().startswith("{"):
            yield from _inside(value)
        elif _ADDRESS.match(value):
            yield from passwords_of(value)


def _inside(text: str) -> Iterator[str]:
    """The secrets of a connection that is written as JSON."""
    try:
        connection: Any = json.loads(text)
    except (ValueError, RecursionError):
        return
    if not isinstance(connection, Mapping):
        return
    for name, value in connection.items():
        if isinstance(value, str) and name == "extra":
            yield from _inside(value)
        elif isinstance(value, Mapping):
            yield from _inside(json.dumps(value))
        elif isinstance(value, str) and _NAMED_SECRET.search(name):
            yield value


def _forms(value: str) -> Iterator[str]:
    """A secret as it is, and as it is written in a URL, in JSON and in Python."""
    if len(value) < SHORTEST:
        return
    yield from (value, quote(value), quote(value, safe=""), quote_plus(value))
    yield from (json.dumps(value)[1:-1], repr(value)[1:-1])
    yield from filter(lambda form: len(form) >= SHORTEST, (unquote(value), unquote_plus(value)))
