"""Where batches and labels come from: files and databases, as one typed Parquet file.

Rows are read in pieces, so that ten million fit beside everything else; every value has its declared type or
the delivery is refused with the place where it has not. What is asked of a batch beyond that is `validate`'s.

Only this folder knows file formats and SQL drivers.
"""

from retrain.data.sources import csv_lines
from retrain.data.sources.address import glob_pattern, local_files, one_per_interval, render, scheme_of
from retrain.data.sources.csv_lines import SEPARATORS
from retrain.data.sources.delivery import Delivered, deliver, deliver_labels, encoded, find
from retrain.data.sources.formats import format_of
from retrain.data.sources.typed import UTC_MICROSECONDS, Mismatch, of_text

__all__ = [
    "SEPARATORS",
    "UTC_MICROSECONDS",
    "Delivered",
    "Mismatch",
    "csv_lines",
    "deliver",
    "deliver_labels",
    "encoded",
    "find",
    "format_of",
    "glob_pattern",
    "local_files",
    "of_text",
    "one_per_interval",
    "render",
    "scheme_of",
]
