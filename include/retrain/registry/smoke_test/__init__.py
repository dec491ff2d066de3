"""Smoke test: a registered version loads, answers and fits its budgets in a fresh process, or is refused.

What counts is what another machine would get: the files come from the registry, not from a copy that lies here. They
are checked before anything is loaded. Then `child` loads them in a process of its own, with the pinned requirements
and without this process's environment, and answers the golden rows together and one by one.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

import retrain
from retrain.errors import ArtifactMissing, FeatureCodeRefused, NonFiniteMetric, SmokeTestFailed
from retrain.modeling import feature_code, packaging, pipelines
from retrain.modeling.features import code_digest
from retrain.modeling.metrics import Array
from retrain.registry.mlflow import Registry
from retrain.registry.mlflow.files import check_model
from retrain.rendering.text import run_key_of
from retrain.results import Champion, GateCheck
from retrain.spec import Spec
from retrain.state import evidence
from retrain.state.run import Run

KEPT_VARIABLES = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
THREAD_PREFIXES = ("OMP_", "OPENBLAS_", "MKL_")
"""What the fresh process is given of this one's environment: nothing that holds a secret or an address."""

CHILD = Path(__file__).with_name("child.py")
ERROR_TAIL = 600
TRIED_ROWS = 400
"""Of which a feature function is tried."""
DO = "the champion keeps serving; see the reasons, and serving in the spec for the budgets"


