"""Secrets and databases of the cluster in docker-compose.yaml: `python bin/cluster.py new | check | init`.

new    print fresh secrets, for a file `.env` that only its owner can read
check  refuse secrets that are missing, known, short or used twice, before anything starts
init   make the databases, bring them to the installed versions, make the first user

`new` and `check` need nothing but Python, so that they also run where nothing is installed yet. No message shows a
secret.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple


class SecretRule(NamedTuple):
    """What a secret must be like: its shortest length, and whether it becomes a part of URLs."""

    shortest: int
    in_urls: bool = False


SECRETS = {
    "POSTGRES_PASSWORD": SecretRule(16, in_urls=True),
    "REDIS_PASSWORD": SecretRule(16, in_urls=True),
    "ADMIN_PASSWORD": SecretRule(12),
    "FERNET_KEY": SecretRule(44),
    "API_SECRET_KEY": SecretRule(32),
    "JWT_SECRET": SecretRule(64),
}
DATABASES = ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "MLFLOW_BACKEND_STORE_URI", "RETRAIN_LEDGER")
"""The variables whose URLs name the databases."""

KNOWN = re.compile(
    r"""(?:
    postgres|postgresql|airflow|redis|mlflow|retrain|celery|docker|compose|admin|administrator|root|user|test|guest|demo
    |default|example|sample|secret|secrets|password|passwd|passphrase|pass|token|key|keys|jwt|api|fernet|change|changed
    |changeit|me|it|letmein|welcome|hello|qwerty|qwertz|asdf|abc|abcdefg|dummy|foo|bar|todo|replace|insert|set|your|my
    |own|this|that|the|a|is|of|to|app|with|here|please|must|be|very|super|strong|long|some|random|local|dev|prod
    )*""",
    re.VERBOSE,
)
LOOKALIKES = str.maketrans("013457@$", "oleastas")
PUBLISHED = {  # keys that stand in tutorials
    "46BKJoQYlPPOexq0OhDZnIlNepKFf87WFwLbfzqDDho=",
    "81HqDtbqAywKSOumSha3BhWNOdQ26slT6K0YaZeZyPs=",
}


def new() -> str:
    """A `.env` with a fresh secret for each name."""
    values = {name: secrets.token_urlsafe(max(24, rule.shortest)) for name, rule in SECRETS.items()}
    values["FERNET_KEY"] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return "".join(f"{name}={value}\n" for name, value in values.items())


def problems(environment: Mapping[str, str]) -> list[str]:
    """What is wrong with the secrets, one line each; nothing if they are good."""
    values = {name: environment.get(name, "") for name in SECRETS}
    lines = [f"{name} {why}" for name, value in values.items() if (why := _problem(name, value))]
    given = [name for name, value in values.items() if value]
    twice = [name for name in given if sum(values[name] == values[other] for other in given) > 1]
    return [*lines, f"{', '.join(twice)} are the same"] if twice else lines


def is_known(value: str) -> bool:
    """Whether this is a password that anybody would try: of common words, of digits, or of a few characters.

    >>> is_known("p4ssw0rd-airflow-123"), is_known("0123456789012345"), is_known("abababababababab")
    (True, True, True)
    >>> is_known("correct-horse-battery-staple")
    False
    """
    value = value.casefold()
    spelled = re.sub(r"\d{2,}", "", value).translate(LOOKALIKES)
    plain = (re.sub("[^a-z]", "", text) for text in (value, spelled))
    return value.isdecimal() or len(set(value)) < 6 or any(bool(KNOWN.fullmatch(text)) for text in plain)


def _problem(name: str, value: str) -> str:
    rule = SECRETS[name]
    if not value:
        return "is missing"
    if value in PUBLISHED or is_known(value):
        return "is a known password"
    if name == "FERNET_KEY":
        return "" if _is_fernet_key(value) else "is not 32 bytes in URL-safe base64"
    if len(value) < rule.shortest:
        return f"has {len(value)} characters, at least {rule.shortest} are needed"
    if rule.in_urls and not re.fullmatch(r"[A-Za-z0-9._~-]+", value):
        return "becomes a part of URLs: only letters, digits and . _ ~ - are possible"
    return ""


def _is_fernet_key(value: str) -> bool:
    try:
        return len(base64.b64decode(value.encode(), altchars=b"-_", validate=True)) == 32
    except (binascii.Error, UnicodeEncodeError):
        return False


def init(environment: Mapping[str, str]) -> None:
    """Make what the services need, as often as it is called; what is there already stays."""
    for variable in DATABASES:
        _create_database(environment[variable])
    _run("airflow", "db", "migrate")
    _run("mlflow", "db", "upgrade", environment["MLFLOW_BACKEND_STORE_URI"])
    name = environment["ADMIN_USER"]
    person = ["--username", name, "--firstname", name, "--lastname", name, "--email", f"{name}@localhost"]
    _run("airflow", "users", "create", "--role", "Admin", *person, "--password", environment["ADMIN_PASSWORD"])


def _create_database(url: str) -> None:
    import sqlalchemy as sa

    address = sa.make_url(url)
    engine = sa.create_engine(address.set(database="postgres"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        there = sa.text("SELECT 1 FROM pg_database WHERE datname = :name")
        if not connection.scalar(there, {"name": address.database}):
            name = engine.dialect.identifier_preparer.quote(str(address.database))
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
            print(f"database {address.database} is made", flush=True)


def _run(*arguments: str) -> None:
    if code := subprocess.run([sys.executable, "-m", *arguments]).returncode:
        raise SystemExit(f"`{' '.join(arguments[:3])}` ended with code {code}; nothing was started")


def main(verb: str) -> None:
    """Run the command; what is wrong ends it with a message and exit code 1."""
    if verb == "new":
        print(new(), end="")
        return
    if lines := problems(os.environ):
        listed = "".join(f"  {line}\n" for line in lines)
        raise SystemExit(
            f"nothing was started, these secrets cannot be used:\n{listed}  → python bin/cluster.py new > .env"
        )
    if verb == "init":
        init(os.environ)


if __name__ == "__main__":
    if sys.argv[1:] not in (["new"], ["check"], ["init"]):
        raise SystemExit("usage: python bin/cluster.py new | check | init")
    main(sys.argv[1])
