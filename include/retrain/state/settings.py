"""The one module that knows where files lie.

`Home` answers what lives where, from the environment with sound defaults. `Store` is a folder by URL
(local by default; S3 and the like through fsspec), so that a worker on another machine can do the next
stage. Every write is atomic: a reader sees the old file, the new one or none.

| variable | default | what |
|---|---|---|
| `RETRAIN_ROOT` | the checkout | where the specs' relative paths begin |
| `RETRAIN_MODELS` | `include/models` | the folder of specs |
| `RETRAIN_HOME` | `.retrain` | state of this installation |
| `RETRAIN_STORE` | `.retrain/store` | batches, runs and reports; a path or an fsspec URL |
| `RETRAIN_LEDGER` | `.retrain/ledger.db` | SQLAlchemy URL |
| `RETRAIN_REGISTRY` | `.retrain/registry.git` | git address of the data registry |
| `RETRAIN_REMOTE` | `.retrain/remote` | its DVC remote |
| `MLFLOW_TRACKING_URI` | `.retrain/mlflow/mlflow.db` | MLflow |
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from retrain.errors import InvalidSpec, MissingInput, SnapshotCorrupt
from retrain.results import inside
from retrain.spec import CASES, Spec, load, near


@dataclass(frozen=True)
class Home:
    """What lives where."""

    root: Path
    models: Path
    state: Path
    store: str
    ledger: str
    registry: str
    remote: str
    mlflow: str

    @classmethod
    def from_environment(cls) -> Home:
        def path(name: str, default: Path) -> Path:
            return Path(os.environ.get(name) or default).absolute()

        root = path("RETRAIN_ROOT", Path(__file__).parents[3])
        state = path("RETRAIN_HOME", root / ".retrain")

        def url(name: str, default: str) -> str:
            return os.environ.get(name) or default

        return cls(
            root=root,
            models=path("RETRAIN_MODELS", root / "include" / "models"),
            state=state,
            store=url("RETRAIN_STORE", str(state / "store")),
            ledger=url("RETRAIN_LEDGER", f"sqlite:///{state / 'ledger.db'}"),
            registry=url("RETRAIN_REGISTRY", str(state / "registry.git")),
            remote=url("RETRAIN_REMOTE", str(state / "remote")),
            mlflow=url("MLFLOW_TRACKING_URI", f"sqlite:///{state / 'mlflow' / 'mlflow.db'}"),
        )

    @property
    def specs(self) -> tuple[Path, ...]:
        return tuple(sorted(file for file in self.models.glob("*.yaml") if not file.name.endswith(CASES)))

    def spec(self, model: str) -> Spec:
        """The spec of `model`.

        Raises:
            InvalidSpec: there is none, or it is not valid.
        """
        file = self.models / f"{inside(model)}.yaml"
        if "/" in model or not file.is_file():
            known = [spec.stem for spec in self.specs]
            raise InvalidSpec(
                f"no spec for {model!r}{near(model, known)}",
                do=f"write {file.name} into {self.models.name}/ (python -m retrain new);"
                f" known: {', '.join(known) or 'none'}",
            ).at(model, "spec")
        return load(file)


class Store:
    """A folder by URL, with atomic writes and content digests."""

    def __init__(self, url: str) -> None:
        self.fs, self.path = fsspec.core.url_to_fs(url)
        self.is_local = isinstance(self.fs, LocalFileSystem)

    def url(self, key: str) -> str:
        """The address of a key: a plain path where the store is local."""
        return f"{self.path}/{inside(key)}" if self.is_local else self.fs.unstrip_protocol(f"{self.path}/{inside(key)}")

    def exists(self, key: str) -> bool:
        return bool(self.fs.exists(f"{self.path}/{inside(key)}"))

    def read(self, key: str) -> bytes:
        """The bytes of a key.

        Raises:
            MissingInput: nothing lies there.
        """
        try:
            return bytes(self.fs.cat_file(f"{self.path}/{inside(key)}"))
        except FileNotFoundError:
            raise MissingInput(f"{key} is not in the store", do="run the stage that writes it first") from None

    def write(self, key: str, data: bytes) -> None:
        if self.is_local:
            with self._beside(key) as temporary:
                temporary.write_bytes(data)
        else:
            self.fs.pipe_file(f"{self.path}/{inside(key)}", data)

    def put(self, key: str, file: Path) -> None:
        """Publish a local file under `key`; the file itself stays."""
        if self.is_local:
            with self._beside(key) as temporary:
                shutil.copyfile(file, temporary)
        else:
            self.fs.put_file(str(file), f"{self.path}/{inside(key)}")

    def put_folder(self, key: str, folder: Path) -> None:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                self.put(f"{key}/{file.relative_to(folder).as_posix()}", file)

    def keys(self, prefix: str) -> list[str]:
        """Every key below a prefix, sorted; what a killed writer left half done is not one."""
        found = [str(name) for name in self.fs.find(f"{self.path}/{inside(prefix)}")]
        return sorted(
            name[len(self.path) :].lstrip("/") for name in found if not name.rsplit("/", 1)[-1].startswith(".")
        )

    @contextmanager
    def local(self, key: str) -> Iterator[Path]:
        """A key (a file, or a folder) as a local path, which must only be read."""
        if self.is_local:
            path = Path(self.path) / inside(key)
            if not path.exists():
                raise MissingInput(f"{key} is not in the store", do="run the stage that writes it first")
            yield path
            return
        with tempfile.TemporaryDirectory(prefix="retrain-") as folder:
            target = Path(folder) / Path(key).name
            keys = [key] if self.fs.isfile(f"{self.path}/{key}") else self.keys(key)
            if not keys:
                raise MissingInput(f"{key} is not in the store", do="run the stage that writes it first")
            for name in keys:
                file = target / name[len(key) + 1 :] if name != key else target
                file.parent.mkdir(parents=True, exist_ok=True)
                self.fs.get_file(f"{self.path}/{name}", str(file))
            yield target

    @contextmanager
    def verified(self, key: str, sha256: str) -> Iterator[Path]:
        """`local`, once the bytes have shown the digest they were stored under.

        Raises:
            SnapshotCorrupt: they have another one.
        """
        with self.local(key) as path:
            if sha256_of(path) != sha256:
                raise SnapshotCorrupt(
                    f"{key} does not have the digest {sha256[:12]} it was stored under",
                    do="bring the file back from the data registry (clone it, dvc pull) or from a backup of the store",
                )
            yield path

    @contextmanager
    def _beside(self, key: str) -> Iterator[Path]:
        """A temporary path that becomes the key's file at the end, unless the body fails."""
        target = Path(self.path) / inside(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            yield temporary
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys.

    >>> digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