class ChildReport(BaseModel):
    """What the fresh process reports.

    Attributes:
        mismatches: packages that are not installed as pinned; None if the requirements could not be read.
        pinned: how many packages are pinned.
        refused: what the model tried and was refused.
        load_s: seconds that loading took; NaN if it did not load.
        batch: the answers to all rows together; None if it did not come to them, as of each fact below.
        single: the answers to the rows one by one.
        classes: codes of the classes that the model knows.
        row_ms: median time of one row.
        memory_mb: the process's peak.
        error: what ended it; empty if nothing did.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mismatches: list[str] | None = None
    pinned: int = 0
    refused: list[str] = []
    load_s: float = math.nan
    batch: list[Any] | None = None
    single: list[Any] | None = None
    classes: list[int] = []
    row_ms: float | None = None
    memory_mb: float | None = None
    error: str = ""


def run_smoke_test(run: Run, target: Champion, *, back: bool = False) -> tuple[GateCheck, ...]:
    """Load the version in a process of its own and ask it the golden rows of its reference folder.

    Answers agree where they differ by no more than `serving.tolerance`, of answers beyond 1 as a share of the answer.
    Latency (the median over single rows) and peak memory are this machine's.

    Args:
        run: its spec has the budgets, its home names the registry.
        target: the version, with the digest of its files and the folder of its golden rows.
        back: the version has served before. A library that was upgraded since is told, but does not bar the way back
            while the answers are the same, unless `serving.library_skew` refuses it.

    Returns:
        The checks size_mb, digest, requirements, isolation, golden, row_ms and memory_mb, all of them passed; of a
        version that comes back requirements may have failed.

    Raises:
        ArtifactMissing, DigestMismatch, InvalidName, ModelFormatRefused, EstimatorRefused: nothing was loaded.
        EvidenceChanged: the golden rows are others than when the version was registered.
        SmokeTestFailed: too large to load, or it does not load, does not answer as training did, or is over its budget.
    """
    rows, expected = _golden(run, target)
    spec, version = run.spec, target.version
    with tempfile.TemporaryDirectory(prefix="retrain-") as work:
        folder = Registry(run.home.mlflow).fetch(run.model, version, target.digest, Path(work) / "model")
        files = check_model(folder, target.digest)
        size = _within(version, "size_mb", sum(map(len, files.values())) / 2**20, spec.serving.size_mb, "its folder")
        if not size.passed:
            raise SmokeTestFailed(f"version {version}: {size.reason}; it was not loaded", do=DO)
        report = run_child(spec, folder, target.digest, rows)
    checks = (
        size,
        _check(version, "digest", True, f"its files have the digest {target.digest[:12]}, our format and known types"),
        *_checks(spec, version, report, rows, expected),
    )
    tolerated = back and bool(report.mismatches) and spec.serving.library_skew == "tell"
    failed = [check.reason for check in checks if not check.passed and not (tolerated and check.name == "requirements")]
    if failed:
        raise SmokeTestFailed(f"version {version}: {'; '.join(failed)}", do=DO)
    return checks


def warnings(checks: tuple[GateCheck, ...]) -> tuple[str, ...]:
    """What a version that comes back did not pass, and what does not bar its way, for the record."""
    return tuple(f"warning: {check.reason}" for check in checks if not check.passed)


def run_child(spec: Spec, folder: Path, digest: str, rows: list[dict[str, Any]]) -> ChildReport:
    """Load a model in a fresh process and let it answer rows.

    Args:
        spec: has the task, and the time that the process may take.
        folder: of the model; the process works beside it.
        digest: that the folder's files must have.
        rows: as JSON has them, column → value.

    Raises:
        SmokeTestFailed: the process hung, died, or wrote something else than its report.
    """
    method = "predict" if spec.task == "regression" else "predict_proba"
    return _run(spec, folder.parent, {"folder": str(folder), "digest": digest, "rows": rows, "method": method})


def check_features(spec: Spec, frame: pd.DataFrame) -> None:
    """Try the model's own feature function in a fresh process, before anything is fitted with it in this one.

    There it may exit, crash or hang, and is refused what the smoke test refuses: files of its own, other programs and
    modules that do not travel with a model. It is asked for rows together, in halves, alone and in another order.

    Args:
        spec: of the model; without a feature function nothing is done.
        frame: rows with the spec's inputs, of which some are tried.

    Raises:
        FeatureCodeRefused: the function breaks its contract.
    """
    if (own := spec.training.features) is None:
        return
    for line, problem in feature_code.problems(spec.code):
        raise FeatureCodeRefused(f"{own.file} line {line}: {problem}", do=feature_code.DO)
    rows = frame[list(spec.inputs)].iloc[:: max(len(frame) // TRIED_ROWS, 1)]
    task = {
        "columns": {name: spec.columns[name].type for name in spec.inputs},
        "rows": json.loads(rows.to_json(orient="records", date_format="iso", date_unit="us", double_precision=15)),
        "packages": [pin.partition("==")[0] for pin in packaging.requirements()],
        "features": {
            "code": spec.code,
            "function": own.function,
            "adds": dict(own.adds),
            "digest": code_digest(spec.code),
        },
    }
    try:
        with tempfile.TemporaryDirectory(prefix="retrain-") as work:
            report = _run(spec, Path(work), task)
    except SmokeTestFailed as error:
        raise FeatureCodeRefused(f"{own.function}() was tried, and {error.found}", do=feature_code.DO) from None
    if report.refused or report.error:
        tried = f"{own.function}() tried {'; '.join(report.refused)}" if report.refused else report.error
        raise FeatureCodeRefused(tried.removeprefix("FeatureCodeRefused: "), do=feature_code.DO)


def _run(spec: Spec, folder: Path, task: dict[str, Any]) -> ChildReport:
    """Give `child` a task in a process of its own, which works in `folder`."""
    seconds = spec.serving.timeout.total_seconds()
    task = {**task, "import_path": str(Path(retrain.__file__).parents[1]), "timeout": seconds}
    environment = {
        name: value for name, value in os.environ.items() if name in KEPT_VARIABLES or name.startswith(THREAD_PREFIXES)
    }
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", "-X", "faulthandler", "-W", "ignore", CHILD],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=errors,
            cwd=folder,
            env={**environment, "HOME": str(folder), "TMPDIR": str(folder)},
            start_new_session=True,
        )
        try:
            process.communicate(json.dumps(task).encode(), timeout=seconds)
        except subprocess.TimeoutExpired:
            raise SmokeTestFailed(
                f"its process did not answer within {spec.serving.timeout}",
                do="see whether the machine is overloaded, or raise serving.timeout",
            ) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        out.seek(0)
        output = out.read()
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - ERROR_TAIL))
        tail = " ".join(errors.read().decode(errors="replace").split())
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        raise SmokeTestFailed(
            f"its process was ended by {name}{', out of memory?' * (name == 'SIGKILL')}: {tail}", do=DO
        )
    try:
        return ChildReport.model_validate_json(output)
    except ValidationError:
        begin = output[:100].decode(errors="replace")
        raise SmokeTestFailed(
            f"its process ended with {process.returncode} and said {begin!r}: {tail}", do=DO
        ) from None


def _golden(run: Run, target: Champion) -> tuple[list[dict[str, Any]], Array]:
    maker = replace(run, key=run_key_of(target.reference))
    evidence.check_files(maker, "refit/golden.json")
    key = f"{target.reference}/golden.json"
    if not run.store.exists(key):
        raise ArtifactMissing(
            f"the golden rows of version {target.version} are gone: {key}", do="restore the store, or train again"
        )
    golden = json.loads(run.store.read(key))
    rows, expected = golden["rows"], np.asarray(golden["predictions"], dtype=np.float64)
    if not rows:
        raise SmokeTestFailed(
            f"there are no golden rows of version {target.version} to ask", do="set evaluation.golden_rows"
        )
    return rows, expected


@dataclass(frozen=True)
class _LastStep:
    """The answers of a model that ran elsewhere, as `pipelines.predict_last` reads them off an estimator."""

    answers: Array
    classes_: list[int]

    def predict(self, features: Any) -> Array:
        return self.answers

    predict_proba = predict


def _checks(
    spec: Spec, version: int, report: ChildReport, rows: list[dict[str, Any]], expected: Array
) -> list[GateCheck]:
    """What the child's report shows, up to the first step that failed."""
    if report.mismatches is None:
        return [_check(version, "requirements", False, f"its requirements could not be read: {report.error}")]
    installed = "; ".join(report.mismatches) or f"{report.pinned} packages are installed as pinned"
    checks = [_check(version, "requirements", not report.mismatches, installed)]
    isolation = "it read no file but its own and wrote none, ran no program, reached nobody"
    if report.refused:
        isolation = f"it tried {'; '.join(report.refused)}"
    checks.append(_check(version, "isolation", not report.refused, isolation))
    if report.error:
        step = "load" if math.isnan(report.load_s) else "answer"
        return [*checks, _check(version, "golden", False, f"it does not {step}: {report.error}")]
    checks.append(_golden_check(spec, version, report, rows, expected))
    for name, value, bound, what in (
        ("row_ms", report.row_ms, spec.serving.row_ms, "one row"),
        ("memory_mb", report.memory_mb, spec.serving.memory_mb, "its process, at the peak,"),
    ):
        checks.append(_within(version, name, math.nan if value is None else value, bound, what))
    return checks


