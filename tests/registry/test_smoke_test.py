"""A version in a process of its own: what it must show there, and what is refused before it begins."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
import yaml
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from retrain.errors import (
    ArtifactMissing,
    DigestMismatch,
    EstimatorRefused,
    FeatureCodeRefused,
    ModelFormatRefused,
    RetrainError,
    SmokeTestFailed,
)
from retrain.modeling import packaging, pipelines
from retrain.modeling.packaging import mismatches, pinned_versions
from retrain.modeling.recalibration import recalibrate
from retrain.registry import smoke_test
from retrain.registry.mlflow import Registry, digest, save_model
from retrain.registry.recalibrated import CODE
from retrain.registry.smoke_test import ChildReport
from retrain.registry.smoke_test.child import modules_of
from retrain.results import Champion, Configuration, GateCheck
from retrain.spec import Spec
from retrain.state.run import Run
from retrain.state.settings import Home
from tests.conftest import churn_rows, churn_spec
from tests.trained import spec_from

pytestmark = pytest.mark.usefixtures("mlflow")
START = "2024-01-01"
PLAIN = Configuration(estimator="xgboost", parameters={"n_estimators": 5}, pipeline="p")
FEATURE = """
import os
import sys


def build(frame):
    in_the_child = "pytest" not in sys.modules
    if in_the_child:
        pass
        {line}
    return frame.assign(double=frame["visits"].astype("float64") * 2)
"""


def spec_with(line: str = "", **serving: Any) -> Spec:
    """The churn model; `line` is run by its feature function in the smoke test's process, and never in this one."""
    data = churn_spec() | {"serving": serving}
    if line:
        data["training"]["features"] = {"file": "more.py", "function": "build", "adds": {"double": "number"}}
    return spec_from(data, FEATURE.format(line=line) if line else "")


@pytest.fixture
def registered(home: Home, tmp_path: Path) -> Callable[..., tuple[Run, Champion]]:
    """A fitted model with its golden rows, as version 1 of a registry; `change` is done to its files first."""

    def make(
        spec: Spec, change: Callable[[Path], object] = lambda folder: None, *, recalibrated: bool = False
    ) -> tuple[Run, Champion]:
        run = Run(home, spec, spec.at(START), "run")
        frame = churn_rows(START).assign(signup=lambda rows: pd.to_datetime(rows["signup"], utc=True))
        inputs = frame[list(spec.inputs)]
        model = pipelines.fit(spec, PLAIN, frame, frame["churned"].astype(int).to_numpy())
        if recalibrated:
            last = recalibrate(model[-1], model[:-1].transform(frame), np.arange(len(frame)) % 2, "intercept")
            model = Pipeline([*model.steps[:-1], ("model", last)])
        folder = tmp_path / "model"
        code = [packaging.carry(tmp_path / "carried", *[CODE] * recalibrated)]
        save_model(model, folder, example=inputs, requirements=packaging.requirements(), code=code)
        change(folder)
        files_digest = digest(folder)
        registry = Registry(home.mlflow)
        about: dict[str, Any] = {"description": "", "tags": {}}
        run_id = registry.record(experiment="churn", key="run", name="run", params={}, metrics={}, files={}, **about)
        version = registry.register(model="churn", run_id=run_id, folder=folder, digest=files_digest, **about)
        rows = json.loads(inputs.head(6).to_json(orient="records", date_format="iso", double_precision=15))
        predictions = pipelines.predict(model, "binary", pd.DataFrame(rows)).tolist()
        write_golden(run, rows, predictions)
        return run, Champion(
            version=version,
            run_id=run_id,
            digest=files_digest,
            configuration=PLAIN,
            training="t",
            reference="churn/runs/run/refit",
            trained_until=run.interval.end,
            effective_at=run.interval.end,
        )

    return make


def write_golden(run: Run, rows: list[dict[str, Any]], predictions: list[float]) -> None:
    run.store.write("churn/runs/run/refit/golden.json", json.dumps({"rows": rows, "predictions": predictions}).encode())


def stored(home: Home) -> Path:
    """The model's folder in the artifact store."""
    return next(path.parent for path in home.state.rglob("MLmodel") if "mlartifacts" in str(path))


# --- what it must show


