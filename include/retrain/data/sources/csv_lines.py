"""The lines and records of a CSV file in its declared dialect: what is skipped, and where each record stands."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv

from retrain.spec import CsvDialect

SEPARATORS = (";", "\t", "|", ",")
"""Characters that are known to separate fields, for the refusal of a header that holds another one."""


class Utf8(io.RawIOBase):
    """A CSV stream in UTF-8, without the lines that the dialect skips."""

    def __init__(self, stream: BinaryIO, dialect: CsvDialect) -> None:
        self._stream, self._pieces, self._rest = stream, _pieces(stream, dialect), memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with text that is not skipped."""
        if not self._rest:
            self._rest = memoryview(next(self._pieces, "").encode())
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size

    def close(self) -> None:
        """Close the stream below, too."""
        self._stream.close()
        super().close()


def parse_options(dialect: CsvDialect) -> pa.csv.ParseOptions:
    """The dialect, as pyarrow is told it."""
    return pa.csv.ParseOptions(newlines_in_values=True, delimiter=dialect.sep, quote_char=dialect.quotechar)


def utf8(stream: BinaryIO, dialect: CsvDialect) -> BinaryIO:
    """The stream as UTF-8 without skipped lines; itself where it is that already."""
    if _is_utf8(dialect) and not dialect.skiprows and not dialect.comment:
        return stream
    return io.BufferedReader(Utf8(stream, dialect), 1 << 20)


def _is_utf8(dialect: CsvDialect) -> bool:
    return codecs.lookup(dialect.encoding).name == "utf-8"


def _text(stream: BinaryIO, dialect: CsvDialect, errors: str) -> io.TextIOWrapper:
    encoding = "utf-8-sig" if _is_utf8(dialect) else dialect.encoding
    return io.TextIOWrapper(stream, encoding=encoding, errors=errors, newline="")


def _pieces(stream: BinaryIO, dialect: CsvDialect) -> Iterator[str]:
    """The text that is not skipped, in pieces that are not empty."""
    if dialect.comment:
        kept = (line for _, line in lines(stream, dialect))
        while piece := "".join(islice(kept, 1 << 12)):
            yield piece
    else:
        text = _text(stream, dialect, "strict")
        for _ in range(dialect.skiprows):
            text.readline()
        yield from iter(lambda: text.read(1 << 20), "")


def lines(stream: BinaryIO, dialect: CsvDialect, errors: str = "strict") -> Iterator[tuple[int, str]]:
    """Yield number, from 1, and text of the lines that are not skipped.

    Raises:
        UnicodeDecodeError: the bytes are not of the declared encoding, unless `errors` says otherwise.
    """
    for number, line in enumerate(_text(stream, dialect, errors), 1):
        if number > dialect.skiprows and not (dialect.comment and line.startswith(dialect.comment)):
            yield number, line


def records(stream: BinaryIO, dialect: CsvDialect, errors: str = "replace") -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each record begins, and its fields; the header first, empty lines left out.

    Raises:
        csv.Error: a record cannot be read.
    """
    begin: list[int] = []

    def numbered() -> Iterator[str]:
        for number, line in lines(stream, dialect, errors):
            begin.append(number)
            yield line

    for record in csv.reader(numbered(), delimiter=dialect.sep, quotechar=dialect.quotechar):
        if record:
            yield begin[0], record
        begin.clear()


def header(stream: BinaryIO, dialect: CsvDialect) -> list[str]:
    """The fields of the first record; none of a file without one, or of one that cannot be read so."""
    try:
        return next(records(stream, dialect), (0, []))[1]
    except csv.Error:
        return []


def other_separator(header: list[str], dialect: CsvDialect) -> str:
    """The character that seems to separate the fields of a header which is one field as it is read; empty if none."""
    if len(header) != 1:
        return ""
    counts = {sign: header[0].count(sign) for sign in SEPARATORS if sign != dialect.sep}
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] else ""
