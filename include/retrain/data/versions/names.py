"""Versions, anchors, and the names and addresses that the data registry takes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from retrain.errors import InvalidName, SnapshotCorrupt
from retrain.results import inside

_PART = re.compile(r"\w(?:\w|[.=+-](?![.]))*")
_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class DataVersion:
    """Data as it was published.

    Attributes:
        path: in the registry.
        md5: of the bytes, which it brings back.
        bytes: how many there are.
        commit: of the registry, which says when and why they came.
        tag: of that commit.
    """

    path: str
    md5: str
    bytes: int
    commit: str
    tag: str

    def __post_init__(self) -> None:
        safe_name(self.path)
        if not _MD5.fullmatch(self.md5) or self.bytes < 0:
            raise SnapshotCorrupt(
                f"{self.path}.dvc does not name an MD5 and a size: {self.md5[:60]!r}, {self.bytes}",
                do="restore that file in the data registry from its git history",
            )


@dataclass(frozen=True)
class Anchor:
    """Where a ledger stood: the hash of its record at `place`, and the commit of the data registry that says so."""

    place: int
    hash: str
    commit: str


def is_local(address: str) -> bool:
    """Whether an address is a path of this machine.

    >>> is_local("/data/registry.git"), is_local("git@example.org:registry.git"), is_local("s3://bucket/remote")
    (True, False, False)
    """
    return "://" not in address and not re.match(r"[^/]{2,}:", address)


def has_password(address: str) -> bool:
    """Whether an address carries a password, or a name that may be a token, however it is written.

    >>> has_password("https://ada:pa/ss@example.org/registry.git"), has_password("ssh://git@example.org/registry.git")
    (True, False)
    """
    scheme, separator, rest = address.partition("://")
    login, at, _ = rest.partition("@")
    # Over http a name alone is as a rule a token.
    return bool(separator and at) and (":" in login or scheme.lower() in ("http", "https"))


def safe_name(name: str, kind: str = "path") -> str:
    """Return a name that is safe as a file, a git ref and a line of a commit message alike.

    Raises:
        InvalidName: it is not.

    >>> safe_name("flights/2013-01.parquet")
    'flights/2013-01.parquet'
    """
    parts = inside(name).split("/")
    if not all(_PART.fullmatch(part) and not part.endswith((".dvc", ".lock", ".")) for part in parts):
        raise InvalidName(
            f"{name!r} is not a plain {kind} for the data registry",
            do="use letters, digits, dots, dashes and underscores; begin with a letter or digit",
        )
    return name
