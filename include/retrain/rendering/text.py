"""Text from data, specs and people, made safe for where it is shown."""

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
    """A number for people: four digits, thousands apart; a dash for none, other values as they are.

    >>> number(0.123456), number(1200), number(-0.0), number(None)
    ('0.1235', '1,200', '0', '–')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return NONE if value is None else plain(value)
    return f"{value:,}" if isinstance(value, int) else f"{value + 0.0:.4g}"


def run_key_of(reference: str) -> str:
    """The key of the run that a champion's reference folder belongs to.

    >>> run_key_of("churn/runs/test-2024-02-01/refit")
    'test-2024-02-01'
    """
    return reference.removesuffix("/refit").rpartition("/")[2]


def differences(old: Configuration, new: Configuration) -> list[str]:
    """How two configurations differ, a line each, for people; empty where they do not."""
    lines = []
    if old.estimator != new.estimator:
        lines.append(f"estimator {old.estimator} → {new.estimator}")
    if old.rows_label != new.rows_label:
        lines.append(f"rows {old.rows_label} → {new.rows_label}")
    for name in sorted({*old.parameters, *new.parameters}):
        before, after = (configuration.parameters.get(name, NONE) for configuration in (old, new))
        if before != after:
            lines.append(f"{name} {before} → {after}")
    if new.recalibrated:
        lines.append(f"the estimator of version {new.recalibrated.version} with another {new.recalibrated.method}")
    elif old.recalibrated:
        lines.append("fitted as a whole, no recalibration")
    if old.pipeline != new.pipeline:
        lines.append("the pipeline: columns, encoders, feature code or library versions")
    return lines