def test_a_version_that_serves(
    registered: Callable[..., tuple[Run, Champion]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What it prints does no harm; and neither this process's secrets nor its memory are the fresh one's.
    spec = spec_with("print('noise', flush=True); assert 'SECRET_TOKEN' not in os.environ", memory_mb=512)
    run, target = registered(spec)
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    large = np.ones(64 * 2**20)
    checks = {check.name: check for check in smoke_test.run_smoke_test(run, target)}
    assert list(checks) == ["size_mb", "digest", "requirements", "isolation", "golden", "row_ms", "memory_mb"]
    assert all(check.passed and check.model == "v1" for check in checks.values())
    assert checks["golden"].value == 0
    assert checks["requirements"].reason == "7 packages are installed as pinned"
    assert 0 < (checks["memory_mb"].value or 0) < large.nbytes / 2**20
    assert 0 < (checks["row_ms"].value or 0) < 1_000
    assert "6 golden rows: 0 apart, 1e-09 is allowed" in checks["golden"].reason


def test_a_recalibrated_version_serves(registered: Callable[..., tuple[Run, Champion]]) -> None:
    run, target = registered(spec_with(), recalibrated=True)
    checks = {check.name: check for check in smoke_test.run_smoke_test(run, target)}
    assert all(check.passed for check in checks.values())
    assert checks["golden"].value == 0
    assert (stored(run.home) / "code" / "retrain" / "modeling" / CODE).is_file(), "its code travels with it"


def test_other_answers_and_every_budget_are_reported_together(registered: Callable[..., tuple[Run, Champion]]) -> None:
    run, target = registered(spec_with(row_ms=1e-6, memory_mb=1))
    golden = json.loads(run.store.read(f"{target.reference}/golden.json"))
    golden["predictions"][3] += 1e-6
    write_golden(run, golden["rows"], golden["predictions"])
    with pytest.raises(SmokeTestFailed) as caught:
        smoke_test.run_smoke_test(run, target)
    for reason in ("does not repeat its answers to 6 golden rows: 1e-06 apart", "one row takes", "at the peak, takes"):
        assert reason in caught.value.found


def test_only_what_is_pinned_can_be_imported(registered: Callable[..., tuple[Run, Champion]]) -> None:
    def older(folder: Path) -> None:
        text = (folder / "requirements.txt").read_text()
        (folder / "requirements.txt").write_text(text.replace("pyarrow==", "pyarrow==0."))

    run, target = registered(spec_with("import yaml"), older)
    with pytest.raises(SmokeTestFailed, match=r"pyarrow is [\d.]+, 0\.[\d.]+ is pinned") as caught:
        smoke_test.run_smoke_test(run, target)
    assert "does not answer" in caught.value.found
    assert "the pinned requirements bring no module 'yaml'" in caught.value.found


def older_pandas(folder: Path) -> None:
    text = (folder / "requirements.txt").read_text()
    (folder / "requirements.txt").write_text(text.replace(f"pandas=={pd.__version__}", "pandas==1.0"))


def test_a_version_of_other_libraries_comes_back_and_it_is_told(
    registered: Callable[..., tuple[Run, Champion]],
) -> None:
    run, target = registered(spec_with(), older_pandas)
    skew = f"pandas is {pd.__version__}, 1.0 is pinned"
    with pytest.raises(SmokeTestFailed, match=skew):
        smoke_test.run_smoke_test(run, target)
    checks = smoke_test.run_smoke_test(run, target, back=True)
    assert smoke_test.warnings(checks) == (f"warning: {skew}",)
    refuses = run.spec.serving.model_copy(update={"library_skew": "refuse"})
    with pytest.raises(SmokeTestFailed, match=skew):
        smoke_test.run_smoke_test(
            replace(run, spec=run.spec.model_copy(update={"serving": refuses})), target, back=True
        )


def test_a_version_that_does_not_come_to_its_answers_does_not_come_back(
    registered: Callable[..., tuple[Run, Champion]],
) -> None:
    run, target = registered(spec_with(), lambda folder: (folder / "requirements.txt").write_bytes(b"\xff\xfe"))
    with pytest.raises(SmokeTestFailed, match="its requirements could not be read"):
        smoke_test.run_smoke_test(run, target, back=True)


def test_what_a_model_tries_is_refused_and_reported_even_if_it_hides_it(
    registered: Callable[..., tuple[Run, Champion]], tmp_path: Path
) -> None:
    ran, read = str(tmp_path / "ran"), tmp_path / "rates.csv"
    read.write_text("beside the model, and not of it")
    tries = [
        f"open({ran!r}, 'w')",
        f"os.system('touch {ran}')",
        f"__import__('subprocess').run(['touch', {ran!r}])",
        "__import__('socket').create_connection(('127.0.0.1', 9), 1)",
        "__import__('ctypes').CDLL(None)",
        f"os.mkdir({ran!r})",
        f"open({str(read)!r})",
    ]
    lines = "\n".join(f"        try: {attempt}\n        except PermissionError: pass" for attempt in tries).strip()
    run, target = registered(spec_with(lines))
    with pytest.raises(SmokeTestFailed) as caught:
        smoke_test.run_smoke_test(run, target)
    for event in ("open(", "os.system(", "subprocess.Popen(", "socket.", "ctypes.dlopen(", "os.mkdir(", "rates.csv"):
        assert event in caught.value.found
    assert not Path(ran).exists()
    assert "golden" not in caught.value.found, "its answers were right all the same"


def test_the_fresh_process_looks_at_the_bytes_itself(registered: Callable[..., tuple[Run, Champion]]) -> None:
    run, _ = registered(spec_with())
    report = smoke_test.run_child(run.spec, stored(run.home), "0" * 64, [{}])
    assert report.error.startswith("DigestMismatch: what was handed to the smoke test has digest")
    assert report.batch is None


# --- what came back


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL, out of memory"),
        ("import sys; print('bits'); sys.exit('oh no')", "ended with 1 and said 'bits.*oh no"),
        ("print('{\"answers\": [1]}')", "ended with 0 and said"),
        (
            "import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(600)",
            "within 0:00:0",
        ),
    ],
    ids=["segfault", "killed", "garbage", "another report", "hangs"],
)
def test_a_process_that_does_not_report(
    program: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "child.py").write_text(program)
    monkeypatch.setattr(smoke_test, "CHILD", tmp_path / "child.py")
    spec = spec_with()
    begun: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *given: Any, **more: Any) -> None:
            super().__init__(*given, **more)
            begun.append(self)

    monkeypatch.setattr(smoke_test.subprocess, "Popen", Noted)
    spec = spec_with()
    if "within" in message:
        soon = spec.serving.model_copy(update={"timeout": timedelta(seconds=0.5)})
        spec = spec.model_copy(update={"serving": soon})
    with pytest.raises(SmokeTestFailed, match=message):
        smoke_test.run_child(spec, tmp_path / "model", "0" * 64, [])
    assert begun[0].returncode is not None, "it is not left behind"


