"""The model spec: one YAML file per model, parsed to a frozen object that refuses what it does not know.

A file here for each section of the YAML: `intervals`, `source`, `columns` (and target), `labels`, `quality`, `drift`,
`policy`, `monitor` (and scoring), `training`, `evaluation`, `gate`, `promotion` (and serving), `access`. `spec` holds
them together, `parsing` reads them, `edge_cases` reads the file that `gate.cases` names.

Imports pydantic and yaml only: every Airflow component parses specs, none may pay for pandas here.

    >>> spec = parse(EXAMPLE, "churn")
    >>> spec.features
    ('plan', 'visits')
    >>> [interval.name for interval in spec.intervals_until(spec.at("2024-02-01").end)]
    ['2024-01-01', '2024-02-01']
"""

from __future__ import annotations

from retrain.spec.access import Access, Action
from retrain.spec.columns import Column
from retrain.spec.evaluation import BY_INTERVAL, COMPANIONS, METRICS
from retrain.spec.gate import LimitedMetric
from retrain.spec.labels import LabelSource
from retrain.spec.parsing import CASES, EXAMPLE, FORMER, MAX_BYTES, load, parse
from retrain.spec.policy import Policy
from retrain.spec.promotion import Watch
from retrain.spec.source import CsvDialect, Source
from retrain.spec.spec import COMPUTED, Spec
from retrain.spec.strict_yaml import line_of
from retrain.spec.training import Recency, Window

__all__ = [
    "BY_INTERVAL",
    "CASES",
    "COMPANIONS",
    "COMPUTED",
    "EXAMPLE",
    "FORMER",
    "MAX_BYTES",
    "METRICS",
    "Access",
    "Action",
    "Column",
    "CsvDialect",
    "LabelSource",
    "LimitedMetric",
    "Policy",
    "Recency",
    "Source",
    "Spec",
    "Watch",
    "Window",
    "line_of",
    "load",
    "parse",
]
