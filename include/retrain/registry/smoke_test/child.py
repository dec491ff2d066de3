"""The smoke test's process: loads one model with its pinned requirements, answers rows, and reports what that took.

Or it tries a model's feature function on rows before anything is fitted with it.

Run as a program of its own, `python -I child.py`. One JSON object comes in on stdin, one goes out on the stdout it was
started with; whatever a library or a model prints goes to stderr.

What may be imported is the standard library, what the model's requirements pin with all that those need, and the
few modules of retrain that a model uses. Everything else is absent, as it would be on a machine that has only them.
From the moment the model's bytes are used an audit hook (PEP 578) refuses to write files, to read others than Python's
own, to start programs, open connections or load foreign libraries, and writes down who tried. That is a guard against
a model that should not do such things, not a sandbox for hostile native code: what keeps foreign bytes out is the
digest.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import resource
import signal
import statistics
import sys
import time
import zoneinfo
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

RETRAIN_MODULES = {
    "retrain",
    "retrain.errors",
    "retrain.masking",
    "retrain.modeling",
    "retrain.modeling.features",
    "retrain.modeling.model_io",
    "retrain.modeling.packaging",
    "retrain.modeling.recalibration",
}
MAX_FILE_BYTES = 64 * 2**20
"""What this process may write to any one file: its own report and its stderr."""

DENIED = (
    "ctypes.dlopen",
    "os.chmod",
    "os.chown",
    "os.exec",
    "os.fork",
    "os.kill",
    "os.link",
    "os.mkdir",
    "os.posix_spawn",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.spawn",
    "os.symlink",
    "os.system",
    "os.truncate",
    "pty.spawn",
    "shutil.",
    "signal.pthread_kill",
    "socket.",
    "sqlite3.connect",
    "subprocess.",
)
"""Beginnings of audit events, https://docs.python.org/3/library/audit_events.html ."""
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


READABLE = ("/proc/", "/sys/", "/dev/", "/etc/localtime", *zoneinfo.TZPATH)
"""Files of the machine that libraries read, beside their own."""


