"""The store: a folder by URL, local by default, S3 and the like through fsspec.

A worker on another machine can do the next stage, since everything that stages hand on lies here. Every write is
atomic: a reader sees the old file, the new one or none.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import ValidationError

from retrain.errors import MissingInput, ReportCorrupt, SnapshotCorrupt
from retrain.results import Result, inside
from retrain.state.private import private_folder

R = TypeVar("R", bound=Result)


class Store:
    """A folder by URL, with atomic writes and content digests.

    >>> store = Store("memory://example")
    >>> store.write("churn/a.json", b"{}")
    >>> store.read("churn/a.json"), store.keys("churn")
    (b'{}', ['churn/a.json'])
    """

    def __init__(self, url: str) -> None:
        self.fs, self.path = fsspec.core.url_to_fs(url)
        self.is_local = isinstance(self.fs, LocalFileSystem)

    def url(self, key: str) -> str:
        """The address of a key: a plain path where the store is local."""
        return f"{self.path}/{inside(key)}" if self.is_local else self.fs.unstrip_protocol(f"{self.path}/{inside(key)}")

    def exists(self, key: str) -> bool:
        """Whether something lies under a key."""
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

    def read_report(self, kind: type[R], key: str) -> R:
        """The report under a key.

        Raises:
            MissingInput: nothing lies there.
            ReportCorrupt: it was cut off or altered.
        """
        try:
            return kind.from_json(self.read(key))
        except (ValidationError, RecursionError) as error:
            first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "too deep"
            raise ReportCorrupt(
                f"{key} is no {kind.__name__}: {first}",
                do="restore it from a backup of the store, or run its stage again",
            ) from None

    def write(self, key: str, data: bytes) -> None:
        """Publish bytes under a key, at once or not at all."""
        if self.is_local:
            with self._replacing(key) as temporary:
                temporary.write_bytes(data)
        else:
            self.fs.pipe_file(f"{self.path}/{inside(key)}", data)

    def put(self, key: str, file: Path) -> None:
        """Publish a local file under `key`; the file itself stays."""
        if self.is_local:
            with self._replacing(key) as temporary:
                shutil.copyfile(file, temporary)
        else:
            self.fs.put_file(str(file), f"{self.path}/{inside(key)}")

    def put_folder(self, key: str, folder: Path) -> None:
        """Publish every file of a local folder below `key`."""
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                self.put(f"{key}/{file.relative_to(folder).as_posix()}", file)

    def keys(self, prefix: str) -> list[str]:
        """Every key below a prefix, sorted; what a killed writer left half done is not one."""
        paths = [str(path) for path in self.fs.find(f"{self.path}/{inside(prefix)}")]
        return sorted(
            path[len(self.path) :].lstrip("/") for path in paths if not path.rsplit("/", 1)[-1].startswith(".")
        )

    @contextmanager
    def local(self, key: str) -> Iterator[Path]:
        """A key (a file, or a folder) as a local path, which must only be read.

        Raises:
            MissingInput: nothing lies there.
        """
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
        """A key as a local path, once its bytes have shown the digest they were stored under.

        Raises:
            MissingInput: nothing lies there.
            SnapshotCorrupt: they have another digest.
        """
        with self.local(key) as path:
            if sha256_of(path) != sha256:
                raise SnapshotCorrupt(
                    f"{key} does not have the digest {sha256[:12]} it was stored under",
                    do="bring the file back from the data registry (clone it, dvc pull) or from a backup of the store",
                )
            yield path

    @contextmanager
    def _replacing(self, key: str) -> Iterator[Path]:
        """A temporary path that becomes the key's file at the end, unless the body fails."""
        target = private_folder(Path(self.path)) / inside(key)
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


def json_digest(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys.

    >>> json_digest({"a": 1, "b": 2}) == json_digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
