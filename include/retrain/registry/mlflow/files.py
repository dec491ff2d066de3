"""A model as an MLflow folder: written, named by its digest, and loaded only if its bytes are the expected ones.

Loading is `retrain.modeling.model_io`'s: through skops, which runs no code. Where a format that runs no code does not
exist (an estimator outside its list), saving is refused; pickle is never a way out.

Method: MLflow model format, https://mlflow.org/docs/latest/ml/model/ ; skops persistence,
https://skops.readthedocs.io/en/stable/persistence.html .
"""

from __future__ import annotations

import hashlib
import io
import json
import re
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

from retrain.errors import EstimatorRefused, ModelFormatRefused
from retrain.masking import masked
from retrain.modeling.model_io import (
    MODEL_FILE,
    REGISTER_AGAIN,
    REPLACE_TYPE,
    check_digest,
    files_digest,
    load,
    read,
    trusted_types,
)

EXAMPLE_ROWS = 100

FILES = re.compile(
    rf"MLmodel|conda\.yaml|python_env\.yaml|requirements\.txt|(serving_)?input_example\.json|{re.escape(MODEL_FILE)}"
    r"|code/retrain/(modeling/)?\w+\.py"
)
"""What a model folder may hold. Nothing here imports from `code/`; MLflow would, ahead of what is installed."""

KEYS = {
    "flavors",
    "is_signature_from_type_hint",
    "mlflow_version",
    "model_id",
    "model_size_bytes",
    "model_uuid",
    "prompts",
    "saved_input_example_info",
    "signature",
    "type_hint_from_example",
    "utc_time_created",
}
"""What an `MLmodel` file of ours may say."""

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
        raise EstimatorRefused(f"skops cannot store this pipeline: {brief(error)}", do=REPLACE_TYPE) from error
    types = trusted_types(data)
    rows = example.head(EXAMPLE_ROWS)
    recipe = Model(utc_time_created="1970-01-01 00:00:00", model_uuid=hashlib.sha256(data).hexdigest()[:32])
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        written = Path(temporary) / "model"
        with warnings.catch_warnings():
            # Integer columns cannot hold a blank; the spec declares which may be null, so no hint is needed.
            warnings.filterwarnings("ignore", message=".*integer column.*")
            mlflow.sklearn.save_model(
                pipeline,
                str(written),
                mlflow_model=recipe,
                serialization_format=mlflow.sklearn.SERIALIZATION_FORMAT_SKOPS,
                skops_trusted_types=types,
                signature=infer_signature(rows, pipeline.predict(rows)),
                input_example=rows,
                pip_requirements=list(requirements),
                code_paths=[str(path) for path in code] or None,
            )
        for cache in written.rglob("__pycache__"):
            shutil.rmtree(cache)
        (written / MODEL_FILE).write_bytes(data)
        # MLflow measured the file that has just been replaced.
        recipe.model_size_bytes = sum(
            p.stat().st_size for p in written.rglob("*") if p.is_file() and p.name != "MLmodel"
        )
        recipe.save(str(written / "MLmodel"))
        if folder.exists():
            shutil.rmtree(folder)
        written.rename(folder)
    return digest(folder)


def digest(folder: Path) -> str:
    """SHA-256 over the sorted (relative path, content) of every file; times and modes do not count.

    Raises:
        ArtifactMissing: no folder, or nothing in it.
        InvalidName: a symlink, which could lead out of the folder.
    """
    return files_digest(read(folder))


def check_model(folder: Path, expected: str) -> dict[str, bytes]:
    """The files of the model in `folder`, if they are the expected ones and loading them runs no code; loads nothing.

    Raises:
        ArtifactMissing, DigestMismatch: the files are gone, or are others.
        ModelFormatRefused: they are not what `save_model` writes.
        EstimatorRefused: a type that is not on the list.
    """
    files = read(folder)
    check_digest(f"the model in {folder.name}", files_digest(files), expected)
    _check_format(files)
    trusted_types(files[MODEL_FILE])
    return files


def load_model(folder: Path, expected: str) -> Any:
    """The fitted pipeline in `folder`; raises what `check_model` raises."""
    return load(check_model(folder, expected))


def brief(error: Exception) -> str:
    r"""An error's message in one line, without secrets, at most 300 characters.

    >>> brief(ValueError("no such\n    file"))
    'no such file'
    """
    return masked(" ".join(str(error).split()))[:300]


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


def _check_format(files: Mapping[str, bytes]) -> None:
    try:
        recipe = dict(yaml.safe_load(files.get("MLmodel", b"")))
        flavours = recipe["flavors"]
        wrong = [str(key) for key in set(recipe) - KEYS] + [str(name) for name in set(flavours) ^ set(RECIPE)]
        for name in set(flavours) & set(RECIPE):
            allowed, given = RECIPE[name], dict(flavours[name])
            wrong += [f"{name}.{key}" for key in set(given) - set(allowed)]
            # `code` is written only where code was shipped.
            wrong += [f"{name}.{key}" for key, ok in allowed.items() if ok and given.get(key) not in ok]
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ModelFormatRefused("the MLmodel file is not one that save_model writes", do=REGISTER_AGAIN) from error
    if strange := sorted(name for name in files if not FILES.fullmatch(name)) or {MODEL_FILE} - set(files):
        names = ", ".join(strange)[:300]
        raise ModelFormatRefused(f"files that a model of ours has not, or lacks: {names}", do=REGISTER_AGAIN)
    if wrong:
        keys = ", ".join(sorted(wrong)[:5])[:300]
        raise ModelFormatRefused(f"the MLmodel file differs from ours in {keys}", do=REGISTER_AGAIN)
