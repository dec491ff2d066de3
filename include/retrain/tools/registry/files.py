"""A model as an MLflow folder: written, named by its digest, and loaded only if its bytes are the expected ones.

skops is imported in this file and nowhere else. It alone loads a model: `mlflow.*.load_model` is not used, because an
`MLmodel` file may name any module to run, whatever format the weights have. Where a format that runs no code does not
exist (an estimator outside `TRUSTED`), saving is refused; pickle is never a way out.

Method: MLflow model format, https://mlflow.org/docs/latest/ml/model/ ; skops persistence,
https://skops.readthedocs.io/en/stable/persistence.html .
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow.sklearn
import pandas as pd
import skops.io
import yaml
from mlflow.models import Model, infer_signature
from skops.io.exceptions import UnsupportedTypeException

from retrain.errors import ArtifactMissing, DigestMismatch, EstimatorRefused, InvalidName, ModelFormatRefused

TRUSTED = frozenset(
    {
        "numpy.dtype",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.tree._tree.Tree",
        "xgboost.core.Booster",
        "xgboost.sklearn.XGBClassifier",
        "xgboost.sklearn.XGBRFClassifier",
        "xgboost.sklearn.XGBRFRegressor",
        "xgboost.sklearn.XGBRegressor",
    }
)
"""Types that may be built on load, beside those skops trusts itself and the classes of `retrain.features`.

