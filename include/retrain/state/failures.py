"""Names for what disks and databases do: full, not allowed, corrupt; the one place that translates their errors."""

from __future__ import annotations

import errno
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from retrain.errors import AccessDenied, DatabaseCorrupt, DiskFull, RetrainError
from retrain.masking import masked

_ROOM = "make room or raise the quota, then run it again; what was on record before is as it was"
_RIGHTS = "give this user the right to read and write it, or point RETRAIN_HOME at a folder that it owns"
_BACKUP = (
    "stop what writes to it, move it aside and restore it from a backup (docs/runbook.md, task-failed); nothing was"
    " written over it"
)

KINDS: tuple[tuple[type[RetrainError], frozenset[int], re.Pattern[str], str], ...] = (
    (
        DiskFull,
        frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG}),
        re.compile(r"(?i)disk is full|disk I/O error|no space left|disk quota exceeded|file too large|disk full"),
        _ROOM,
    ),
    (
        AccessDenied,
        frozenset({errno.EACCES, errno.EPERM, errno.EROFS}),
        re.compile(r"(?i)readonly database|unable to open database file|permission denied|read-only file system"),
        _RIGHTS,
    ),
    (
        DatabaseCorrupt,
        frozenset(),
        re.compile(r"(?i)is not a database|is malformed|malformed database schema|no such (table|column)"),
        _BACKUP,
    ),
)
"""Refusal, the system's numbers and the databases' words for it, and what to do."""


def refusal_of(error: BaseException, what: str = "") -> RetrainError | None:
    """The refusal that an error of a disk or a database stands for; None if it is none of them.

    Args:
        error: of the system, SQLite, SQLAlchemy, or a client whose message repeats theirs.
        what: was being read or written, where that is known.

    >>> print(refusal_of(OSError(28, "No space left on device", "ledger.db")))
    DiskFull: ledger.db: No space left on device
      → make room or raise the quota, then run it again; what was on record before is as it was
    >>> refusal_of(ValueError("a row"))
    """
    if isinstance(error, RetrainError):
        return error
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) and error.orig else error
    number = cause.errno if isinstance(cause, OSError) else None
    text = masked(" ".join(str(cause).split()))[:300]
    for kind, numbers, pattern, do in KINDS:
        if number in numbers or (_speaks_of_state(error) and pattern.search(text)):
            where = str(getattr(cause, "filename", None) or what)
            words = getattr(cause, "strerror", None) or text
            return kind(f"{where}: {words}" if where else words, do=do)
    return None


def _speaks_of_state(error: BaseException) -> bool:
    """Whether the words of an error's message are those of a disk or a database; a parser's may say the same."""
    return isinstance(error, OSError | sqlite3.Error | sa.exc.DBAPIError) or type(error).__name__ == "MlflowException"


@contextmanager
def naming_failures(what: str = "") -> Iterator[None]:
    """Raise the named refusal in the stead of an error of a disk or a database; every other error goes on.

    Raises:
        DiskFull, AccessDenied, DatabaseCorrupt: see `refusal_of`.
    """
    try:
        yield
    except Exception as error:
        if (refusal := refusal_of(error, what)) is None or refusal is error:
            raise
        # Not chained: the message of a client may hold an address with its password.
        raise refusal from None
