"""Models as MLflow folders, runs, versions and aliases.

The one module that imports mlflow and skops. Everything goes through an `MlflowClient` of its own: the
process-wide tracking URI and active run are never set, so that several registries can live in one process.

A model is loaded by skops alone, from bytes whose digest was checked: `mlflow.*.load_model` is not used,
because an `MLmodel` file may name any module to run, whatever format the weights have. Where a format that
runs no code does not exist (an estimator outside `TRUSTED`), saving is refused; pickle is never a way out.

Method: MLflow model format, https://mlflow.org/docs/latest/ml/model/ ; skops persistence,
https://skops.readthedocs.io/en/stable/persistence.html .
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# Before MLflow is imported. Its own defaults keep a task waiting for minutes on a dead server, and draw bars in logs.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")

import mlflow.sklearn
import pandas as pd
import requests
import skops.io
import sqlalchemy
import yaml
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, infer_signature
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_TAG_VAL_LENGTH
from skops.io.exceptions import UnsupportedTypeException

from retrain.errors import (
    ArtifactMissing,
    ConfigChanged,
    DanglingChampion,
    DigestMismatch,
    EstimatorRefused,
    InvalidName,
    InvalidSpec,
    MissingInput,
    ModelFormatRefused,
    NonFiniteMetric,
    OutOfBandChange,
    RegistryDown,
)
from retrain.results import inside

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

KEY = "retrain.key"
ARTIFACT = "model"
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

_LATER = {"TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED"}
_ABSENT = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}


# --- a model as a folder


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
        raise EstimatorRefused(f"skops cannot store this pipeline: {_brief(error)}", do=_REPLACE_TYPE) from error
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
    return _digest(_files(folder))


def load_model(folder: Path, expected: str) -> Any:
    """The fitted pipeline in `folder`, if its bytes are the expected ones and loading them runs no code.

    Raises:
        ArtifactMissing, DigestMismatch: the files are gone, or are others.
        ModelFormatRefused: the `MLmodel` file describes something else than `save_model` writes.
        EstimatorRefused: a type outside `TRUSTED`.
    """
    files = _files(folder)
    _same(f"the model in {folder.name}", _digest(files), expected)
    _check_recipe(files)
    return skops.io.loads(files[MODEL_FILE], trusted=_trusted(files[MODEL_FILE]))


def _files(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise InvalidName(f"{path.name} in {folder.name} is a symlink", do="store the file itself")
        if path.is_file() and not LEFT_BEHIND & set(path.relative_to(folder).parts):
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    if not found:
        raise ArtifactMissing(f"no model files in {folder.name}", do="restore the folder, or register the model again")
    return found


def _digest(files: Mapping[str, bytes]) -> str:
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(f"{len(name.encode())}:{name}:{hashlib.sha256(files[name]).hexdigest()}\n".encode())
    return total.hexdigest()


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


# --- the registry


class Registry:
    """An MLflow tracking server and its model registry.

    Every call is bounded in time; a registry that is down or locked raises `RegistryDown`, which is retried.

    Args:
        uri: `sqlite:///…`, another database, or `http://host:port`. With SQLite the artifacts lie in
            `mlartifacts` beside the database file.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri.rstrip("/")
        parts = urlsplit(self._uri)
        self._http = parts.scheme in ("http", "https")
        self._shown = f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}"
        self._root: Path | None = None
        with self._asking():
            if not self._http:
                self._knock()
            self._client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)

    def record(
        self,
        *,
        experiment: str,
        key: str,
        name: str,
        description: str,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        files: Mapping[str, Path],
    ) -> str:
        """One FINISHED run per (experiment, key), however often this is called; returns its id.

        A run that a kill left half done is completed. Values beyond MLflow's limits are cut in the table
        and stand whole in the artifact `long_values.json`.

        Args:
            files: artifact path → local file or folder.

        Raises:
            NonFiniteMetric, MissingInput: before anything is written.
            ConfigChanged: the half-done run has other parameters.
            OutOfBandChange: the experiment was deleted by hand.
        """
        if bad := sorted(metric for metric, value in metrics.items() if not math.isfinite(value)):
            raise NonFiniteMetric(f"not finite: {', '.join(bad[:10])}", do="find out why; nothing was recorded")
        if gone := sorted(path for path, local in files.items() if not local.exists()):
            raise MissingInput(f"no such files: {', '.join(gone[:10])}", do="run the stage that writes them again")
        texts = {param: _text(value) for param, value in params.items()}
        labels = {**tags, "mlflow.note.content": description}
        with self._asking():
            run = self._run(self._experiment(experiment), key, name, labels)
            if run.info.status == "FINISHED":
                return str(run.info.run_id)
            short = {param: _cut(text, MAX_PARAM_VAL_LENGTH) for param, text in texts.items()}
            if other := sorted(p for p, text in short.items() if run.data.params.get(p, text) != text):
                raise ConfigChanged(
                    f"run {run.info.run_id} has other values of {', '.join(other[:10])}",
                    do="delete that run in MLflow, or start a new run of the pipeline",
                )
            long = {n: t for n, t in {**labels, **texts}.items() if len(t) > _limit(n in texts)}
            with self._failing(run.info.run_id):
                self._client.log_batch(
                    run.info.run_id,
                    # The run's own start as time makes a repeated metric the same row.
                    metrics=[Metric(m, float(value), run.info.start_time, 0) for m, value in metrics.items()],
                    params=[Param(p, text) for p, text in short.items()],
                )
                with tempfile.TemporaryDirectory() as temporary:
                    for path, local in files.items():
                        target = Path(temporary) / inside(path)
                        target.parent.mkdir(parents=True, exist_ok=True)
                        (shutil.copytree if local.is_dir() else shutil.copyfile)(local, target)
                    if long:
                        (Path(temporary) / "long_values.json").write_text(json.dumps(long, indent=2, sort_keys=True))
                    self._client.log_artifacts(run.info.run_id, temporary)
            self._client.set_terminated(run.info.run_id)
            return str(run.info.run_id)

    def register(
        self, *, model: str, run_id: str, folder: Path, digest: str, tags: Mapping[str, str], description: str
    ) -> int:
        """Upload a model folder into its run and make it one version; returns the version's number.

        The version is created after the upload was read back and found whole, so a cut upload leaves none;
        the same version is returned on every retry.

        Raises:
            DigestMismatch: the folder, the stored copy, or the version of an earlier try is another model.
        """
        _same(f"the folder {folder.name}", _digest(_files(folder)), digest)
        with self._asking():
            version = self._version(model, run_id)
            if version is None:
                with self._failing(run_id):
                    version = self._publish(model, run_id, folder, digest, tags, description)
            _same(f"version {version.version} of {model}", version.tags.get("digest", ""), digest)
            self._client.set_terminated(run_id)
            return int(version.version)

    def alias(self, model: str, name: str) -> int | None:
        """The version that an alias points at; None if there is no such alias or model.

        Raises:
            DanglingChampion: the version is gone; MLflow deletes the alias with it and says nothing.
        """
        with self._asking():
            try:
                registered = self._client.get_registered_model(model)
            except MlflowException as error:
                if error.error_code in _ABSENT:
                    return None
                raise
            pointed = registered.aliases.get(name)
            remembered = pointed or registered.tags.get(_alias_tag(name))
            if remembered and self._get(model, int(remembered)) is None:
                raise DanglingChampion(
                    f"{name} of {model} was version {remembered}, which is no longer in the registry",
                    do="roll back to a version that is, or register the model of that run again",
                )
            return int(pointed) if pointed else None

    def point(self, model: str, name: str, version: int) -> None:
        """Move an alias.

        Raises:
            ArtifactMissing: no such version.
        """
        with self._asking():
            self._existing(model, version)
            # The tag goes first: it is what still names the version after MLflow has dropped the alias with it.
            self._client.set_registered_model_tag(model, _alias_tag(name), str(version))
            self._client.set_registered_model_alias(model, name, str(version))

    def clear(self, model: str, name: str) -> None:
        """Remove an alias; nothing happens if there is none."""
        with self._asking():
            try:
                registered = self._client.get_registered_model(model)
            except MlflowException as error:
                if error.error_code in _ABSENT:
                    return
                raise
            if name in registered.aliases:
                self._client.delete_registered_model_alias(model, name)
            if _alias_tag(name) in registered.tags:
                self._client.delete_registered_model_tag(model, _alias_tag(name))

    def describe(self, model: str, version: int) -> Mapping[str, str]:
        """The version's tags and its `run_id`.

        Raises:
            ArtifactMissing: no such version.
        """
        with self._asking():
            found = self._existing(model, version)
            return {**found.tags, "run_id": str(found.run_id)}

    def tag(self, model: str, version: int, key: str, value: str) -> None:
        """Set a tag of a version.

        Raises:
            ArtifactMissing: no such version.
        """
        with self._asking():
            self._existing(model, version)
            self._client.set_model_version_tag(model, str(version), key, value)

    def fetch(self, model: str, version: int, expected: str, into: Path) -> Path:
        """The model folder of a version, at `into`; not loaded.

        A folder that is there with the expected digest is used as it is, also while the registry is down;
        an empty one is filled.

        Raises:
            ArtifactMissing: no such version, or its files are gone.
            DigestMismatch: the files are others than those registered.
        """
        if into.exists() and any(into.iterdir()):
            _same(f"the copy at {into.name}", _digest(_files(into)), expected)
            return into
        into.parent.mkdir(parents=True, exist_ok=True)
        with self._asking(), tempfile.TemporaryDirectory(dir=into.parent, prefix=f".{into.name}-") as temporary:
            found = self._existing(model, version)
            copy = self._download(str(found.run_id), Path(temporary), f"version {version} of {model}")
            _same(f"version {version} of {model}", _digest(_files(copy)), expected)
            copy.rename(into)
        return into

    def run_url(self, run_id: str) -> str | None:
        """The run's page in the MLflow UI; None without a server."""
        return f"{self._shown}{urlsplit(self._uri).path}/#/runs/{run_id}" if self._http else None

    # --- what the above is made of

    def _knock(self) -> None:
        """Connect once: MLflow itself tries a database that is down for minutes."""
        try:
            url = sqlalchemy.engine.make_url(self._uri)
            if url.get_backend_name() == "sqlite" and url.database:
                self._root = Path(url.database).resolve().parent / "mlartifacts"
                self._root.parent.mkdir(parents=True, exist_ok=True)
            engine = sqlalchemy.create_engine(url)
        except (sqlalchemy.exc.ArgumentError, ImportError) as error:
            raise InvalidSpec(
                "not an address of an MLflow registry", do="give sqlite:///…, a database URL or http://host:port"
            ) from error
        engine.connect().close()
        engine.dispose()

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except (MlflowException, requests.RequestException, sqlalchemy.exc.OperationalError) as error:
            if isinstance(error, MlflowException) and error.error_code not in _LATER:
                raise
            # Not chained: the message of a client may hold the address with its password.
            raise RegistryDown(
                f"MLflow at {self._shown} did not answer: {_brief(error).replace(self._uri, self._shown)}",
                do="see whether it runs and whether its database is locked; the task tries again",
            ) from None

    @contextmanager
    def _failing(self, run_id: str) -> Iterator[None]:
        """A run reads RUNNING while it is filled, and FAILED if that ends in an error."""
        self._client.update_run(run_id, status="RUNNING")
        try:
            yield
        except Exception:
            with suppress(MlflowException):
                self._client.set_terminated(run_id, status="FAILED")
            raise

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            location = str(self._root / inside(name)) if self._root else None
            try:
                return str(self._client.create_experiment(name, artifact_location=location))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            return self._experiment(name)
        if found.lifecycle_stage != "active":
            raise OutOfBandChange(f"the experiment {name} was deleted by hand", do="restore it in MLflow")
        return str(found.experiment_id)

    def _run(self, experiment_id: str, key: str, name: str, tags: Mapping[str, str]) -> Run:
        def first() -> Run | None:
            found = self._client.search_runs(
                [experiment_id], f"tags.`{KEY}` = {_quoted(key)}", order_by=["attributes.start_time ASC"], max_results=1
            )
            return found[0] if found else None

        if (run := first()) is None:
            cut = {tag: _cut(text, MAX_TAG_VAL_LENGTH) for tag, text in tags.items()}
            made = self._client.create_run(experiment_id, tags={**cut, KEY: key}, run_name=name)
            run = first() or made
            if run.info.run_id != made.info.run_id:
                # A second attempt of the same task came in between; both go on with the older run.
                self._client.delete_run(made.info.run_id)
        return run

    def _version(self, model: str, run_id: str) -> ModelVersion | None:
        found = self._client.search_model_versions(f"name = {_quoted(model)} and run_id = {_quoted(run_id)}")
        return min(found, key=lambda version: int(version.version), default=None)

    def _publish(
        self, model: str, run_id: str, folder: Path, expected: str, tags: Mapping[str, str], description: str
    ) -> ModelVersion:
        self._client.log_artifacts(run_id, str(folder), ARTIFACT)
        with tempfile.TemporaryDirectory() as temporary:
            copy = self._download(run_id, Path(temporary), f"the model of run {run_id}")
            _same(f"the stored model of run {run_id}", _digest(_files(copy)), expected)
        recipe = {**Model.load(str(folder)).get_tags_dict(), "artifact_path": ARTIFACT, "run_id": run_id}
        # What the UI reads to show the folder as a model, with its schema, on the run's page.
        self._client.set_tag(run_id, "mlflow.log-model.history", json.dumps([recipe]))
        try:
            self._client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = self._client.create_model_version(
            model,
            source=f"{self._client.get_run(run_id).info.artifact_uri}/{ARTIFACT}",
            run_id=run_id,
            tags={**tags, "digest": expected},
            description=description,
            await_creation_for=0,
        )
        kept = self._version(model, run_id) or made
        if int(kept.version) != int(made.version):
            self._client.delete_model_version(model, made.version)
        return kept

    def _download(self, run_id: str, into: Path, what: str) -> Path:
        try:
            if any(entry.path == f"{ARTIFACT}/MLmodel" for entry in self._client.list_artifacts(run_id, ARTIFACT)):
                return Path(self._client.download_artifacts(run_id, ARTIFACT, str(into)))
        except MlflowException as error:
            if error.error_code not in _ABSENT:
                raise
        raise ArtifactMissing(
            f"the files of {what} are gone", do="restore the artifact store, or roll back to an earlier version"
        )

    def _get(self, model: str, version: int) -> ModelVersion | None:
        try:
            return self._client.get_model_version(model, str(version))
        except MlflowException as error:
            if error.error_code in _ABSENT:
                return None
            raise

    def _existing(self, model: str, version: int) -> ModelVersion:
        if (found := self._get(model, version)) is None:
            raise ArtifactMissing(
                f"version {version} of {model} is not in the registry", do="choose a version that MLflow lists"
            )
        return found


def _same(what: str, found: str, expected: str) -> None:
    if found != expected:
        raise DigestMismatch(
            f"{what} has digest {found[:12] or 'none'}, {expected[:12]} was registered",
            do="find out who changed it; do not load it",
        )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _limit(is_param: bool) -> int:
    return MAX_PARAM_VAL_LENGTH if is_param else MAX_TAG_VAL_LENGTH


def _cut(text: str, limit: int) -> str:
    note = " … (whole in long_values.json)"
    return text if len(text) <= limit else text[: limit - len(note)] + note


def _alias_tag(name: str) -> str:
    return f"retrain.alias.{name}"


def _quoted(text: str) -> str:
    if re.search(r"['\"\\`\0]", text):
        raise InvalidName(f"{text[:100]!r} holds a quote", do="use letters, digits, dots and dashes")
    return f"'{text}'"


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
