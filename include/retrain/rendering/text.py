"""What comes from data, specs and people, made safe for where it is shown."""

from __future__ import annotations

import re
from datetime import datetime

from retrain.results import Configuration
from retrain.state.ledger import Record

NONE = "–"


def plain(text: object) -> str:
    r"""`text` on one line, without what could move a terminal's cursor.

    >>> plain("a\nb\x1b[31m c")
    'a b [31m c'
    """
    return " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)).split())


def markdown(text: object) -> str:
    r"""`text` as Markdown that shows just that, in a table's cell too (CommonMark's escapes, GitHub's for the pipe).

    >>> markdown("a|b `c` <script>")
    'a\\|b \\`c\\` &lt;script&gt;'
    """
    safe = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # An underscore inside a word emphasises nothing.
    return re.sub(r"([\\`*\[\]|~$#!]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", safe)


def who(record: Record) -> str:
    """Who or what asked for what a record says."""
    trigger = record.body.get("trigger") or {}
    return plain(record.by or trigger.get("by") or trigger.get("kind") or "the loop")


def stamp(moment: datetime) -> str:
    """A moment in UTC, to the minute."""
    return f"{moment:%Y-%m-%d %H:%M}"


def number(value: object) -> str:
    """
    >>> number(0.123456), number(1200), number(-0.0), number(None)
    ('0.1235', '1,200', '0', '–')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return NONE if value is None else plain(value)
    return f"{value:,}" if isinstance(value, int) else f"{value + 0.0:.4g}"


def run_key_of(reference: str) -> str:
    """The key of the run that a champion's reference folder belongs to.

    >>> key_of("churn/runs/test-2024-02-01/refit")
    'test-2024-02-01'
    """
    return reference.removesuffix("/refit").rpartition("/")[2]


def differences(old: Configuration, new: Configuration) -> list[str]:
    """What tells two configurations apart, for people; empty where nothing does."""
    found = []
    if old.estimator != new.estimator:
        found.append(f"estimator {old.estimator} → {new.estimator}")
    windows = [one.label.partition(", ")[2] for one in (old, new)]
    if windows[0] != windows[1]:
        found.append(f"rows {windows[0]} → {windows[1]}")
    for name in sorted({*old.parameters, *new.parameters}):
        before, after = (one.parameters.get(name, NONE) for one in (old, new))
        if before != after:
            found.append(f"{name} {before} → {after}")
    if old.pipeline != new.pipeline:
        found.append("the pipeline: columns, encoders, feature code or library versions")
    return found