ANSWERS: dict[str, Any] = {
    "mismatches": [],
    "pinned": 7,
    "load_s": 1.0,
    "classes": [0, 1],
    "row_ms": 1.0,
    "memory_mb": 9.0,
}


def golden_check(expected: list[Any], batch: list[Any], single: list[Any] | None = None, **more: Any) -> GateCheck:
    task = more.pop("task", "binary")
    spec = spec_with(tolerance=0.01).model_copy(update={"task": task})
    report = ChildReport(**(ANSWERS | {"batch": batch, "single": batch if single is None else single} | more))
    checks = smoke_test._checks(spec, 1, report, [{}] * len(expected), np.asarray(expected))
    return next(check for check in checks if check.name == "golden")


def test_answers_agree_within_the_tolerance_together_and_alone() -> None:
    right, near, far = [[0.4, 0.6]], [[0.391, 0.609]], [[0.38, 0.62]]
    assert golden_check([0.6], near).passed
    assert not golden_check([0.6], far).passed
    assert not golden_check([0.6], right, far).passed
    assert not golden_check([0.6], far, right).passed


def test_large_numbers_agree_as_a_share() -> None:
    assert golden_check([5_000.0], [5_040.0], task="regression").passed
    assert not golden_check([5_000.0], [5_060.0], task="regression").passed


def test_a_class_that_the_model_never_met_has_probability_zero() -> None:
    spread, answers = [[0.2, 0.0, 0.8]], [[0.2, 0.8]]
    assert golden_check(spread, answers, task="multiclass", classes=[0, 2]).passed
    assert not golden_check(spread, answers, task="multiclass", classes=[0, 1]).passed


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([[float("nan")] * 2], "not finite"),
        ([[0.4, 0.6]] * 2, r"shape \(2,\), \(1,\) in training"),
        ([[0.2, 0.3, 0.5]], "cannot be compared"),
        ([["a", "b"]], "cannot be compared"),
        ([], "cannot be compared"),
    ],
)
def test_answers_of_another_kind(batch: list[Any], message: str) -> None:
    check = golden_check([0.6], batch)
    assert not check.passed
    assert check.reason.startswith("its answers cannot be compared")
    assert pd.Series([check.reason]).str.contains(message).all()


