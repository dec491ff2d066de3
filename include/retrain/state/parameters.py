"""The parameters of each DAG of a model, and the refusal of others: Airflow itself takes whatever it is given."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from retrain.errors import InvalidParameter, near
from retrain.spec import Spec

PARAMETERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "retrain": ("interval", "force", "dry_run", "revise", "reason", "alert"),
        "score": ("interval",),
        "monitor": ("interval",),
        "approve": ("version", "digest"),
        "rollback": ("reason", "to"),
    }
)
"""The end of a DAG's id → the parameters of its runs."""


def dag_of(dag_id: str) -> tuple[str, str]:
    """Model and kind of one of a model's DAGs; two empty texts of any other.

    >>> dag_of("churn_rollback"), dag_of("churn_etl")
    (('churn', 'rollback'), ('', ''))
    """
    model, _, kind = dag_id.rpartition("_")
    return (model, kind) if model and kind in PARAMETERS else ("", "")


def check_parameters(spec: Spec, kind: str, given: Mapping[str, Any] | None) -> None:
    """Refuse parameters that a DAG does not know, and an interval that is none.

    Args:
        spec: the model's.
        kind: the end of the DAG's id.
        given: the parameters as they were given; None where none were.

    Raises:
        InvalidParameter: names those that are unknown, and those that are known.
        InvalidInterval: the parameter `interval` is the start of none.
    """
    known, given = PARAMETERS[kind], given or {}
    if unknown := sorted(str(name) for name in given if name not in known):
        hints = "".join(near(name, known) for name in unknown[:1])
        raise InvalidParameter(
            f"{spec.model}_{kind} has no parameter {', '.join(map(repr, unknown[:5]))}{hints}",
            do=f"give none but {', '.join(known)}",
        ).at(spec.model, kind)
    interval = given.get("interval")
    if isinstance(interval, str) and interval:
        spec.at(interval)