def _golden_check(
    spec: Spec, version: int, report: ChildReport, rows: list[dict[str, Any]], expected: Array
) -> GateCheck:
    """The answers to the rows together and one by one, against those of training."""
    apart = 0.0
    k = expected.shape[1] if expected.ndim == 2 else 2
    for reported in (report.batch, report.single):
        try:
            answers = np.asarray(reported, dtype=np.float64)
            answers = pipelines.predict_last(_LastStep(answers, report.classes), spec.task, answers, k)
            if answers.shape != expected.shape:
                raise ValueError(f"answers of shape {answers.shape}, {expected.shape} in training")
        except (NonFiniteMetric, ValueError, IndexError) as error:
            return _check(version, "golden", False, f"its answers cannot be compared: {getattr(error, 'found', error)}")
        apart = max(apart, float((np.abs(answers - expected) / np.maximum(np.abs(expected), 1)).max()))
    passed, bound = apart <= spec.serving.tolerance, spec.serving.tolerance
    reason = (
        f"loaded in {report.load_s:.1f} s, it {'repeats' if passed else 'does not repeat'} its answers to {len(rows)}"
        f" golden rows: {apart:.1g} apart, {bound:g} is allowed"
    )
    return _check(version, "golden", passed, reason, apart, bound)


def _within(version: int, name: str, value: float, bound: float, what: str) -> GateCheck:
    unit = {"size_mb": "MB", "memory_mb": "MB", "row_ms": "ms"}[name]
    reason = f"{what} takes {value:.3g} {unit}, {bound:g} is allowed"
    return _check(version, name, value <= bound, reason, None if math.isnan(value) else value, bound)


def _check(
    version: int, name: str, passed: bool, reason: str, value: float | None = None, bound: float | None = None
) -> GateCheck:
    return GateCheck(name=name, model=f"v{version}", passed=passed, value=value, bound=bound, reason=reason)
