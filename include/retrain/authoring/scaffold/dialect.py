"""How CSV files are written, seen in the beginning of one, for a spec that says so; a run never guesses it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import BinaryIO

from retrain.data.sources import SEPARATORS
from retrain.spec import CsvDialect

HEAD_BYTES, HEAD_RECORDS = 4 << 20, 1000


def detect(stream: BinaryIO) -> CsvDialect:
    r"""The dialect of a CSV file: encoding, separator, and how numbers are written.

    >>> seen = detect(io.BytesIO("name;größe\na;1.234,5\nb;0,25\n".encode("latin-1")))
    >>> seen.model_dump(exclude_defaults=True)
    {'sep': ';', 'decimal': ',', 'thousands': '.', 'encoding': 'cp1252'}

    Args:
        stream: the file, from its beginning.
    """
    head = stream.read(HEAD_BYTES)
    encoding = _encoding(head)
    # The last line may be cut off, in the middle of a character.
    text = head.decode(encoding, errors="ignore").removeprefix("\ufeff")
    if len(head) == HEAD_BYTES:
        text = text.rpartition("\n")[0]
    tables = {sign: _records(text, sign) for sign in SEPARATORS}
    even = {sign: len(rows[0]) for sign, rows in tables.items() if rows and len({len(row) for row in rows}) == 1}
    # Of several that give even rows the one with most fields; a comma unless another gives more.
    sep = max((",", *even), key=lambda sign: (even.get(sign, 1), sign == ","))
    columns = list(zip(*tables[sep][1:], strict=True)) if sep in even else []
    decimal, thousands = _number_signs(columns)
    return CsvDialect(sep=sep, decimal=decimal, thousands=thousands, encoding=encoding)


def _encoding(head: bytes) -> str:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(head) < HEAD_BYTES or error.start < len(head) - 4:
            return "latin-1" if re.search(rb"[\x81\x8d\x8f\x90\x9d]", head) else "cp1252"
    return "utf-8"


def _records(text: str, sep: str) -> list[list[str]]:
    try:
        records: Iterator[list[str]] = csv.reader(io.StringIO(text, newline=""), delimiter=sep)
        return [record for record in islice(records, HEAD_RECORDS) if record]
    except csv.Error:
        return []


def _number_signs(columns: Sequence[Sequence[str]]) -> tuple[str, str | None]:
    """Decimal sign and what groups digits, where a whole column is written so and cannot be read otherwise."""
    for point, group in ((",", "."), (",", " "), (",", "\u00a0"), (".", ","), (".", "'"), (".", " ")):
        grouped = rf"\d{{1,3}}({re.escape(group)}\d{{3}})+"
        number = re.compile(rf"[+-]?(\d+|{grouped})({re.escape(point)}\d+)?")
        numbers = [
            [text for text in column if text.strip()]
            for column in columns
            if any(column) and all(number.fullmatch(text.strip()) for text in column if text.strip())
        ]
        with_group = any(re.search(grouped, text) for column in numbers for text in column)
        with_comma = point == "," and any("," in text for column in numbers for text in column)
        if with_comma or (point == "." and with_group):
            return point, group if with_group else None
    return ".", None
