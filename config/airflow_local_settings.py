"""Heavy libraries, imported once in the process that tasks are forked from.

Every Airflow component imports this file at its start (`airflow.settings.import_local_settings`, found on
PYTHONPATH). Only two of them fork tasks: the scheduler, whose LocalExecutor forks its workers from it, and a Celery
worker with its prefork pool. They pay for the imports once and their tasks inherit the modules; the other
components stay light. A start method other than fork inherits nothing, so nothing is imported then.

The stages are imported too: after a change to their code the scheduler or the worker wants a restart.

A module that does not import is a warning here, not an error: the task that needs it fails with that very error, and
the scheduler and everything that does not need it go on.
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import pkgutil
import sys
import warnings
from collections.abc import Iterator

# Airflow would take every other name in this file for a setting or a policy of its own.
__all__: list[str] = []

HEAVY = (
    *("pandas", "pyarrow.parquet", "pyarrow.csv", "scipy.stats", "matplotlib.pyplot"),
    *("sklearn.ensemble", "sklearn.compose", "sklearn.pipeline", "sklearn.linear_model", "sklearn.model_selection"),
    *("xgboost", "skops.io", "mlflow.sklearn", "mlflow.pyfunc", "great_expectations"),
    *("evidently.metrics", "evidently.presets", "dvc.repo"),
)


def tasks_are_forked_from(argv: list[str], start_methods: list[str]) -> bool:
    """Whether this process is a parent of tasks; `start_methods` has the platform's default first.

    >>> tasks_are_forked_from(["airflow", "scheduler", "--skip-serve-logs"], ["fork", "spawn"])
    True
    >>> tasks_are_forked_from(["airflow", "scheduler"], ["spawn", "fork"])
    False
    >>> tasks_are_forked_from(["airflow", "celery", "worker"], ["spawn", "fork"])  # billiard always forks
    True
    >>> tasks_are_forked_from(["airflow", "api-server"], ["fork", "spawn"])
    False
    """
    return argv[1:3] == ["celery", "worker"] or (argv[1:2] == ["scheduler"] and start_methods[0] == "fork")


def modules() -> Iterator[str]:
    """The names of what is imported ahead: the heavy libraries, then everything of `retrain`."""
    yield from HEAVY
    retrain = importlib.import_module("retrain")
    for module in pkgutil.walk_packages(retrain.__path__, "retrain."):
        if not module.name.endswith("__main__"):
            yield module.name


def preload() -> None:
    """Import them all; what does not import is a warning."""
    import matplotlib

    matplotlib.use("Agg")
    with warnings.catch_warnings():
        # skops asks every loaded module for every name it knows; Airflow's answer to each is a deprecation warning.
        warnings.simplefilter("ignore")
        for name in modules():
            try:
                importlib.import_module(name)
            except Exception as error:
                logging.getLogger(__name__).warning("%s is not imported ahead of the tasks: %r", name, error)


# `get_start_method()` would fix the start method before Airflow has read its own setting.
if tasks_are_forked_from(sys.argv, multiprocessing.get_all_start_methods()):
    preload()
