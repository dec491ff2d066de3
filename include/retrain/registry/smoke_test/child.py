"""The smoke test's process: loads one model with its pinned requirements, answers rows, and reports what that took.

Run as a program of its own, `python -I child.py`. One JSON object comes in on stdin, one goes out on the stdout it was
started with; whatever a library or a model prints goes to stderr.

What may be imported is the standard library, what the model's requirements pin with all that those need, and the
few modules of retrain that a model uses. Everything else is absent, as it would be on a machine that has only them.
From the moment the model's bytes are used an audit hook (PEP 578) refuses to write files, start programs, open
connections or load foreign libraries, and writes down who tried. That is a guard against a model that should not do
such things, not a sandbox for hostile native code: what keeps foreign bytes out is the digest.
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
    "subprocess.",
)
"""Beginnings of audit events, https://docs.python.org/3/library/audit_events.html ."""
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


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

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Refuse an audit event that is on the list, and keep what was tried."""
        if event.startswith(DENIED) or (event == "open" and _writes(*arguments[1:3])):
            attempt = f"{event}({', '.join(map(repr, arguments))})"[:200]
            if len(self.refused) < 10:
                self.refused.append(attempt)
            raise PermissionError(f"refused while a model is smoke-tested: {attempt}")


def _writes(mode: Any, flags: Any) -> bool:
    return bool(isinstance(mode, str) and set(mode) & set("wax+")) or bool(
        isinstance(flags, int) and flags & WRITE_FLAGS
    )


def pinned_versions(text: str) -> tuple[dict[str, str], list[str]]:
    r"""Package → version of a requirements file, and the lines that pin nothing.

    MLflow puts itself first in every file that it writes; nothing here loads a model with it.

    >>> pinned_versions("mlflow==3.1\nnumpy==2.4.6\nscipy>=1\n")
    ({'numpy': '2.4.6'}, ['scipy>=1'])
    """
    pinned, loose = {}, []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        if (match := re.fullmatch(r"([\w.-]+)==([\w.+!-]+)", line)) is None:
            loose.append(line)
        elif match[1] != "mlflow":
            pinned[match[1]] = match[2]
    return pinned, loose


def mismatches(pinned: dict[str, str]) -> list[str]:
    """The packages that are not installed in the version that is pinned, each in words."""
    texts = []
    for name, version in pinned.items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            texts.append(f"{name} is not installed, {version} is pinned")
            continue
        if installed != version:
            texts.append(f"{name} is {installed}, {version} is pinned")
    return texts


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
        for name, value in load_and_answer(task):
            report[name] = value
    except BaseException as error:
        report["error"] = f"{type(error).__name__}: {getattr(error, 'found', error)}"[:500]
    out.write(json.dumps(report).encode())
    out.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