skops leaves out the two tree types because crafted node arrays can crash the process; here the bytes are
known by their digest before they are read.
"""

OURS = "retrain.features."

MODEL_FILE = "model.skops"
EXAMPLE_ROWS = 100

LEFT_BEHIND = {"__pycache__", "registered_model_meta"}
"""Not part of a model: where the registry is a local folder, `mlflow.*.load_model` works in it and leaves these."""

_ANY: tuple[Any, ...] = ()
RECIPE: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "python_function": {
        "loader_module": ("mlflow.sklearn",),
        "model_path": (MODEL_FILE,),
        "predict_fn": ("predict",),
        "code": (None, "code"),
        "env": _ANY,
        "python_version": _ANY,
    },
    "sklearn": {
        "serialization_format": ("skops",),
        "pickled_model": (MODEL_FILE,),
        "code": (None, "code"),
        "sklearn_version": _ANY,
        "skops_trusted_types": _ANY,
    },
}
"""What the flavours of our `MLmodel` files may say; the types are read from the weights, never from here."""


def save_model(
    pipeline: Any,
    folder: Path,
    *,
    example: pd.DataFrame,
    requirements: Sequence[str],
    code: Sequence[Path] = (),
) -> str:
    """Write a fitted pipeline as an MLflow model folder and return its digest.

    The same fitted pipeline gives the same bytes, in any process and at any time, so that a retry or a
    rebuild can be recognised by its digest. What was at `folder` is replaced, in one rename.

    Args:
        pipeline: a fitted scikit-learn Pipeline that takes a named frame.
        folder: where the model goes.
        example: rows as the pipeline takes them; the first 100 give signature and input example.
        requirements: pinned pip requirements, written as they are.
        code: files or packages that travel with the model, under `code/`.

    Raises:
        EstimatorRefused: the pipeline holds a type that cannot be loaded without running code.
    """
    try:
        data = _canonical(skops.io.dumps(pipeline))
    except UnsupportedTypeException as error:
        raise EstimatorRefused(f"skops cannot store this pipeline: {brief(error)}", do=_REPLACE_TYPE) from error
    trusted = _trusted(data)
    rows = example.head(EXAMPLE_ROWS)
    recipe = Model(utc_time_created="1970-01-01 00:00:00", model_uuid=hashlib.sha256(data).hexdigest()[:32])
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        made = Path(temporary) / "model"
        with warnings.catch_warnings():
            # Integer columns cannot hold a blank; the spec declares which may be null, so no hint is needed.
            warnings.filterwarnings("ignore", message=".*integer column.*")
            mlflow.sklearn.save_model(
                pipeline,
                str(made),
                mlflow_model=recipe,
                serialization_format=mlflow.sklearn.SERIALIZATION_FORMAT_SKOPS,
                skops_trusted_types=trusted,
                signature=infer_signature(rows, pipeline.predict(rows)),
                input_example=rows,
                pip_requirements=list(requirements),
                code_paths=[str(path) for path in code] or None,
            )
        for cache in made.rglob("__pycache__"):
            shutil.rmtree(cache)
        (made / MODEL_FILE).write_bytes(data)
        # MLflow measured the file that has just been replaced.
        recipe.model_size_bytes = sum(p.stat().st_size for p in made.rglob("*") if p.is_file() and p.name != "MLmodel")
        recipe.save(str(made / "MLmodel"))
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)
    return digest(folder)


def digest(folder: Path) -> str:
    """SHA-256 over the sorted (relative path, content) of every file; times and modes do not count.

    Raises:
        ArtifactMissing: no folder, or nothing in it.
        InvalidName: a symlink, which could lead out of the folder.
    """
    return digest_of(read(folder))


def load_model(folder: Path, expected: str) -> Any:
    """The fitted pipeline in `folder`, if its bytes are the expected ones and loading them runs no code.

    Raises:
        ArtifactMissing, DigestMismatch: the files are gone, or are others.
        ModelFormatRefused: the `MLmodel` file describes something else than `save_model` writes.
        EstimatorRefused: a type outside `TRUSTED`.
    """
    files = read(folder)
    same(f"the model in {folder.name}", digest_of(files), expected)
    _check_recipe(files)
    return skops.io.loads(files[MODEL_FILE], trusted=_trusted(files[MODEL_FILE]))


def read(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise InvalidName(f"{path.name} in {folder.name} is a symlink", do="store the file itself")
        if path.is_file() and not LEFT_BEHIND & set(path.relative_to(folder).parts):
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    if not found:
        raise ArtifactMissing(f"no model files in {folder.name}", do="restore the folder, or register the model again")
    return found


def digest_of(files: Mapping[str, bytes]) -> str:
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(f"{len(name.encode())}:{name}:{hashlib.sha256(files[name]).hexdigest()}\n".encode())
    return total.hexdigest()


def same(what: str, found: str, expected: str) -> None:
    if found != expected:
        raise DigestMismatch(
            f"{what} has digest {found[:12] or 'none'}, {expected[:12]} was registered",
            do="find out who changed it; do not load it",
        )


def brief(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _canonical(data: bytes) -> bytes:
    """The same skops archive without memory addresses, random names and the time of writing."""
    names: dict[str, str] = {}
    archive = zipfile.ZipFile(io.BytesIO(data))
    members = set(archive.namelist())

    def clean(node: Any) -> Any:
        if isinstance(node, list):
            return [clean(item) for item in node]
        if not isinstance(node, dict):
            return node
        cleaned = {}
        for key, value in node.items():
            if key == "__id__" and isinstance(value, int):
                continue
            if key == "file" and isinstance(value, str) and value in members:
                cleaned[key] = names.setdefault(value, f"{len(names)}{Path(value).suffix}")
            else:
                cleaned[key] = clean(value)
        return cleaned

    schema = clean(json.loads(archive.read("schema.json")))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for old, new in names.items():
            target.writestr(zipfile.ZipInfo(new), archive.read(old))
        target.writestr(zipfile.ZipInfo("schema.json"), json.dumps(schema))
    return buffer.getvalue()


_REPLACE_TYPE = "use estimators and transformers of scikit-learn, XGBoost or retrain.features"


def _trusted(data: bytes) -> list[str]:
    types: list[str] = skops.io.get_untrusted_types(data=data)
    refused = [name for name in types if name not in TRUSTED and not _is_ours(name)]
    if refused:
        more = f" … and {len(refused) - 5} more" if len(refused) > 5 else ""
        raise EstimatorRefused(f"not on the list of types to load: {', '.join(refused[:5])}{more}", do=_REPLACE_TYPE)
    return types


def _is_ours(name: str) -> bool:
    return name.startswith(OURS) and name.removeprefix(OURS).isidentifier()


def _check_recipe(files: Mapping[str, bytes]) -> None:
    try:
        flavours = yaml.safe_load(files.get("MLmodel", b""))["flavors"]
        wrong = [str(name) for name in set(flavours) ^ set(RECIPE)]
        for name in set(flavours) & set(RECIPE):
            allowed, found = RECIPE[name], dict(flavours[name])
            wrong += [f"{name}.{key}" for key in set(found) - set(allowed)]
            # `code` is written only where code was shipped.
            wrong += [f"{name}.{key}" for key, ok in allowed.items() if ok and found.get(key) not in ok]
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ModelFormatRefused("the MLmodel file is not one that save_model writes", do=_REGISTER_AGAIN) from error
    if MODEL_FILE not in files:
        wrong.append(f"no {MODEL_FILE}")
    if wrong:
        found_wrong = ", ".join(sorted(wrong)[:5])[:300]
        raise ModelFormatRefused(f"the MLmodel file differs from ours in {found_wrong}", do=_REGISTER_AGAIN)


_REGISTER_AGAIN = "do not load it; register the model again from a run of retrain"