class PinnedFinder:
    """The first finder of imports: a module that is not on its list counts as not installed."""

    def __init__(self, allowed: set[str]) -> None:
        self._allowed = allowed | set(sys.stdlib_module_names)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Leave an allowed module to the finders behind this one.

        Raises:
            ModuleNotFoundError: the module is not allowed.
        """
        top = name.partition(".")[0]
        # One module of the standard library is named after the platform, and is not on Python's list.
        if name in RETRAIN_MODULES or (top != "retrain" and top in self._allowed) or top.startswith("_sysconfigdata_"):
            return
        raise ModuleNotFoundError(f"the pinned requirements bring no module {name!r}", name=name)


class AuditGuard:
    """An audit hook that refuses what loading a model and answering rows has no need of."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        *own, include = [*sys.path[1:], sys.path[0]]
        # Beside retrain may lie the specs and their data.
        self._readable = (*(f"{folder}/" for folder in (*own, f"{include}/retrain")), *READABLE)

    def _foreign(self, path: Any) -> bool:
        """Whether a file is not one of Python's, its packages' or the machine's; one that is open already is none."""
        if isinstance(path, int):
            return False
        name = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - links stay, as Python's own folders are given
        return not name.startswith(self._readable) and name not in sys.path

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Refuse an audit event that is on the list, and keep what was tried."""
        opens = event == "open" and (_writes(*arguments[1:3]) or self._foreign(arguments[0]))
        if opens or event.startswith(DENIED):
            attempt = f"{event}({', '.join(map(repr, arguments))})"[:200]
            if len(self.refused) < 10:
                self.refused.append(attempt)
            raise PermissionError(f"refused while a model is smoke-tested: {attempt}")


def _writes(mode: Any, flags: Any) -> bool:
    return bool(isinstance(mode, str) and set(mode) & set("wax+")) or bool(
        isinstance(flags, int) and flags & WRITE_FLAGS
    )


def modules_of(names: Sequence[str]) -> set[str]:
    """Top-level modules of these packages and of everything they need."""
    from packaging.requirements import Requirement

    waiting, known, tops = list(names), set(), set()
    while waiting:
        name = waiting.pop().lower()
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if name in known:
            continue
        known.add(name)
        tops |= {file.parts[0].partition(".")[0] for file in package.files or ()}
        needs = [Requirement(text) for text in package.requires or ()]
        waiting += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return tops


def peak_mb() -> float:
    """The most memory that this process has held, in MiB.

    `ru_maxrss` of a process begins on Linux with that of the one that started it; `VmHWM` is its own.
    """
    try:
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(peak[1]) / 1024 if peak else math.nan
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def warm_up() -> None:
    """Let scikit-learn ask this machine for its cores and its BLAS, which runs programs, before the guard stands."""
    from sklearn.neighbors import KNeighborsClassifier

    KNeighborsClassifier(1, algorithm="brute").fit([[0.0], [1.0]], [0, 1]).predict([[0.0]])


def load_and_answer(task: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Load the model and answer the rows, reporting fact by fact, so that a failure loses nothing before it.

    Args:
        task: `folder` of the model, its `digest`, the `rows`, and the `method` that answers them.

    Yields:
        The name and value of each field of `ChildReport`, but for `error`.
    """
    from retrain.modeling.packaging import mismatches, pinned_versions

    folder = Path(task["folder"])
    pinned, loose = pinned_versions((folder / "requirements.txt").read_text())
    yield "mismatches", [f"{line} pins no version" for line in loose] + mismatches(pinned)
    yield "pinned", len(pinned)
    sys.meta_path.insert(0, PinnedFinder(modules_of(list(pinned))))

    begin = time.perf_counter()
    import pandas as pd

    from retrain.modeling import model_io

    files = model_io.read(folder)
    model_io.check_digest("what was handed to the smoke test", model_io.files_digest(files), task["digest"])
    for name in model_io.trusted_types(files[model_io.MODEL_FILE]):
        importlib.import_module(name.rpartition(".")[0])
    warm_up()
    guard = AuditGuard()
    yield "refused", guard.refused
    sys.addaudithook(guard)
    model = model_io.load(files)
    yield "load_s", time.perf_counter() - begin

    answer = getattr(model, task["method"])
    columns = list(task["rows"][0])
    yield "batch", answer(pd.DataFrame(task["rows"], columns=columns)).tolist()
    single, took = [], []
    for row in task["rows"]:
        begin = time.perf_counter()
        single.append(answer(pd.DataFrame([row], columns=columns))[0].tolist())
        took.append((time.perf_counter() - begin) * 1000)
    yield "single", single
    yield "row_ms", statistics.median(took)
    yield "classes", getattr(model, "classes_", pd.Series(dtype=int)).tolist()
    yield "memory_mb", peak_mb()


def try_features(task: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Let a feature function answer rows, together, in halves and alone, as its step of a pipeline has it.

    Args:
        task: `packages` that may be imported, the `rows`, the `columns` with their kinds, and the step's `features`.

    Yields:
        The fields of `ChildReport` that say what it was refused.
    """
    sys.meta_path.insert(0, PinnedFinder(modules_of(task["packages"])))
    import numpy as np
    import pandas as pd

    from retrain.modeling.features import FeatureFunction, Typed

    frame = Typed(task["columns"]).transform(pd.DataFrame(task["rows"], columns=list(task["columns"])))
    guard = AuditGuard()
    yield "refused", guard.refused
    sys.addaudithook(guard)
    step = FeatureFunction(**task["features"])
    before = repr(np.random.get_state())
    for size in (len(frame), len(frame) // 10):
        step.fit(frame.head(max(size, 1)))
    if repr(np.random.get_state()) != before:
        raise step.refuse(
            "changes the state of numpy's random numbers, which others share", "make it work without chance"
        )


def main() -> None:
    """Read the task from stdin, and write the report to the stdout that this process was started with."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    task = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, MAX_FILE_BYTES))
    # Whoever started this process may be killed; it does not outlive its time.
    signal.alarm(math.ceil(task["timeout"]) + 5)
    sys.path.insert(0, task["import_path"])
    report: dict[str, Any] = {}
    try:
        for name, value in (try_features if "features" in task else load_and_answer)(task):
            report[name] = value
    except BaseException as error:
        report["error"] = f"{type(error).__name__}: {getattr(error, 'found', error)}"[:500]
    out.write(json.dumps(report).encode())
    out.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
