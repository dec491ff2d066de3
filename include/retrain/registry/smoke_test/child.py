"""The smoke test's process: loads one model with its pinned requirements, answers rows, and says what that took.

Run as a program of its own, `python -I child.py`. One JSON object comes in on stdin, one goes out on the stdout it was
started with; whatever a library or a model prints goes to stderr.

What may be imported is the standard library, what the model's requirements pin with all that those need, and the
three modules of retrain that a model uses. Everything else is absent, as it would be on a machine that has only them.
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

HOUSE = {"retrain", "retrain.errors", "retrain.modeling", "retrain.modeling.features", "retrain.modeling.model_io"}
MOST_BYTES = 64 * 2**20
"""That this process may write to any one file: its own report and its stderr."""

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
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Only:
    """The first finder of imports: what is not on the list is not installed."""

    def __init__(self, allowed: set[str]) -> None:
        self._allowed = allowed | set(sys.stdlib_module_names)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        top = name.partition(".")[0]
        # One module of the standard library is named after the platform, and is not on Python's list.
        if name in HOUSE or (top != "retrain" and top in self._allowed) or top.startswith("_sysconfigdata_"):
            return
        raise ModuleNotFoundError(f"the pinned requirements bring no module {name!r}", name=name)


class Guard:
    """An audit hook that refuses what loading a model and answering rows has no need of."""

    def __init__(self) -> None:
        self.tried: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(DENIED) or (event == "open" and _writes(*arguments[1:3])):
            told = f"{event}({', '.join(repr(one) for one in arguments)})"[:200]
            if len(self.tried) < 10:
                self.tried.append(told)
            raise PermissionError(f"refused while a model is smoke-tested: {told}")


def _writes(mode: Any, flags: Any) -> bool:
    return bool(isinstance(mode, str) and set(mode) & set("wax+")) or bool(isinstance(flags, int) and flags & WRITES)


def pins(text: str) -> tuple[dict[str, str], list[str]]:
    """Package → version of a requirements file, and the lines that pin nothing.

    MLflow puts itself first in every file that it writes; nothing here loads a model with it.

    >>> pins("mlflow==3.1\\nnumpy==2.4.6\\nscipy>=1\\n")
    ({'numpy': '2.4.6'}, ['scipy>=1'])
    """
    found, loose = {}, []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        if (match := re.fullmatch(r"([\w.-]+)==([\w.+!-]+)", line)) is None:
            loose.append(line)
        elif match[1] != "mlflow":
            found[match[1]] = match[2]
    return found, loose


def unlike(pinned: dict[str, str]) -> list[str]:
    """The packages that are not installed in the version that is pinned."""
    wrong = []
    for name, version in pinned.items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{name} is not installed, {version} is pinned")
            continue
        if installed != version:
            wrong.append(f"{name} is {installed}, {version} is pinned")
    return wrong


def modules(names: Sequence[str]) -> set[str]:
    """Top-level modules of these packages and of everything they need."""
    from packaging.requirements import Requirement

    waiting, seen, tops = list(names), set(), set()
    while waiting:
        name = waiting.pop().lower()
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if name in seen:
            continue
        seen.add(name)
        tops |= {file.parts[0].partition(".")[0] for file in package.files or ()}
        needs = [Requirement(text) for text in package.requires or ()]
        waiting += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return tops


def peak_mb() -> float:
    """The most memory that this process has held, in MiB.

    `ru_maxrss` of a process begins on Linux with that of the one that started it; `VmHWM` is its own.
    """
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(found[1]) / 1024 if found else math.nan
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def warm() -> None:
    """Let scikit-learn ask this machine for its cores and its BLAS, which runs programs, before the guard stands."""
    from sklearn.neighbors import KNeighborsClassifier

    KNeighborsClassifier(1, algorithm="brute").fit([[0.0], [1.0]], [0, 1]).predict([[0.0]])


def work(asked: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What is found out, fact by fact: what was told stays told, whatever fails after it."""
    folder = Path(asked["folder"])
    pinned, loose = pins((folder / "requirements.txt").read_text())
    yield "unlike", [f"{line} pins no version" for line in loose] + unlike(pinned)
    yield "pinned", len(pinned)
    sys.meta_path.insert(0, Only(modules(list(pinned))))

    begin = time.perf_counter()
    import pandas as pd

    from retrain.modeling import model_io

    files = model_io.read(folder)
    model_io.same("what was handed to the smoke test", model_io.digest_of(files), asked["digest"])
    for name in model_io.trusted(files[model_io.MODEL_FILE]):
        importlib.import_module(name.rpartition(".")[0])
    warm()
    guard = Guard()
    yield "tried", guard.tried
    sys.addaudithook(guard)
    model = model_io.load(files)
    yield "load_s", time.perf_counter() - begin

    answer = getattr(model, asked["method"])
    columns = list(asked["rows"][0])
    yield "batch", answer(pd.DataFrame(asked["rows"], columns=columns)).tolist()
    single, took = [], []
    for row in asked["rows"]:
        begin = time.perf_counter()
        single.append(answer(pd.DataFrame([row], columns=columns))[0].tolist())
        took.append((time.perf_counter() - begin) * 1000)
    yield "single", single
    yield "row_ms", statistics.median(took)
    yield "classes", getattr(model, "classes_", pd.Series(dtype=int)).tolist()
    yield "memory_mb", peak_mb()


def main() -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    asked = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_BYTES, MOST_BYTES))
    # Whoever started this process may be killed; it does not outlive its time.
    signal.alarm(math.ceil(asked["timeout"]) + 5)
    sys.path.insert(0, asked["house"])
    told: dict[str, Any] = {}
    try:
        for name, value in work(asked):
            told[name] = value
    except BaseException as error:
        told["error"] = f"{type(error).__name__}: {getattr(error, 'found', error)}"[:500]
    out.write(json.dumps(told).encode())
    out.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
