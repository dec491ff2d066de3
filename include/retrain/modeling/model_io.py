"""A model from its bytes, and nothing that runs code: all of retrain that a serving process needs.

skops is imported here and where a model is saved (`retrain.registry.mlflow.files`). It alone loads a model:
`mlflow.*.load_model` is not used, because an `MLmodel` file may name any module to run, whatever format the weights
have. skops builds a type by one of several loaders, some of which call what the file names with arguments of the
file's choice; so each type that skops does not trust by itself is bound to the one loader that `skops.io.dumps` writes
for it.

Imports the standard library, skops and the errors only, so that the smoke test's process needs neither MLflow nor the
rest of retrain.

Method: https://skops.readthedocs.io/en/stable/persistence.html .
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import skops.io

from retrain.errors import ArtifactMissing, DigestMismatch, EstimatorRefused, InvalidName, ModelFormatRefused

TRUSTED: Mapping[str, str] = {
    "numpy.dtype": "DTypeNode",
    "retrain.modeling.features.Codes": "ObjectNode",
    "retrain.modeling.features.DateParts": "ObjectNode",
    "retrain.modeling.features.FeatureFunction": "ObjectNode",
    "retrain.modeling.features.Typed": "ObjectNode",
    "retrain.modeling.recalibration.RecalibratedClassifier": "ObjectNode",
    "retrain.modeling.recalibration.RecalibratedRegressor": "ObjectNode",
    "sklearn.calibration._CalibratedClassifier": "ObjectNode",
    "sklearn.calibration._SigmoidCalibration": "ObjectNode",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor": "ObjectNode",
    "sklearn.tree._tree.Tree": "TreeNode",
    "xgboost.core.Booster": "ObjectNode",
    "xgboost.sklearn.XGBClassifier": "ObjectNode",
    "xgboost.sklearn.XGBRFClassifier": "ObjectNode",
    "xgboost.sklearn.XGBRFRegressor": "ObjectNode",
    "xgboost.sklearn.XGBRegressor": "ObjectNode",
}
"""Types that may be built on load, beside those skops trusts itself, and by which of its loaders.

skops leaves out the two tree types because crafted node arrays can crash the process; here the bytes are
known by their digest before they are read.
"""

MODULE, FORMER_MODULE = b'"__module__": "retrain.modeling.features"', b'"__module__": "retrain.features"'
"""Of our own transformers, as an archive names it, now and in models of earlier versions of this project."""

MODEL_FILE = "model.skops"
REPLACE_TYPE = "use estimators and transformers of scikit-learn, XGBoost or retrain.modeling.features"
REGISTER_AGAIN = "do not load it; register the model again from a run of retrain"

LEFT_BEHIND = {"__pycache__", "registered_model_meta"}
"""Not part of a model: where the registry is a local folder, `mlflow.*.load_model` works in it and leaves these."""


def read(folder: Path) -> dict[str, bytes]:
    """Read the files of a model, by their path in its folder.

    Raises:
        ArtifactMissing: no folder, or nothing in it.
        InvalidName: a symlink, which could lead out of the folder.
    """
    files = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise InvalidName(f"{path.name} in {folder.name} is a symlink", do="store the file itself")
        if path.is_file() and not LEFT_BEHIND & set(path.relative_to(folder).parts):
            files[path.relative_to(folder).as_posix()] = path.read_bytes()
    if not files:
        raise ArtifactMissing(f"no model files in {folder.name}", do="restore the folder, or register the model again")
    return files


def files_digest(files: Mapping[str, bytes]) -> str:
    """SHA-256 over the sorted (path, content) of every file."""
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(f"{len(name.encode())}:{name}:{hashlib.sha256(files[name]).hexdigest()}\n".encode())
    return total.hexdigest()


def check_digest(what: str, digest: str, expected: str) -> None:
    """Refuse a digest that is not the expected one.

    Args:
        what: has this digest, for people.
        digest: as computed.
        expected: as registered.

    Raises:
        DigestMismatch: the two differ.
    """
    if digest != expected:
        raise DigestMismatch(
            f"{what} has digest {digest[:12] or 'none'}, {expected[:12]} was registered",
            do="find out who changed it; do not load it",
        )


def trusted_types(data: bytes) -> list[str]:
    """List the types beyond skops' own list that `data` needs, all of them on ours; nothing is built.

    Raises:
        ModelFormatRefused: not an archive as skops writes it.
        EstimatorRefused: a type outside `TRUSTED`, or built by another loader than its own.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            # Nothing may unpack to more than the bytes whose size is known.
            members = archive.infolist()
            if packed := [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]:
                raise ValueError(f"{packed[0]} is compressed")
        data = current(data)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            built = set(_built(json.loads(archive.read("schema.json"))))
        types: list[str] = skops.io.get_untrusted_types(data=data)
    # A parser that is given bytes of somebody's making may fail in any way.
    except Exception as error:
        raise ModelFormatRefused(
            f"{MODEL_FILE} is not one that skops writes: {type(error).__name__}: {str(error)[:200]}", do=REGISTER_AGAIN
        ) from error
    refused = [name for name in types if name not in TRUSTED]
    refused += [f"{name} by {loader}" for name, loader in sorted(built) if TRUSTED.get(name, loader) != loader]
    if refused:
        more = f" … and {len(refused) - 5} more" if len(refused) > 5 else ""
        raise EstimatorRefused(f"not on the list of types to load: {', '.join(refused[:5])}{more}", do=REPLACE_TYPE)
    return types


def load(files: Mapping[str, bytes]) -> Any:
    """Build the fitted pipeline in a model's files, whose digest was compared before.

    Raises:
        ModelFormatRefused, EstimatorRefused: nothing was built.
    """
    types = trusted_types(files[MODEL_FILE])
    return skops.io.loads(current(files[MODEL_FILE]), trusted=types)


def current(data: bytes) -> bytes:
    """An archive as skops writes it, its transformers under their module of today.

    Members are stored as they are, never packed, so that a former name can be seen in the bytes.
    """
    if FORMER_MODULE not in data:
        return data
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(buffer, "w") as current:
        for member in archive.infolist():
            content = archive.read(member)
            if member.filename == "schema.json":
                content = content.replace(FORMER_MODULE, MODULE)
            current.writestr(zipfile.ZipInfo(member.filename), content)
    return buffer.getvalue()


def _built(node: Any) -> Iterator[tuple[str, str]]:
    """Each (type, loader) in a skops schema."""
    if isinstance(node, list):
        for item in node:
            yield from _built(item)
    elif isinstance(node, dict):
        if isinstance(loader := node.get("__loader__"), str):
            yield f"{node.get('__module__')}.{node.get('__class__')}", loader
        for value in node.values():
            yield from _built(value)
