"""What the stages of one cycle spend on reading, work and writing, all of them in this one process.

    RETRAIN_ROOT=… python benchmarks/inside.py flights 2013-06-01

Started by `cycle.py` after the measured months, on one more month of the same home. The doors to the store, the
ledger, the registries and the model files are timed from outside; what calls one of them inside another counts once.
`modules` is how many modules a stage still imported, though all that a task's parent imports were there.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "config")]

import airflow_local_settings as parent

READING = {
    "retrain.state.store": ("Store.read", "Store.exists", "Store.keys", "sha256_of"),
    "retrain.state.ledger": ("Ledger.records",),
    "retrain.data.dataset": ("read",),
    "retrain.data.sources": ("find", "deliver"),
    "retrain.registry.mlflow": ("Registry.fetch", "Registry.alias", "load_model"),
    "pandas": ("read_parquet",),
}
WRITING = {
    "retrain.state.store": ("Store.write", "Store.put", "Store.put_folder"),
    "retrain.state.ledger": ("Ledger.append",),
    "retrain.data.versions": ("DataRegistry.publish",),
    "retrain.registry.mlflow": (
        *("save_model", "Registry.record", "Registry.register"),
        *("Registry.set_alias", "Registry.delete_alias"),
    ),
}
seconds_in: defaultdict[str, float] = defaultdict(float)
_depth = 0


def _timed(kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def door(*args: Any, **kwargs: Any) -> Any:
        global _depth
        _depth += 1
        began = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            _depth -= 1
            if not _depth:
                seconds_in[kind] += time.perf_counter() - began

    return door


def _watch(kind: str, module: ModuleType, path: str) -> None:
    owner: Any = module
    *outer, name = path.split(".")
    for step in outer:
        owner = getattr(owner, step)
    old = getattr(owner, name)
    new = _timed(kind, old)
    setattr(owner, name, new)
    if not outer:  # a function may have been imported by its name
        for other in [loaded for key, loaded in sys.modules.items() if key.startswith("retrain.")]:
            if getattr(other, name, None) is old:
                setattr(other, name, new)


def stages(model: str, interval: str) -> list[dict[str, Any]]:
    """Run the loop on an interval; per stage its seconds in all, of reading and of writing, and late modules."""
    from retrain import pipeline
    from retrain.cli.options import make_run
    from retrain.results import Trigger

    for kind, doors in (("reading", READING), ("writing", WRITING)):
        for module, paths in doors.items():
            for path in paths:
                _watch(kind, importlib.import_module(module), path)
    run = make_run(model, interval, "", Trigger(kind="manual"))
    measured = []
    for name in pipeline.NAMES:
        if pipeline.idle(name, run) is not None:
            continue
        seconds_in.clear()
        there, began = len(sys.modules), time.perf_counter()
        pipeline.run_stage(name, run)
        seconds = time.perf_counter() - began
        measured.append({"stage": name, "seconds": seconds, **seconds_in, "modules": len(sys.modules) - there})
    return measured


def main() -> None:
    with warnings.catch_warnings(), suppress(BrokenPipeError):
        warnings.simplefilter("ignore")
        parent.preload()
        print(json.dumps(stages(*sys.argv[1:])))


if __name__ == "__main__":
    main()
