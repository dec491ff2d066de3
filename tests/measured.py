"""A plugin of pytest: line and branch coverage of the modules by which the champion changes, by their own tests.

`make test` loads it with `-p tests.measured` and prints the report. To trace the whole suite would cost minutes.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import coverage
import pytest

MODULES = (
    "retrain.state.ledger",
    "retrain.registry.anchors",
    "retrain.registry.promotion",
    "retrain.registry.reconcile",
    "retrain.registry.restore",
    "retrain.registry.rollback",
)
BY = (
    *("test_ledger", "test_former", "test_failures"),
    *("test_promote", "test_reconcile", "test_rollout", "test_verify"),
)
"""Test modules that are measured."""

_TRACER = coverage.Coverage(
    data_file=".coverage/all",
    data_suffix=True,
    branch=True,
    include=[f"*/{name.replace('.', '/')}.py" for name in MODULES],
)


@pytest.fixture(scope="module", autouse=True)
def measured(request: pytest.FixtureRequest) -> Iterator[None]:
    """Count the lines and branches that run in the module's tests, where it is one of `BY`."""
    if request.module.__name__.rpartition(".")[2] not in BY:
        yield
        return
    _TRACER.start()
    yield
    _TRACER.stop()
    _TRACER.save()


# What a module does when it is imported happens once, and here.
_TRACER.start()
for _name in MODULES:
    importlib.import_module(_name)
_TRACER.stop()
_TRACER.save()