# --- a feature function, before anything is fitted with it

WHOLE = "frame['visits'].astype('float64') * 2"


def tried(body: str, top: str = "") -> None:
    data = churn_spec()
    data["training"]["features"] = {"file": "more.py", "adds": {"double": "number"}}
    code = f"import numpy as np\nimport os\n{top}\n\ndef build(frame):\n    {body}\n"
    frame = churn_rows(START).assign(signup=lambda rows: pd.to_datetime(rows["signup"], utc=True))
    smoke_test.check_features(spec_from(data, code), frame)


def test_a_feature_function_of_the_row_alone_may_be_fitted() -> None:
    for body in (f"return frame.assign(double={WHOLE})", f"frame['double'] = {WHOLE}; return frame"):
        tried(body)


@pytest.mark.parametrize(
    ("body", "top", "message"),
    [
        ("getattr(os, '_ex' + 'it')(3)", "", r"build\(\) was tried, and its process ended with 3"),
        ("import ctypes; ctypes.string_at(0)", "", "its process was ended by SIGSEGV"),
        ("__builtins__['ex' + 'it'](3)", "", "failed: SystemExit: 3"),
        (f"return frame.assign(double={WHOLE} - ({WHOLE}).mean())", "", "'double' of .* is another in another batch"),
        (f"return frame.assign(double=({WHOLE}).rank())", "", "'double' of .* is another in another batch"),
        (f"return frame.assign(double=({WHOLE}).cumsum())", "", "'double' of .* is another in another batch"),
        ("return frame.assign(double=float(len(frame) > 100))", "", "'double' of .* is another in another batch"),
        ("return frame.assign(double=np.random.random())", "", "is another"),
        (f"np.random.seed(1); return frame.assign(double={WHOLE})", "", "changes the state of numpy's random numbers"),
        ("return frame.assign(double=np.load('/etc/hostname'))", "", r"build\(\) tried open\('/etc/hostname'"),
        ("return frame", "import helper_beside_the_spec", "bring no module 'helper_beside_the_spec'"),
        ("frame['double'] = pd.Timestamp.now().year; return frame", "import pandas as pd", r"line 6: now\(\) reads"),
    ],
)  # fmt: skip
def test_a_feature_function_that_breaks_its_contract_costs_no_worker(body: str, top: str, message: str) -> None:
    with pytest.raises(FeatureCodeRefused, match=message):
        tried(body, top)


def test_a_feature_function_that_never_ends() -> None:
    data = churn_spec()
    data["training"]["features"] = {"file": "more.py", "adds": {"double": "number"}}
    spec = spec_from(data, "def build(frame):\n    while True: pass\n")
    soon = spec.serving.model_copy(update={"timeout": timedelta(seconds=2)})
    with pytest.raises(FeatureCodeRefused, match="did not answer within 0:00:02"):
        smoke_test.check_features(
            spec.model_copy(update={"serving": soon}), churn_rows(START).assign(signup=pd.Timestamp(START, tz="UTC"))
        )


def test_requirements() -> None:
    assert pinned_versions("mlflow==3.1\nnumpy==2.4.6\n\nscipy>=1\nx @ https://example.org/x\n") == (
        {"numpy": "2.4.6"},
        ["scipy>=1", "x @ https://example.org/x"],
    )
    assert mismatches({"numpy": np.__version__, "no-such-package": "1"}) == [
        "no-such-package is not installed, 1 is pinned"
    ]
    importable = modules_of(["pandas"])
    assert {"pandas", "numpy", "dateutil", "pytz"} <= importable
    assert not {"sklearn", "yaml", "mlflow"} & importable


# --- refused before anything is loaded


def recipe(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        data = yaml.safe_load((folder / "MLmodel").read_text())
        change(data)
        (folder / "MLmodel").write_text(yaml.safe_dump(data))

    return edit


def pickled(folder: Path) -> None:
    (folder / "model.pkl").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")


def shadowed(folder: Path) -> None:
    (folder / "code" / "numpy.py").write_text("open('ran', 'w')\n")


def untrusted(folder: Path) -> None:
    skops.io.dump(Pipeline([("call", FunctionTransformer(os.system)), ("model", Ridge())]), folder / "model.skops")


def packed(folder: Path) -> None:
    skops.io.dump(Ridge(), folder / "model.skops", compression=zipfile.ZIP_DEFLATED)


def called(folder: Path) -> None:
    """A function of our own features module that skops would call with arguments out of the file."""

    def text(value: str) -> dict[str, Any]:
        return {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "content": json.dumps(value)}

    code = f"open({str(folder.parent / 'ran')!r}, 'w')\ndef build(frame): ...\n"
    content = [text(code), text("build"), text(hashlib.sha256(code.encode()).hexdigest())]
    schema = {
        "__class__": "_function",
        "__module__": "retrain.modeling.features",
        "__loader__": "ConstructorFromReduceNode",
        "content": {"__class__": "tuple", "__module__": "builtins", "__loader__": "TupleNode", "content": content},
        "protocol": skops.io._protocol.PROTOCOL,
    }
    with zipfile.ZipFile(folder / "model.skops", "w") as archive:
        archive.writestr("schema.json", json.dumps(schema))


def flavour(data: dict[str, Any], name: str, **keys: Any) -> None:
    data["flavors"].setdefault(name, {}).update(keys)


HOSTILE = {
    "another flavour": (recipe(lambda data: flavour(data, "langchain", model="x")), ModelFormatRefused, "langchain"),
    "a loader": (
        recipe(lambda data: flavour(data, "python_function", loader_module="planted")),
        ModelFormatRefused,
        "python_function.loader_module",
    ),
    "a key": (recipe(lambda data: data.update(env_vars=["X"])), ModelFormatRefused, "env_vars"),
    "a pickle": (pickled, ModelFormatRefused, r"model\.pkl"),
    "pickled weights": (
        recipe(lambda data: flavour(data, "sklearn", pickled_model="model.pkl")),
        ModelFormatRefused,
        "sklearn.pickled_model",
    ),
    "code that shadows": (shadowed, ModelFormatRefused, r"code/numpy\.py"),
    "an untrusted type": (untrusted, EstimatorRefused, "system"),
    "no archive": (lambda folder: (folder / "model.skops").write_bytes(b"zip"), ModelFormatRefused, "BadZipFile"),
    "a bomb": (packed, ModelFormatRefused, "is compressed"),
    "a call": (called, EstimatorRefused, "retrain.modeling.features._function"),
}
"""Files under the very digest that was registered, and the name and reason of their refusal."""


@pytest.fixture
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: Any, **__: Any) -> ChildReport:
        raise AssertionError("a process was started")

    monkeypatch.setattr(smoke_test, "run_child", start)


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize("name", HOSTILE)
def test_files_of_another_make(name: str, registered: Callable[..., tuple[Run, Champion]], tmp_path: Path) -> None:
    change, error, message = HOSTILE[name]
    with pytest.raises(error, match=message):
        smoke_test.run_smoke_test(*registered(spec_with(), change))
    assert not (tmp_path / "ran").exists()


@pytest.mark.usefixtures("nothing_starts")
def test_files_that_are_not_there_any_more(registered: Callable[..., tuple[Run, Champion]], tmp_path: Path) -> None:
    run, target = registered(spec_with())
    model = stored(run.home)

    def refused(error: type[RetrainError], message: str) -> None:
        with pytest.raises(error, match=message):
            smoke_test.run_smoke_test(run, target)

    swapped = (model / "model.skops").read_bytes()
    (model / "model.skops").write_bytes(swapped + b" ")
    refused(DigestMismatch, "version 1 of churn has digest")
    (model / "model.skops").write_bytes(swapped)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "planted.py").write_text("open('ran', 'w')\n")
    (model / "code" / "more").symlink_to(tmp_path / "elsewhere")
    refused(ArtifactMissing, "the files of version 1 of churn are gone")
    shutil.rmtree(model)
    refused(ArtifactMissing, "the files of version 1 of churn are gone")
    Registry(run.home.mlflow)._client.delete_model_version("churn", "1")
    refused(ArtifactMissing, "version 1 of churn is not in the registry")
    target = target.model_copy(update={"reference": "churn/runs/other/refit"})
    refused(ArtifactMissing, "the golden rows of version 1 are gone")


@pytest.mark.usefixtures("nothing_starts")
def test_a_model_over_its_size_is_not_loaded(registered: Callable[..., tuple[Run, Champion]]) -> None:
    with pytest.raises(SmokeTestFailed, match=r"its folder takes [\d.]+ MB, 0\.001 is allowed; it was not loaded"):
        smoke_test.run_smoke_test(*registered(spec_with(size_mb=0.001)))
